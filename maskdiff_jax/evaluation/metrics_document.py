"""metrics.json: the metrics of one evaluation, with the model, images and versions that they belong to."""

import datetime
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from maskdiff_jax.data.dataset import Dataset
from maskdiff_jax.data.fewshot.shots import ShotSet
from maskdiff_jax.workdir import as_json

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "pycocotools")


def describe(config: ConfigDict, dataset: Dataset, shots: ShotSet) -> dict[str, Any]:
    """Which model was scored, on which images, with which versions, where and when.

    Args:
      config: of the run, with the ``eval`` fields that were used.
      dataset: the split that was scored.
      shots: class id -> ids of the annotations that the model saw as shots.

    Returns:
      The fields of metrics.json except its results, which ``evaluate.run`` adds.
    """
    names = [x.name for x in dataset.categories]
    packages = PACKAGES + (("faster-coco-eval",) if config.eval.scorer == "faster_coco_eval" else ())
    return {
        "config": as_json(config),
        "preset": config.preset,
        "stage": config.stage,
        "dataset": config.eval.source or config.data.source,
        "split": config.eval.split,
        "shots": config.fewshot.shots,
        "seed": config.fewshot.seed,
        "noise_seed": config.eval.noise_seed,
        "scorer": config.eval.scorer,
        "shots_per_class": {names[i]: len(shots[i]) for i in sorted(shots)},
        "novel_classes": [x.name for x in dataset.categories if x.novel],
        "step": {name: config.train[name].steps for name in ("detector", "mask", "novel")},
        "versions": {p: version(p) for p in packages},
        "device": device_name(),
        "date": datetime.date.today().isoformat(),
    }


def device_name() -> str:
    """Model and number of the accelerators, or model of the processor and its cores; never the machine's name."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {os.cpu_count()} cores"
