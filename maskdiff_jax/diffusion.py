"""Gaussian diffusion: schedules, noising, and one scan that draws with any sampler.

Glossary. T steps of noise; the index t = 0..T-1 counts them from zero, so t = 0 is one step of noise and
t = T-1 is (almost) pure noise. y_0, here `x0`, is the clean array, y_t the noisy one, eps its noise:
y_t = sqrt(abar_t) y_0 + sqrt(1 - abar_t) eps with abar = `alphas_cumprod`. S <= T steps are used to draw.
Arrays are [N, ...]: N objects, then whatever axes the data have. Tables are float64 on the host and become
float32 where they are used. Nothing here knows masks or nets: a denoiser is a function of (y_t, t).

Sources: DDPM [Ho et al. 2020], improved DDPM [Nichol and Dhariwal 2021, guided-diffusion], DDIM [Song et
al. 2021], DPM-Solver++ [Lu et al. 2022]; the MaskDiff paper's Eq. 1 and Algorithms 1 and 2.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax.ops.spacing import spaced
from maskdiff_jax.types import Array

# (y_t [N, ...], t [N]) -> (estimate of y_0 [N, ...], v [N, ...] or None), v as in `learned_log_variance`
Denoiser = Callable[[Array, Array], tuple[Array, Array | None]]


# ---------------------------------------------------------------------------------- schedules
def linear_betas(timesteps: int) -> np.ndarray:
    """[T] float64: 1e-4..0.02 for T = 1000 [P], scaled so that other T end at the same noise; below 1."""
    scale = 1000.0 / timesteps
    return np.minimum(np.linspace(scale * 1e-4, scale * 0.02, timesteps, dtype=np.float64), 0.999)


def cosine_betas(timesteps: int) -> np.ndarray:
    """[T] float64: abar follows a squared cosine; betas are cut at 0.999 [Nichol and Dhariwal]."""
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
    return from_betas(_choose(SCHEDULES, name, "diffusion.schedule")(timesteps))


def respace(schedule: Schedule, kept: Sequence[int]) -> Schedule:
    """The shorter process through the ascending steps `kept` of `schedule`: same abar at each of them."""
    abar = schedule.alphas_cumprod[np.asarray(kept)]
    return from_betas(1.0 - abar / np.append(1.0, abar[:-1]))


def _choose(table: dict, name: str, field: str):
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


# ---------------------------------------------------------------------------------- what a net predicts
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


def to_x0(schedule: Schedule, prediction: str, y: Array, t: Array, out: Array, scale: float = 1.0) -> Array:
    """The estimate of y_0 that a net's output stands for.

    Args:
      prediction: "eps": the noise; "x0": y_0 / scale; "v": sqrt(abar) eps - sqrt(1 - abar) y_0; "sigmoid":
        the logit of y_0 = +scale, for data that are +-scale.
      y, t, out: y_t [N, ...], t [N], the net's output [N, ...].

    Raises:
      ValueError: unknown prediction.
    """
    return _choose(PREDICTIONS, prediction, "diffusion.prediction")(schedule, y, t, out, scale)


def to_eps(schedule: Schedule, y: Array, t: Array, x0: Array) -> Array:
    """The noise that `x0` implies in y_t."""
    recip, recipm1 = schedule.sqrt_recip_alphas_cumprod, schedule.sqrt_recipm1_alphas_cumprod
    return (_at(recip, t, y) * y - x0) / _at(recipm1, t, y)


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


# ---------------------------------------------------------------------------------- which steps, with what
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
    s = _choose(sigma, variance, "diffusion.variance")
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
    schedule: Schedule,
    *,
    sampler: str,
    steps: int,
    spacing: str,
    variance: str = "fixed_small",
    eta: float = 0.0,
) -> Plan:
    """The steps and coefficients of a sampler.

    Args:
      sampler: a name in SAMPLERS. spacing: a name in ops.spacing.SPACINGS. steps: S.
      variance: of ddpm: "fixed_small", "fixed_large" or "learned" (the denoiser's v chooses).
      eta: of ddim.

    Raises:
      ValueError: an unknown name, or steps that the schedule does not have.
    """
    kept = spaced(len(schedule.betas), steps, spacing)
    t = np.asarray(kept, np.int32)[::-1]
    now = schedule.alphas_cumprod[t]
    to = np.append(now[1:], 1.0)
    rows = _choose(SAMPLERS, sampler, "diffusion.sampler")(now, to, variance=variance, eta=eta)
    for row, last in zip(rows, (0.0, 1.0, 0.0, 0.0), strict=True):
        row[-1] = last  # whatever the sampler, the last step returns the estimate
    log_variance = None
    if sampler == "ddpm" and variance == "learned":
        short = respace(schedule, kept)
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
    denoise: Denoiser, plan: Plan, noise: Callable[[Array], Array], *, clip: float | None = None
) -> tuple[Array, tuple[Array, Array]]:
    """Draws N objects: one scan over the plan's steps, all state in float32.

    Args:
      denoise: (y_t [N, ...], t [N] int32) -> (estimate of y_0, v or None); v is needed where the plan learns.
      noise: as `object_noise`.
      clip: estimates are cut to -clip..clip before the step is formed; None: they are not.

    Returns:
      y_0 [N, ...] and the way there, ([S, N, ...] y_t that step i saw, [S, N, ...] its estimate of y_0); what
      the caller leaves unused is not computed under jit.
    """
    start = noise(jnp.int32(0)).astype(jnp.float32)
    stochastic = bool(np.any(plan.rows.s))
    xs = {"i": np.arange(1, len(plan.t) + 1, dtype=np.int32), "t": plan.t}
    xs |= {k: np.asarray(v, np.float32) for k, v in plan.rows._asdict().items()}
    if plan.log_variance is not None:
        xs["log_variance"] = plan.log_variance.astype(np.float32)

    def step(carry, x):
        y, before = carry
        x0, v = denoise(y, jnp.full(y.shape[:1], x["t"]))
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

    (y, _), way = jax.lax.scan(step, (start, jnp.zeros_like(start)), jax.tree.map(jnp.asarray, xs))
    return y, way
