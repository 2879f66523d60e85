"""Drawing from a diffusion: which steps are taken, with which coefficients, and one scan that takes them.

Glossary as in diffusion.py; S <= T steps are used to draw. A sampler is a table of coefficients; a denoiser is a
function of (y_t, t), and nothing here knows masks or nets.

Sources: guided-diffusion [GD] `respace.py` (steps; "trailing" is Lin et al. 2024), DDPM [Ho et al. 2020; the paper's
Algorithm 2], DDIM [Song et al. 2021], DPM-Solver++ [Lu et al. 2022], progressive distillation [Salimans and Ho 2022].
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax import diffusion as df
from maskdiff_jax.types import Array

# (y_t [N, ...], t [N]) -> (estimate of y_0 [N, ...], v [N, ...] or None), v as in `df.learned_log_variance`
Denoiser = Callable[[Array, Array], tuple[Array, Array | None]]


# ---------------------------------------------------------------------------------- which steps
def sections(timesteps: int, counts: Sequence[int]) -> list[int]:
    """Ascending steps: T in len(counts) equal parts, each with that many steps from end to end [GD].

    Raises:
      ValueError: a part is shorter than its count.
    """
    size, extra = divmod(timesteps, len(counts))
    start, kept = 0, []
    for i, count in enumerate(counts):
        length = size + (i < extra)
        if length < count:
            raise ValueError(f"cannot take {count} of {length} diffusion steps: lower diffusion.steps")
        stride = (length - 1) / (count - 1) if count > 1 else 1.0
        # adding up, and not multiplying, keeps guided-diffusion's rounding
        position = 0.0
        for _ in range(count):
            kept.append(start + round(position))
            position += stride
        start += length
    return kept


def _even(timesteps: int, steps: int) -> list[int]:
    return sections(timesteps, (steps,))


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


# ---------------------------------------------------------------------------------- with what
class Rows(NamedTuple):
    """y <- a y + b x0 + c (x0 of the step before) + s z: one number per step, [S] float64 each."""

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    s: np.ndarray


def ddpm_rows(now: np.ndarray, to: np.ndarray, *, variance: str, eta: float) -> Rows:
    """Ancestral sampling (the paper's Algorithm 2): the posterior's mean plus noise of `variance`."""
    alpha, beta, zero = now / to, 1.0 - now / to, np.zeros_like(now)
    sigma = {"fixed_small": np.sqrt(beta * (1.0 - to) / (1.0 - now)), "fixed_large": np.sqrt(beta)}
    sigma["learned"] = zero + 1.0  # times the predicted deviation
    s = df.choose(sigma, variance, "diffusion.variance")
    return Rows(np.sqrt(alpha) * (1 - to) / (1 - now), beta * np.sqrt(to) / (1 - now), zero, s)


def ddim_rows(now: np.ndarray, to: np.ndarray, *, variance: str, eta: float) -> Rows:
    """DDIM: eta = 0 is deterministic, eta = 1 is DDPM with the small variance."""
    s = eta * np.sqrt((1 - to) / (1 - now)) * np.sqrt(1 - now / to)
    a = np.sqrt(np.maximum(1 - to - s * s, 0.0)) / np.sqrt(1 - now)
    return Rows(a, np.sqrt(to) - a * np.sqrt(now), np.zeros_like(now), s)


def dpmpp_2m_rows(now: np.ndarray, to: np.ndarray, *, variance: str, eta: float) -> Rows:
    """DPM-Solver++(2M), the deterministic second-order multistep solver; its first step is DDIM's."""
    rows = ddim_rows(now, to, variance=variance, eta=0.0)
    if len(now) > 2:  # the first and the last step have no second-order form
        inner = slice(1, -1)
        log_snr_now, log_snr_to = (np.log(abar[:-1]) - np.log1p(-abar[:-1]) for abar in (now, to))
        h = 0.5 * (log_snr_to - log_snr_now)
        ratio = h[:-1] / h[1:]
        p = -np.sqrt(to[inner]) * np.expm1(-h[1:])
        rows.b[inner], rows.c[inner] = p * (1 + 0.5 / ratio), -p * 0.5 / ratio
    return rows


# name -> rows for abar now [S] and abar after the step [S], most noise first; the last step goes to abar = 1
SAMPLERS = {"ddpm": ddpm_rows, "ddim": ddim_rows, "dpmpp_2m": dpmpp_2m_rows}


class Plan(NamedTuple):
    """How to draw: S steps, most noise first."""

    t: np.ndarray  # [S] int32, indices of the training process: what the denoiser is told
    rows: Rows
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
    kept = spaced(len(schedule.betas), steps, spacing)
    t = np.asarray(kept, np.int32)[::-1]
    now = schedule.alphas_cumprod[t]
    to = np.append(now[1:], 1.0)
    rows = df.choose(SAMPLERS, sampler, "diffusion.sampler")(now, to, variance=variance, eta=eta)
    for row, last in zip(rows, (0.0, 1.0, 0.0, 0.0), strict=True):
        row[-1] = last  # whatever the sampler, the last step returns the estimate
    log_variance = None
    if sampler == "ddpm" and variance == "learned":
        short = df.respace(schedule, kept)
        log_variance = np.stack([short.posterior_log_variance_clipped, np.log(short.betas)], -1)[::-1]
    return Plan(t, rows, log_variance)


# ---------------------------------------------------------------------------------- drawing
def object_noise(keys: Array, shape: tuple[int, ...]) -> Callable[[Array], Array]:
    """Noise that depends on nothing but the object's own key and the count i.

    Args:
      keys: [N] typed keys or [N, 2] raw ones, one per object.
      shape: of one object.

    Returns:
      i -> [N, *shape] standard normal: i = 0 is where drawing starts, i >= 1 what step i adds.
    """
    return lambda i: jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, i), shape))(keys)


