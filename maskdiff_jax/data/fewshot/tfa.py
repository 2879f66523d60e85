"""TFA's K-shot sets: its image-wise draw, and the files that it publishes them in.

Sources: TFA's and iMTFA's ``prepare_coco_few_shot.py`` and ``meta_coco.py`` [fsis_protocol 2.7]. A file holds the
shots of one class for one K and one seed in COCO format, with COCO's ids::

    FOLDER/seed{seed}/full_box_{K}shot_{class name}_trainval.json

In the files that TFA publishes those of seed 0 lie in FOLDER itself; they come from other authors' lists, not from
this draw, and may hold more than K objects.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from maskdiff_jax import atomic
from maskdiff_jax.data.dataset import Annotation, Dataset
from maskdiff_jax.data.formats import coco_json, coco_splits
from maskdiff_jax.data.formats.coco_splits import Table

# K is drawn for all of these in turn, each set holding the one before; iMTFA's shorter list uses up other
# numbers, so that its sets differ from TFA's of the same seed
LEVELS = {"tfa": (1, 2, 3, 5, 10, 30), "imtfa": (1, 5, 10)}

Objects = Mapping[int, Sequence[tuple[int, int]]]  # class id -> (annotation id, image id) in the file's order


def objects_of(table: Table) -> dict[int, list[tuple[int, int]]]:
    """The objects of each class 0..C-1 (rank of the category id) of a json, crowd regions left out."""
    rank = {category_id: k for k, category_id in enumerate(table.categories)}
    objects: dict[int, list[tuple[int, int]]] = {k: [] for k in range(len(rank))}
    columns = (table.ids, table.image_ids, table.category_ids, table.crowd)
    for i, image_id, category_id, crowd in zip(*(c.tolist() for c in columns), strict=True):
        if not crowd and category_id in rank:
            objects[rank[category_id]].append((i, image_id))
    return objects


def sample(objects: Objects, seed: int, levels: Sequence[int]) -> dict[int, dict[int, tuple[int, ...]]]:
    """TFA's draw: {class id: {K: annotation ids}}, for as many levels of each class as can be reached.

    Images of the class are drawn until their objects of the class, all of them, are exactly K. TFA repeats
    this for ever, or stops with an error, where exactly K cannot be reached; here that is decided before
    each draw, and the class ends with the level below. Where all levels can be reached the random numbers
    are those of TFA's script.

    Args:
      objects: of all classes; their order and that of the objects are part of the draw.
      seed: of the one stream of numbers that runs through all classes.
      levels: K in ascending order, of LEVELS.
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
            # random.sample needs K images, whether they are used or not
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
    """Whether some of the counts add up to the total."""
    sums = 1  # bit s: a sum of s can be made
    for n in counts:
        sums |= sums << n
        sums &= (1 << (total + 1)) - 1
    return bool(sums >> total & 1)


def file_name(shots: int, name: str) -> str:
    """TFA's name for the file of one class; ValueError if the class name holds a "/"."""
    if "/" in name:
        raise ValueError(f"class '{name}' can give no file its name: rename it in the json, without '/'")
    return f"full_box_{shots}shot_{name}_trainval.json"


def write(
    json_path: str | Path,
    folder: str | Path,
    seeds: Sequence[int],
    sampler: str,
    *,
    progress: Callable[[Sequence], Iterable] = lambda x: x,
) -> int:
    """Draws every class, seed and K, and writes them as TFA's script does, seed 0 to ``seed0/``.

    Args:
      json_path: what to draw from, e.g. trainvalno5k.json.
      folder: gets one folder per seed; files that are there are replaced.
      seeds: TFA publishes 1..9 of its draw, iMTFA uses 0..9.
      sampler: a name in LEVELS.
      progress: wraps the seeds.

    Returns:
      How many files were written.

    Raises:
      FileNotFoundError, ValueError: no or a bad json, an unknown sampler, or a class where some K cannot be
        reached (nothing of that seed is written then).
    """
    levels = levels_of(sampler)
    objects = objects_of(coco_splits.read_table(json_path))
    raw = coco_json.parse(Path(json_path))  # whole entries, and what else the file says
    categories = sorted(raw["categories"], key=lambda c: c["id"])
    images = {i["id"]: i for i in raw["images"]}
    nowhere = [a["id"] for a in raw["annotations"] if a["image_id"] not in images]
    if nowhere:
        raise ValueError(f"{json_path}: annotation {nowhere[0]} is of an image that is not listed")
    annotations = {a["id"]: a for a in raw["annotations"]}
    written = 0
    for seed in progress(seeds):
        drawn = sample(objects, seed, levels)
        stuck = [
            f"{categories[c]['name']} at K = {next(k for k in levels if k not in sets)}"
            for c, sets in drawn.items()
            if len(sets) < len(levels)
        ]
        if stuck:
            raise ValueError(
                f"{json_path}: all objects of a class in an image are drawn together, and with seed {seed} exactly K "
                f"cannot be reached for {', '.join(stuck)}: draw from more images"
            )
        for c, sets in drawn.items():
            for shots, ids in sets.items():
                of = [annotations[i] for i in ids]
                document = {
                    "info": raw.get("info", {}),
                    "licenses": raw.get("licenses", []),
                    "images": [images[i] for i in dict.fromkeys(a["image_id"] for a in of)],
                    "annotations": of,
                    "categories": raw["categories"],
                }
                path = Path(folder) / f"seed{seed}" / file_name(shots, categories[c]["name"])
                path.parent.mkdir(parents=True, exist_ok=True)
                atomic.write_json(path, document, indent=None)
                written += 1
    return written


