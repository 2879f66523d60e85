"""Sampling from a diffusion model: the steps, their coefficients, and the scan over them.

Glossary as in diffusion.py: N objects, T diffusion steps, S <= T sampling steps. A sampler is a table of
coefficients; a denoiser is a function of (y_t, t), and nothing here knows masks or nets.

Sources: guided-diffusion [GD] `guided_diffusion/respace.py` (which steps; "trailing" is Lin et al. 2024,
arXiv:2305.08891), DDPM [Ho et al. 2020; Algorithm 2 of the MaskDiff paper], DDIM [Song et al. 2021], DPM-Solver++ [Lu
et al. 2022], classifier-free guidance [Ho and Salimans 2022].
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax import diffusion as df
from maskdiff_jax.types import Array

# (y_t [N, ...], t [N]) -> (estimate of y_0 [N, ...], v [N, ...] or None), v as in `df.learned_log_variance`
Denoiser = Callable[[Array, Array], tuple[Array, Array | None]]


# ---------------------------------------------------------------------------------- which steps
def _even(timesteps: int, steps: int) -> list[int]:
    stride = (timesteps - 1) / (steps - 1) if steps > 1 else 1.0
    # adding up, and not multiplying, keeps guided-diffusion's rounding
    position, chosen = 0.0, []
    for _ in range(steps):
        chosen.append(round(position))
        position += stride
    return chosen


def _trailing(timesteps: int, steps: int) -> list[int]:
    return sorted(round(timesteps - k * timesteps / steps) - 1 for k in range(steps))


def _leading(timesteps: int, steps: int) -> list[int]:
    for stride in range(1, timesteps + 1):
        if len(range(0, timesteps, stride)) == steps:
            return list(range(0, timesteps, stride))
    raise ValueError(f"'leading' cannot take {steps} of {timesteps} steps: choose another diffusion.steps")


# "trailing" starts at T-1, as pure noise must; "even" holds both ends [GD "10"]; "leading" starts at 0 and
# may stop well below T-1 [GD "ddim10"]
SPACINGS = {"trailing": _trailing, "even": _even, "leading": _leading}


def spaced(timesteps: int, steps: int, spacing: str) -> list[int]:
    """S ascending steps of 0..T-1.

    Raises:
      ValueError: unknown spacing, or S is not in 1..T.
    """
    if not 1 <= steps <= timesteps:
        raise ValueError(f"diffusion.steps is {steps}, must be 1..{timesteps} (diffusion.timesteps)")
    return df.choose(SPACINGS, spacing, "diffusion.spacing")(timesteps, steps)


# ---------------------------------------------------------------------------------- with which coefficients
class Coefficients(NamedTuple):
    """y <- a y + b x0 + c (x0 of the step before) + s z: one number per step, [S] float64 each."""

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    s: np.ndarray


def ddpm(abar: np.ndarray, abar_next: np.ndarray, *, variance: str, eta: float) -> Coefficients:
    """Ancestral sampling (Algorithm 2 of the MaskDiff paper): the posterior's mean plus noise of `variance`."""
    alpha, beta, zero = abar / abar_next, 1.0 - abar / abar_next, np.zeros_like(abar)
    sigma = {"fixed_small": np.sqrt(beta * (1.0 - abar_next) / (1.0 - abar)), "fixed_large": np.sqrt(beta)}
    sigma["learned"] = zero + 1.0  # times the predicted deviation
    s = df.choose(sigma, variance, "diffusion.variance")
    a = np.sqrt(alpha) * (1 - abar_next) / (1 - abar)
    return Coefficients(a, beta * np.sqrt(abar_next) / (1 - abar), zero, s)


def ddim(abar: np.ndarray, abar_next: np.ndarray, *, variance: str, eta: float) -> Coefficients:
    """DDIM: eta = 0 is deterministic, eta = 1 is DDPM with the small variance."""
    s = eta * np.sqrt((1 - abar_next) / (1 - abar)) * np.sqrt(1 - abar / abar_next)
    a = np.sqrt(np.maximum(1 - abar_next - s * s, 0.0)) / np.sqrt(1 - abar)
    return Coefficients(a, np.sqrt(abar_next) - a * np.sqrt(abar), np.zeros_like(abar), s)


