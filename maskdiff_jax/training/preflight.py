"""Checks before training of what would fail hours or days later: settings, disk space, data of later steps."""

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from maskdiff_jax.data import checks, pipeline, sources
from maskdiff_jax.data.fewshot import tfa
from maskdiff_jax.data.synthetic import scenes
from maskdiff_jax.model import WITH_DETECTOR, build
from maskdiff_jax.training import compatibility, optim
from maskdiff_jax.training.side_by_side import make_meshes
from maskdiff_jax.workdir import CHECKPOINTS

PHASES = {"base": ("detector", "refine", "mask"), "fewshot": ("novel", "detector", "mask"), "distill": ("mask",)}
PARTS = {
    "detector": ("detector/",), "refine": ("detector/refine/", "detector/box_predictor/bbox_"),
    "novel": ("detector/box_predictor/",), "mask": ("mask_head/",),
}  # fmt: skip
# of a mask head that is trained with the detector
JOINT_PARTS = {
    "detector": ("detector/", "mask_head/"), "refine": ("detector/refine/", "detector/box_predictor/bbox_"),
    "novel": ("detector/box_predictor/", "mask_head/predictor/"),
}  # fmt: skip
SHOTS = (1, 5, 10)  # the K of the paper's tables
NAMED = 3  # classes that a note names
SEEN = (
    "weights=detector: a detector trained on COCO has seen all 80 classes, including the novel ones of the paper's "
    "protocol. Use it for your own classes: scores of novel classes that the detector has seen are not few-shot "
    "scores"
)
BYTES = 4  # of a float32: a parameter, its EMA, a moment


def check(config: ConfigDict, workdir: str | Path) -> list[str]:
    """Checks what needs no training and would stop this run, or the ones after it, late.

    Args:
      config: of the run, as ``train.run`` takes it.
      workdir: where its checkpoints will go.

    Returns:
      Notes: that nothing is trained; about later steps, what these data will not allow.

    Raises:
      FileNotFoundError: the test split is missing.
      ValueError: an unknown optimizer or schedule, a batch that the devices cannot share, another number of classes
        than the model has, other classes in the test split than in the training split, no base class in stage 1; in
        the literal preset a class with fewer objects than its K.
      OSError: the checkpoints do not fit on the disk.
    """
    _check_phases(config)
    _check_disk(config, Path(workdir))
    notes = [] if trained_phases(config) else ["nothing to train: every phase of this run has 0 steps"]
    notes += [SEEN] if config.weights == "detector" else []
    if config.data.source in scenes.LEVELS:
        _check_classes(config, len(scenes.NAMES), config.data.source)
        return notes  # scenes are made as the config asks
    return notes + _check_data(config)


def trained_phases(config: ConfigDict) -> tuple[str, ...]:
    """The sections of `config.train` that this run trains with; with no steps a phase does nothing."""
    names = ("mask",) if config.detector_from else PHASES[config.stage]
    joint = config.model.mask.head in WITH_DETECTOR  # has no phase "mask"
    return tuple(name for name in names if config.train[name].steps and not (joint and name == "mask"))


def following(config: ConfigDict, name: str) -> str:
    """The phases that are trained after one, "mask: 12,000 steps"; "" where there is none or they run side by side."""
    names = [x for x, _ in phases(config)]
    if name not in names or (config.train.side_by_side and config.stage != "distill"):
        return ""
    later = phases(config)[names.index(name) + 1 :]
    return ", ".join(f"{x}: {config.train[section].steps:,} steps" for x, section in later)


def phases(config: ConfigDict) -> list[tuple[str, str]]:
    """The phases that are trained, each with its section of `config.train`; those of distillation share one."""
    sections = trained_phases(config)
    if config.stage == "distill":
        return [(name, "mask") for name, *_ in compatibility.distillation_phases(config) if sections]
    return [(name, name) for name in sections]


def _check_phases(config: ConfigDict) -> None:
    """Optimizers and batches of all phases: the last may start after the first has trained for days."""
    devices = make_meshes(config)[0].size
    fields = ("optimizer", "lr", "schedule", "decay_at", "warmup", "weight_decay", "betas", "clip_norm")
    for name in trained_phases(config):
        phase = config.train[name]
        try:
            optim.make_optimizer(steps=phase.steps, **{field: phase[field] for field in fields})
        except ValueError as error:
            raise ValueError(f"train.{name}: {error}") from error
        if phase.batch < 1 or phase.base_batch < 1:
            raise ValueError(
                f"train.{name} has batch={phase.batch}, base_batch={phase.base_batch}: both must be at least 1"
            )
        if phase.batch % devices:
            raise ValueError(
                f"train.{name}.batch={phase.batch} cannot be divided by {devices} devices: set a multiple of that, or "
                "train.devices"
            )


