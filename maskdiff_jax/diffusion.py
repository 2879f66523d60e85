"""Gaussian diffusion: schedules, adding noise, the forms of a prediction. Sampling is in sampler.py.

Glossary. T steps of noise; the index t = 0..T-1 counts them from zero, so t = 0 is one step of noise and
t = T-1 is (almost) pure noise. y_0, here `x0`, is the clean array, y_t the noisy one, eps its noise:
y_t = sqrt(abar_t) y_0 + sqrt(1 - abar_t) eps with abar = `alphas_cumprod`. Arrays are [N, ...]: N objects, then
whatever axes the data have. Tables are float64 on the host and become float32 where they are used. Nothing here
knows masks or nets.

Sources: DDPM [Ho et al. 2020], improved DDPM [Nichol and Dhariwal 2021, guided-diffusion]; the MaskDiff paper's Eq. 1
and Algorithm 1.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax.types import Array


# ---------------------------------------------------------------------------------- schedules
def linear_betas(timesteps: int) -> np.ndarray:
    """[T] float64: 1e-4..0.02 for T = 1000, as in the paper; scaled so that other T end at the same noise; below 1."""
    scale = 1000.0 / timesteps
    return np.minimum(np.linspace(scale * 1e-4, scale * 0.02, timesteps, dtype=np.float64), 0.999)


def cosine_betas(timesteps: int) -> np.ndarray:
    """[T] float64: abar follows a squared cosine; betas are clipped at 0.999 [Nichol and Dhariwal]."""
    edge = np.cos((np.arange(timesteps + 1, dtype=np.float64) / timesteps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1.0 - edge[1:] / edge[:-1], 0.999)


SCHEDULES = {"linear": linear_betas, "cosine": cosine_betas}


class Schedule(NamedTuple):
    """Tables of a process, each [T] float64; index t = 0 is one step of noise."""

    betas: np.ndarray
    alphas_cumprod: np.ndarray
    alphas_cumprod_prev: np.ndarray  # of t - 1; 1 at t = 0
    sqrt_alphas_cumprod: np.ndarray
    sqrt_one_minus_alphas_cumprod: np.ndarray
    sqrt_recip_alphas_cumprod: np.ndarray
    sqrt_recipm1_alphas_cumprod: np.ndarray  # sqrt(1 / abar - 1)
    posterior_variance: np.ndarray  # of q(y_{t-1} | y_t, y_0)
    posterior_log_variance_clipped: np.ndarray  # its log; at t = 0, where it is log 0, the entry of t = 1
    posterior_mean_x0: np.ndarray  # the posterior's mean is this times y_0 ...
    posterior_mean_yt: np.ndarray  # ... plus this times y_t


def from_betas(betas: np.ndarray) -> Schedule:
    """The tables of the process with these noise variances per step ([T], each in (0, 1))."""
    betas = np.asarray(betas, np.float64)
    abar = np.cumprod(1.0 - betas)
    prev = np.append(1.0, abar[:-1])
    variance = betas * (1.0 - prev) / (1.0 - abar)
    # a process of one step has no second entry to borrow
    clipped = np.append(variance[1:2] if len(betas) > 1 else betas, variance[1:])
    return Schedule(
        betas=betas,
        alphas_cumprod=abar,
        alphas_cumprod_prev=prev,
        sqrt_alphas_cumprod=np.sqrt(abar),
        sqrt_one_minus_alphas_cumprod=np.sqrt(1.0 - abar),
        sqrt_recip_alphas_cumprod=np.sqrt(1.0 / abar),
        sqrt_recipm1_alphas_cumprod=np.sqrt(1.0 / abar - 1.0),
        posterior_variance=variance,
        posterior_log_variance_clipped=np.log(clipped),
        posterior_mean_x0=betas * np.sqrt(prev) / (1.0 - abar),
        posterior_mean_yt=(1.0 - prev) * np.sqrt(1.0 - betas) / (1.0 - abar),
    )


def make_schedule(name: str, timesteps: int) -> Schedule:
    """The schedule called `name` with T = `timesteps`.

    Raises:
      ValueError: no schedule has this name, or T < 1.
    """
    if timesteps < 1:
        raise ValueError(f"diffusion.timesteps is {timesteps}, must be at least 1")
    return from_betas(choose(SCHEDULES, name, "diffusion.schedule")(timesteps))


def respace(schedule: Schedule, kept: Sequence[int]) -> Schedule:
    """The shorter process through the ascending steps `kept` of `schedule`: same abar at each of them."""
    abar = schedule.alphas_cumprod[np.asarray(kept)]
    return from_betas(1.0 - abar / np.append(1.0, abar[:-1]))


def choose(table: dict, name: str, field: str) -> Any:
    """table[name], or a ValueError that lists the names for the config field."""
    if name not in table:
        raise ValueError(f"{field} is '{name}', must be one of {', '.join(table)}")
    return table[name]


def _at(table: np.ndarray, t: Array, like: Array) -> Array:
    """table[t] as float32, shaped to broadcast against `like` [N, ...]."""
    return jnp.asarray(table, jnp.float32)[t].reshape((-1,) + (1,) * (like.ndim - 1))


# ---------------------------------------------------------------------------------- forward
def add_noise(schedule: Schedule, x0: Array, t: Array, eps: Array) -> Array:
    """y_t in closed form: x0 and eps [N, ...], t [N] in 0..T-1 (0 = one step of noise)."""
    signal, sigma = schedule.sqrt_alphas_cumprod, schedule.sqrt_one_minus_alphas_cumprod
    return _at(signal, t, x0) * x0 + _at(sigma, t, x0) * eps


def noise_chain(schedule: Schedule, key: Array, x0: Array) -> Array:
    """The forward process step by step (Eq. 1 of the paper): y_t ~ N(sqrt(1 - beta_t) y_{t-1}, beta_t).

    Returns:
      [T, ...]: y after 1, 2, ... T steps of noise; entry t has the marginal of `add_noise` at t.
    """
    betas = jnp.asarray(schedule.betas, jnp.float32)

    def step(y, xs):
        i, beta = xs
        z = jax.random.normal(jax.random.fold_in(key, i), y.shape)
        y = jnp.sqrt(1.0 - beta) * y + jnp.sqrt(beta) * z
        return y, y

    return jax.lax.scan(step, x0.astype(jnp.float32), (jnp.arange(len(betas)), betas))[1]


# ---------------------------------------------------------------------------------- the forms of a prediction
def _x0_from_eps(s: Schedule, y, t, out, scale):
    return _at(s.sqrt_recip_alphas_cumprod, t, y) * y - _at(s.sqrt_recipm1_alphas_cumprod, t, y) * out


def _x0_from_x0(s: Schedule, y, t, out, scale):
    return scale * out


def _x0_from_v(s: Schedule, y, t, out, scale):
    return _at(s.sqrt_alphas_cumprod, t, y) * y - _at(s.sqrt_one_minus_alphas_cumprod, t, y) * out


def _x0_from_sigmoid(s: Schedule, y, t, out, scale):
    # = scale (2 sigmoid(out) - 1): the posterior mean of data that are +-scale
    return scale * jnp.tanh(0.5 * out)


PREDICTIONS = {"eps": _x0_from_eps, "x0": _x0_from_x0, "v": _x0_from_v, "sigmoid": _x0_from_sigmoid}


def _net_is_eps(s: Schedule, y, t, out, scale):
    return out


def _net_with_skip(s: Schedule, y, t, out, scale):
    return _at(s.sqrt_one_minus_alphas_cumprod, t, y) * y + out


def _net_as_edm(s: Schedule, y, t, out, scale):
    signal, sigma = scale * _at(s.sqrt_alphas_cumprod, t, y), _at(s.sqrt_one_minus_alphas_cumprod, t, y)
    variance = signal**2 + sigma**2  # of y_t
    return sigma / variance * y + signal / jnp.sqrt(variance) * out


def _net_as_logit(s: Schedule, y, t, out, scale):
    signal, sigma = _at(s.sqrt_alphas_cumprod, t, y), _at(s.sqrt_one_minus_alphas_cumprod, t, y)
    x0 = scale * jnp.tanh(scale * signal / sigma**2 * y + 0.5 * out)
    return (y - signal * x0) / sigma


PRECONDITIONS = {"none": _net_is_eps, "skip": _net_with_skip, "edm": _net_as_edm, "logit": _net_as_logit}


def precondition(schedule: Schedule, name: str, y: Array, t: Array, out: Array, scale: float = 1.0) -> Array:
    """The noise that a net's output encodes, in four forms; the prediction stays the noise.

    For data of variance scale^2, y_t has variance `var` = scale^2 abar + 1 - abar.

    Args:
      name: "none": the output is the noise [Ho et al. 2020].
        "skip": sqrt(1 - abar) y_t is added to it: the net need not copy y_t.
        "edm": sqrt(1 - abar) / var y_t + scale sqrt(abar / var) out, c_skip and c_out of Karras et al. 2022 (Table 1)
        for the noise: the best linear guess plus an output of unit variance at every t. For scale 1 the output is
        the v of Salimans and Ho 2022.
        "logit": the noise that follows from y_0 = scale tanh(scale sqrt(abar) / (1 - abar) y_t + out / 2), exact for
        data that are +-scale: out is a pixel's logit before y_t is known, the first term is
        the evidence of y_t by Bayes' rule.
      y, t, out: y_t [N, ...], t [N], the net's output [N, ...].
      scale: of the data.

    Returns:
      [N, ...].

    Raises:
      ValueError: unknown name.
    """
    return choose(PRECONDITIONS, name, "diffusion.precondition")(schedule, y, t, out, scale)


def _min_snr(snr: np.ndarray, gamma: float) -> np.ndarray:
    return np.minimum(snr, gamma)


def _truncated_snr(snr: np.ndarray, gamma: float) -> np.ndarray:
    return np.maximum(snr, 1.0)


LOSS_WEIGHTS = {"min_snr": _min_snr, "truncated_snr": _truncated_snr}


def loss_weights(
    schedule: Schedule, name: str, prediction: str, *, gamma: float = 5.0, scale: float = 1.0
) -> np.ndarray:
    """The weight of a prediction's squared error at each t.

    With snr = scale^2 abar / (1 - abar) the squared error of eps is snr times that of y_0 / scale, and the one of v
    snr + scale^2 times; the weights are chosen for y_0 / scale and divided by that factor.

    Args:
      name: "none": 1 [Ho et al. 2020; the paper's Eq. 4]. "min_snr": min(snr, gamma) on y_0 [Hang et al. 2023]: less
        weight where there is little noise. "truncated_snr": max(snr, 1) on y_0 [Salimans and Ho 2022]: more weight
        where there is almost only noise, which departs from Eq. 4.
      prediction: "eps", "x0" or "v".

    Returns:
      [T] float64.

    Raises:
      ValueError: unknown name, or a prediction without a squared error.
    """
    if name == "none":
        return np.ones_like(schedule.alphas_cumprod)
    noise = 1.0 - schedule.alphas_cumprod
    snr = scale**2 * schedule.alphas_cumprod / noise
    factors = {"eps": snr, "x0": np.ones_like(snr), "v": scale**2 / noise}
    if prediction not in factors:
        raise ValueError(f"diffusion.loss_weight='{name}' needs diffusion.prediction eps, x0 or v, not '{prediction}'")
    rule = choose({"none": None} | LOSS_WEIGHTS, name, "diffusion.loss_weight")
    return rule(snr, gamma) / factors[prediction]


def to_x0(schedule: Schedule, prediction: str, y: Array, t: Array, out: Array, scale: float = 1.0) -> Array:
    """The estimate of y_0 that a net's output encodes.

    Args:
      prediction: "eps": the noise; "x0": y_0 / scale; "v": sqrt(abar) eps - sqrt(1 - abar) y_0; "sigmoid":
        the logit of y_0 = +scale, for data that are +-scale.
      y, t, out: y_t [N, ...], t [N], the net's output [N, ...].

    Raises:
      ValueError: unknown prediction.
    """
    return choose(PREDICTIONS, prediction, "diffusion.prediction")(schedule, y, t, out, scale)


def velocity(schedule: Schedule, x0: Array, t: Array, eps: Array) -> Array:
    """v of `x0` and `eps` at t [Salimans and Ho 2022]."""
    signal, sigma = schedule.sqrt_alphas_cumprod, schedule.sqrt_one_minus_alphas_cumprod
    return _at(signal, t, x0) * eps - _at(sigma, t, x0) * x0


def posterior(schedule: Schedule, x0: Array, y: Array, t: Array) -> tuple[Array, Array]:
    """Mean [N, ...] and clipped log variance [N, 1, ...] of q(y_{t-1} | y_t, y_0)."""
    mean = _at(schedule.posterior_mean_x0, t, y) * x0 + _at(schedule.posterior_mean_yt, t, y) * y
    return mean, _at(schedule.posterior_log_variance_clipped, t, y)


def learned_log_variance(schedule: Schedule, t: Array, v: Array) -> Array:
    """Log of the reverse variance: between the posterior's (v = -1) and beta_t (v = 1), per element."""
    low, high = _at(schedule.posterior_log_variance_clipped, t, v), _at(np.log(schedule.betas), t, v)
    return low + 0.5 * (v + 1.0) * (high - low)
