"""The feature pyramid by hand. Numbers: tests/parity/test_parity_detector.py."""

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax.nets import fpn
from tests.compiling import jit

KEY = jax.random.key(0)


def stages():
    return {l: jax.random.normal(KEY, (1, 64 >> l, 64 >> l, 4 << l)) for l in range(2, 6)}


def test_levels():
    net = fpn.FPN(8, 3, jnp.float32)
    levels = jit(net.init_with_output)(KEY, stages())[0]
    assert {l: f.shape for l, f in levels.items()} == {l: (1, 64 >> l, 64 >> l, 8) for l in (3, 4, 5, 6)}
    np.testing.assert_array_equal(levels[6], levels[5][:, ::2, ::2])


def test_levels_are_sums_from_the_coarsest_down():
    """With lateral kernels of ones and identity output kernels, by hand."""
    net = fpn.FPN(1, 4, jnp.float32)
    params = jax.eval_shape(net.init, KEY, stages())["params"]
    params = jax.tree.map(lambda p: jnp.zeros(p.shape), params)
    for level in (4, 5):
        params[f"lateral{level}"]["kernel"] += 1.0
        params[f"output{level}"]["kernel"] = params[f"output{level}"]["kernel"].at[1, 1].set(1.0)
    levels = net.apply({"params": params}, stages())
    five, four = (np.asarray(stages()[l].sum(-1, keepdims=True)) for l in (5, 4))
    np.testing.assert_allclose(levels[5], five, rtol=1e-5)
    np.testing.assert_allclose(levels[4], four + five.repeat(2, 1).repeat(2, 2), rtol=1e-5, atol=1e-4)


def test_levels_are_zero_outside_the_masks():
    masks = {
        l: (jnp.arange(64 >> l) < (64 >> l) - 1)[None, :, None, None] * jnp.ones((1, 1, 64 >> l, 1)) for l in (3, 4, 5)
    }
    net = fpn.FPN(8, 3, jnp.float32)
    levels = jit(lambda s, m: net.init_with_output(KEY, s, m)[0])(stages(), masks)
    for level in (3, 4, 5):
        assert not np.asarray(levels[level])[:, -1].any() and np.asarray(levels[level])[:, :-1].all()


def test_upsample():
    np.testing.assert_array_equal(fpn.upsample(jnp.arange(4.0).reshape(1, 2, 2, 1))[0, 1, :, 0], [0, 0, 1, 1])
