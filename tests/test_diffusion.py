"""Schedules and conversions against their formulas written out one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax import diffusion as df

LINEAR = df.make_schedule("linear", 1000)


def numbers(seed, shape=(3, 4, 4, 1)):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "abar"),
    [
        (
            "linear",
            [
                0.99990,
                0.8970,
                0.6590,
                0.3964,
                0.1951,
                0.07859,
                0.02588,
                0.006966,
                0.001532,
                0.000275,
                4.04e-5,
            ],
        ),
        (
            "cosine",
            [0.99996, 0.9721, 0.8987, 0.7869, 0.6475, 0.4938, 0.3408, 0.2031, 0.09405, 0.02409, 2.4e-9],
        ),
    ],
)
def test_schedule_table(name, abar):
    s = df.make_schedule(name, 1000)
    at = [0, 99, 199, 299, 399, 499, 599, 699, 799, 899, 999]
    np.testing.assert_allclose(s.alphas_cumprod[at], abar, rtol=2e-2 if name == "cosine" else 2e-3)
    assert all(table.dtype == np.float64 for table in s)
    assert (s.betas >= 0.999).sum() == (1 if name == "cosine" else 0)


def test_schedule_of_any_length():
    for name in df.SCHEDULES:
        for steps in (1, 2, 100):
            s = df.make_schedule(name, steps)
            assert len(s.betas) == steps and all(np.isfinite(table).all() for table in s if len(table) > 1)
    # a shorter linear process ends at nearly the same noise
    assert df.make_schedule("linear", 100).alphas_cumprod[-1] < 1e-4


def test_noise_chain_has_the_closed_form_marginals():
    s = df.make_schedule("linear", 20)
    x0 = jnp.full((40_000, 1), 0.7)
    chain = df.noise_chain(s, jax.random.key(0), x0)
    assert chain.shape == (20, 40_000, 1)
    abar = s.alphas_cumprod
    np.testing.assert_allclose(chain.mean((1, 2)), 0.7 * np.sqrt(abar), atol=0.02)
    np.testing.assert_allclose(chain.std((1, 2)), np.sqrt(1 - abar), atol=0.02)
    # neighbors in the chain correlate as the product of one-step signals
    eps = jax.random.normal(jax.random.key(1), x0.shape)
    closed = df.add_noise(s, x0, jnp.full(40_000, 7), eps)
    np.testing.assert_allclose([closed.mean(), closed.std()], [chain[7].mean(), chain[7].std()], atol=0.02)
    covariance = jnp.mean((chain[9] - chain[9].mean()) * (chain[4] - chain[4].mean()))
    np.testing.assert_allclose(covariance, np.sqrt(abar[9] / abar[4]) * (1 - abar[4]), atol=0.02)


@pytest.mark.parametrize("b", [1.0, 0.5])
def test_predictions_are_inverses(b):
    x0 = b * np.sign(numbers(0))
    eps, t = numbers(1), jnp.array([0, 400, 900])
    y = df.add_noise(LINEAR, x0, t, eps)
    outs = {"eps": eps, "x0": x0 / b, "v": df.velocity(LINEAR, x0, t, eps), "sigmoid": 40.0 * np.sign(x0)}
    assert outs.keys() == df.PREDICTIONS.keys()
    for kind, out in outs.items():
        np.testing.assert_allclose(df.to_x0(LINEAR, kind, y, t, out, b), x0, atol=1e-3, err_msg=kind)
    p = jax.nn.sigmoid(0.3)
    np.testing.assert_allclose(df.to_x0(LINEAR, "sigmoid", y, t, jnp.full_like(y, 0.3), b), b * (2 * p - 1), rtol=1e-5)


@pytest.mark.parametrize("b", [1.0, 0.5])
def test_preconditions_are_forms_of_the_noise(b):
    """Each form inverted by hand: the output that encodes the true noise decodes to it."""
    x0, eps, t = b * np.sign(numbers(0, (1000, 64))), numbers(1, (1000, 64)), np.arange(1000)
    y = np.asarray(df.add_noise(LINEAR, x0, t, eps))
    signal, sigma = (np.sqrt(a)[:, None] for a in (LINEAR.alphas_cumprod, 1 - LINEAR.alphas_cumprod))
    variance = b * b * signal**2 + sigma**2
    unit = np.sqrt(variance) / (b * signal) * (eps - sigma / variance * y)
    outs = {"none": eps, "skip": eps - sigma * y, "edm": unit, "logit": 400.0 * np.sign(x0)}
    assert outs.keys() == df.PRECONDITIONS.keys()
    for name, out in outs.items():
        got = df.precondition(LINEAR, name, y, t, out, b)
        # float32: eps = (y - signal x0) / sigma has its rounding divided by sigma, 0.01 at t = 0
        np.testing.assert_allclose(got, eps, atol=5e-5, err_msg=name)
    # the output of a net with "edm": unit variance at every t, uncorrelated with y_t
    assert abs((unit**2).mean(1).reshape(20, 50).mean(1) - 1).max() < 0.1
    assert abs((unit * y).mean()) < 0.02
    if b == 1.0:
        np.testing.assert_allclose(unit, df.velocity(LINEAR, x0, t, eps), atol=0.02)


@pytest.mark.parametrize("b", [1.0, 0.5])
def test_logit_form_is_the_posterior_mean(b):
    """Against Bayes' rule with the two densities of y_t written out; out is the prior's log odds."""
    t, y, prior = np.full(41, 400), np.linspace(-3, 3, 41, dtype=np.float32)[:, None], 0.8
    abar = LINEAR.alphas_cumprod[400]
    plus, minus = (np.exp(-((y - m * b * np.sqrt(abar)) ** 2) / (2 * (1 - abar))) for m in (1, -1))
    p = prior * plus / (prior * plus + (1 - prior) * minus)
    want = (y - np.sqrt(abar) * b * (2 * p - 1)) / np.sqrt(1 - abar)
    out = np.full_like(y, np.log(prior / (1 - prior)))
    np.testing.assert_allclose(df.precondition(LINEAR, "logit", y, t, out, b), want, atol=1e-5)


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
@pytest.mark.parametrize("b", [1.0, 0.5])
def test_loss_weights_are_the_same_for_every_prediction(kind, b):
    """Weight times squared error is the named weight times the squared error of y_0 / b."""
    x0, wrong, eps, t = b * np.sign(numbers(0)), b * np.tanh(numbers(2)), numbers(1), np.array([50, 250, 700])
    y = df.add_noise(LINEAR, x0, t, eps)
    signal, sigma = (np.sqrt(a)[t][:, None, None, None] for a in (LINEAR.alphas_cumprod, 1 - LINEAR.alphas_cumprod))
    noise_of = lambda x: (y - signal * x) / sigma
    forms = {"eps": noise_of, "x0": lambda x: x / b, "v": lambda x: df.velocity(LINEAR, x, t, noise_of(x))}
    error = np.asarray((forms[kind](wrong) - forms[kind](x0)) ** 2).mean((1, 2, 3))
    of_y0 = (((wrong - x0) / b) ** 2).mean((1, 2, 3))
    abar = LINEAR.alphas_cumprod[t]
    snr = b * b * abar / (1 - abar)
    assert snr[0] > 5 > snr[1] and snr[1] > snr[2] and snr[2] < 1
    for name, want in (("min_snr", np.minimum(snr, 5)), ("truncated_snr", np.maximum(snr, 1))):
        weights = df.loss_weights(LINEAR, name, kind, gamma=5.0, scale=b)
        np.testing.assert_allclose(weights[t] * error, want * of_y0, rtol=1e-3)
    np.testing.assert_array_equal(df.loss_weights(LINEAR, "none", kind, scale=b), np.ones(1000))


def test_learned_variance_lies_between():
    t = jnp.array([5, 500, 999])
    ends = [df.learned_log_variance(LINEAR, t, jnp.full((3, 1), v))[:, 0] for v in (-1.0, 1.0)]
    np.testing.assert_allclose(ends[0], LINEAR.posterior_log_variance_clipped[t], rtol=1e-6)
    np.testing.assert_allclose(ends[1], np.log(LINEAR.betas[t]), rtol=1e-6)


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_guidance_is_the_same_in_every_prediction(kind):
    y, t = jnp.asarray(numbers(0)), jnp.array([10, 300, 600])
    c, u = jnp.asarray(numbers(1)), jnp.asarray(numbers(2))
    first = df.to_x0(LINEAR, kind, y, t, u + 5 * (c - u))
    x0_c, x0_u = df.to_x0(LINEAR, kind, y, t, c), df.to_x0(LINEAR, kind, y, t, u)
    np.testing.assert_allclose(first, x0_u + 5 * (x0_c - x0_u), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: df.make_schedule("square", 10), "linear, cosine"),
        (lambda: df.make_schedule("linear", 0), "timesteps"),
        (lambda: df.precondition(LINEAR, "x", jnp.ones((1, 1)), jnp.zeros(1, int), jnp.ones((1, 1))), "skip, edm"),
        (lambda: df.loss_weights(LINEAR, "snr", "eps"), "none, min_snr, truncated_snr"),
        (lambda: df.loss_weights(LINEAR, "min_snr", "sigmoid"), "not 'sigmoid'"),
        (lambda: df.to_x0(LINEAR, "y", jnp.ones((1, 1)), jnp.zeros(1, int), jnp.ones((1, 1))), "sigmoid"),
    ],
)
def test_errors_name_the_fix(call, match):
    with pytest.raises(ValueError, match=match):
        call()