def dpmpp_2m(abar: np.ndarray, abar_next: np.ndarray, *, variance: str, eta: float) -> Coefficients:
    """DPM-Solver++(2M), the deterministic second-order multistep solver; its first step is DDIM's."""
    table = ddim(abar, abar_next, variance=variance, eta=0.0)
    if len(abar) > 2:  # the first and the last step have no second-order form
        inner = slice(1, -1)
        log_snr, log_snr_next = (np.log(a[:-1]) - np.log1p(-a[:-1]) for a in (abar, abar_next))
        h = 0.5 * (log_snr_next - log_snr)
        ratio = h[:-1] / h[1:]
        p = -np.sqrt(abar_next[inner]) * np.expm1(-h[1:])
        table.b[inner], table.c[inner] = p * (1 + 0.5 / ratio), -p * 0.5 / ratio
    return table


# name -> coefficients for abar before [S] and after each step [S], most noise first; the last step leads to abar = 1
SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "dpmpp_2m": dpmpp_2m}


class Plan(NamedTuple):
    """The S steps of a sampler, most noise first."""

    t: np.ndarray  # [S] int32, indices of the training process, as the denoiser takes them
    coefficients: Coefficients
    log_variance: np.ndarray | None  # [S, 2] smallest and largest, where the denoiser chooses between


def make_plan(
    schedule: df.Schedule,
    *,
    sampler: str,
    steps: int,
    spacing: str,
    variance: str = "fixed_small",
    eta: float = 0.0,
) -> Plan:
    """The steps and coefficients of a sampler.

    Args:
      sampler: a name in SAMPLERS. spacing: a name in SPACINGS. steps: S.
      variance: of ddpm: "fixed_small", "fixed_large" or "learned" (the denoiser's v chooses).
      eta: of ddim.

    Raises:
      ValueError: an unknown name, or steps that the schedule does not have.
    """
    ascending = spaced(len(schedule.betas), steps, spacing)
    t = np.asarray(ascending, np.int32)[::-1]
    abar = schedule.alphas_cumprod[t]
    abar_next = np.append(abar[1:], 1.0)
    table = df.choose(SAMPLERS, sampler, "diffusion.sampler")(abar, abar_next, variance=variance, eta=eta)
    for column, last in zip(table, (0.0, 1.0, 0.0, 0.0), strict=True):
        column[-1] = last  # whatever the sampler, the last step returns the estimate
    log_variance = None
    if sampler == "ddpm" and variance == "learned":
        short = df.respace(schedule, ascending)
        log_variance = np.stack([short.posterior_log_variance_clipped, np.log(short.betas)], -1)[::-1]
    return Plan(t, table, log_variance)


# ---------------------------------------------------------------------------------- sampling
def object_noise(keys: Array, shape: tuple[int, ...]) -> Callable[[Array], Array]:
    """Noise that depends only on the object's key and the count i.

    Args:
      keys: [N] typed keys or [N, 2] raw ones, one per object.
      shape: of one object.

    Returns:
      i -> [N, *shape] standard normal: i = 0 is where sampling starts, i >= 1 what step i adds.
    """
    return lambda i: jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, i), shape))(keys)


def guided(predict: Callable[[Array, Array, Array], tuple[Array, Array | None]], weight: float) -> Denoiser:
    """Classifier-free guidance: eps_u + w (eps_c - eps_u), here on the estimates of y_0.

    Both branches see the same y_t and the weights add up to one, so this equals the combination of eps (and
    of v). They run as one batch of 2N and are combined in float32; v is the conditional branch's.

    Args:
      predict: (y [N, ...], t [N], keep [N] bool) -> as a Denoiser; the condition is dropped where not `keep`.
      weight: w, a plain number: 1 evaluates only the conditional branch, at half the cost.
    """
    if weight in (0.0, 1.0):
        return lambda y, t: predict(y, t, jnp.full(y.shape[:1], weight == 1.0))

    def denoise(y, t):
        keep = jnp.arange(2 * len(y)) < len(y)
        x0, v = predict(jnp.concatenate([y, y]), jnp.concatenate([t, t]), keep)
        with_class, without = jnp.split(x0.astype(jnp.float32), 2)
        return without + weight * (with_class - without), None if v is None else v[: len(y)]

    return denoise


