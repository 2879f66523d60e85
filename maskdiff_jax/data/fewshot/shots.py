"""Base and novel classes, and the K shots of each class for stage 2.

A shot set is ``{class_id: (annotation_id, ...)}``, with class ids 0..C-1 and at most K ids each.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from maskdiff_jax import atomic
from maskdiff_jax.data.dataset import Annotation, Dataset, large_enough, subset
from maskdiff_jax.data.fewshot import tfa
from maskdiff_jax.data.formats.coco_splits import Table

ShotSet = dict[int, tuple[int, ...]]


def restrict(dataset: Dataset, class_ids: Iterable[int]) -> Dataset:
    """Only the annotations of some classes; the others become unlabeled background, as in TFA.

    Images without an annotation of these classes are dropped.
    """
    wanted = set(class_ids)
    positions, infos = [], []
    for i, info in enumerate(dataset.infos):
        kept = tuple(a for a in info.annotations if a.class_id in wanted)
        if kept:
            positions.append(i)
            infos.append(info._replace(annotations=kept))
    return subset(dataset, positions, infos)


def sample(
    dataset: Dataset,
    shots: int,
    seed: int,
    *,
    sampler: str = "instances",
    short_classes: str = "error",
    class_ids: Sequence[int] | None = None,
    min_box_side: float = 0.0,
    min_mask_area: float = 0.0,
    table: Table | None = None,
) -> ShotSet:
    """Samples K shots of every class; for one seed, the set of a smaller K is a subset of that of a larger.

    Args:
      dataset: what to sample from; crowd regions and ignored objects are never sampled.
      shots: K.
      seed: of the random numbers.
      sampler: "instances": K random objects per class, each class with its own random numbers. "tfa" and "imtfa":
        TFA's sampling by images, see `tfa.sample`, which takes all objects of the class in an image, and whose
        random numbers run through all classes of `dataset` in the order of their ids.
      short_classes: for a class with fewer than K objects: "error", or "take_all" of them, perhaps none.
      class_ids: the classes to sample; None: all.
      min_box_side: px; objects that are not `large_enough` are never sampled ("instances" only; TFA takes any).
      min_mask_area: px; likewise.
      table: what TFA's sampler samples from, every object of the json; None: those of `dataset`. The json may have
        objects without a usable mask or box, which `dataset` lacks; without them the random numbers are not TFA's.

    Raises:
      ValueError: an unknown option, too few objects, a class that sampling by images cannot complete, or a
        sampled object that `dataset` lacks.
    """
    if short_classes not in ("error", "take_all"):
        raise ValueError(f"fewshot.short_classes is '{short_classes}': choose error or take_all")
    if shots < 1:
        raise ValueError(f"fewshot.shots is {shots}: it must be at least 1")
    wanted = range(len(dataset.categories)) if class_ids is None else class_ids
    if sampler in tfa.LEVELS:
        return _sample_by_images(dataset, table, shots, seed, sampler, short_classes, wanted)
    if sampler != "instances":
        raise ValueError(f"fewshot.sampler is '{sampler}': choose instances, {', '.join(tfa.LEVELS)}")
    objects = {
        c: [a for a in found if large_enough(a, min_box_side, min_mask_area)]
        for c, found in _candidates(dataset).items()
    }
    _short(dataset, {c: len(objects[c]) for c in wanted}, shots, short_classes)
    return {c: _permuted(objects[c], (seed, dataset.categories[c].id))[:shots] for c in wanted}


def save_shots(path: str | Path, shot_set: ShotSet) -> None:
    """Writes a shot set as json; OSError if that fails."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(path, {str(c): list(ids) for c, ids in shot_set.items()})