def guided(predict: Callable[[Array, Array, Array], tuple[Array, Array | None]], weight: float) -> Denoiser:
    """Classifier-free guidance: eps_u + w (eps_c - eps_u), here on the estimates of y_0.

    Both branches see the same y_t and the weights add up to one, so this equals the combination of eps (and
    of v). They run as one batch of 2N and are combined in float32; v is the conditional branch's.

    Args:
      predict: (y [N, ...], t [N], keep [N] bool) -> as a Denoiser; the condition is dropped where not `keep`.
      weight: w, a plain number: 1 is the conditional branch alone and costs half.
    """
    if weight in (0.0, 1.0):
        return lambda y, t: predict(y, t, jnp.full(y.shape[:1], weight == 1.0))

    def denoise(y, t):
        keep = jnp.arange(2 * len(y)) < len(y)
        x0, v = predict(jnp.concatenate([y, y]), jnp.concatenate([t, t]), keep)
        with_class, without = jnp.split(x0.astype(jnp.float32), 2)
        return without + weight * (with_class - without), None if v is None else v[: len(y)]

    return denoise


def sample(
    denoise: Denoiser | Sequence[Denoiser], plan: Plan, noise: Callable[[Array], Array], *, clip: float | None = None
) -> tuple[Array, tuple[Array, Array]]:
    """Draws N objects: one scan over the plan's steps, all state in float32.

    Args:
      denoise: (y_t [N, ...], t [N] int32) -> (estimate of y_0, v or None); v is needed where the plan learns.
        Or one for each of the S steps; each run of the same one is a scan.
      noise: as `object_noise`.
      clip: estimates are cut to -clip..clip before the step is formed; None: they are not.

    Returns:
      y_0 [N, ...] and the way there, ([S, N, ...] y_t that step i saw, [S, N, ...] its estimate of y_0); what
      the caller leaves unused is not computed under jit.

    Raises:
      ValueError: denoisers that are not one for each step.
    """
    start = noise(jnp.int32(0)).astype(jnp.float32)
    stochastic = bool(np.any(plan.rows.s))
    xs = {"i": np.arange(1, len(plan.t) + 1, dtype=np.int32), "t": plan.t}
    xs |= {k: np.asarray(v, np.float32) for k, v in plan.rows._asdict().items()}
    if plan.log_variance is not None:
        xs["log_variance"] = plan.log_variance.astype(np.float32)

    def step(estimate, carry, x):
        y, before = carry
        x0, v = estimate(y, jnp.full(y.shape[:1], x["t"]))
        x0 = x0.astype(jnp.float32)
        if clip is not None:
            x0 = jnp.clip(x0, -clip, clip)
        new = x["a"] * y + x["b"] * x0 + x["c"] * before
        if stochastic:
            sigma = x["s"]
            if plan.log_variance is not None:
                low, high = x["log_variance"]
                sigma = sigma * jnp.exp(0.5 * (low + 0.5 * (v.astype(jnp.float32) + 1.0) * (high - low)))
            new = new + sigma * noise(x["i"])
        return (new, x0), (y, x0)

    carry, ways = (start, jnp.zeros_like(start)), []
    each = [denoise] * len(plan.t) if callable(denoise) else list(denoise)
    if len(each) != len(plan.t):
        raise ValueError(f"{len(each)} denoisers for {len(plan.t)} steps")
    for estimate, run in groupby(range(len(each)), each.__getitem__):
        here = list(run)
        carry, way = jax.lax.scan(partial(step, estimate), carry, {k: jnp.asarray(v[here]) for k, v in xs.items()})
        ways.append(way)
    return carry[0], jax.tree.map(lambda *w: jnp.concatenate(w), *ways)


def two_as_one(teach: Callable[[Array, Array], Array], plan: Plan, y: Array, i: Array) -> Array:
    """The estimate that leads in one step of DDIM where two of `plan` lead: what a student of half the steps learns.

    Two steps give y'' = a2 (a1 y + b1 x1) + b2 x2; one from the same y to the same time has a = a1 a2 and
    b = a2 b1 + b2, so its estimate is a weighted mean of x1 and x2.

    Args:
      teach: (y_t [N, ...], t [N]) -> estimate of y_0.
      plan: the teacher's, deterministic DDIM of an even number of steps.
      y: [N, ...] before step i. i: [N], even.

    Returns:
      [N, ...].
    """
    t = jnp.asarray(plan.t)
    keep, take = (jnp.asarray(row, jnp.float32).reshape((-1,) + (1,) * (y.ndim - 1)) for row in plan.rows[:2])
    a1, b1, a2, b2 = keep[i], take[i], keep[i + 1], take[i + 1]
    x1 = teach(y, t[i])
    x2 = teach(a1 * y + b1 * x1, t[i + 1])
    return (a2 * b1 * x1 + b2 * x2) / (a2 * b1 + b2)
