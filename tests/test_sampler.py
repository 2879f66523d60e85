"""Steps, samplers and guidance against their formulas written out one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax import diffusion as df
from maskdiff_jax import sampler as sm

LINEAR = df.make_schedule("linear", 1000)


def numbers(seed, shape=(3, 4, 4, 1)):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_spacings():
    assert sm.spaced(1000, 10, "trailing") == [99, 199, 299, 399, 499, 599, 699, 799, 899, 999]
    assert sm.spaced(1000, 4, "trailing") == [249, 499, 749, 999]
    assert sm.spaced(1000, 1, "trailing") == [999]
    assert sm.spaced(1000, 10, "even") == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    assert sm.spaced(1000, 5, "leading") == [0, 200, 400, 600, 800]
    for spacing in sm.SPACINGS:
        assert sm.spaced(7, 7, spacing) == list(range(7))


# ---------------------------------------------------------------------------------- coefficients
def test_ddpm_is_the_posterior():
    for variance in ("fixed_small", "fixed_large"):
        plan = sm.make_plan(LINEAR, sampler="ddpm", steps=50, spacing="trailing", variance=variance)
        short = df.respace(LINEAR, plan.t[::-1])
        np.testing.assert_allclose(plan.coefficients.a[::-1], short.posterior_mean_yt, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(plan.coefficients.b[::-1], short.posterior_mean_x0, rtol=1e-9)
        variances = short.betas if variance == "fixed_large" else short.posterior_variance
        np.testing.assert_allclose(plan.coefficients.s[::-1][1:] ** 2, variances[1:], rtol=1e-9)
        assert plan.coefficients.s[-1] == 0


def test_algorithm_2_as_printed_is_the_unclipped_posterior():
    s = LINEAR
    plan = sm.make_plan(s, sampler="ddpm", steps=1000, spacing="even")
    rng = np.random.default_rng(0)
    for i in (0, 500, 998):
        t = plan.t[i]
        y, eps = rng.standard_normal(), rng.standard_normal()
        abar, beta = s.alphas_cumprod[t], s.betas[t]
        x0 = (y - np.sqrt(1 - abar) * eps) / np.sqrt(abar)
        printed = (y - beta / np.sqrt(1 - abar) * eps) / np.sqrt(1 - beta)
        np.testing.assert_allclose(plan.coefficients.a[i] * y + plan.coefficients.b[i] * x0, printed, rtol=1e-9)


def test_ddim():
    steps = {"steps": 10, "spacing": "trailing"}
    one = sm.make_plan(LINEAR, sampler="ddim", eta=1.0, **steps)
    small = sm.make_plan(LINEAR, sampler="ddpm", variance="fixed_small", **steps)
    for a, b in zip(one.coefficients, small.coefficients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    zero = sm.make_plan(LINEAR, sampler="ddim", eta=0.0, **steps)
    now = LINEAR.alphas_cumprod[zero.t]
    to = np.append(now[1:], 1.0)
    y, x0 = 0.3, -0.8
    eps = (y - np.sqrt(now) * x0) / np.sqrt(1 - now)
    np.testing.assert_allclose(
        zero.coefficients.a * y + zero.coefficients.b * x0, np.sqrt(to) * x0 + np.sqrt(1 - to) * eps, rtol=1e-9
    )
    assert not zero.coefficients.s.any() and not zero.coefficients.c.any()


def test_dpmpp_2m_against_its_own_formulas():
    plan = sm.make_plan(LINEAR, sampler="dpmpp_2m", steps=6, spacing="trailing")
    abar = LINEAR.alphas_cumprod[plan.t]
    alpha, sigma = np.sqrt(abar), np.sqrt(1 - abar)
    lam = np.log(alpha / sigma)
    y, estimates = 0.4, np.array([0.9, -0.7, 0.2, 0.5, -0.1, 0.3])
    ours = y
    for i in range(5):
        h = lam[i + 1] - lam[i]
        d = estimates[i]
        if i:
            r = (lam[i] - lam[i - 1]) / h
            d = (1 + 1 / (2 * r)) * estimates[i] - 1 / (2 * r) * estimates[i - 1]
        y = sigma[i + 1] / sigma[i] * y - alpha[i + 1] * (np.exp(-h) - 1) * d
        before = estimates[i - 1] if i else 0.0
        ours = plan.coefficients.a[i] * ours + plan.coefficients.b[i] * estimates[i] + plan.coefficients.c[i] * before
        np.testing.assert_allclose(ours, y, rtol=1e-9)
    assert [r[-1] for r in plan.coefficients] == [0, 1, 0, 0]


# ---------------------------------------------------------------------------------- sampling
def two_masks(y, t):
    """The exact denoiser for data that are one of two masks with equal chances."""
    modes = jnp.stack([jnp.ones(y.shape[1:]), -jnp.ones(y.shape[1:])])
    abar = jnp.asarray(LINEAR.alphas_cumprod, jnp.float32)[t]
    a, var = jnp.sqrt(abar)[:, None], (1 - abar)[:, None]
    flat = y.reshape(len(y), 1, -1) - a[..., None] * modes.reshape(1, 2, -1)
    weight = jax.nn.softmax(-0.5 * (flat**2).sum(-1) / var)
    return jnp.einsum("nk,k...->n...", weight, modes), None


@pytest.mark.parametrize(("sampler", "eta"), [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 0.5), ("dpmpp_2m", 0.0)])
def test_samplers_reproduce_the_data(sampler, eta):
    plan = sm.make_plan(LINEAR, sampler=sampler, steps=10, spacing="trailing", eta=eta)
    keys = jax.random.split(jax.random.key(0), 400)
    out, (y, x0) = jax.jit(lambda: sm.sample(two_masks, plan, sm.object_noise(keys, (3, 3)), clip=1.0))()
    assert y.shape == x0.shape == (10, 400, 3, 3)
    np.testing.assert_array_equal(out, x0[-1])
    assert (jnp.abs(out) > 0.9).mean() > 0.98
    share = (out.mean((1, 2)) > 0).mean()
    assert 0.42 < share < 0.58


def test_noise_depends_on_the_objects_key_alone():
    keys = jax.random.split(jax.random.key(3), 5)
    many = sm.object_noise(keys, (4, 4, 1))
    few = sm.object_noise(keys[jnp.array([3, 1])], (4, 4, 1))
    for i in (0, 1, 7):
        np.testing.assert_array_equal(many(i)[jnp.array([3, 1])], few(i))
    raw = sm.object_noise(jax.random.key_data(keys), (4, 4, 1))
    np.testing.assert_array_equal(many(2), raw(2))
    assert not np.allclose(many(0), many(1))


def test_learned_noise_scale_is_per_pixel():
    s = df.make_schedule("linear", 10)
    plan = sm.make_plan(s, sampler="ddpm", steps=10, spacing="even", variance="learned")
    v = jnp.where(jnp.arange(4) < 2, -1.0, 1.0).reshape(1, 4) * jnp.ones((2, 1))
    noise = sm.object_noise(jax.random.split(jax.random.key(0), 2), (4,))
    _, (y, _) = sm.sample(lambda y, t: (jnp.zeros_like(y), v), plan, noise)
    step = 3
    sigma = (y[step + 1] - plan.coefficients.a[step] * y[step]) / noise(step + 1)
    t = plan.t[step]
    np.testing.assert_allclose(sigma[:, :2] ** 2, s.posterior_variance[t], rtol=1e-3)
    np.testing.assert_allclose(sigma[:, 2:] ** 2, s.betas[t], rtol=1e-3)


def fake_net(y, t, keep):
    shift = jnp.where(keep, 0.3, -0.1).reshape((-1,) + (1,) * (y.ndim - 1))
    return jnp.tanh(0.5 * y + shift), jnp.broadcast_to(shift, y.shape)


def test_guidance():
    y, t = jnp.asarray(numbers(0)), jnp.array([10, 500, 900])
    calls = []

    def predict(y, t, keep):
        calls.append(len(y))
        return fake_net(y, t, keep)

    (c, v_c), (u, _) = fake_net(y, t, jnp.full(3, True)), fake_net(y, t, jnp.full(3, False))
    x0, v = sm.guided(predict, 1.0)(y, t)
    np.testing.assert_array_equal(x0, c)
    x0, v = sm.guided(predict, 5.0)(y, t)
    np.testing.assert_allclose(x0, u + 5 * (c - u), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(v, v_c)  # the mean half alone is guided
    assert calls == [3, 6]  # w = 1 costs one branch
    np.testing.assert_array_equal(sm.guided(predict, 0.0)(y, t)[0], u)


def test_segments_equal_steps_taken_one_by_one():
    """Two estimates in turn, each segment its own scan."""
    plan = sm.make_plan(LINEAR, sampler="dpmpp_2m", steps=6, spacing="trailing")
    noise = sm.object_noise(jax.random.split(jax.random.key(0), 3), (4,))
    low, high = (lambda y, t: (jnp.tanh(y) - 0.3, None)), (lambda y, t: (0.5 * y + t[:, None] / 1000, None))
    out, (ys, estimates) = sm.sample([(2, low), (1, high), (1, low), (2, high)], plan, noise)
    with pytest.raises(ValueError, match="the segments have 5 steps, the plan has 6"):
        sm.sample([(2, low), (3, high)], plan, noise)
    y, before = noise(0), jnp.zeros((3, 4))
    for i, denoise in enumerate([low, low, high, low, high, high]):
        np.testing.assert_allclose(ys[i], y, rtol=1e-5, atol=1e-6)
        x0, _ = denoise(y, jnp.full(3, plan.t[i]))
        np.testing.assert_allclose(estimates[i], x0, rtol=1e-5, atol=1e-6)
        table = plan.coefficients
        y, before = table.a[i] * y + table.b[i] * x0 + table.c[i] * before, x0
    np.testing.assert_allclose(out, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("steps", "interval", "guidance", "want"),
    [
        (4, (0.0, 1.0), 5.0, [(4, 5.0)]),
        (4, (0.5, 1.0), 5.0, [(2, 1.0), (2, 5.0)]),
        (4, (0.2, 0.7), 3.0, [(1, 1.0), (2, 3.0), (1, 1.0)]),
        (4, (0.0, 0.1), 3.0, [(4, 1.0)]),  # no step has its middle there
        (4, (0.2, 0.7), 1.0, [(4, 1.0)]),
        (1, (0.0, 0.6), 0.0, [(1, 0.0)]),
    ],
)
def test_guided_segments(steps, interval, guidance, want):
    assert sm.guided_segments(steps, interval, guidance) == want


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: sm.spaced(10, 11, "even"), "1..10"),
        (lambda: sm.spaced(10, 2, "odd"), "trailing, even, leading"),
        (lambda: sm.spaced(10, 9, "leading"), "leading"),
        (lambda: sm.make_plan(LINEAR, sampler="euler", steps=2, spacing="even"), "ddpm, ddim, dpmpp_2m"),
        (lambda: sm.make_plan(LINEAR, sampler="ddpm", steps=2, spacing="even", variance="big"), "fixed_small"),
    ],
)
def test_errors_name_the_fix(call, match):
    with pytest.raises(ValueError, match=match):
        call()
