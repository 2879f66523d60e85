"""The ground truth of a COCO-format json as pycocotools' COCOeval reads it, for scoring.

Training drops or fixes annotations (`coco.load`); a published score counts them as they are: boxes without height or
outside the image, masks without a pixel, areas that are not the mask's. Here everything that COCOeval
(pycocotools/cocoeval.py) can read is unchanged. What would be an error there, or would read past its memory, is fixed
as in `coco.load`, or dropped.
"""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskdiff_jax.data.formats import coco_json
from maskdiff_jax.data.formats import segmentation as masks
from maskdiff_jax.data.formats.images import MAX_PIXELS


def load(json_path: Path) -> dict[str, Any]:
    """A COCO json dict with the annotations of the file's images and categories, in the order of the file.

    Of each annotation:
      id: as in the file; the lowest free number where it is missing, not a whole number or another annotation's,
        because COCOeval would then score one object in place of the other; and where it is 0, which COCOeval takes
        for "no object": it would count the detection of that object as false. An exact repeat keeps its id and counts
        twice.
      bbox, area, iscrowd: as in the file (None or missing is no crowd); the mask's box and pixels where the file has
        no numbers.
      segmentation: compressed RLE of the mask, which may be empty or of another size than the image. Missing where
        there is no mask or none that can be read: such an object counts for boxes only.

    Raises:
      FileNotFoundError, ValueError: the json as a whole is missing or broken, see `coco_json`.
    """
    raw_images, annotations, raw_categories = coco_json.lists(json_path)
    image_of = {image.id: image for image in coco_json.images(raw_images, json_path)}
    categories = coco_json.categories(raw_categories, json_path)
    known = {c[0] for c in categories}
    ids = _Ids(annotations)
    found = []
    sums = masks.run_sums(annotations)
    for k, raw in enumerate(annotations):
        if not isinstance(raw, dict) or not _is_listed(raw, image_of, known):
            continue
        image = image_of[raw["image_id"]]
        entry = _entry(raw, image.height, image.width, sums.get(k))
        if entry is not None:
            found.append({"id": ids.of(raw)} | entry)
    return {
        "info": {"description": json_path.name},
        "images": [image._asdict() for image in image_of.values()],
        "annotations": found,
        "categories": [{"id": i, "name": name} for i, name in categories],
    }


def of_images(truth: dict[str, Any], image_ids: set[int]) -> dict[str, Any]:
    """A COCO json dict with only those of its images, and their annotations."""
    images = [i for i in truth["images"] if i["id"] in image_ids]
    return truth | {"images": images, "annotations": [a for a in truth["annotations"] if a["image_id"] in image_ids]}


class _Ids:
    """Hands out annotation ids in the order of the file."""

    def __init__(self, annotations: list):
        given = (a.get("id") for a in annotations if isinstance(a, dict))
        taken = {i for i in given if _is_id(i)}
        self._free: Iterator[int] = (i for i in itertools.count(1) if i not in taken)
        self._first: dict[int, dict] = {}

    def of(self, raw: dict) -> int:
        i: Any = raw.get("id")
        if not _is_id(i) or self._first.setdefault(i, raw) != raw:
            return next(self._free)
        return i


def _is_id(i: Any) -> bool:
    # COCOeval keeps ids in float64, and a match with id 0 is none (dtMatches)
    return type(i) is int and 0 < i < 2**53


def _is_listed(raw: dict, images: dict, categories: set) -> bool:
    try:
        return raw.get("image_id") in images and raw.get("category_id") in categories
    except TypeError:  # a list or a dict
        return False


def _entry(raw: dict, height: int, width: int, sums: tuple[int, int] | None) -> dict[str, Any] | None:
    """An annotation without its id; None where there is neither a box nor a mask to score."""
    crowd, segmentation = raw.get("iscrowd", 0), raw.get("segmentation")
    if crowd not in (0, 1, None):
        return None
    rle = masks.from_outlines(segmentation, height, width)
    try:
        if rle is None:
            size = _own_size(segmentation) or (height, width)
            rle, _ = masks.read(segmentation, *size, [], sums)
    except masks.Unusable:
        pass
    box = _numbers(raw.get("bbox"), 4)
    if box is None:
        if rle is None:
            return None
        box = list(masks.mask_box(rle))
    area = _numbers([raw.get("area")])
    if area is None:
        area = [float(masks.pixels(rle)) if rle else box[2] * box[3]]
    entry = {
        "image_id": int(raw["image_id"]), "category_id": int(raw["category_id"]), "bbox": box, "area": area[0],
        "iscrowd": int(crowd or 0),
    }  # fmt: skip
    return entry if rle is None else entry | {"segmentation": rle}


def _own_size(segmentation: Any) -> tuple[int, int] | None:
    """Height and width in compressed RLE; pycocotools never checks whether they are the image's."""
    if not (isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), str)):
        return None
    size = segmentation.get("size")
    if not (isinstance(size, list) and len(size) == 2 and all(type(s) is int and s > 0 for s in size)):
        return None
    return (size[0], size[1]) if size[0] * size[1] <= MAX_PIXELS else None


def _numbers(values: Any, count: int = 1) -> list[float] | None:
    """A list of `count` finite numbers as floats, else None."""
    if not isinstance(values, list) or len(values) != count or not all(type(v) in (int, float) for v in values):
        return None
    try:
        return [float(v) for v in values] if math.isfinite(sum(values)) else None
    except OverflowError:
        return None
