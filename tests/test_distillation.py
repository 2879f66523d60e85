"""Distillation: the loss of nets that output constants, by hand; two steps in one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax import diffusion as df
from maskdiff_jax import distillation, mask_heads
from maskdiff_jax import sampler as sm
from tests.compiling import jit
from tests.tiny_mask_head import KEYS, OneBlock, objects, options, some_params, zero_params


@pytest.fixture(autouse=True)
def one_block(monkeypatch):
    monkeypatch.setattr(mask_heads, "UNet", OneBlock)


def constant(head, value):
    """Parameters of a net that outputs `value` everywhere."""
    params = zero_params(head)
    return params | {"out": params["out"] | {"bias": jnp.full((1,), value)}}


@pytest.mark.parametrize(("how", "stride"), [((4, False, 3.0), 1), ((2, True, 1.0), 2)])
def test_distillation_loss_of_constant_outputs(how, stride):
    def value(head, student, teacher):
        given = constant(head, student), constant(head, teacher), KEYS[0], batch
        return float(jit(head.distill(*how))(*given)[0])

    def head_of(prediction, b):
        fields = {"steps": 4, "schedule": "cosine", "prediction": prediction, "signal_scale": b}
        return mask_heads.diffusion_head(**options(diffusion=fields))

    batch, mine, theirs = objects(), 0.7, -0.4
    # a logit against the teacher's probability
    p = 1 / (1 + np.exp(-theirs))
    want = np.log1p(np.exp(mine)) - p * mine
    np.testing.assert_allclose(value(head_of("sigmoid", 0.5), mine, theirs), want, rtol=1e-5)
    # a number in units of b against the teacher's, times max(SNR, 1) at the steps that were sampled
    schedule = df.make_schedule("cosine", 100)
    asked = sm.make_plan(schedule, sampler="ddim", steps=4, spacing="trailing").t[::stride]
    t = asked[jax.random.randint(jax.random.split(KEYS[0], 3)[0], (4,), 0, len(asked))]
    b, abar = 2.0, schedule.alphas_cumprod[t]
    weight = np.maximum(b * b * abar / (1 - abar), 1)
    assert weight.min() == 1 < weight.max()
    want = (mine - theirs) ** 2 * weight.mean()
    np.testing.assert_allclose(value(head_of("x0", b), mine, theirs), want, rtol=1e-5)
    with pytest.raises(ValueError, match="'eps' cannot be distilled"):
        head_of("eps", 1.0).distill(*how)


def test_distillation_loss_is_the_distance_to_the_teacher():
    head = mask_heads.diffusion_head(**options(diffusion={"steps": 4, "prediction": "x0", "signal_scale": 1.0}))
    # small weights, so that no estimate reaches the clip
    batch, params = objects(), jax.tree.map(lambda p: 0.3 * p, some_params(head))
    mute = jax.tree_util.tree_map_with_path(
        lambda path, p: jnp.zeros_like(p) if path[-1].key == "class_table" else p, params
    )
    losses = {
        how: jit(head.distill(*how)) for how in ((4, False, 1.0), (4, False, 3.0), (2, True, 1.0), (1, True, 1.0))
    }
    value = {
        name: float(losses[how](student, teacher, KEYS[0], batch)[0])
        for name, how, student, teacher in (
            ("itself", (4, False, 1.0), params, params),
            ("guided", (4, False, 3.0), params, params),
            ("guided without a class", (4, False, 3.0), mute, mute),
            ("halved", (2, True, 1.0), params, params),
            ("halved, last step", (1, True, 1.0), zero_params(head), zero_params(head)),
        )
    }
    assert value["itself"] < 1e-9 and value["guided without a class"] < 1e-9 and value["halved, last step"] == 0
    assert min(value["guided"], value["halved"]) > 1e-7
    with pytest.raises(ValueError, match="trailing"):
        mask_heads.diffusion_head(**options(diffusion={"spacing": "even"})).distill(2, True, 1.0)
    with pytest.raises(ValueError, match="nothing to distil"):
        mask_heads.plain_unet_head(**options()).distill(2, True, 1.0)


def test_merged_estimate_leads_where_two_steps_lead():
    linear = df.make_schedule("linear", 1000)
    long, short = (sm.make_plan(linear, sampler="ddim", steps=s, spacing="trailing") for s in (8, 4))
    np.testing.assert_array_equal(long.t[::2], short.t)
    noise = sm.object_noise(jax.random.split(jax.random.key(0), 3), (4, 4, 1))
    teach = lambda y, t: jnp.tanh(3 * y + t.reshape(-1, 1, 1, 1) / 1000)
    which = {int(t): i for i, t in enumerate(long.t)}

    def student(y, t):
        i = jnp.asarray(np.vectorize(lambda x: which.get(x, 0))(np.arange(1000)))[t]
        return distillation.merged_estimate(teach, long, y, i), None

    want, (ys, _) = sm.sample(lambda y, t: (teach(y, t), None), long, noise)
    got, (mine, estimates) = sm.sample(student, short, noise)
    np.testing.assert_allclose(mine, ys[::2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert jnp.abs(estimates).max() <= 1  # a mean of estimates stays in their range
