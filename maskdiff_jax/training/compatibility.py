"""The fields that a stage inherits from the run that it starts from, and those that must be equal in both; checked
before any data are read.

A run leaves its config in WORKDIR/config.json as soon as it starts, so nothing here waits for its weights.
"""

import re
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from maskdiff_jax.model import WITH_DETECTOR
from maskdiff_jax.workdir import (
    NEXT_STAGE,
    SAMPLING,
    as_json,
    check_layout,
    covers,
    describe,
    different_fields,
    flat,
    model_differences,
    read_config,
)  # fmt: skip

# what a later stage inherits; a trailing dot: the whole section
SHARED = ("model.", "weights", "data.novel_classes", "data.context")
# where the data are and how images are resized: a later stage inherits these too, but may change them
OF_DATA = tuple(f"data.{name}" for name in (
    "source", "root", "train_json", "train_images", "test_json", "test_images", "more_images", "counts", "shapes_seed",
    "shapes_train", "shapes_support", "shapes_test", "short_sides", "test_short_side", "long_side", "buckets",
    "max_boxes", "min_box_side", "min_mask_area", "region_long_side", "crop_margin",
))  # fmt: skip
# what distillation must share with its teacher, and which of these fields are its own
OF_TEACHER = ("model.mask.", "fewshot.", "data.source", "data.train_json", "data.novel_classes", "data.context")
FREE_OF_TEACHER = (*(f"model.mask.diffusion.{name}" for name in SAMPLING), "fewshot.novel_init")
# fields of the model that parameters depend on: they may differ from the run that another starts from where all of
# these get new weights (`train.reset`); "any" is any parameter of the mask head
OF_PARAMETER = {
    "model.mask.": ("mask_head/any",),
    "model.num_classes": (
        "mask_head/any", "detector/box_predictor/cls_score/kernel", "detector/box_predictor/bbox_pred/kernel",
    ),
    "model.detector.classifier": ("detector/box_predictor/cls_score/kernel",),
    "model.detector.class_agnostic_boxes": ("detector/box_predictor/bbox_pred/kernel",),
}  # fmt: skip
# fields that a run and its `detector_from` must share, besides those of the nets
OF_DETECTOR = ("stage", "data.source", "data.train_json", "data.novel_classes")
NOVEL_INITS = ("finetune", "fresh", "random", "imprint", "mean_embedding")
CLASSIFIER = "model.detector.classifier"


