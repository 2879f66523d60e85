"""TFA's K-shot sets: its sampling by images, and its file format.

Sources: datasets/prepare_coco_few_shot.py and fsdet/data/meta_coco.py of github.com/ucbdrive/few-shot-object-detection
(TFA); datasets/prepare_coco_few_shot.py of github.com/danganea/iMTFA; docs/design.md, "K-shot sampling". A file has the
shots of one class for one K and one seed in COCO format, with COCO's ids::

    FOLDER/seed{seed}/full_box_{K}shot_{class name}_trainval.json

The published files of seed 0 are in FOLDER itself. They come from other authors' lists, not from this sampler (TFA's
issue 25), and may have more than K objects.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskdiff_jax import atomic
from maskdiff_jax.data.dataset import Annotation, Dataset
from maskdiff_jax.data.formats import coco_json, coco_splits
from maskdiff_jax.data.formats.coco_splits import Table

# K takes these values in turn, each set contains the one before; with iMTFA's shorter list other random numbers are
# used, so that its sets differ from TFA's of the same seed
LEVELS = {"tfa": (1, 2, 3, 5, 10, 30), "imtfa": (1, 5, 10)}

Objects = Mapping[int, Sequence[tuple[int, int]]]  # class id -> (annotation id, image id) in the file's order


def objects_of(table: Table) -> dict[int, list[tuple[int, int]]]:
    """The objects of each class 0..C-1 (rank of the category id) of a json, without crowd regions."""
    rank = {category_id: k for k, category_id in enumerate(table.categories)}
    objects: dict[int, list[tuple[int, int]]] = {k: [] for k in range(len(rank))}
    columns = (table.ids, table.image_ids, table.category_ids, table.crowd)
    for i, image_id, category_id, crowd in zip(*(c.tolist() for c in columns), strict=True):
        if not crowd and category_id in rank:
            objects[rank[category_id]].append((i, image_id))
    return objects


def sample(objects: Objects, seed: int, levels: Sequence[int]) -> dict[int, dict[int, tuple[int, ...]]]:
    """TFA's sampler: {class id: {K: annotation ids}}, for as many levels of each class as can be reached.

    Images of the class are sampled until the number of their objects of the class, all of them, is exactly K. If
    exactly K cannot be reached, TFA's script loops forever or stops with an error; here this is detected before each
    round, and the class gets no larger K. Where all levels can be reached the random numbers are those of TFA's script.

    Args:
      objects: of all classes; the result depends on their order.
      seed: of the random numbers, which run through all classes.
      levels: K in ascending order, a value of LEVELS.
    """
    rng = random.Random(seed)  # the same numbers as random.seed(seed)
    return {c: _sample_class(found, rng, levels) for c, found in objects.items()}


def _sample_class(
    objects: Iterable[tuple[int, int]], rng: random.Random, levels: Sequence[int]
) -> dict[int, tuple[int, ...]]:
    by_image: dict[int, list[int]] = {}
    for annotation_id, image_id in objects:
        by_image.setdefault(image_id, []).append(annotation_id)
    images = list(by_image)
    taken: list[int] = []
    used: set[int] = set()
    sets: dict[int, tuple[int, ...]] = {}
    for shots in levels:
        while len(taken) < shots:
            free = [len(ids) for image, ids in by_image.items() if image not in used]
            # random.sample needs K images, used ones included
            if len(images) < shots or not reachable(free, shots - len(taken)):
                return sets
            for image in rng.sample(images, shots):
                if image in used or len(taken) + len(by_image[image]) > shots:
                    continue
                taken += by_image[image]
                used.add(image)
                if len(taken) == shots:
                    break
        sets[shots] = tuple(taken)
    return sets


def reachable(counts: Iterable[int], total: int) -> bool:
    """Whether some of the counts add up to exactly the total."""
    sums = 1  # bit s is set: some counts add up to s
    for n in counts:
        sums |= sums << n
        sums &= (1 << (total + 1)) - 1
    return bool(sums >> total & 1)


def file_name(shots: int, name: str) -> str:
    """TFA's name for the file of one class; ValueError if the class name has a "/"."""
    if "/" in name:
        raise ValueError(f"class '{name}' cannot be part of a file name: rename it in the json, without '/'")
    return f"full_box_{shots}shot_{name}_trainval.json"


