"""Class vectors of a cosine classifier from the features of a few shots, without training.

The rule and its sources are in docs/design.md, "Adding a class without training".

Features are what the classifier sees of a box, [F], not normalized. ``kernel`` is [F, C + 1], the classifier's columns,
background last.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from maskdiff_jax.data import pipeline
from maskdiff_jax.data.dataset import Dataset
from maskdiff_jax.types import Array, PyTree

# On a share QUIET of the known classes' objects an imprinted class must score less than their own class, by MARGIN in
# cosine, which is 2 in logits of scale 20: it takes at most a share e^-2 of the own class's probability there. Chosen
# on validation scenes: `benchmarks/studies/instant_classes.py --split=val`.
QUIET, MARGIN = 0.95, 0.1
ANGLES = np.linspace(-np.pi / 2, np.pi / 2, 721)  # candidates for the angle, a quarter of a degree apart


def class_vector(
    kernel: Array, shots: Array, features: Array, labels: Array, *, quiet: float = QUIET, margin: float = MARGIN
) -> np.ndarray:
    """The vector of a new class, for a cosine classifier.

    Plain imprinting (Qi et al. 2018: the vector is the mean feature of the class) takes objects from the known
    ones: features come out of a ReLU and share a large common direction m, the mean feature of the known classes. So
    the vector is ``cos(a) f + sin(a) m`` with f the mean shot feature without its part along m. The angle a acts as a
    bias. It is the largest at which the new class scores less than the own class, by `margin`, on a share `quiet` of
    the known classes' objects.

    Args:
      kernel: [F, C + 1].
      shots: [K, F] of the new class.
      features: [n, F] of objects of the known classes.
      labels: int [n], their class ids, columns of `kernel`.
      quiet: 0..1.
      margin: in cosine.

    Returns:
      [F] float64 of length 1.
    """
    features, shots = unit(features), unit(shots)
    own_class = unit(np.asarray(kernel, np.float64)[:, np.asarray(labels)], axis=0)
    own_scores = (features * own_class.T).sum(1)
    common, mean = unit(features.mean(0)), shots.mean(0)
    direction = unit(mean - (mean @ common) * common)
    scores = np.outer(np.cos(ANGLES), features @ direction) + np.outer(np.sin(ANGLES), features @ common)
    too_loud = np.quantile(scores - own_scores, quiet, axis=1) > -margin
    angle = ANGLES[~too_loud].max(initial=ANGLES[0])
    return np.cos(angle) * direction + np.sin(angle) * common


def unit(x: Array, axis: int = -1) -> np.ndarray:
    """float64 of length 1 along an axis; zeros stay zeros."""
    x = np.asarray(x, np.float64)
    return x / (np.linalg.norm(x, axis=axis, keepdims=True) + 1e-8)


def features_of(
    dataset: Dataset, data: Any, batch: int, params: PyTree, forward: Callable
) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, F] and class ids [n] of the labeled boxes of a K-shot dataset.

    Args:
      dataset: from `data.fewshot.shots.shot_dataset`.
      data: config.data.
      batch: images at a time.
      params: of the model.
      forward: ``model.box_features``, compiled.
    """
    features, labels = [], []
    for found in pipeline.eval_batches(dataset, data, batch=batch):
        batch_features = np.asarray(forward(params, found.image, found.image_hw, found.instances.boxes))
        labeled = (found.instances.classes >= 0) & ~found.instances.ignore
        features.append(batch_features[labeled])
        labels.append(found.instances.classes[labeled])
    return np.concatenate(features), np.concatenate(labels)