def inherit(
    config: ConfigDict, before: ConfigDict, folder: Path, *, given: frozenset[str], own: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Copies the fields that a stage must or should share with the run that it starts from: the model, the classes, the
    data.

    Args:
      config: of the stage; is changed.
      before: the config of the run that it starts from.
      folder: of that run, for messages.
      given: fields "a.b.c" that were given explicitly.
      own: fields that the stage's config file sets for this stage; like given ones they are kept if they may differ.

    Returns:
      The fields that changed, with their new values.

    Raises:
      ValueError: the runs are of different presets or sizes, or a given field cannot differ; names it with both values.
    """
    for name in ("preset", "paper", "size"):
        if config[name] != before[name]:
            raise ValueError(
                f"{folder} was trained with {name}={before[name]!r}, this run has {name}={config[name]!r}: add "
                "the same option to --config, or give another --config.init_from"
            )
    ours, theirs = (flat(c.copy_and_resolve_references().to_dict()) for c in (config, before))
    changed = {}
    for name, value in theirs.items():
        taught = config.stage == "distill" and covers(FREE_OF_TEACHER, name)
        if taught or not covers((*SHARED, *OF_DATA), name) or ours[name] == value:
            continue
        if covers((*NEXT_STAGE, *OF_DATA, CLASSIFIER), name) and name in given | own:
            continue
        if name not in given:
            changed[name] = value
        else:
            raise ValueError(
                f"{name}={ours[name]!r} was given, but the run in {folder} that this stage starts from has "
                f"{name}={value!r}: omit it, the value is inherited"
            )
    with config.unlocked():
        config.update_from_flattened_dict(changed)
    return changed


def check_start(config: ConfigDict, workdir: Path) -> None:
    """Whether stage 2 can start from a run of stage 1, finished or not.

    Raises:
      FileNotFoundError: no run there.
      ValueError: it cannot start; names the fields.
    """
    check_layout(workdir, config)
    problems = stage2_problems(config, as_json(read_config(workdir)))
    if problems:
        raise ValueError(f"stage 2 cannot start from {workdir}: {'; '.join(problems)}")


def stage2_problems(config: ConfigDict, before: dict) -> list[str]:
    """The reasons why a config of stage 2 cannot start with the weights of stage 1; needs no data and no weights.

    Args:
      config: of stage 2.
      before: config of stage 1, as `workdir.as_json` gives it.

    Returns:
      One clause per problem; empty if there is none.
    """
    shots, slots = config.fewshot.shots, before["model"]["mask"]["slots"]
    if shots > slots:
        return [
            f"fewshot.shots={shots}, but its mask head has model.mask.slots={slots}: lower shots, or train stage 1 "
            "with more slots"
        ]
    if config.fewshot.novel_init not in NOVEL_INITS:
        return [f"unknown fewshot.novel_init '{config.fewshot.novel_init}': choose {', '.join(NOVEL_INITS)}"]
    free = reset_fields(config)
    if becomes_cosine(config, before["model"]["detector"]["classifier"]):
        free = (*free, CLASSIFIER)
    return model_differences(config, before, "data.novel_classes", "data.context", free=free)


def becomes_cosine(config: ConfigDict, classifier: str) -> bool:
    """Whether stage 2 makes a cosine classifier of stage 1's linear ``classifier``, as TFA's does on COCO."""
    starts_anew = CLASSIFIER in reset_fields(config)
    return (classifier, config.model.detector.classifier, starts_anew) == ("linear", "cosine", False)


def reset_fields(config: ConfigDict) -> tuple[str, ...]:
    """The fields of the model in which a run may differ from the one that it starts from, by its `train.reset`."""
    return tuple(
        field
        for field, parameters in OF_PARAMETER.items()
        if all(any(re.fullmatch(pattern, name) for pattern in config.train.reset) for name in parameters)
    )


def check_detector(config: ConfigDict) -> None:
    """Whether a run can use the detector of the run ``config.detector_from``.

    Raises:
      FileNotFoundError: no run there.
      ValueError: the mask head is trained with its detector; or the run was trained in another stage, for other
        classes or on other data, or its nets differ; names the fields.
    """
    folder = config.detector_from
    if config.model.mask.head in WITH_DETECTOR:
        raise ValueError(
            f"model.mask.head='{config.model.mask.head}' is trained with the detector: omit --config.detector_from"
        )
    shots = ("fewshot.shots", "fewshot.seed", "fewshot.classes") if config.stage == "fewshot" else ()
    differ = model_differences(
        config, as_json(read_config(folder)), *OF_DETECTOR, *shots, free=("model.mask.", "model.dtype")
    )
    if differ:
        raise ValueError(f"the detector of {folder} cannot be used (detector_from): {'; '.join(differ)}")


def with_classifier_of_stage1(config: ConfigDict) -> ConfigDict:
    """A config of stage 2 with the classifier that it starts with, see `becomes_cosine`."""
    first = config.copy_and_resolve_references().unlock()
    if becomes_cosine(config, read_config(config.init_from).model.detector.classifier):
        first.model.detector.classifier = "linear"
    return first.lock()


def distillation_phases(config: ConfigDict) -> list[tuple[str, int, float]]:
    """The phases of stage "distill": name, steps of the sampler that it teaches, guidance w of its teacher."""
    distill = config.distill
    guidance = [("guidance", distill.steps, distill.guidance)] if distill.guidance != 1.0 else []
    return [*guidance, *((f"steps{steps}", steps, 1.0) for steps in distill.rounds)]


def check_rounds(config: ConfigDict) -> None:
    """Whether the config samples masks in the steps that its distillation teaches.

    Raises:
      ValueError: `distill.rounds` are not halves, or `model.mask.diffusion` samples in another way.
    """
    distill, diffusion = config.distill, config.model.mask.diffusion
    halves = [distill.steps // 2 ** (i + 1) for i in range(len(distill.rounds))]
    nothing_to_teach = not halves and distill.guidance == 1.0
    if list(distill.rounds) != halves or distill.steps % 2 ** len(halves) or nothing_to_teach:
        raise ValueError(
            f"distill.rounds is {tuple(distill.rounds)}: each must be half of the one before, starting with half of "
            f"distill.steps={distill.steps}; without guidance there must be at least one"
        )
    last = (distill.rounds or (distill.steps,))[-1]
    if (diffusion.sampler, diffusion.eta, diffusion.steps, diffusion.guidance) != ("ddim", 0.0, last, 1.0):
        raise ValueError(
            f"model.mask.diffusion samples in {diffusion.steps} steps of {diffusion.sampler}, eta={diffusion.eta}, "
            f"with guidance={diffusion.guidance}, but distill.rounds={tuple(distill.rounds)} teaches {last} steps of "
            f"ddim without guidance: set sampler=ddim, eta=0.0, steps={last}, guidance=1.0"
        )


def check_teacher(config: ConfigDict, workdir: Path) -> None:
    """Whether a run has the mask head, the shots and the regions of this config of distillation.

    Raises:
      FileNotFoundError: no run there.
      ValueError: it is not one of stage 2, or fields differ; names them.
    """
    check_layout(workdir, config)
    ours, theirs = as_json(config), as_json(read_config(workdir))
    if theirs["stage"] != "fewshot":
        raise ValueError(
            f"{workdir} is a run of stage '{theirs['stage']}': distillation must start from a run of stage 2"
        )
    if config.detector_from:
        raise ValueError(
            "detector_from is given, but distillation keeps the detector of config.init_from: omit detector_from"
        )
    differ = [
        name
        for name in different_fields(ours, theirs)
        if covers(OF_TEACHER, name) and not covers(FREE_OF_TEACHER, name)
    ]
    if differ:
        raise ValueError(
            f"{workdir} was trained with other fields ({describe(differ, theirs, ours)}): use the same values "
            "to distill it"
        )
