"""The conv mask head of the study in photos.py: a Mask R-CNN trained on the same photos.

Boxes and masks are class-agnostic (configs/baselines/imtfa_fc.py), so that novel classes need no training, and the
detector is reduced as in coco_mini.py. Detector and mask head are trained together, as Mask R-CNN is.
"""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from benchmarks.studies import coco_mini
from benchmarks.studies.mask_scores import Data, changed
from configs.baselines import imtfa_fc
from maskdiff_jax.model import build
from maskdiff_jax.training import run
from maskdiff_jax.workdir import load_weights

SETTINGS = {
    "model.mask.cnn.channels": 64, "train.detector.batch": 4, "train.detector.optimizer": "adamw",
    "train.detector.lr": 1e-3, "train.detector.schedule": "constant", "train.detector.warmup": 100,
    "train.detector.clip_norm": 1.0, "train.detector.ema": 0.995,
}  # fmt: skip


def train(data: Data, folder: Path, steps: int, settings: dict[str, Any]) -> tuple[ConfigDict, Any, float]:
    """Trains it on the photos of ``data``, or loads what an earlier call has trained.

    Args:
      data: its config says where photos are, and which classes are novel.
      folder: of the run of stage 1.
      steps: of training.
      settings: config fields, "a.b.c", beside SETTINGS.

    Returns:
      The config that it is scored with; its weights; seconds of the training.
    """
    config = changed(imtfa_fc.get_config("custom"), coco_mini.NET | coco_mini.SMALL | SETTINGS)
    config.data = data.config.data
    config.model.num_classes = data.config.model.num_classes
    config = changed(config, settings | {"train.detector.steps": steps, "train.detector.base_batch": 4})
    seconds = run.run(config, folder)
    return config, load_weights(folder, build(config.model)), seconds["detector"]
