"""The conv mask head of the study in photos.py: a Mask R-CNN trained on the same photos.

Boxes and masks are class-agnostic (configs/baselines/imtfa_fc.py), so that novel classes need no training, and the
detector is as small as in the other studies of photos. Detector and mask head are trained together, as Mask R-CNN is.
"""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from benchmarks.studies.mask_scores import Data, changed
from configs.baselines import imtfa_fc
from maskdiff_jax.model import build
from maskdiff_jax.training import run
from maskdiff_jax.workdir import load_weights

OWN = ("classifier", "class_agnostic_boxes")  # fields of the detector that the baseline sets
SETTINGS = {
    "model.mask.cnn.channels": 64, "train.save_every": 0, "train.detector.batch": 4, "train.detector.base_batch": 4,
    "train.detector.optimizer": "adamw", "train.detector.lr": 1e-3, "train.detector.schedule": "constant",
    "train.detector.warmup": 100, "train.detector.clip_norm": 1.0, "train.detector.ema": 0.995,
}  # fmt: skip


def train(data: Data, folder: Path, steps: int, settings: dict[str, Any]) -> tuple[ConfigDict, Any, float]:
    """Trains it on the photos of ``data``, or loads what an earlier call has trained.

    Args:
      data: its config says where photos are, which classes are novel, and how large the detector is.
      folder: of the run of stage 1.
      steps: of training.
      settings: config fields, "a.b.c", beside SETTINGS.

    Returns:
      The config that it is scored with; its weights; seconds of the training.
    """
    given = data.config
    config = ConfigDict(imtfa_fc.get_config("custom").to_dict())
    config.data, config.eval = given.data, given.eval
    config.model.num_classes, config.model.dtype = given.model.num_classes, given.model.dtype
    config.model.detector.update({k: v for k, v in given.model.detector.items() if k not in OWN})
    config = changed(config, SETTINGS | settings | {"train.detector.steps": steps})
    seconds = run.run(config, folder)
    return config, load_weights(folder, build(config.model)), seconds["detector"]