def _check_disk(config: ConfigDict, workdir: Path) -> None:
    written = sum(x.stat().st_size for x in (workdir / CHECKPOINTS).rglob("*") if x.is_file())  # of a run that resumes
    free, need = shutil.disk_usage(_existing(workdir)).free, checkpoint_bytes(config) - written
    if free < need:
        raise OSError(
            f"{workdir}: the checkpoints take up to {need / 1e6:,.0f} MB ({config.train.keep} of train.keep per phase "
            f"and the one that is being written), but only {free / 1e6:,.0f} MB are free: free some space, or lower "
            "train.keep"
        )


def plan(config: ConfigDict) -> list[str]:
    """One line for each phase: steps, batch, parameters."""
    sizes = _parameters(config)
    parts = JOINT_PARTS if config.model.mask.head in WITH_DETECTOR else PARTS
    lines = []
    for name, section in phases(config):
        phase = config.train[section]
        mine = {k: n for k, n in sizes.items() if k.startswith(parts[section])}
        frozen = config.train.frozen if section == "detector" else ()
        trained = sum(n for k, n in mine.items() if not any(re.fullmatch(pattern, k) for pattern in frozen))
        lines.append(
            f"{name}: {phase.steps:,} steps of {phase.batch} {'objects' if section == 'mask' else 'images'}, "
            f"{trained:,} of {sum(mine.values()):,} parameters are trained"
        )
    return lines


def _parameters(config: ConfigDict) -> dict[str, int]:
    """Number of entries of each parameter."""
    leaves: Any = flatten_dict(jax.eval_shape(build(config.model).init, jax.random.key(0)), sep="/")
    return {k: int(np.prod(v.shape)) for k, v in leaves.items()}


def checkpoint_bytes(config: ConfigDict) -> int:
    """Disk space that a run needs at most, bytes: the kept states of every phase, one more, the final weights.

    The states of a phase stay until the last phase ends. A state holds all parameters, in distillation those of the
    teacher's mask head too, and for each trained one its EMA and one or two moments.
    """
    sizes, states = _parameters(config), [0]
    parts = JOINT_PARTS if config.model.mask.head in WITH_DETECTOR else PARTS
    for name in trained_phases(config):
        trained = sum(n for k, n in sizes.items() if k.startswith(parts[name]))
        states.append(sum(sizes.values()) + trained * (3 if config.train[name].optimizer == "adamw" else 2))
        if config.stage == "distill":
            states = [states[-1] + trained] * len(phases(config))
    return BYTES * (sum(states) * config.train.keep + max(states, default=0) + sum(sizes.values()))


def _check_data(config: ConfigDict) -> list[str]:
    """The test split, and whether K shots can be sampled; for data that have a json."""
    data = config.data
    categories, count = checks.objects_per_class(sources.files(data, "train")[0])
    _check_classes(config, len(categories), data.train_json)
    if config.stage == "base" and set(categories.values()) <= set(data.novel_classes):
        raise ValueError(f"{data.train_json}: {checks.NO_BASE}")
    if data.test_json:  # "": a dataset without a test split
        pipeline.open_split(data, "test")  # raises what evaluation would, a missing image included
        if differ := checks.other_classes(sources.files(data, "train")[0], sources.files(data, "test")[0]):
            raise ValueError(differ)
    if config.stage != "base" or config.fewshot.short_classes == "take_all" or not data.novel_classes:
        return []
    return _check_shots(config, categories, count)


def _check_classes(config: ConfigDict, count: int, what: str) -> None:
    """A label from model.num_classes on would count as background, and a class without a name would learn nothing."""
    if config.model.num_classes != count:
        fix = f"set --config.model.num_classes={count}" if config.stage == "base" else "list the classes of stage 1"
        raise ValueError(f"{what} has {count} classes, but the model has {config.model.num_classes}: {fix}")


def _check_shots(config: ConfigDict, categories: dict[int, str], count: Counter) -> list[str]:
    """The K that stage 2 cannot have, given how many objects each class has.

    Raises:
      ValueError: with paper=true, whose mask head serves one K.
    """
    sampler, notes = config.fewshot.sampler, []
    for shots in [config.fewshot.shots] if config.paper else SHOTS:
        levels = tfa.LEVELS.get(sampler, (shots,))
        if shots not in levels:
            notes.append(
                f"stage 2 with {shots} shots: fewshot.sampler={sampler} supports only K = "
                f"{', '.join(map(str, levels))}; use fewshot.sampler=instances for any K"
            )
        short = [f"{name} {count[i]}" for i, name in categories.items() if count[i] < shots]
        if short:
            more = f" and {len(short) - NAMED} more classes" if len(short) > NAMED else ""
            notes.append(
                f"stage 2 with {shots} shots: {config.data.train_json} has too few objects of "
                f"{', '.join(short[:NAMED])}{more}"
            )
    if notes and config.paper:
        raise ValueError(f"{notes[0]}; the mask head of paper=true works only for this K")
    return notes


def _existing(folder: Path) -> Path:
    """The folder, or the nearest parent that exists."""
    folder = folder.absolute()
    return next(p for p in (folder, *folder.parents) if p.exists())
