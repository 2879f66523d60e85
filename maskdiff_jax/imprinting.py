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

# share of the known classes' shots on which an imprinted class must score less than the best wrong known class
QUIET = 0.9
ANGLES = np.linspace(-np.pi / 2, np.pi / 2, 721)  # candidates for the angle, a quarter of a degree apart


def class_vector(
    kernel: Array, shots: Array, features: Array, labels: Array, known: np.ndarray, *, quiet: float = QUIET
) -> np.ndarray:
    """The vector of a new class, for a cosine classifier.

    Plain imprinting (Qi et al. 2018: the vector is the mean feature of the class) lets the new class swallow the known
    ones: features come out of a ReLU and share a large common direction m, the mean feature of the known classes. So
    the vector is ``cos(a) f + sin(a) m`` with f the mean shot feature without its part along m. The angle a acts as a
    bias. It is the largest at which the new class scores less than the best wrong known class on a share ``quiet`` of
    the known classes' shots: it disturbs no more than the known classes disturb each other.

    Args:
      kernel: [F, C + 1].
      shots: [K, F] of the new class.
      features: [n, F] of objects of the known classes.
      labels: [n] their class ids.
      known: ids of the known classes, those that can be detected. Of a single one the background takes the place of
        the wrong classes.
      quiet: 0..1.

    Returns:
      [F] float64 of length 1.
    """
    kernel = np.asarray(kernel, np.float64)
    features, shots, labels = unit(features), unit(shots), np.asarray(labels)
    rivals = known if len(known) > 1 else np.append(known, kernel.shape[1] - 1)
    common = unit(features.mean(0))
    scores = features @ unit(kernel[:, rivals], axis=0)
    best_wrong = np.where(labels[:, None] != rivals[None], scores, -np.inf).max(1)
    mean = shots.mean(0)
    own = unit(mean - (mean @ common) * common)
    new = np.outer(np.cos(ANGLES), features @ own) + np.outer(np.sin(ANGLES), features @ common)
    too_loud = np.quantile(new - best_wrong, quiet, axis=1) > 0
    angle = ANGLES[~too_loud].max(initial=ANGLES[0])
    return np.cos(angle) * own + np.sin(angle) * common


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