def levels_of(sampler: str) -> tuple[int, ...]:
    """The K that a sampler draws; ValueError for an unknown one."""
    if sampler not in LEVELS:
        raise ValueError(f"fewshot.sampler is '{sampler}': TFA's files are drawn by {' or '.join(LEVELS)}")
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
    """The shots that TFA's files name, {class id: annotation ids} in the order of each file.

    Where a file holds more than K objects, K are drawn with numpy's generator of (seed, category id); TFA takes
    whatever numpy's global generator gives at that moment. Crowd regions are passed over.

    Args:
      folder: holds ``seed{seed}/``; seed 0 may lie in the folder itself, if it has no ``seed0/``.
      dataset: what the annotation ids are looked up in.
      shots: K.
      seed: which draw.
      class_ids: the classes to read.
      short_classes: a file with fewer than K objects: "error" or "take_all" of them.

    Raises:
      FileNotFoundError: a file is missing; names all classes that lack one.
      ValueError: a broken file, annotations of another class or data set, or too few.
    """
    chosen = tuple(class_ids)
    place = Path(folder) / f"seed{seed}"
    if seed == 0 and not place.is_dir():
        place = Path(folder)
    names = {c: dataset.categories[c].name for c in chosen}
    missing = [n for n in names.values() if not (place / file_name(shots, n)).is_file()]
    if missing:
        raise FileNotFoundError(
            f"fewshot.shots_from: {place} lacks {len(missing)} of {len(chosen)} files, e.g. "
            f"{file_name(shots, missing[0])}: put TFA's files there, write them with launch/shots.py, or set "
            "fewshot.shots_from='' to draw"
        )
    known = {a.id: a for info in dataset.infos for a in info.annotations}
    result, short, lost = {}, [], []
    for c in chosen:
        path = place / file_name(shots, names[c])
        ids = _ids(path, dataset, c, known, lost)
        if len(ids) > shots:
            rng = np.random.default_rng((seed, dataset.categories[c].id))
            ids = [ids[k] for k in sorted(rng.choice(len(ids), shots, replace=False).tolist())]
        if len(ids) < shots:
            short.append(f"{names[c]} {len(ids)}")
        result[c] = tuple(ids)
    if lost:
        raise ValueError(
            f"{len(lost)} annotations of {place} are not in {dataset.name} {dataset.split}, e.g. {lost[0]}: the files "
            "are of another data set, or those objects have no mask or no box; mend fewshot.shots_from or the json"
        )
    if short and short_classes == "error":
        raise ValueError(
            f"fewshot.shots is {shots}, but the files in {place} hold fewer objects of: {', '.join(short)}; lower "
            "fewshot.shots or set fewshot.short_classes=take_all"
        )
    return result


def _ids(path: Path, dataset: Dataset, class_id: int, known: Mapping[int, Annotation], lost: list[str]) -> list[int]:
    """The annotation ids of a file; those that are not `known` go to `lost`."""
    _, annotations, _ = coco_json.lists(path)
    category = dataset.categories[class_id]
    found: dict[int, None] = {}
    for a in annotations:
        try:
            i, category_id, image_id, crowd = a["id"], a["category_id"], a["image_id"], a.get("iscrowd", 0)
        except (KeyError, TypeError, AttributeError):
            raise ValueError(
                f"{path}: an annotation lacks its id, category_id or image_id: fetch the file again"
            ) from None
        if category_id != category.id:
            raise ValueError(
                f"{path}: annotation {i} is of category {category_id}, but {category.name} is {category.id} in "
                f"{dataset.name}: these files are of another data set"
            )
        if crowd:
            continue
        if i not in known:
            lost.append(f"annotation {i} of {category.name}")
        elif (known[i].class_id, known[i].image_id) != (class_id, image_id):
            lost.append(f"annotation {i} of {category.name} in image {image_id} (that id is another object's)")
        found[i] = None
    return list(found)
