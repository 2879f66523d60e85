"""COCO as few-shot papers split it: its classes, the contents of TFA's two files, and where photos are on disk.

TFA (github.com/ucbdrive/few-shot-object-detection) trains on ``trainvalno5k.json`` and tests on ``5k.json``; together
they are COCO 2014's train and val. COCO 2017 has the same photos and annotation ids under other file names.
"""

import functools
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maskdiff_jax.data.dataset import Dataset
from maskdiff_jax.data.formats import coco_json, images

# COCO's category ids run from 1 to 90; these ten are unused
_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_NAMES = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
).split(",")
CLASSES = dict(zip((i for i in range(1, 91) if i not in _UNUSED), _NAMES, strict=True))  # COCO id -> name
# the 20 classes that COCO shares with VOC (TFA, fsdet/data/builtin_meta.py, COCO_NOVEL_CATEGORIES)
NOVEL_IDS = (1, 2, 3, 4, 5, 6, 7, 9, 16, 17, 18, 19, 20, 21, 44, 62, 63, 64, 67, 72)

# the contents of the published files: train from the training log in github.com/danganea/iMTFA, test from TFA's
# issue 15 (docs/design.md, "COCO splits"); crowd regions are annotations but not objects
KNOWN = {
    "tfa": {
        "train": {
            "images": 117_264, "images with base objects": 98_459, "base objects": 364_950,
            "truck": 10_032, "traffic light": 12_960, "bench": 9_760, "elephant": 5_453, "umbrella": 11_285,
            "cup": 20_578, "book": 24_175, "toaster": 223, "hair drier": 198, "toothbrush": 1_925,
        },
        "test": {"images": 5_000, "annotations": 35_511},
    }
}  # fmt: skip


class Table(NamedTuple):
    """Every annotation of a COCO json, also those that `coco.load` drops, in the order of the file."""

    images: int
    categories: dict[int, str]  # id -> name, ascending ids
    ids: np.ndarray  # int64 [n]
    image_ids: np.ndarray  # int64 [n]
    category_ids: np.ndarray  # int64 [n]
    crowd: np.ndarray  # bool [n]


def read_table(json_path: str | Path) -> Table:
    """The table of a json; cached until the file changes.

    Raises:
      FileNotFoundError: it is missing.
      ValueError: it is not a COCO-format json, an id is not a whole number, or an annotation id occurs twice.
    """
    path = Path(json_path)
    if not path.is_file():
        raise FileNotFoundError(f"no annotation file {path}: put the COCO-format json there")
    state = path.stat()
    return _table(str(path), state.st_size, state.st_mtime_ns)


def check_counts(json_path: str | Path, counts: str, split: str) -> None:
    """Compares the contents of a json with those of the published file.

    Args:
      json_path: the json.
      counts: a name in KNOWN, as config.data.counts.
      split: "train" or "test".

    Raises:
      FileNotFoundError, ValueError: as `read_table`; an unknown `counts`; other counts, with the differences.
    """
    if counts not in KNOWN:
        raise ValueError(f"data.counts is '{counts}': choose {', '.join(KNOWN)}, or '' for no check")
    found = count(read_table(json_path))
    wrong = [
        f"{what} {found[what]:,}, not {known:,} ({found[what] - known:+,})"
        for what, known in KNOWN[counts][split].items()
        if found[what] != known
    ]
    if wrong:
        raise ValueError(
            f"{json_path} is not the published {split} file that data.counts='{counts}' names: {'; '.join(wrong)}. "
            "Download the file again, or set --config.data.counts='' if it differs on purpose"
        )


def count(table: Table) -> Counter:
    """Numbers of images, annotations, objects per class name, base objects, and images with base objects."""
    objects = table.category_ids[~table.crowd]
    base = ~table.crowd & ~np.isin(table.category_ids, NOVEL_IDS)
    found = Counter({name: int((objects == i).sum()) for i, name in table.categories.items()})
    found["images"] = table.images
    found["annotations"] = len(table.ids)
    found["base objects"] = int(base.sum())
    found["images with base objects"] = len(np.unique(table.image_ids[base]))
    return found


def locate(dataset: Dataset, root: str | Path, folders: Sequence[str]) -> Dataset:
    """The dataset with each image found once in one of several folders.

    A photo is identified by its file name without folders or, if that is one of COCO's two kinds
    (``COCO_val2014_000000000042.jpg``, ``000000000042.jpg``), by its number. Earlier folders have priority.

    Args:
      dataset: of a json.
      root: the folder that has `folders` in it.
      folders: where to look, without subfolders; those that do not exist are skipped.

    Returns:
      Dataset whose file names are relative to `root`.

    Raises:
      FileNotFoundError: images are in none of the folders; says how many, and where it looked.
    """
    root = Path(root)
    folders = tuple(dict.fromkeys(folders))
    where: dict[str, str] = {}
    for folder in folders:
        if (root / folder).is_dir():
            for name in sorted(os.listdir(root / folder)):
                where.setdefault(_photo(name), f"{folder}/{name}")
    missing = [i.file_name for i in dataset.infos if _photo(i.file_name) not in where]
    if missing:
        looked = ", ".join(f"{root / f}{'' if (root / f).is_dir() else ' (does not exist)'}" for f in folders)
        raise FileNotFoundError(
            f"{len(missing)} of {len(dataset.infos)} images of {dataset.name} {dataset.split} are missing, among "
            f"them {', '.join(missing[:3])}: looked in {looked}; put them into one of these (under COCO's 2014 or 2017 "
            "file names), or name another folder in data.more_images"
        )
    infos = [i._replace(file_name=where[_photo(i.file_name)]) for i in dataset.infos]
    files = tuple(i.file_name for i in infos)
    sizes = tuple((i.height, i.width) for i in infos)
    return dataset._replace(
        infos=infos,
        read=functools.partial(images.read_file, str(root), files, sizes),
        encoded=functools.partial(images.read_encoded, str(root), files, sizes),
    )


def _photo(name: str) -> str:
    """The name that a photo has in COCO 2017; other names are unchanged."""
    name = name.rsplit("/", 1)[-1]
    official = re.fullmatch(r"COCO_(?:train|val)2014_(\d{12}\.jpg)", name)
    return official[1] if official else name


@functools.lru_cache(maxsize=2)
def _table(path: str, size: int, changed: int) -> Table:
    del size, changed  # arguments only so that a changed file is read again
    listed, annotations, raw_categories = coco_json.lists(Path(path))
    categories = dict(coco_json.categories(raw_categories, Path(path)))
    try:
        rows = [(a["id"], a["image_id"], a["category_id"], a.get("iscrowd") or 0) for a in annotations]
        columns = np.array(rows, np.int64).reshape(-1, 4)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"{path}: the id, image_id or category_id of an annotation is not a whole number ({error!r}): fix the json"
        ) from None
    ids, image_ids, category_ids, crowd = columns.T
    if len(np.unique(ids)) != len(ids):
        raise ValueError(f"{path}: an annotation id occurs more than once: give each its own")
    return Table(len(listed), categories, ids, image_ids, category_ids, crowd == 1)
