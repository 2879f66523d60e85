"""Experiments, that is evaluations that differ only in seeds: their names, and their values by seed."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from maskdiff_jax.reporting import statistics
from maskdiff_jax.reporting.runs import config_field

VARIANTS = ("gt_classes_only", "rescored", "tightened")  # prefixes of metrics that were scored in another way
STAGE_1 = "stage 1"
SETTINGS = ("COCO-All", "COCO-Novel", "COCO2VOC", "all classes", "novel classes only", STAGE_1)  # in this order
METHODS = {  # config.method -> label, in the order of rows
    "mrcn_ft_full": "MRCN+ft-full", "meta_rcnn": "Meta R-CNN", "fgn": "FGN", "mtfa": "MTFA", "imtfa": "iMTFA",
    "ifs_rcnn": "iFS-RCNN", "plain_unet": "plain UNet", "maskdiff": "MaskDiff",
}  # fmt: skip
ABLATIONS = {  # likewise, of configs/ablations/
    "guided": "MaskDiff, w = 5", "no_guidance": "MaskDiff, w = 1", "support_none": "MaskDiff, no shots at test",
    "support_other": "MaskDiff, shots of another class", "no_shots": "MaskDiff without shots",
    "no_class": "MaskDiff without classes", "one_stage": "MaskDiff, mask head new in stage 2",
    "one_stage_literal": "MaskDiff, stage 2 alone", "gt_boxes": "MaskDiff, ground-truth boxes",
    "gt_classes": "MaskDiff, ground-truth classes", "tightened": "MaskDiff, larger regions",
}  # fmt: skip
NUMBERED = {r"guided(\d+)": "MaskDiff, w = {}", r"steps(\d+)": "MaskDiff, {} steps"}
PAPER, DISTILLED = "+paper", "+distilled"  # after config.method: with paper=true, of stage "distill"


class Key(NamedTuple):
    """What identifies an experiment, besides its config; rows of one table differ only in method and shots."""

    dataset: str
    split: str
    setting: str
    shots: int  # K; 0 in stage 1
    method: str  # config.method, with PAPER or DISTILLED behind it


class Evaluation(NamedTuple):
    """One metrics.json and its seeds."""

    folder: Path
    document: dict
    repeat: int  # the shot seed; in stage 1 the seed of training
    model: tuple[int | str, ...]  # tells trained models apart: seed, init_from, detector_from, shot seed
    noise_seed: int


class Experiment(NamedTuple):
    """Evaluations that differ only in seeds."""

    key: Key
    evaluations: list[Evaluation]
    variant: str = ""  # one of VARIANTS: which metrics are meant


def seed_name(key: Key) -> str:
    """What repeats of an experiment differ in."""
    return "training seed" if key.setting == STAGE_1 else "shot seed"


def describe(key: Key) -> str:
    """An experiment in a few words."""
    shots = f", K = {key.shots}" if key.shots else ""
    return f"{method_label(key.method)}{shots}, {key.setting} ({key.dataset}, {key.split})"


def method_label(method: str) -> str:
    """A method's name for readers; an unknown one as it is."""
    name, *marks = method.split("+")
    label = (METHODS | ABLATIONS).get(name, name)
    for pattern, numbered in NUMBERED.items():
        if match := re.fullmatch(pattern, name):
            label = numbered.format(match[1])
    words = {PAPER[1:]: ", as in the paper", DISTILLED[1:]: ", distilled"}
    return label + "".join(words[mark] for mark in marks)


def is_oracle(experiment: Experiment) -> bool:
    """Whether boxes or classes were taken from the ground truth (``eval.oracle``): an upper bound, not a method."""
    return bool(config_field(experiment.evaluations[0].document, "eval.oracle"))


def shots_from(experiment: Experiment) -> tuple[str, str]:
    """Where the shots of a shot seed come from: the same seed means the same shots only where this is the same.

    Returns:
      ``fewshot.shots_from``, or without such files ``fewshot.sampler``; and the file that shots are sampled from.
    """
    document = experiment.evaluations[0].document
    files, sampler = (config_field(document, f"fewshot.{name}") for name in ("shots_from", "sampler"))
    return str(files or sampler), str(config_field(document, "data.train_json"))


def nested_values(experiment: Experiment, metric: str) -> dict[int, dict[tuple, dict[int, float]]]:
    """A metric in percent by repeat (shot seed), model and noise seed; evaluations without it are absent."""
    name = f"{experiment.variant}/{metric}" if experiment.variant else metric
    out: dict[int, dict[tuple, dict[int, float]]] = {}
    for e in experiment.evaluations:
        value = e.document["metrics"].get(name)
        if value is not None:
            out.setdefault(e.repeat, {}).setdefault(e.model, {})[e.noise_seed] = value
    return out


def by_repeat(experiment: Experiment, metric: str) -> dict[int, float]:
    """A metric by shot seed: the mean over noise seeds, which are not independent repeats, then over models."""
    return {
        repeat: _mean([_mean(list(noise.values())) for noise in models.values()])
        for repeat, models in sorted(nested_values(experiment, metric).items())
    }


def noise_std(experiment: Experiment, metric: str) -> tuple[float, int, int]:
    """Spread over noise seeds: the std within each model with two or more, averaged over the models.

    Returns:
      The mean std (NaN: no model has two noise seeds), the number of such models, the smallest number of their seeds.
    """
    values = [noise for models in nested_values(experiment, metric).values() for noise in models.values()]
    repeated = [list(noise.values()) for noise in values if len(noise) > 1]
    if not repeated:
        return math.nan, 0, 0
    return _mean([statistics.estimate(v).std for v in repeated]), len(repeated), min(map(len, repeated))


def _mean(values: Sequence[float]) -> float:
    return statistics.estimate(values).mean
