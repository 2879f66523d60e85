"""Box features of known classes in an export, with which a class can be added without the base dataset.

`Predictor.add_class` fits the new class against them, see `imprinting.class_vector`.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from maskdiff_jax import atomic
from maskdiff_jax.data.dataset import Dataset
from maskdiff_jax.data.fewshot import shots as fewshot
from maskdiff_jax.data.fewshot.shots import ShotSet
from maskdiff_jax.data.support import active_class_ids
from maskdiff_jax.imprinting import features_of
from maskdiff_jax.model import build
from maskdiff_jax.types import PyTree

# objects of known classes whose features are kept, each an image to read: about so many in all, and of each class
# between LEAST and MOST
OBJECTS, LEAST, MOST = 240, 3, 10
CLASSIFIER = "cosine"  # the one that a class can be added to


class Calibration(NamedTuple):
    """Features of n objects of the classes that a model detects."""

    features: np.ndarray  # [n, F] float32, of ground-truth boxes
    labels: np.ndarray  # [n] int32, class ids


def compute(config: Any, params: PyTree, support_split: Dataset, shots: ShotSet) -> Calibration | None:
    """The features of some objects of each class that a run detects; None if no class can be added to it.

    Of base classes up to `MOST` objects are sampled, fewer if there are many classes; of novel classes the run's own
    shots are taken and no others.

    Args:
      config: of the run.
      params: its weights.
      support_split: what shots are sampled from.
      shots: of the run.
    """
    if config.model.detector.classifier != CLASSIFIER:
        return None
    active = active_class_ids(config, support_split.categories)
    base = [int(c) for c in active if not support_split.categories[c].novel]
    each = int(np.clip(OBJECTS // max(1, len(active)), LEAST, MOST))
    chosen = {int(c): shots.get(int(c), ())[:each] for c in active}
    if base:
        chosen |= fewshot.sample(
            support_split, each, config.fewshot.seed, short_classes="take_all", class_ids=base
        )  # fmt: skip
    dataset = fewshot.shot_dataset(support_split, chosen, "background")
    forward = jax.jit(build(config.model).box_features)
    return Calibration(*features_of(dataset, config.data, config.eval.batch, params, forward))


def write(path: Path, calibration: Calibration) -> None:
    """Writes a file that `read` reads, the features in their own type."""
    atomic.write(path, lambda file: np.savez_compressed(file, **calibration._asdict()))


def read(path: Path, channels: int, num_classes: int) -> Calibration | None:
    """The content that `write` wrote, float16 as float32; None if there is no such file, as in exports of older
    versions.

    Args:
      path: of the file.
      channels: F.
      num_classes: C.

    Raises:
      ValueError: it is damaged, or of another model; names it.
    """
    if not path.is_file():
        return None
    try:
        with np.load(path) as arrays:
            features, labels = arrays["features"], arrays["labels"]
    except Exception as error:  # numpy and zipfile raise many kinds on damaged files
        raise ValueError(
            f"{path} is damaged ({str(error).splitlines()[0][:200] if str(error) else error!r})"
        ) from error
    fits = features.shape == (len(labels), channels) and features.dtype in (np.float32, np.float16)
    fits = fits and labels.dtype == np.int32
    if not fits or labels.ndim != 1 or not ((labels >= 0) & (labels < num_classes)).all():
        raise ValueError(f"{path} is damaged: it must hold features [n, {channels}] of class ids below {num_classes}")
    if not np.isfinite(features).all():
        raise ValueError(f"{path} is damaged: its features are not finite")
    return Calibration(features.astype(np.float32), labels)