def write(
    json_path: str | Path,
    folder: str | Path,
    seeds: Sequence[int],
    sampler: str,
    *,
    progress: Callable[[Sequence], Iterable] = lambda x: x,
) -> int:
    """Samples every class, seed and K, and writes them as TFA's script does, seed 0 to ``seed0/``.

    Args:
      json_path: what to sample from, e.g. trainvalno5k.json.
      folder: gets one folder per seed; existing files are replaced.
      seeds: TFA publishes 1..9 of its sampler, iMTFA uses 0..9.
      sampler: a name in LEVELS.
      progress: wraps the seeds.

    Returns:
      How many files were written.

    Raises:
      FileNotFoundError, ValueError: no or a broken json, an unknown sampler, or a class where some K cannot be
        reached (then nothing of that seed is written).
      OSError: a file cannot be written.
    """
    levels = levels_of(sampler)
    objects = objects_of(coco_splits.read_table(json_path))
    raw = coco_json.parse(Path(json_path))  # whole entries, and what else the file has
    coco_json.images(raw["images"], Path(json_path))
    names = [c["name"] for c in sorted(raw["categories"], key=lambda c: c["id"])]
    images = {i["id"]: i for i in raw["images"]}
    unlisted = [a["id"] for a in raw["annotations"] if a["image_id"] not in images]
    if unlisted:
        raise ValueError(
            f"{json_path}: annotation {unlisted[0]} is of an image that is not listed: add the image or remove it"
        )
    annotations = {a["id"]: a for a in raw["annotations"]}
    written = 0
    for seed in progress(seeds):
        sampled = sample(objects, seed, levels)
        stuck = [
            f"{names[c]} at K = {next(k for k in levels if k not in sets)}"
            for c, sets in sampled.items()
            if len(sets) < len(levels)
        ]
        if stuck:
            raise ValueError(
                f"{json_path}: all objects of a class in an image are sampled together, and with seed {seed} no "
                f"set of images has exactly K objects of {', '.join(stuck)}: use more training images or "
                "another seed"
            )
        for c, sets in sampled.items():
            for shots, ids in sets.items():
                path = Path(folder) / f"seed{seed}" / file_name(shots, names[c])
                _write_shots(path, raw, images, [annotations[i] for i in ids])
                written += 1
    return written