def shot_dataset(dataset: Dataset, shot_set: ShotSet, unlabeled: str) -> Dataset:
    """One entry per shot: its image, with only that object labeled.

    Args:
      dataset: what the shots were sampled from.
      shot_set: from `sample`.
      unlabeled: the image's other objects, of any class and shots among them: "background": they are dropped, as in
        TFA (fsdet/data/meta_coco.py); "ignore": they are kept, with ``ignore=True``.

    Raises:
      ValueError: an unknown option, or a shot that is not in `dataset`.
    """
    if unlabeled not in ("background", "ignore"):
        raise ValueError(f"data.shot_unlabeled is '{unlabeled}': choose background or ignore")
    known = {a.id: (i, a) for i, info in enumerate(dataset.infos) for a in info.annotations}
    positions, infos = [], []
    for shot in (s for ids in shot_set.values() for s in ids):
        if shot not in known:
            raise ValueError(
                f"shot {shot} is not an annotation of {dataset.name} {dataset.split}: the dataset has changed "
                "since the shots were sampled; train again in a new --workdir"
            )
        i, annotation = known[shot]
        others = ()
        if unlabeled == "ignore":
            others = tuple(a._replace(ignore=True) for a in dataset.infos[i].annotations if a.id != shot)
        positions.append(i)
        infos.append(dataset.infos[i]._replace(annotations=(annotation, *others)))
    return subset(dataset, positions, infos)


def _candidates(dataset: Dataset) -> dict[int, list[Annotation]]:
    """Objects per class, in the order of the annotation file."""
    found = [a for info in dataset.infos for a in info.annotations if a.is_target]
    if dataset.annotation_order:
        rank = {a: k for k, a in enumerate(dataset.annotation_order)}
        found.sort(key=lambda a: rank[a.id])
    objects: dict[int, list[Annotation]] = {c: [] for c in range(len(dataset.categories))}
    for a in found:
        objects[a.class_id].append(a)
    return objects


def _permuted(objects: Sequence[Annotation], seed: tuple[int, ...]) -> tuple[int, ...]:
    ids = sorted(a.id for a in objects)
    return tuple(ids[k] for k in np.random.default_rng(seed).permutation(len(ids)))


def _sample_by_images(
    dataset: Dataset,
    table: Table | None,
    shots: int,
    seed: int,
    sampler: str,
    short_classes: str,
    wanted: Iterable[int],
) -> ShotSet:
    levels = tfa.LEVELS[sampler]
    if shots not in levels:
        raise ValueError(
            f"fewshot.sampler={sampler} samples {', '.join(map(str, levels))} shots, not {shots}: "
            "set fewshot.sampler=instances"
        )
    if table is None:
        objects = {c: [(a.id, a.image_id) for a in found] for c, found in _candidates(dataset).items()}
    else:
        objects = tfa.objects_of(table)
    short = _short(dataset, {c: len(objects[c]) for c in wanted}, shots, short_classes)
    sets = tfa.sample(objects, seed, levels)
    chosen, stuck = {}, []
    for c in wanted:
        if c in short:
            chosen[c] = tuple(i for i, _ in objects[c])
        elif shots in sets[c]:
            chosen[c] = sets[c][shots]
        else:
            # a larger K is sampled on top of the smaller ones
            first = next(k for k in levels if k not in sets[c])
            stuck.append(dataset.categories[c].name + (f" (already at {first})" if first < shots else ""))
    if stuck:
        raise ValueError(
            f"fewshot.sampler={sampler} uses all objects of a class in an image and cannot reach exactly "
            f"{shots} shots with seed {seed} for: {', '.join(stuck)}; set fewshot.sampler=instances"
        )
    known = {a.id for info in dataset.infos for a in info.annotations}
    lost = [f"{i} ({dataset.categories[c].name})" for c, ids in chosen.items() for i in ids if i not in known]
    if lost:
        raise ValueError(
            f"seed {seed} samples annotations of {dataset.name} {dataset.split} without a usable mask and box: "
            f"{', '.join(lost[:5])}; fix them in the json, or set another fewshot.seed"
        )
    return chosen


def _short(dataset: Dataset, counts: dict[int, int], shots: int, short_classes: str) -> set[int]:
    """The classes with fewer than K objects; ValueError if short_classes="error" and there are any."""
    short = {c: n for c, n in counts.items() if n < shots}
    if short and short_classes == "error":
        listed = ", ".join(f"{dataset.categories[c].name} {n}" for c, n in short.items())
        raise ValueError(
            f"fewshot.shots is {shots}, but {dataset.name} has fewer objects of: {listed}; lower "
            "fewshot.shots or set fewshot.short_classes=take_all"
        )
    return set(short)
