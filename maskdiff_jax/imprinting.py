"""Class vectors of a cosine classifier from the features of a few shots, without training.

The rule and its sources are in docs/design.md, "Adding a class without training".

Features are what the classifier sees of a box, [F], not normalized. ``kernel`` is [F, C + 1], the classifier's columns,
background last.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

from maskdiff_jax.data import pipeline
from maskdiff_jax.data.dataset import Dataset
from maskdiff_jax.types import Array, PyTree

# Weights of the known classes' objects and of the mean feature, beside the shots. Chosen on validation scenes:
# `benchmarks/studies/instant_classes.py --split=val`.
KEEP, PULL = 4.0, 1.0


def class_vector(
    kernel: Array, shots: Array, features: Array, *, scale: float, keep: float = KEEP, pull: float = PULL
) -> np.ndarray:
    """The vector of a new class, for a cosine classifier whose other vectors stay as they are.

    It minimizes the sum of

    - the cross-entropy of the K shots, which should be the new class and not a column of `kernel`, their mean;
    - that of objects of the known classes, which should not be the new class, ``keep * sqrt(K)`` times their mean;
    - ``pull`` times one minus the cosine with the mean feature of the shots, the vector of plain imprinting
      (Qi et al. 2018).

    Args:
      kernel: [F, C + 1], known classes and background.
      shots: [K, F] of the new class.
      features: [n, F] of objects of the known classes.
      scale: factor of the cosine in the classifier's logits.
      keep: weight of the known classes' objects, at least 0.
      pull: weight of the mean feature, at least 0.

    Returns:
      [F] float64 of length 1.
    """
    columns, features, shots = unit(kernel, axis=0), unit(features), unit(shots)
    mean = unit(shots.mean(0))
    weight = keep * np.sqrt(len(shots))
    # the log of the sum of the other columns' exponentials: the logit that the new class must beat
    rival_of_objects, rival_of_shots = (logsumexp(scale * x @ columns, axis=1) for x in (features, shots))

    def loss_and_gradient(vector: np.ndarray) -> tuple[float, np.ndarray]:
        length = np.linalg.norm(vector) + 1e-8
        direction = vector / length
        lead_on_objects = scale * features @ direction - rival_of_objects
        lead_on_shots = scale * shots @ direction - rival_of_shots
        loss = np.logaddexp(0, -lead_on_shots).mean() + weight * np.logaddexp(0, lead_on_objects).mean()
        slope = weight * expit(lead_on_objects) @ features / len(features)
        slope = scale * (slope - expit(-lead_on_shots) @ shots / len(shots)) - pull * mean
        return loss + pull * (1 - mean @ direction), (slope - (slope @ direction) * direction) / length

    return unit(minimize(loss_and_gradient, mean, jac=True, method="L-BFGS-B").x)


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