def _write_shots(path: Path, raw: dict[str, Any], images: dict[int, dict], shots: list[dict]) -> None:
    """Writes the annotations `shots`, with their images and all categories of the json `raw`."""
    document = {
        "info": raw.get("info", {}),
        "licenses": raw.get("licenses", []),
        "images": [images[i] for i in dict.fromkeys(a["image_id"] for a in shots)],
        "annotations": shots,
        "categories": raw["categories"],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        atomic.write_json(path, document, indent=None)
    except ValueError as error:  # NaN, which Python reads and other readers refuse
        ids = ", ".join(str(a["id"]) for a in shots)
        raise ValueError(f"a number of the annotations {ids} or their images is not finite: fix the json") from error


def levels_of(sampler: str) -> tuple[int, ...]:
    """The values of K of a sampler; ValueError for an unknown one."""
    if sampler not in LEVELS:
        raise ValueError(
            f"fewshot.sampler is '{sampler}': set it to {' or '.join(LEVELS)}, the samplers of TFA's files"
        )
    return LEVELS[sampler]


def read(
    folder: str | Path,
    dataset: Dataset,
    shots: int,
    seed: int,
    *,
    class_ids: Iterable[int],
    short_classes: str = "error",
) -> dict[int, tuple[int, ...]]:
    """The shots in TFA's files, {class id: annotation ids} in the order of each file.

    Where a file has more than K objects, K are sampled with numpy's generator of (seed, category id); TFA uses numpy's
    global generator, whose state depends on what ran before. Crowd regions are skipped.

    Args:
      folder: has ``seed{seed}/`` in it; the files of seed 0 may be in the folder itself, if it has no ``seed0/``.
      dataset: has the annotations.
      shots: K.
      seed: of the files.
      class_ids: the classes to read.
      short_classes: a file with fewer than K objects: "error", or "take_all" of them.

    Raises:
      FileNotFoundError: files are missing; says how many.
      ValueError: a broken file, annotations of another class or dataset, or too few.
    """
    chosen = tuple(class_ids)
    seed_folder = Path(folder) / f"seed{seed}"
    if seed == 0 and not seed_folder.is_dir():
        seed_folder = Path(folder)
    names = {c: dataset.categories[c].name for c in chosen}
    missing = [n for n in names.values() if not (seed_folder / file_name(shots, n)).is_file()]
    if missing:
        raise FileNotFoundError(
            f"fewshot.shots_from: {len(missing)} of {len(chosen)} files are missing in {seed_folder}, e.g. "
            f"{file_name(shots, missing[0])}: put TFA's files there, write them with launch/shots.py, or set "
            "fewshot.shots_from='' to sample without files"
        )
    known = {a.id: a for info in dataset.infos for a in info.annotations}
    result, short, lost = {}, [], []
    for c in chosen:
        path = seed_folder / file_name(shots, names[c])
        ids = _ids(path, dataset, c, known, lost)
        if len(ids) > shots:
            rng = np.random.default_rng((seed, dataset.categories[c].id))
            ids = [ids[k] for k in sorted(rng.choice(len(ids), shots, replace=False).tolist())]
        if len(ids) < shots:
            short.append(f"{names[c]} {len(ids)}")
        result[c] = tuple(ids)
    _check_found(dataset, seed_folder, shots, lost, short if short_classes == "error" else [])
    return result


def _check_found(dataset: Dataset, folder: Path, shots: int, lost: list[str], short: list[str]) -> None:
    """ValueError if annotations are `lost`, not in the dataset, or classes are `short`, with fewer than K objects."""
    if lost:
        raise ValueError(
            f"{len(lost)} annotations of {folder} are not in {dataset.name} {dataset.split}, e.g. {lost[0]}: "
            "the files belong to another dataset, or those objects have no mask or box; change "
            "fewshot.shots_from or fix the json"
        )
    if short:
        raise ValueError(
            f"fewshot.shots is {shots}, but the files in {folder} have fewer objects of: {', '.join(short)}; lower "
            "fewshot.shots or set fewshot.short_classes=take_all"
        )


def _ids(path: Path, dataset: Dataset, class_id: int, known: Mapping[int, Annotation], lost: list[str]) -> list[int]:
    """The annotation ids of a file; those that are not `known` go to `lost`."""
    _, annotations, _ = coco_json.lists(path)
    category = dataset.categories[class_id]
    found: dict[int, None] = {}
    for a in annotations:
        try:
            i, category_id, image_id, crowd = a["id"], a["category_id"], a["image_id"], a.get("iscrowd", 0)
            annotation = known.get(i)
        except (KeyError, TypeError, AttributeError):  # TypeError: an id that is a list
            raise ValueError(
                f"{path}: an annotation has no id, category_id or image_id: download the file again"
            ) from None
        if category_id != category.id:
            raise ValueError(
                f"{path}: annotation {i} is of category {category_id}, but {category.name} is {category.id} in "
                f"{dataset.name}: these files belong to another dataset"
            )
        if crowd:
            continue
        if annotation is None:
            lost.append(f"annotation {i} of {category.name}")
        elif (annotation.class_id, annotation.image_id) != (class_id, image_id):
            lost.append(f"annotation {i} of {category.name} in image {image_id} (that id is another object's)")
        found[i] = None
    return list(found)
