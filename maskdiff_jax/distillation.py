"""Trains a diffusion model to sample in fewer network evaluations, from the estimates of a frozen teacher.

Guidance distillation [Meng et al. 2023, arXiv:2210.03142, Section 3.1]: one evaluation of the student returns the
guided estimate, for which the teacher needs two (with and without the class). Progressive distillation [Salimans and
Ho 2022, arXiv:2202.00512, Algorithm 2]: one DDIM step of the student replaces two of the teacher.

Glossary as in diffusion.py. N objects, S sampling steps of the student; arrays are [N, ...]. The data are +-b, with
b = `scale`. Nothing here knows masks or nets: student and teacher are functions.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax import diffusion as df
from maskdiff_jax import losses, sampler
from maskdiff_jax.types import Array


class Distillation(NamedTuple):
    """One round of distillation; made by `make_distillation`."""

    schedule: df.Schedule
    prediction: str  # what the student's output encodes, see `df.to_x0`
    scale: float  # b
    teacher_plan: sampler.Plan  # deterministic DDIM
    stride: int  # steps of the teacher that become one of the student: 1 or 2
    guidance: float  # w of the teacher


class Distilled(NamedTuple):
    """The result of `distillation_loss`."""

    loss: Array  # [N]
    estimate: Array  # [N, ...] the student's estimate of y_0, -b..b for "sigmoid"
    target: Array  # [N, ...] the teacher's estimate, in -b..b


def make_distillation(
    schedule: df.Schedule, *, prediction: str, scale: float, spacing: str, steps: int, halve: bool, guidance: float
) -> Distillation:
    """Defines one round of distillation.

    Args:
      prediction, scale: of student and teacher, see `df.to_x0`.
      spacing: a name in `sampler.SPACINGS`.
      steps: S; the student is trained at the times of these steps only.
      halve: two DDIM steps of the teacher become one; False: the student takes as many steps as the teacher.
      guidance: w of the teacher, 1 for none.

    Raises:
      ValueError: the student's times are not among the teacher's, or the prediction is "eps".
    """
    if prediction == "eps":  # (1 - abar) / abar, 24,777 at the first step, times an error of eps [Salimans and Ho 2022]
        raise ValueError("a head with diffusion.prediction='eps' cannot be distilled: use sigmoid, x0 or v")
    stride = 2 if halve else 1
    teacher_plan, student_plan = (
        sampler.make_plan(schedule, sampler="ddim", steps=count, spacing=spacing) for count in (stride * steps, steps)
    )
    if not np.array_equal(teacher_plan.t[::stride], student_plan.t):
        raise ValueError(
            f"diffusion.spacing='{spacing}' does not work: the times of {steps} steps are not among those of "
            f"{2 * steps}; use 'trailing'"
        )
    return Distillation(schedule, prediction, scale, teacher_plan, stride, guidance)


def distillation_loss(
    d: Distillation,
    student: Callable[[Array, Array, Array], Array],
    teacher: Callable[[Array, Array, Array], tuple[Array, Array | None]],
    key: Array,
    x0: Array,
) -> Distilled:
    """How far the student's estimate is from the teacher's, at a random step of each object.

    Cross-entropy with the teacher's probability for "sigmoid"; else the squared error of y_0 / b times max(SNR, 1)
    [Salimans and Ho 2022, Section 4].

    Args:
      student: (y_t [N, ...], t [N], key) -> the net's output [N, ...].
      teacher: (y_t, t, keep [N] bool) -> estimate of y_0 and v, as `sampler.guided` takes it. No gradient flows to it.
      x0: [N, ...] clean data, -b or b.

    Returns:
      Loss, estimate and target.
    """
    step_key, noise_key, student_key = jax.random.split(key, 3)
    steps = len(d.teacher_plan.t) // d.stride
    i = d.stride * jax.random.randint(step_key, x0.shape[:1], 0, steps)
    t = jnp.asarray(d.teacher_plan.t)[i]
    y = df.add_noise(d.schedule, x0, t, jax.random.normal(noise_key, x0.shape))

    guided = sampler.guided(teacher, d.guidance)

    def teacher_estimate(y, t):
        return jnp.clip(guided(y, t)[0], -d.scale, d.scale)

    target = merged_estimate(teacher_estimate, d.teacher_plan, y, i) if d.stride == 2 else teacher_estimate(y, t)
    target = jax.lax.stop_gradient(target)

    output = student(y, t, student_key)
    estimate = df.to_x0(d.schedule, d.prediction, y, t, output, d.scale)
    if d.prediction == "sigmoid":
        loss = losses.sigmoid_cross_entropy(output, 0.5 * (target / d.scale + 1.0))
    else:
        abar = jnp.asarray(d.schedule.alphas_cumprod, jnp.float32)[t]
        snr = d.scale * d.scale * abar / (1.0 - abar)
        loss = jnp.maximum(snr, 1.0) * losses.squared_error(estimate / d.scale, target / d.scale)
    return Distilled(loss, estimate, target)


def merged_estimate(teacher: Callable[[Array, Array], Array], plan: sampler.Plan, y: Array, i: Array) -> Array:
    """The estimate with which one DDIM step has the same result as two steps of `plan`.

    Two steps give y'' = a2 (a1 y + b1 x1) + b2 x2; one step from the same y to the same time has a = a1 a2 and
    b = a2 b1 + b2, so its estimate is a weighted mean of x1 and x2.

    Args:
      teacher: (y_t [N, ...], t [N]) -> estimate of y_0.
      plan: the teacher's, deterministic DDIM of an even number of steps.
      y: [N, ...] before step i. i: [N] int, even.

    Returns:
      [N, ...].
    """
    t = jnp.asarray(plan.t)
    of_y, of_x0 = (jnp.asarray(c, jnp.float32).reshape((-1,) + (1,) * (y.ndim - 1)) for c in plan.coefficients[:2])
    a1, b1, a2, b2 = of_y[i], of_x0[i], of_y[i + 1], of_x0[i + 1]
    x1 = teacher(y, t[i])
    x2 = teacher(a1 * y + b1 * x1, t[i + 1])
    return (a2 * b1 * x1 + b2 * x2) / (a2 * b1 + b2)
