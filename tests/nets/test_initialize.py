"""First weights that are sampled together are those that flax samples one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from maskdiff_jax.nets import initialize as ini

X = jnp.ones((2, 6, 6, 3))
INITIALIZERS = {
    "normal": (ini.normal(0.01), nn.initializers.normal(0.01)),
    # a power of two: without optimizations XLA rounds the product of another limit in one program and not in the other
    "uniform": (ini.uniform(0.25), lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -0.25, 0.25)),
    **{
        f"{distribution}, {mode}": (
            ini.variance_scaling(2.0, mode, distribution),
            nn.initializers.variance_scaling(2.0, mode, distribution),
        )
        for distribution in ("normal", "uniform")
        for mode in ("fan_in", "fan_out")
    },
}


class Net(nn.Module):
    """A kernel of each initializer, one of them larger than a chunk; ours or flax's."""

    ours: bool

    @nn.compact
    def __call__(self, x):
        for i, pair in enumerate(INITIALIZERS.values()):
            x = nn.Conv(7 + i, (3, 3), kernel_init=pair[not self.ours])(x)
        shared = nn.Dense(2100, kernel_init=INITIALIZERS["normal"][not self.ours])
        return shared(x) + shared(x + 1)


def values(init, key):
    return jax.device_get(jax.jit(init)(key))


@pytest.mark.parametrize("seed", [0, 5])
def test_the_weights_are_those_of_flax(seed):
    key = jax.random.key(seed)
    got = values(lambda key: ini.initialize(Net(True), key, X), key)
    want = values(lambda key: Net(False).init(key, X)["params"], key)
    assert max(x.size for x in jax.tree.leaves(want)) > ini.CHUNK
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert len({float(x.ravel()[0]) for x in jax.tree.leaves(got) if x.ndim > 1}) == 7


def test_other_random_generators_than_threefry():
    key = jax.random.key(0, impl="rbg")
    got = values(lambda key: ini.initialize(Net(True), key, X), key)
    jax.tree.map(np.testing.assert_array_equal, got, values(lambda key: Net(False).init(key, X)["params"], key))


def test_a_net_without_random_weights():
    assert ini.initialize(nn.LayerNorm(), jax.random.key(0), X)["scale"].tolist() == [1, 1, 1]


def test_flax_alone_samples_and_applies_them():
    """`net.init` keeps its boxes, which `nn.unbox` opens and `apply` reads."""
    net, key = Net(True), jax.random.key(0)
    out, variables = jax.jit(net.init_with_output)(key, X)
    assert jnp.abs(out).max() > 0
    np.testing.assert_allclose(net.apply(nn.unbox(variables), X), out, rtol=1e-4)
    np.testing.assert_allclose(net.apply(variables, X), out, rtol=1e-4)