def guided_segments(steps: int, interval: tuple[float, float], guidance: float) -> list[tuple[int, float]]:
    """(number of steps, weight of guidance) of each stretch of the S sampling steps, the noisiest first.

    Args:
      steps: S.
      interval: (from, to) in 0..1; a step is guided if the middle of its share of the way lies in it
        [Kynkäänniemi et al. 2024, arXiv:2404.07724].
      guidance: w inside the interval; it is 1 outside.
    """
    if guidance == 1.0:
        return [(steps, 1.0)]
    middles = (np.arange(steps) + 0.5) / steps
    before, guided = int((middles < interval[0]).sum()), int(((middles >= interval[0]) & (middles < interval[1])).sum())
    segments = [(before, 1.0), (guided, guidance), (steps - before - guided, 1.0)]
    return [(count, weight) for count, weight in segments if count]


def sample(
    denoise: Denoiser | Sequence[tuple[int, Denoiser]],
    plan: Plan,
    noise: Callable[[Array], Array],
    *,
    clip: float | None = None,
) -> tuple[Array, tuple[Array, Array]]:
    """Samples N objects: one scan over the plan's steps, all state in float32.

    Args:
      denoise: (y_t [N, ...], t [N] int32) -> (estimate of y_0, v or None); v is needed where the plan learns.
        Or segments (number of steps, denoiser), the noisiest first, S steps in all: each segment is a scan.
      noise: as `object_noise`.
      clip: estimates are clipped to -clip..clip before the step is formed; None: they are not.

    Returns:
      y_0 [N, ...] and the trajectory, ([S, N, ...] y_t before each step, [S, N, ...] its estimate of y_0); what the
      caller does not use is not computed under jit.

    Raises:
      ValueError: segments that have another number of steps than the plan.
    """
    segments = [(len(plan.t), denoise)] if callable(denoise) else list(denoise)
    total = sum(count for count, _ in segments)
    if total != len(plan.t):
        raise ValueError(f"the segments have {total} steps, the plan has {len(plan.t)}")
    table = {"i": np.arange(1, len(plan.t) + 1, dtype=np.int32), "t": plan.t}
    table |= {name: np.asarray(column, np.float32) for name, column in plan.coefficients._asdict().items()}
    if plan.log_variance is not None:
        table["log_variance"] = plan.log_variance.astype(np.float32)

    start = noise(jnp.int32(0)).astype(jnp.float32)
    carry, trajectory, first = (start, jnp.zeros_like(start)), [], 0
    stochastic = bool(np.any(plan.coefficients.s))
    for count, estimate in segments:
        rows = {name: jnp.asarray(column[first : first + count]) for name, column in table.items()}
        step = partial(_step, estimate, noise if stochastic else None, clip)
        carry, seen = jax.lax.scan(step, carry, rows)
        trajectory.append(seen)
        first += count
    return carry[0], jax.tree.map(lambda *parts: jnp.concatenate(parts), *trajectory)


def _step(
    denoise: Denoiser, noise: Callable[[Array], Array] | None, clip: float | None, carry: tuple, row: dict[str, Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """One sampling step: (y_t, the estimate before), its row of the plan -> the next two; (y_t, its estimate)."""
    y, x0_before = carry
    x0, v = denoise(y, jnp.full(y.shape[:1], row["t"]))
    x0 = x0.astype(jnp.float32)
    if clip is not None:
        x0 = jnp.clip(x0, -clip, clip)
    y_next = row["a"] * y + row["b"] * x0 + row["c"] * x0_before
    if noise is not None:
        sigma = row["s"]
        if "log_variance" in row:
            low, high = row["log_variance"]
            sigma = sigma * jnp.exp(0.5 * (low + 0.5 * (v.astype(jnp.float32) + 1.0) * (high - low)))
        y_next = y_next + sigma * noise(row["i"])
    return (y_next, x0), (y, x0)
