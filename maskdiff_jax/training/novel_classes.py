"""Rows of the box predictor for classes that the base stage never saw.

Columns of ``cls_score/kernel`` [F, C+1] are class vectors, background last; ``bbox_pred`` has 4 columns per
class, or 4 in all when boxes are class-agnostic. ``predictor`` below is ``params["detector"]["box_predictor"]``.
"""

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax.types import Array, PyTree

QUIET = 0.9  # share of the base shots on which an imprinted row must stay below the best wrong base row


def take_rows(predictor: PyTree, source: PyTree, ids: np.ndarray, num_classes: int) -> PyTree:
    """``predictor`` with the rows of the classes ``ids`` copied from ``source`` (TFA's "combine").

    Base rows and the background row stay ([TFA] ckpt_surgery, fsis_protocol section 2.4).
    """
    box_ids = np.concatenate([4 * ids + i for i in range(4)])

    def copy(part: str, leaf: str, columns: np.ndarray) -> Array:
        return predictor[part][leaf].at[..., columns].set(source[part][leaf][..., columns])

    specific = predictor["bbox_pred"]["bias"].shape[-1] == 4 * num_classes
    return {
        "cls_score": {leaf: copy("cls_score", leaf, ids) for leaf in predictor["cls_score"]},
        "bbox_pred": (
            {leaf: copy("bbox_pred", leaf, box_ids) for leaf in predictor["bbox_pred"]}
            if specific
            else predictor["bbox_pred"]
        ),
    }


def fresh_rows(predictor: PyTree, key: Array, base: np.ndarray, novel: np.ndarray, num_classes: int) -> PyTree:
    """Random novel rows: classes N(0, 0.01) as TFA's "randinit"; boxes the mean of the base classes' rows."""
    columns = dict(predictor["cls_score"])
    rows = 0.01 * jax.random.normal(key, (columns["kernel"].shape[0], len(novel)))
    columns["kernel"] = columns["kernel"].at[:, novel].set(rows)
    if "bias" in columns:
        columns["bias"] = columns["bias"].at[novel].set(0.0)
    boxes = predictor["bbox_pred"]
    if boxes["bias"].shape[-1] == 4 * num_classes and len(base):
        boxes = {leaf: _mean_rows(w, base, novel, num_classes) for leaf, w in boxes.items()}
    return {"cls_score": columns, "bbox_pred": boxes}


def _mean_rows(w: Array, base: np.ndarray, novel: np.ndarray, num_classes: int) -> Array:
    by_class = w.reshape(*w.shape[:-1], num_classes, 4)
    mean = by_class[..., base, :].mean(-2, keepdims=True)
    return by_class.at[..., novel, :].set(mean).reshape(w.shape)


def imprint(predictor: PyTree, features: Array, labels: Array, base: np.ndarray, novel: np.ndarray) -> PyTree:
    """Novel class rows from the shots' features alone; for a cosine classifier.

    Plain imprinting (the row is the class's mean feature) lets novel classes swallow the base ones: features
    come out of a ReLU and share a large common direction m, the mean feature of the base shots. So the row of
    class c is ``cos(a) f_c + sin(a) m`` with f_c the mean shot feature without its part along m, and the angle
    a, which acts as a bias, the largest at which the row stays below the best wrong base row on `QUIET` of the
    base shots: there it disturbs no more than the base classes disturb each other.

    Args:
      predictor: with "cls_score" {"kernel" [F, C+1]}.
      features: [n, F] of the shots' ground-truth boxes.
      labels: [n] class ids.
      base, novel: class ids; every one of them has a feature.

    Raises:
      ValueError: the classifier has a bias, so it is no cosine classifier; a class without a shot.
    """
    if "bias" in predictor["cls_score"]:
        raise ValueError("fewshot.novel_init='imprint' needs model.detector.classifier='cosine'")
    kernel = np.asarray(predictor["cls_score"]["kernel"], np.float64)
    x, labels = _unit(np.asarray(features, np.float64)), np.asarray(labels)
    missing = np.setdiff1d(np.concatenate([base, novel]), labels)
    if len(missing) or not len(base):
        raise ValueError(
            "fewshot.novel_init='imprint' needs base classes and a shot of every class "
            f"(without one: class ids {missing.tolist()}): use novel_init='finetune'"
        )
    of_base = np.isin(labels, base)
    m = _unit(x[of_base].mean(0))
    scores = x[of_base] @ _unit(kernel[:, base], axis=0)
    wrong = np.where(labels[of_base][:, None] != base[None], scores, -np.inf).max(1)
    angles = np.linspace(-np.pi / 2, np.pi / 2, 721)
    for c in novel:
        f = x[labels == c].mean(0)
        f = _unit(f - (f @ m) * m)
        answers = np.outer(np.cos(angles), x[of_base] @ f) + np.outer(np.sin(angles), x[of_base] @ m)
        loud = np.quantile(answers - wrong, QUIET, axis=1) > 0
        a = angles[~loud].max(initial=angles[0])
        kernel[:, c] = np.cos(a) * f + np.sin(a) * m
    return predictor | {"cls_score": {"kernel": jnp.asarray(kernel, jnp.float32)}}


def _unit(x: np.ndarray, axis: int = -1) -> np.ndarray:
    return x / (np.linalg.norm(x, axis=axis, keepdims=True) + 1e-8)
