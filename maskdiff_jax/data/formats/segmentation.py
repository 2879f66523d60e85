"""Masks as compressed COCO RLE, made from what an annotation file has.

Everything is checked before pycocotools sees it: its C code reads past broken run lengths and walks
an outline pixel by pixel, however far away it is.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from maskdiff_jax.data.formats import rle as run_lengths

FAR = 8  # image sides: a coordinate further out than this is an error, not an object that leaves the image


class Unusable(Exception):
    """An annotation that has to be dropped; the text is the kind of problem, for counting."""


def decode_mask(rle: dict[str, Any]) -> np.ndarray:
    """uint8 [h, w] of 0 and 1."""
    return mask_utils.decode(rle)


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """RLE of a [h, w] mask of 0 and 1 (or bool)."""
    rle = mask_utils.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(s) for s in rle["size"]], "counts": bytes(rle["counts"]).decode()}


def mask_box(rle: dict[str, Any]) -> tuple[float, float, float, float]:
    """x, y, width, height of the pixels of a mask."""
    x, y, w, h = mask_utils.toBbox(rle).tolist()
    return x, y, w, h


def pixels(rle: dict[str, Any]) -> int:
    """Number of foreground pixels of a mask."""
    return int(mask_utils.area(rle))


def run_sums(annotations: Sequence) -> dict[int, tuple[int, int]]:
    """Position -> `rle.sums` for the annotations of a json that have compressed RLE."""
    found = {}
    for k, a in enumerate(annotations):
        segmentation = a.get("segmentation") if isinstance(a, dict) else None
        if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), str):
            found[k] = segmentation["counts"]
    return dict(zip(found, run_lengths.sums(list(found.values())), strict=True))


def from_json(
    segmentation: Any, height: int, width: int, fixes: list[str], sums: tuple[int, int] | None = None
) -> tuple[dict[str, Any], int]:
    """The mask of an annotation's "segmentation", of whatever type the json gives it.

    Args:
      segmentation: polygons (each x, y, x, y ... in px; pycocotools decides about overlaps and crossings), one
        polygon that is not in a list, or uncompressed or compressed RLE.
      height: of the image, px.
      width: of the image, px.
      fixes: gets the kinds of problems that were fixed.
      sums: of compressed RLE, from `run_sums`; None: computed here.

    Returns:
      Compressed RLE whose runs add up to the image's size; and its foreground pixels, at least 1.

    Raises:
      Unusable: there is no mask, or a broken one.
    """
    rle, area = read(segmentation, height, width, fixes, sums)
    if area == 0:
        raise Unusable("annotation whose mask has no pixel in the image")
    return rle, area


def read(
    segmentation: Any, height: int, width: int, fixes: list[str], sums: tuple[int, int] | None = None
) -> tuple[dict[str, Any], int]:
    """As `from_json`, but the mask may be empty: an RLE without foreground, and 0 pixels."""
    if not segmentation:
        raise Unusable("annotation without a mask")
    if isinstance(segmentation, dict):
        counts, area = _from_runs(segmentation, height, width, sums)
    elif isinstance(segmentation, list):
        counts, area = _from_polygons(segmentation, height, width, fixes)
    else:
        raise Unusable("annotation whose segmentation is neither polygons nor RLE")
    return {"size": [height, width], "counts": counts}, area


def from_outlines(polygons: Any, height: int, width: int) -> dict[str, Any] | None:
    """The RLE that pycocotools' `annToRLE` makes of a list of polygons, the broken ones too.

    None where it would raise an error or read past its memory: a value that is not a number, a coordinate further
    out than `FAR`, a first polygon of two points or fewer.
    """
    limit = FAR * max(height, width)
    if not (isinstance(polygons, list) and all(_is_numbers(p, limit) for p in polygons)):
        return None
    if not polygons or len(polygons[0]) <= 4:
        return None
    outlines = mask_utils.frPyObjects([p for p in polygons if len(p) > 1], height, width)
    return {"size": [height, width], "counts": bytes(mask_utils.merge(outlines)["counts"]).decode()}


def _from_polygons(polygons: list, height: int, width: int, fixes: list[str]) -> tuple[str, int]:
    if isinstance(polygons[0], (int, float)):
        polygons = [polygons]
        fixes.append("polygon is not in a list of polygons (read as a single polygon)")
    limit = FAR * max(height, width)
    good = [p for p in polygons if _is_polygon(p, limit)]
    if not good:
        raise Unusable("annotation with a broken polygon")
    if len(good) < len(polygons):
        fixes.append("broken polygon of an object that has others (ignored)")
    outlines = mask_utils.frPyObjects(good, height, width)
    rle = outlines[0] if len(good) == 1 else mask_utils.merge(outlines)
    return bytes(rle["counts"]).decode(), int(mask_utils.area(rle))


def _is_polygon(p: Any, limit: float) -> bool:
    """Three points or more, all of them numbers and none further from 0 than `limit`."""
    return _is_numbers(p, limit) and len(p) >= 6 and len(p) % 2 == 0


def _is_numbers(p: Any, limit: float) -> bool:
    """A list of numbers, perhaps empty, none further from 0 than `limit`."""
    if not isinstance(p, list):
        return False
    if not p:
        return True
    try:
        # the sum finds NaN, which min and max may miss
        return math.isfinite(sum(p)) and -limit <= min(p) and max(p) <= limit
    except (TypeError, OverflowError):
        return False


def _from_runs(rle: dict, height: int, width: int, sums: tuple[int, int] | None) -> tuple[str, int]:
    if rle.get("size") != [height, width]:
        raise Unusable("annotation whose RLE is of another size than its image")
    counts, pixels = rle.get("counts"), height * width
    if isinstance(counts, list):
        if not all(type(c) is int and 0 <= c <= pixels for c in counts) or sum(counts) != pixels:
            raise Unusable("annotation with a broken RLE")
        packed = mask_utils.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        return bytes(packed["counts"]).decode(), sum(counts[1::2])
    if not isinstance(counts, str):
        raise Unusable("annotation with a broken RLE")
    total, area = sums or run_lengths.sums([counts])[0]
    if total != pixels:
        raise Unusable("annotation with a broken RLE")
    return counts, area
