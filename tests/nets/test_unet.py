"""Sizes, starts and options of the UNet; its values are checked in tests/parity/test_parity_mask.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from maskdiff_jax.nets import unet
from maskdiff_jax.nets.unet import UNet, attention_levels
from maskdiff_jax.nets.unet_blocks import ResBlock
from tests.compiling import jit
from tests.nets.random_weights import randomized


def shapes(net, channels, size=128):
    x = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    n = jax.ShapeDtypeStruct((1,), jnp.int32)
    return jax.eval_shape(net.init, jax.random.key(0), x, n, n)["params"]


def count(params):
    return sum(int(np.prod(p.shape)) for p in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("slots", "scale_shift", "additive"),
    [(1, 89741825, 85604993), (5, 89755649, 85618817), (10, 89772929, 85636097)],
)
def test_parameter_counts(slots, scale_shift, additive):
    assert count(shapes(UNet(), 4 + 3 * slots)) == scale_shift
    assert count(shapes(UNet(scale_shift=False), 4 + 3 * slots)) == additive


def test_parameter_counts_of_variants():
    assert count(shapes(UNet(out_channels=2, scale_shift=False), 7)) == 85_606_146
    assert count(shapes(UNet(num_classes=80), 7)) == 89_741_825 + 645_120
    millions = {
        98.6: UNet(resblock_updown=True),
        95.0: UNet(attention=(3, 4)),
        50.5: UNet(width=96),
        22.5: UNet(width=64),
        61.8: UNet(blocks=1),
        86.8: UNet(stem_patch=2, multipliers=(1, 2, 3, 4), attention=(2,)),
    }
    for want, net in millions.items():
        assert round(count(shapes(net, 7)) / 1e6, 1) == want
    released = UNet(width=256, attention=(2, 3, 4), resblock_updown=True, out_channels=6)
    classes = 1000 * 4 * 256  # the released net embeds its class beside the time
    assert count(shapes(released, 3)) + classes == 421_529_606


def test_attention_levels():
    assert attention_levels((16,), 128, 1, 5) == (3,)
    assert attention_levels((16, 8), 128, 1, 5) == (3, 4)
    assert attention_levels((16,), 128, 2, 4) == (2,)
    assert attention_levels((8,), 32, 2, 3) == (1,)
    assert attention_levels((), 32, 2, 3) == ()
    with pytest.raises(ValueError, match="unet.attention"):
        attention_levels((7,), 32, 1, 3)
    params = shapes(UNet(attention=attention_levels((16,), 128, 1, 5)), 7)
    at = [name for name in params if "attention" in name]
    assert sorted(at) == sorted(
        [f"input{i}_attention" for i in (10, 11)] + [f"output{i}_attention" for i in (3, 4, 5)] + ["middle1_attention"]
    )


SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (1,), "heads": 2}


def test_untrained_net_returns_zero_and_starts_like_pytorch():
    net = UNet(num_classes=3, stem_patch=2, **SMALL)
    x, t, c = jax.random.normal(jax.random.key(0), (2, 8, 8, 7)), jnp.array([3, 977]), jnp.array([0, 2])
    params = jit(net.init)(jax.random.key(1), x, t, c)["params"]
    np.testing.assert_array_equal(jit(net.apply)({"params": params}, x, t, c), np.zeros((2, 8, 8, 1)))
    zero = {k for k, v in params.items() for leaf in jax.tree.leaves(v) if leaf.ndim == 4 and not leaf.any()}
    assert zero == {k for k in params if k.endswith("_res")} | {"out"}
    kernel = params["stem"]["kernel"]
    limit = np.prod(kernel.shape[:3]) ** -0.5
    assert 0.9 * limit < np.abs(kernel).max() <= limit
    assert 0 < np.abs(params["stem"]["bias"]).max() <= limit
    assert params["input1_res"]["class_table"].shape == (3, 8) and not params["input1_res"]["class_table"].any()


@pytest.mark.parametrize("options", [
    {},
    {"scale_shift": False, "resblock_updown": True},
    {"stem_patch": 2, "head_channels": 4},
    {"out_channels": 2},
])  # fmt: skip
def test_options_and_class_input(options):
    net = UNet(num_classes=3, **SMALL | options)
    x, t = jax.random.normal(jax.random.key(0), (2, 8, 16, 7)), jnp.array([3, 977])
    params = randomized(jax.eval_shape(net.init, jax.random.key(1), x, t, t)["params"])
    apply = jit(lambda c: net.apply({"params": params}, x, t, c))
    out = {c: apply(jnp.full(2, c)) for c in (-1, 0, 1, 3)}
    assert out[0].shape == (2, 8, 16, options.get("out_channels", 1)) and out[0].dtype == jnp.float32
    np.testing.assert_array_equal(out[-1], out[3])  # C and -1 are both "no class"
    np.testing.assert_allclose(out[-1], jit(net.apply)({"params": params}, x, t), rtol=1e-4, atol=1e-5)
    assert np.abs(out[0] - out[1]).max() > 1e-3 and np.abs(out[0] - out[-1]).max() > 1e-3

    classes = jnp.array([2, 3])  # the second has none
    vectors = unet.block_vectors(params, t, classes)
    assert set(vectors) == {name for name, block in params.items() if "class_table" in block}
    tabled = jit(lambda v: net.apply({"params": params}, x, None, vectors=v))(vectors)
    np.testing.assert_allclose(tabled, apply(classes), rtol=1e-5, atol=1e-5)


def test_bfloat16_computes_close_to_float32():
    nets = [UNet(dtype=d, **SMALL) for d in (jnp.float32, jnp.bfloat16)]
    x, t = jax.random.normal(jax.random.key(0), (2, 8, 8, 7)), jnp.array([3, 977])
    params = randomized(jax.eval_shape(nets[0].init, jax.random.key(1), x, t)["params"])
    a, b = (jit(net.apply)({"params": params}, x, t) for net in nets)
    assert b.dtype == jnp.float32
    assert 1e-4 < np.abs(a - b).max() / np.abs(a).max() < 0.1


@pytest.mark.parametrize("options", [{}, {"resblock_updown": True, "num_classes": 3, "out_channels": 2}])
def test_weights_cast_before_are_the_same(options):
    """Bit for bit, with weights as arguments so that nothing is folded into the program."""
    net = UNet(dtype=jnp.bfloat16, **SMALL | options)
    x, t = jax.random.normal(jax.random.key(0), (2, 8, 8, 7)), jnp.array([3, 977])
    params = randomized(jax.eval_shape(net.init, jax.random.key(1), x, t, t)["params"])
    cast = unet.cast_weights(params, net.dtype)
    run = jax.jit(lambda p: net.apply({"params": p}, x, t, jnp.array([0, 2])))
    np.testing.assert_array_equal(run(cast), run(params))
    types = {"/".join(k.key for k in path if hasattr(k, "key")): v.dtype for path, v in jax.tree.leaves_with_path(cast)}
    for name in ("stem/kernel", "input1_res/conv1/bias"):
        assert types[name] == jnp.bfloat16
    wide = {name for name, dtype in types.items() if dtype == jnp.float32}
    assert all(any(part in name for part in ("norm", "time", "class_table", "out/")) for name in wide), wide
    assert {"out/kernel", "time1/kernel", "input1_res/norm1/scale", "input1_res/time/bias"} <= wide


def test_every_block_has_a_dropout_key_of_its_own():
    net = UNet(width=4, multipliers=(1,), blocks=50, attention=(), dropout=0.5)
    keys = []

    def record(call, args, kwargs, context):
        if not isinstance(context.module, ResBlock):
            return call(*args, **kwargs)
        keys.append(args[3])
        return args[0][..., : context.module.features]

    with nn.intercept_methods(record):
        net.init(jax.random.key(0), jnp.zeros((1, 2, 2, 4)), jnp.zeros(1), key=jax.random.key(1))
    assert len(keys) == 50 + 2 + 51 and None not in keys
    assert len({tuple(np.asarray(jax.random.key_data(key))) for key in keys}) == len(keys)


def test_dropout_needs_a_key():
    net = UNet(dropout=0.5, **SMALL)
    x, t = jax.random.normal(jax.random.key(0), (1, 8, 8, 7)), jnp.array([3])
    params = randomized(jax.eval_shape(net.init, jax.random.key(1), x, t)["params"])
    apply = jit(lambda key: net.apply({"params": params}, x, t, key=key))
    a, b = apply(jax.random.key(0)), apply(jax.random.key(1))
    assert not np.allclose(a, b)
    np.testing.assert_array_equal(a, apply(jax.random.key(0)))
    same = jit(UNet(**SMALL).apply)({"params": params}, x, t)
    np.testing.assert_allclose(apply(None), same, rtol=1e-4, atol=1e-5)


def test_sides_that_do_not_divide():
    with pytest.raises(ValueError, match="multiples of 4 px"):
        shapes(UNet(stem_patch=2, **SMALL), 7, size=10)
    with pytest.raises(ValueError, match="unet.heads"):
        shapes(UNet(**SMALL | {"heads": 3}), 7, size=8)
