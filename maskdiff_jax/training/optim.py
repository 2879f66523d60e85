"""Optimizers, learning-rate schedules, frozen parameters by name, EMA of weights.

Trainable parameters are a flat dict ``{"path/to/leaf": array}``: what is not in it gets no gradient, no optimizer
state and no memory for either.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

FROZEN = "frozen"


def label_parameters(params: Any, patterns: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Gives each parameter the label of the first pattern that matches its whole path.

    Args:
      params: nested dict.
      patterns: ordered (regular expression of "a/b/c", label); the label "frozen" means untrained.

    Raises:
      ValueError: parameters that no pattern covers, all of them.
    """
    labels, missing = {}, []
    for path in flatten_dict(params, sep="/"):
        hit = next((label for pattern, label in patterns if re.fullmatch(pattern, path)), None)
        if hit is None:
            missing.append(path)
        else:
            labels[path] = hit
    if missing:
        raise ValueError(
            "no pattern covers these parameters, so it is not known whether to train them: " + ", ".join(missing)
        )
    return labels


def split(params: Any, labels: Mapping[str, str]) -> tuple[dict, dict]:
    """Nested params -> flat (trainable, frozen)."""
    flat = flatten_dict(params, sep="/")
    trainable = {k: v for k, v in flat.items() if labels[k] != FROZEN}
    return trainable, {k: v for k, v in flat.items() if labels[k] == FROZEN}


def merge(*parts: Mapping[str, Any]) -> dict:
    """Flat parts -> nested params; later parts win."""
    return unflatten_dict({k: v for part in parts for k, v in part.items()}, sep="/")


def overlay(params: Any, flat: Mapping[str, Any]) -> dict:
    """Nested params with some leaves replaced by those of a flat dict."""
    return merge(flatten_dict(params, sep="/"), flat)


def make_schedule(*, steps: int, lr: float, schedule: str, decay_at: Sequence[float], warmup: int):
    """Learning rate of a step: linear warm-up from 0.001 lr (detectron2's WARMUP_FACTOR), then one of three schedules.

    Args:
      steps: length of the phase.
      lr: at the peak.
      decay_at: see ``schedule``.
      warmup: steps of the warm-up; 0 = none.
      schedule: "step" (times 0.1 at each of ``decay_at``, shares of the steps), "cosine" (to 0), "constant".

    Raises:
      ValueError: an unknown schedule.
    """
    if schedule == "step":
        after = optax.piecewise_constant_schedule(lr, {round(steps * f): 0.1 for f in decay_at if f < 1})
    elif schedule == "cosine":
        after = optax.cosine_decay_schedule(lr, max(steps, 1))
    elif schedule == "constant":
        after = optax.constant_schedule(lr)
    else:
        raise ValueError(f"unknown schedule '{schedule}': choose step, cosine or constant")

    def at(step):
        share = jnp.minimum(step / max(warmup, 1), 1.0) if warmup else 1.0
        return after(step) * (0.001 * (1 - share) + share)

    return at


def make_optimizer(
    *,
    steps: int,
    optimizer: str,
    lr: float,
    schedule: str,
    decay_at: Sequence[float],
    warmup: int,
    weight_decay: float,
    betas: tuple[float, float],
    clip_norm: float,
) -> optax.GradientTransformation:
    """SGD with momentum 0.9 and coupled weight decay (as PyTorch's), or AdamW.

    Raises:
      ValueError: an unknown optimizer or schedule.
    """
    rate = make_schedule(steps=steps, lr=lr, schedule=schedule, decay_at=decay_at, warmup=warmup)
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    if optimizer == "sgd":
        rule = [optax.add_decayed_weights(weight_decay), optax.sgd(rate, momentum=0.9)]
    elif optimizer == "adamw":
        rule = [optax.adamw(rate, b1=betas[0], b2=betas[1], weight_decay=weight_decay)]
    else:
        raise ValueError(f"unknown optimizer '{optimizer}': choose sgd or adamw")
    return optax.chain(*clip, *rule)


def unit_columns(flat: Mapping[str, Any], names: Collection[str]) -> dict:
    """Scales the columns of some matrices to length 1, as TFA does before every forward pass.

    A cosine classifier depends only on directions, so its gradient is orthogonal to each column and every step makes
    the column longer or, seen through a learning rate that is relative to its length, slower; nothing pulls the
    length back. TFA overwrites the weight by its normalized version in each forward pass (fsdet
    modeling/roi_heads/fast_rcnn.py, `CosineSimOutputLayers`); the equivalent here is this projection, before the
    first step and after every update.

    Args:
      flat: {"path/to/leaf": array}.
      names: leaves [F, C] to scale, those that `flat` lacks are skipped. A column of zeros stays as it is.

    Returns:
      The same leaves.
    """

    def scaled(w: jax.Array) -> jax.Array:
        length = jnp.linalg.norm(w, axis=0, keepdims=True)
        return w / jnp.where(length > 0, length, 1.0)

    return {name: scaled(w) if name in names else w for name, w in flat.items()}


def combine(optimizers: Mapping[str, optax.GradientTransformation], labels: Mapping[str, str]):
    """One optimizer over a flat dict of trainable parameters, each label with its own rule."""
    trained = {k: v for k, v in labels.items() if v != FROZEN}
    return optax.multi_transform(dict(optimizers), trained)


def ema_update(ema: Any, new: Any, decay: float, step: jax.Array) -> Any:
    """EMA after optimizer step number ``step`` (from 0); the decay is warmed up as (1 + n) / (10 + n), as TensorFlow's
    ExponentialMovingAverage does with ``num_updates``.

    Without warm-up a tenth of the EMA would still be initial weights after 20k steps at 0.9999.
    """
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, x: d * e + (1.0 - d) * x, ema, new)
