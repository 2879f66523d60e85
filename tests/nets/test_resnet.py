"""The backbone: shapes, names, which leaves get a gradient. Numbers: tests/parity/test_parity_detector.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from maskdiff_jax.nets import resnet
from tests.compiling import jit

KEY = jax.random.key(0)


def test_max_pool_and_its_gradient():
    x = jax.nn.relu(jax.random.normal(KEY, (2, 8, 12, 3)))
    pool = lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    np.testing.assert_array_equal(resnet._max_pool(x), pool(x))
    grads = [jax.grad(lambda x, f=f: (f(x) ** 2).sum())(x) for f in (resnet._max_pool, pool)]
    np.testing.assert_allclose(*grads, atol=1e-6)


@pytest.mark.parametrize("norm", ["frozen_bn", "group"])
def test_backbone(norm):
    net = resnet.ResNet((1, 2, 1, 1), 8, norm, True)
    x = jax.random.normal(KEY, (2, 64, 96, 3))
    out, variables = jit(net.init_with_output)(KEY, x)
    params = variables["params"]
    assert {l: f.shape for l, f in out.items()} == {l: (2, 64 >> l, 96 >> l, 8 << l) for l in range(2, 6)}
    names = set(flatten_dict(params, sep="/"))
    leaf = "var" if norm == "frozen_bn" else "scale"
    assert {"stem/conv1/kernel", f"res2/block0/shortcut/norm/{leaf}", "res3/block1/conv2/kernel"} <= names
    assert not any("res3/block1/shortcut" in n for n in names)
    grads = flatten_dict(jit(jax.grad(lambda p: net.apply({"params": p}, x)[5].sum()))(params), sep="/")
    for name, g in grads.items():
        if "norm" in name and norm == "frozen_bn":
            assert (np.asarray(g) == 0).all(), name
    assert (np.asarray(grads["stem/conv1/kernel"]) != 0).any()


def test_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="frozen_bn or group"):
        resnet.ResNet((1, 1, 1, 1), 8, "batch", True).init(KEY, jnp.zeros((1, 32, 32, 3)))
