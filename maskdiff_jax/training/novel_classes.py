"""Weights of the last layers for classes that stage 1 never saw: of the box predictor, and of masks per class.

``predictor`` is ``params["detector"]["box_predictor"]``. Its ``cls_score/kernel`` [F, C + 1] has one column per class,
background last, and so has the ``rho`` of a probit classifier. ``bbox_pred/kernel`` [F, 4 C] and ``bbox_pred/bias``
[4 C] have four columns per class, or four in all when boxes are class-agnostic; ``bbox_variance`` is like it. The
predictor of Mask R-CNN's mask head (`nets.maskcnn`) has one column per class, or one in all. ``base`` and ``novel`` are
class ids, int [n].
"""

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax.imprinting import class_vector, unit
from maskdiff_jax.nets.classifiers import RHO
from maskdiff_jax.types import Array, PyTree

BOXES = ("bbox_pred", "bbox_variance")  # parts with four columns per class


def copy_classes(predictor: PyTree, source: PyTree, novel: np.ndarray, num_classes: int) -> PyTree:
    """``predictor`` with the weights of the novel classes copied from ``source``.

    The other classes and the background keep their weights, as TFA's ``combine`` does
    (few-shot-object-detection, tools/ckpt_surgery.py).
    """
    box_columns = np.concatenate([4 * novel + i for i in range(4)])

    def copy(part: str, columns: np.ndarray) -> PyTree:
        return {
            leaf: weight.at[..., columns].set(source[part][leaf][..., columns])
            for leaf, weight in predictor[part].items()
        }

    boxes = {part: predictor[part] for part in predictor if part in BOXES}
    if _class_specific(predictor, num_classes):
        boxes = {part: copy(part, box_columns) for part in boxes}
    return {"cls_score": copy("cls_score", novel)} | boxes


def copy_masks(predictor: PyTree, source: PyTree, novel: np.ndarray, num_classes: int) -> PyTree:
    """``copy_classes`` for ``predictor = params["mask_head"]["predictor"]``; as it is if masks are class-agnostic."""
    if predictor["bias"].shape[-1] != num_classes:
        return predictor
    return {leaf: weight.at[..., novel].set(source[leaf][..., novel]) for leaf, weight in predictor.items()}


def initialize(
    predictor: PyTree, key: Array, base: np.ndarray, novel: np.ndarray, num_classes: int, *, bias: float = 0.0
) -> PyTree:
    """New weights for the novel classes.

    Their class vectors are N(0, 0.01), as TFA's ``randinit`` (tools/ckpt_surgery.py), with variance 1 in a probit
    classifier; their box regressors are the mean of the base classes'.

    Args:
      bias: of the novel classes, where the classifier has biases.
    """
    classes = dict(predictor["cls_score"])
    vectors = 0.01 * jax.random.normal(key, (classes["kernel"].shape[0], len(novel)))
    classes["kernel"] = classes["kernel"].at[:, novel].set(vectors)
    if "bias" in classes:
        classes["bias"] = classes["bias"].at[novel].set(bias)
    classes = with_variances(classes, novel)
    boxes = {part: predictor[part] for part in predictor if part in BOXES}
    if _class_specific(predictor, num_classes) and len(base):
        boxes = jax.tree.map(lambda weight: _set_to_mean(weight, base, novel, num_classes), boxes)
    return {"cls_score": classes} | boxes


def initialize_masks(predictor: PyTree, base: np.ndarray, novel: np.ndarray, num_classes: int) -> PyTree:
    """New weights for the novel classes in ``params["mask_head"]["predictor"]``: the mean of the base classes'."""
    if predictor["bias"].shape[-1] != num_classes or not len(base):
        return predictor
    return {leaf: _set_to_mean(weight, base, novel, num_classes) for leaf, weight in predictor.items()}


def without_bias(predictor: PyTree) -> PyTree:
    """Converts the box predictor of a linear classifier into that of a cosine classifier, which depends only on
    directions.

    TFA goes from one to the other the same way on COCO: the fine-tuned layer loads the weight, skips the bias, and
    normalizes (few-shot-object-detection, configs/COCO-detection, `CosineSimOutputLayers`).
    """
    return predictor | {"cls_score": {"kernel": predictor["cls_score"]["kernel"]}}


