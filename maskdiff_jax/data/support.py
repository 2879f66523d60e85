"""Which classes a stage detects, which shots it learns from, and the support set that masks are conditioned on.

Class ids are 0..C-1, positions in a list of categories. A shot set is ``{class id: annotation ids}``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from maskdiff_jax.data import pipeline, sources, transforms
from maskdiff_jax.data.crops import Crops
from maskdiff_jax.data.dataset import Category, Dataset
from maskdiff_jax.data.fewshot import shots as fewshot
from maskdiff_jax.data.fewshot import tfa
from maskdiff_jax.data.fewshot.shots import ShotSet
from maskdiff_jax.types import SupportSet


def class_ids(categories: Sequence[Category], *, novel: bool) -> np.ndarray:
    """int32 [n]: the ids of the novel classes, or of the base classes, ascending."""
    return np.array([i for i, c in enumerate(categories) if c.novel == novel], np.int32)


def active_class_ids(config: Any, categories: Sequence[Category]) -> np.ndarray:
    """int32 [n]: the classes that the stage of `config` trains and detects, ascending.

    Stage "base" has the base classes. The stages after it have all classes, or with
    ``fewshot.classes="novel"`` the novel ones.
    """
    if config.stage == "base":
        return class_ids(categories, novel=False)
    if config.fewshot.classes == "novel":
        return class_ids(categories, novel=True)
    return np.arange(len(categories), dtype=np.int32)


def active_mask(ids: np.ndarray, num_classes: int) -> np.ndarray:
    """bool [C]: True at the class ids `ids` [n]."""
    return np.isin(np.arange(num_classes), ids)


def sample_shots(config: Any, support_split: Dataset) -> ShotSet:
    """The K shots of each class that ``config.fewshot`` asks for: sampled, or read from TFA's files.

    Args:
      config: `fewshot` and `data` are read.
      support_split: what to sample from, `pipeline.open_split` of "support".

    Raises:
      FileNotFoundError, ValueError: as `fewshot.shots.sample` and `tfa.read`.
    """
    options = config.fewshot
    novel_only = options.classes == "novel"
    ids = class_ids(support_split.categories, novel=True) if novel_only else range(len(support_split.categories))
    chosen = [int(i) for i in ids]
    if options.shots_from:
        return tfa.read(
            options.shots_from, support_split, options.shots, options.seed,
            class_ids=chosen, short_classes=options.short_classes,
        )  # fmt: skip
    table = sources.annotation_table(config.data, "support") if options.sampler in tfa.LEVELS else None
    return fewshot.sample(
        support_split, options.shots, options.seed,
        sampler=options.sampler, short_classes=options.short_classes, class_ids=chosen,
        min_box_side=config.data.min_box_side, min_mask_area=config.data.min_mask_area, table=table,
    )  # fmt: skip


def make_support_set(config: Any, support_split: Dataset | None = None) -> tuple[ShotSet, SupportSet]:
    """Samples the shots of `config` and crops from them the support set that the mask head sees at test.

    Args:
      config: `stage`, `fewshot`, `data`, `model` and `eval.support` are read.
      support_split: what to sample from; None: opened as config.data says.

    Returns:
      The shot set, and the SupportSet of C = model.num_classes classes and K = model.mask.slots slots.

    Raises:
      FileNotFoundError, ValueError: as `sample_shots`, `pipeline.open_split` and `support_set`.
    """
    support_split = support_split or pipeline.open_split(config.data, "support")
    shots = sample_shots(config, support_split)
    dataset = fewshot.shot_dataset(support_split, shots, "background")
    data = config.data.copy_and_resolve_references()
    # TFA samples objects of any size, and a small shot is better than none
    data.update(min_box_side=0, min_mask_area=0)
    crops = pipeline.open_crops(data, dataset, "support")
    support = support_set(
        crops, shots, num_classes=config.model.num_classes, slots=config.model.mask.slots,
        size=config.model.mask.size, context=config.data.context,
    )  # fmt: skip
    return shots, replace_shots(support, config.eval.support, active_class_ids(config, support_split.categories))


def replace_shots(support: SupportSet, choice: str, active: np.ndarray) -> SupportSet:
    """A support set with the shots that an ablation shows to the mask head in place of a class's own.

    Args:
      choice: "own": nothing changes. "none": every slot is empty. "other": each active class has the shots of the next
        one by class id, the last those of the first, so that no class keeps its own.
      active: int32 [n], the class ids of the stage, ascending; others keep their shots.

    Raises:
      ValueError: an unknown choice; or there is no other class.
    """
    if choice == "own":
        return support
    if choice == "none":
        return SupportSet(np.zeros_like(support.shots), np.zeros_like(support.count))
    if choice != "other":
        raise ValueError(f"eval.support is '{choice}', must be own, none or other")
    if len(active) < 2:
        raise ValueError("eval.support='other' needs two active classes: use 'none'")
    shots, count, following = support.shots.copy(), support.count.copy(), np.roll(active, -1)
    shots[active], count[active] = support.shots[following], support.count[following]
    return SupportSet(shots, count)


def support_set(
    crops: Crops, shot_set: ShotSet, *, num_classes: int, slots: int, size: int, context: float = 0.0
) -> SupportSet:
    """The shots of every class, cropped tight (plus `context`) and resized, in the order of the shot set.

    Args:
      crops: of the shots; a shot that is not among them (too small for a crop) is skipped.
      shot_set: class id -> annotation ids.
      num_classes: C; classes without shots are empty.
      slots: K slots per class.
      size: M, px.
      context: margin on each side, as a share of the box's side (config.data.context).

    Returns:
      SupportSet, shots uint8 [C, K, M, M, 4].

    Raises:
      ValueError: a class has more than `slots` shots, or none of its shots is in `crops`.
    """
    position = {info.annotation_id: i for i, info in enumerate(crops.infos)}
    shots = np.zeros((num_classes, slots, size, size, 4), np.uint8)
    count = np.zeros(num_classes, np.int32)
    for class_id, ids in shot_set.items():
        found = [position[i] for i in ids if i in position]
        if len(ids) > slots:
            raise ValueError(f"{len(ids)} shots do not fit into {slots} slots: train with model.mask.slots={len(ids)}")
        if ids and not found:
            name = crops.categories[class_id].name
            raise ValueError(f"no shot of {name} is large enough for the mask head: set another fewshot.seed")
        for slot, i in enumerate(found):
            packed, box = transforms.pack(*crops.read(i)), np.array(crops.infos[i].box)
            shots[class_id, slot] = transforms.crop_shot(packed, box, size, context)
        count[class_id] = len(found)
    return SupportSet(shots, count)
