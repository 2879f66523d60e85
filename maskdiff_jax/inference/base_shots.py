"""Photos of known classes in an export, with which stage 2 can add a class without the base dataset.

A COCO-format dataset in the folder `base_shots` of an export: train.json and images/. Every class has up to
model.mask.slots shots. Other base objects in these photos are crowd regions, which are neither background nor shots.
"""

from pathlib import Path
from typing import Any

from maskdiff_jax.data.dataset import Dataset, subset
from maskdiff_jax.data.fewshot import shots as fewshot
from maskdiff_jax.data.fewshot.shots import ShotSet
from maskdiff_jax.data.formats import coco
from maskdiff_jax.data.support import active_class_ids

FOLDER, JSON, IMAGES = "base_shots", "train.json", "images"


def sample(config: Any, support_split: Dataset, shots: ShotSet) -> Dataset:
    """The photos of up to ``model.mask.slots`` shots of each class that a run detects.

    Shots of base classes are sampled from the base dataset. Of novel classes the run's own shots are taken and no
    others.

    Args:
      config: of the run.
      support_split: what shots are sampled from.
      shots: of the run.
    """
    active = [int(c) for c in active_class_ids(config, support_split.categories)]
    base = [c for c in active if not support_split.categories[c].novel]
    chosen = {c: tuple(shots.get(c, ())) for c in active if c not in base}
    if base:
        chosen |= fewshot.sample(
            support_split, config.model.mask.slots, config.fewshot.seed, short_classes="take_all", class_ids=base,
            min_box_side=config.data.min_box_side, min_mask_area=config.data.min_mask_area,
        )  # fmt: skip
    return _photos_of(support_split, {i for ids in chosen.values() for i in ids}, set(base))


def _photos_of(dataset: Dataset, shots: set[int], base: set[int]) -> Dataset:
    """The images of some annotations under new names; other objects of `base` classes become crowd regions."""
    positions, infos = [], []
    for position, info in enumerate(dataset.infos):
        if not any(a.id in shots for a in info.annotations):
            continue
        kept = tuple(
            a if a.id in shots else a._replace(crowd=True)
            for a in info.annotations
            if a.id in shots or a.class_id in base
        )
        suffix = Path(info.file_name).suffix if dataset.encoded else ".png"
        positions.append(position)
        infos.append(info._replace(file_name=f"{len(infos):06}{suffix}", annotations=kept))
    return subset(dataset, positions, infos)._replace(name="base_shots", split="train", annotation_order=(), truth=None)


def write(export: Path, dataset: Dataset) -> None:
    """Writes the photos, as the dataset has them encoded, and their annotations into an export."""
    coco.save(dataset, export / FOLDER / JSON, export / FOLDER / IMAGES)


def read(export: Path) -> Dataset | None:
    """The photos that `write` wrote; None if the export has none.

    Raises:
      ValueError: the json is damaged; names it.
    """
    path = export / FOLDER / JSON
    return coco.load(path, export / FOLDER / IMAGES, (), name="base_shots", split="train") if path.is_file() else None
