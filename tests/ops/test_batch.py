"""per_image on one device; on eight: tests/test_sharding.py."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.ops.batch import DATA, per_image

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def ranked(shared, x):
    return {"order": jnp.argsort(x), "sum": (shared * x).sum()}


@pytest.mark.parametrize("mesh", [False, True])
def test_equals_a_loop_over_the_images(mesh):
    shared = np.arange(3, dtype=np.float32)
    run = jax.jit(lambda s, x: per_image(ranked, (None, 0))(s, x))
    device_mesh = jax.make_mesh((1,), (DATA,), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(device_mesh) if mesh else contextlib.nullcontext():
        assert ("shard_map" in str(jax.make_jaxpr(run)(shared, X))) == mesh
        out = run(shared, X)
    np.testing.assert_array_equal(out["order"], np.argsort(X))
    np.testing.assert_allclose(out["sum"], X @ shared, rtol=1e-6)