def with_variances(classes: PyTree, class_ids: np.ndarray) -> PyTree:
    """``predictor["cls_score"]`` with variance 1 of some classes' weights, where the classifier is probit."""
    return classes | {"rho": classes["rho"].at[:, class_ids].set(RHO)} if "rho" in classes else classes


def _class_specific(predictor: PyTree, num_classes: int) -> bool:
    return predictor["bbox_pred"]["bias"].shape[-1] == 4 * num_classes


def _set_to_mean(weight: Array, base: np.ndarray, novel: np.ndarray, num_classes: int) -> Array:
    by_class = weight.reshape(*weight.shape[:-1], num_classes, -1)
    mean = by_class[..., base, :].mean(-2, keepdims=True)
    return by_class.at[..., novel, :].set(mean).reshape(weight.shape)


def imprint(
    predictor: PyTree, features: Array, labels: Array, base: np.ndarray, novel: np.ndarray, *, scale: float
) -> PyTree:
    """Class vectors of the novel classes, one after the other, from the features of the shots alone.

    See `imprinting.class_vector`.

    Args:
      predictor: with "cls_score" {"kernel" [F, C + 1]}.
      features: [n, F] of the shots' ground-truth boxes.
      labels: [n] class ids.
      base, novel: class ids; every one of them has a feature.
      scale: factor of the cosine in the classifier's logits.

    Raises:
      ValueError: the classifier has a bias, so it is no cosine classifier; a class without a shot.
    """
    if "bias" in predictor["cls_score"]:
        raise ValueError("fewshot.novel_init='imprint' needs model.detector.classifier='cosine'")
    kernel, labels = np.array(predictor["cls_score"]["kernel"], np.float64), np.asarray(labels)
    features = np.asarray(features)
    missing = np.setdiff1d(np.concatenate([base, novel]), labels)
    if len(missing) or not len(base):
        raise ValueError(
            "fewshot.novel_init='imprint' needs base classes and a shot of every class "
            f"(without one: class ids {missing.tolist()}): use novel_init='finetune'"
        )
    known, background = list(base), kernel.shape[1] - 1
    for c in novel:
        columns, objects = kernel[:, [*known, background]], features[np.isin(labels, known)]
        kernel[:, c] = class_vector(columns, features[labels == c], objects, scale=scale)
        known.append(c)
    return predictor | {"cls_score": {"kernel": jnp.asarray(kernel, jnp.float32)}}


def set_to_mean_embeddings(predictor: PyTree, features: Array, labels: Array, novel: np.ndarray) -> PyTree:
    """Class vectors of the novel classes as iMTFA has them: the mean of the normalized features of their shots.

    The other classes, the background and the boxes keep their weights (Ganea et al. 2021; danganea/iMTFA,
    OurPaper/training.py with NORMALIZE_SHOTS). The cosine classifier normalizes the mean again.

    Args:
      predictor: with "cls_score" {"kernel" [F, C + 1]}.
      features: [n, F] of the shots' ground-truth boxes.
      labels: [n] class ids.
      novel: class ids.

    Raises:
      ValueError: the classifier has a bias, so it is no cosine classifier; a class without a shot.
    """
    if "bias" in predictor["cls_score"]:
        raise ValueError("fewshot.novel_init='mean_embedding' needs model.detector.classifier='cosine'")
    missing = np.setdiff1d(novel, labels)
    if len(missing):
        raise ValueError(
            f"fewshot.novel_init='mean_embedding' needs a shot of every novel class (without one: class ids "
            f"{missing.tolist()}): use novel_init='finetune'"
        )
    units = unit(np.asarray(features, np.float64))
    means = np.stack([units[labels == c].mean(0) for c in novel], 1)
    kernel = predictor["cls_score"]["kernel"].at[:, novel].set(jnp.asarray(means, jnp.float32))
    return predictor | {"cls_score": {"kernel": kernel}}
