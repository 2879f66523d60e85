"""LabelMe's folders (github.com/wkentaro/labelme): one json per image, with shapes in pixels of the image as shown.

Shapes of one label that share a `group_id` are the parts of one object. Polygons, rectangles and circles become
polygons; a shape of type "mask" holds a PNG, which may have holes.
"""

import base64
import binascii
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskdiff_jax.data.formats import collected, images, segmentation

CIRCLE_POINTS = 64  # corners of the polygon of a circle: its area is 0.2 % smaller
IGNORED = ("__ignore__", "_background_")  # labels that LabelMe's own converters give no object

Points = list[tuple[float, float]]


def is_labelme(document: Any) -> bool:
    """Whether a json is LabelMe's, of one image."""
    return isinstance(document, dict) and isinstance(document.get("shapes"), list) and "imagePath" in document


def read(files: Sequence[Path]) -> collected.Collected:
    """The objects of LabelMe's json files.

    Args:
      files: the json files.

    Raises:
      FileNotFoundError: an image that a json names is missing.
      ValueError: a json or image is broken or they do not fit together; there is no object.
    """
    notes: Counter = Counter()
    found = [_read_image(path, notes) for path in sorted(files)]
    return collected.collect("LabelMe", {"all": found}, notes)


def _read_image(path: Path, notes: Counter) -> collected.Annotated:
    document = json.loads(path.read_bytes())
    image = _image_path(path, document)
    size = images.read_size(image)
    turned = _is_turned(path, document, size)
    groups: dict[tuple, list[dict]] = {}
    for k, shape in enumerate(document["shapes"]):
        if not isinstance(shape, dict) or not isinstance(label := shape.get("label"), str) or not label.strip():
            raise ValueError(f"{path}: shapes[{k}] has no label: give it the name of its class")
        if label in IGNORED:
            notes[f"shape with the label {label}"] += 1
            continue
        group = shape.get("group_id")
        groups.setdefault((label, k) if group is None else (label, "group", group), []).append(shape)
    objects = []
    for (label, *_), shapes in groups.items():
        where = f"{label} in {path.name}"
        parts = [p for s in shapes if (p := _part(s, size, turned, where, notes)) is not None]
        joined = _join(parts, size)
        if joined and collected.is_usable(joined, size.height, size.width, where, notes):
            objects.append((label, joined))
    return collected.Annotated(image, size.height, size.width, objects)


def _image_path(path: Path, document: dict) -> Path:
    """The image beside the json: as `imagePath` says, else of that name or of the json's in the same folder."""
    named = str(document["imagePath"]).replace("\\", "/")
    beside = [path.parent / named, path.parent / Path(named).name]
    beside += [p for p in collected.image_files(path.parent) if p.stem == path.stem]
    for candidate in beside:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"{path} names the image {named}, which is missing: put it beside the json"
        + (" (or save it from the json's imageData with LabelMe's export)" if document.get("imageData") else "")
    )


def _is_turned(path: Path, document: dict, size: images.Size) -> bool:
    """Whether the shapes are in pixels of the image before the rotation that EXIF asks for."""
    said = document.get("imageHeight"), document.get("imageWidth")
    if None in said or said == (size.height, size.width):
        return False
    if said == size.stored:
        return True
    raise ValueError(
        f"{path} says that its image has {said[1]} x {said[0]} px, but it has {size.width} x {size.height}: the "
        "image was resized or is another one; use the image that was annotated"
    )


def _part(shape: dict, size: images.Size, turned: bool, where: str, notes: Counter) -> Any:
    """A polygon [x, y, x, y ...] or a mask [h, w] in pixels of the upright image; None: its area is zero."""
    kind, points = shape.get("shape_type") or "polygon", _points(shape, where)
    if kind == "mask":
        return _mask(shape, points, size, turned, where)
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    elif kind == "circle" and len(points) == 2:
        (x, y), edge = points
        radius, step = math.dist((x, y), edge), 2 * math.pi / CIRCLE_POINTS
        points = [(x + radius * math.cos(k * step), y + radius * math.sin(k * step)) for k in range(CIRCLE_POINTS)]
    elif kind not in ("polygon", "rectangle", "oriented_rectangle") or len(points) < 3:
        notes[f"shape without area: {kind} of {len(points)} points (first: {where})"] += 1
        return None
    return [v for p in points for v in (_upright(p, size) if turned else p)]


def _points(shape: dict, where: str) -> Points:
    try:
        points = [(float(x), float(y)) for x, y in shape["points"]]
        if all(math.isfinite(v) for p in points for v in p):
            return points
    except (KeyError, TypeError, ValueError):
        pass
    raise ValueError(f"{where} has points that are not pairs of numbers: save it again in LabelMe")


def _upright(point: tuple[float, float], size: images.Size) -> tuple[float, float]:
    """A point of the stored image in the upright one; sides differ only for orientations 5 to 8."""
    x, y = point
    height, width = size.stored
    return {5: (y, x), 6: (height - y, x), 7: (height - y, width - x), 8: (y, width - x)}[size.orientation]


def _mask(shape: dict, points: Points, size: images.Size, turned: bool, where: str) -> np.ndarray:
    """The mask [h, w] of a shape of type "mask": a PNG whose upper left pixel is at the first point."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"], validate=True))) as image:
            pixels = np.asarray(image.convert("L")) > 0
        left, top = (round(v) for v in points[0])
    except (KeyError, IndexError, TypeError, binascii.Error, OSError):
        raise ValueError(f"{where} is of type mask but contains no PNG: save it again in LabelMe") from None
    full = np.zeros(size.stored if turned else (size.height, size.width), bool)
    if left < 0 or top < 0:
        pixels = pixels[max(-top, 0) :, max(-left, 0) :]
    left, top = max(left, 0), max(top, 0)
    pixels = pixels[: max(full.shape[0] - top, 0), : max(full.shape[1] - left, 0)]
    full[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return images.turned(full, size.orientation) if turned else full


def _join(parts: list, size: images.Size) -> Any:
    """One COCO "segmentation" of the parts of an object: polygons, or RLE if one of them is a mask."""
    if all(isinstance(p, list) for p in parts):
        return parts
    whole = np.zeros((size.height, size.width), bool)
    for part in parts:
        if isinstance(part, list):
            part = segmentation.decode_mask(segmentation.read([part], size.height, size.width, [])[0]) > 0
        whole |= part
    return segmentation.encode_mask(whole)
