"""PASCAL VOC as a test set for models of COCO's classes: instance masks of two years in COCO format.

The images are those of the segmentation ``val.txt`` of VOC2012 and VOC2007, each once: VOC2012 repeats photos of 2007
under the name ``2007_`` + number, and its version is used (docs/design.md, "COCO2VOC"). Masks come from
SegmentationObject (0 background, 255 void, each other value one object), classes from SegmentationClass. Void, the
border around objects and what was too hard to label, belongs to no object. Boxes are tight around the masks, as in
COCO; those of VOC's XML files include the border.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskdiff_jax import atomic
from maskdiff_jax.data.formats import coco_splits
from maskdiff_jax.data.formats.segmentation import encode_mask

VERSION = 1  # of the rules below
YEARS = ("2012", "2007")  # where both have a photo the first is used
VOID = 255
# COCO's names for 1..20 in SegmentationClass; VOC's own names, in alphabetical order, are aeroplane, bicycle,
# bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike, person, pottedplant, sheep,
# sofa, train, tvmonitor
NAMES = (
    "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorcycle", "person", "potted plant", "sheep", "couch", "train", "tv",
)  # fmt: skip
COCO_IDS = {name: i for i, name in coco_splits.CLASSES.items()}


def coco_json(root: str | Path, *, progress: Callable[[Sequence], Iterable] = lambda x: x) -> Path:
    """The COCO-format json of both years, written into `root` on first use; image paths are relative to `root`.

    Args:
      root: VOCdevkit, which has VOC2007 and VOC2012 in it.
      progress: wraps the images that are read.

    Returns:
      The path of the json.

    Raises:
      FileNotFoundError, ValueError: as `image_list` and `convert`.
      OSError: `root` cannot be written to.
    """
    names = image_list(root)
    digest = hashlib.blake2b(json.dumps([VERSION, names]).encode(), digest_size=5).hexdigest()
    path = Path(root) / f"coco_format_val-{digest}.json"
    if not path.is_file():
        document, problems = convert(root, names, progress=progress)
        document["info"]["problems"] = dict(+problems)
        atomic.write_json(path, document, indent=None)
    return path


def image_list(root: str | Path) -> list[tuple[str, str]]:
    """(year, name) of every photo once, in the order of the lists, VOC2012's first.

    Raises:
      FileNotFoundError: a list is missing.
      ValueError: a list has a line that is not the name of a photo.
    """
    lists = {year: Path(root) / f"VOC{year}" / "ImageSets" / "Segmentation" / "val.txt" for year in YEARS}
    missing = [str(path) for path in lists.values() if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"PASCAL VOC is missing: looked for {' and '.join(missing)}; unpack VOCtrainval_11-May-2012.tar and "
            "VOCtrainval_06-Nov-2007.tar, and set data.root (or eval.root) to VOCdevkit, with VOC2007 and VOC2012"
        )
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for year, path in lists.items():
        for name in path.read_text().split():
            match = re.fullmatch(r"(?:(\d{4})_)?(\d{6})", name)
            if not match:
                raise ValueError(
                    f"{path}: '{name}' is not a VOC image name (000033 or 2007_000033): unpack the list again"
                )
            found.setdefault((match[1] or year, match[2]), (year, name))
    return list(found.values())


def convert(
    root: str | Path,
    names: Sequence[tuple[str, str]],
    *,
    progress: Callable[[Sequence], Iterable] = lambda x: x,
) -> tuple[dict[str, Any], Counter]:
    """Photos and their objects as a COCO json dict, and the number of objects with problems, by kind.

    All 80 categories of COCO are listed, with its ids, so that the class ids of an 80-class model fit; the 20
    of VOC are the ones that have objects. An object's class is that of most of its pixels.

    Args:
      root: VOCdevkit.
      names: from `image_list`.
      progress: wraps the images that are read.

    Raises:
      FileNotFoundError: photos or label images are missing; names the first ones.
      ValueError: a label image is broken, not an indexed PNG or has unknown values, or the two differ in size.
    """
    root = Path(root)
    missing = [str(root / f) for year, name in names for f in _files(year, name) if not (root / f).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} files of VOC are missing, e.g. {', '.join(missing[:3])}: unpack the year's trainval "
            "archive again"
        )
    images, annotations, problems = [], [], Counter()
    for year, name in progress(names):
        photo, object_file, class_file = _files(year, name)
        objects, classes = _labels(root / object_file), _labels(root / class_file)
        if objects.shape != classes.shape:
            raise ValueError(
                f"{root / object_file} is {objects.shape[1]} x {objects.shape[0]} px, {root / class_file} is "
                f"{classes.shape[1]} x {classes.shape[0]}: unpack both again"
            )
        image_id = int((name if "_" in name else f"{year}_{name}").replace("_", ""))  # 2007_000033 -> 2007000033
        height, width = objects.shape
        images.append({"id": image_id, "file_name": photo, "height": height, "width": width})
        for mask, name in _objects(objects, classes, root / class_file, problems):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": COCO_IDS[name],
                    "iscrowd": 0,
                    "area": int(mask.sum()),
                    "bbox": _tight(mask),
                    "segmentation": encode_mask(mask),
                }
            )
    categories = [{"id": i, "name": name} for i, name in coco_splits.CLASSES.items()]
    info = {"description": "PASCAL VOC 2007 and 2012 segmentation val", "version": str(VERSION)}
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}, problems


def _files(year: str, name: str) -> tuple[str, str, str]:
    """Photo, object labels and class labels, relative to VOCdevkit."""
    home = f"VOC{year}"
    return (
        f"{home}/JPEGImages/{name}.jpg",
        f"{home}/SegmentationObject/{name}.png",
        f"{home}/SegmentationClass/{name}.png",
    )


def _labels(path: Path) -> np.ndarray:
    """The values of an indexed PNG, uint8 [h, w]."""
    try:
        with Image.open(path) as image:
            image.load()
            mode, values = image.mode, np.asarray(image)
    except Exception as error:  # each of Pillow's readers raises its own errors; the fix is the same
        raise ValueError(f"cannot read {path} ({error}): unpack it again") from None
    if mode not in ("P", "L"):
        raise ValueError(
            f"{path} has colors ({mode}) instead of object or class numbers: unpack the original file of VOC again"
        )
    return values


def _objects(
    objects: np.ndarray, classes: np.ndarray, class_file: Path, problems: Counter
) -> Iterator[tuple[np.ndarray, str]]:
    """Mask, bool [h, w], and COCO's class name of each object of the label images [h, w]; counts problems by kind."""
    for value in np.unique(objects).tolist():
        if value not in (0, VOID):
            mask = objects == value
            label = _class_of(classes[mask], class_file, problems)
            if label:
                yield mask, NAMES[label - 1]


def _class_of(labels: np.ndarray, path: Path, problems: Counter) -> int:
    """1..20, the class of most of the object's pixels; 0 if there is none."""
    counts = np.bincount(labels, minlength=VOID + 1)
    if counts[len(NAMES) + 1 : VOID].any():
        value = len(NAMES) + 1 + int(counts[len(NAMES) + 1 : VOID].argmax())
        raise ValueError(
            f"{path} has class {value}, but VOC has 1 to {len(NAMES)}: unpack the original file of VOC again"
        )
    label = 1 + int(counts[1 : len(NAMES) + 1].argmax())
    if not counts[label]:
        problems["object without a class (dropped)"] += 1
        return 0
    if 2 * counts[label] <= len(labels):
        problems["object whose class image disagrees on most of it (dropped)"] += 1
        return 0
    problems["object whose class image disagrees on some of it"] += int(counts[label] < len(labels))
    return label


def _tight(mask: np.ndarray) -> list[int]:
    """x, y, width, height of the pixels that are set."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
