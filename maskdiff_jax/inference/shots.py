"""The shots of a class that a user adds: images and masks in several forms, checked, as a dataset.

An error is one sentence that names the image, the object and the fix.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
from PIL import Image

from maskdiff_jax.data.dataset import Annotation, Category, Dataset, ImageInfo
from maskdiff_jax.data.formats import segmentation
from maskdiff_jax.inference import inputs


def read(images: Any, masks: Any, boxes: Any, category: Category, class_id: int) -> Dataset:
    """The objects as a dataset.

    Args:
      images: one image or several, as `Predictor` takes them.
      masks: of one image its objects; of several a list with the objects of each. The objects of an image are one mask
        or a list or array of masks. A mask is an array [h, w] of the image's size (bool, or integers that are 0 off
        the object), a PIL image or a file of one (where it has an alpha channel, that), polygons as COCO has them
        (``[[x, y, x, y, ...], ...]``, in px), or COCO RLE.
      boxes: None: those around the masks. Else xyxy in px, [n, 4] for one image, a list of these for several.
      category, class_id: of the objects.

    Raises:
      FileNotFoundError, TypeError: as `inputs.read`.
      ValueError: there is no object; a mask that is empty, outside the image, all of it, or of another size; a box
        that is not around its mask; other numbers of images, masks and boxes.
    """
    if masks is None:
        raise ValueError("no masks: give an outline of each object, because the mask head needs the shape of the shots")
    if inputs.is_one(images):
        images, masks, boxes = [images], [masks], None if boxes is None else [boxes]
    photos = [inputs.read(image) for image in inputs.several(images)]
    for name, values in (("masks", masks), ("boxes", boxes)):
        if values is not None and (not hasattr(values, "__len__") or len(values) != len(photos)):
            count = len(values) if hasattr(values, "__len__") else type(values).__name__
            raise ValueError(f"{len(photos)} images, but {name} of {count}: give one entry for each image")
    infos = []
    for i, photo in enumerate(photos):
        where, hw = photo.file or f"image {i + 1}", photo.pixels.shape[:2]
        rles = [_rle(mask, hw, f"{where}, mask {k + 1}") for k, mask in enumerate(_objects(masks[i]))]
        given = [None] * len(rles) if boxes is None else _given_boxes(boxes[i], where)
        if len(given) != len(rles):
            raise ValueError(f"{where}: {len(rles)} masks, but {len(given)} boxes: give one box for each mask")
        annotations = tuple(
            Annotation(
                id=1000 * i + k, image_id=i, class_id=class_id, box=_box(rle, box, hw, f"{where}, mask {k + 1}"),
                rle=rle, area=float(segmentation.pixels(rle)), crowd=False,
            )
            for k, (rle, box) in enumerate(zip(rles, given, strict=True))
        )  # fmt: skip
        infos.append(ImageInfo(i, where, *hw, annotations))
    return Dataset("shots", "support", (category,), infos, lambda i: photos[i].pixels)


def _objects(masks: Any) -> list[Any]:
    """The masks of an image, one for each object."""
    if isinstance(masks, dict) or _is_polygons(masks):
        return [masks]
    if hasattr(masks, "__array__") and not isinstance(masks, Image.Image):
        masks = np.asarray(masks)
        return [masks] if masks.ndim == 2 else list(masks)
    return list(masks) if isinstance(masks, Sequence) and not isinstance(masks, str) else [masks]


def _is_polygons(mask: Any) -> bool:
    """Whether this is one object's list of polygons, each a flat list of numbers."""
    return (
        isinstance(mask, list | tuple)
        and len(mask) > 0
        and all(isinstance(p, list | tuple) and p and isinstance(p[0], int | float) for p in mask)
    )


def _rle(mask: Any, hw: tuple[int, int], where: str) -> dict[str, Any]:
    """The mask of one object as compressed RLE with 1 to h w - 1 pixels."""
    size = f"{hw[0]} x {hw[1]}"
    if isinstance(mask, dict) or _is_polygons(mask):
        try:
            polygons = mask if isinstance(mask, dict) else [[float(v) for v in p] for p in mask]
            rle, area = segmentation.read(polygons, *hw, [])
        except (segmentation.Unusable, ValueError, TypeError) as error:
            what = str(error).removeprefix("annotation with ").removeprefix("annotation whose ")
            raise ValueError(f"{where}: {what}; the image is {size} px (height x width)") from None
        if not area:
            raise ValueError(f"{where} lies outside the image of {size} px: give x, y in pixels, x first")
    else:
        array = _pixels(mask)
        if array.ndim != 2 or array.dtype.kind not in "bui":
            raise ValueError(
                f"{where} must be a bool array [h, w], an image of one, polygons [[x, y, ...]] or RLE, not "
                f"{array.dtype} {list(array.shape)}{': give mask > 0.5' * (array.dtype.kind == 'f')}"
            )
        if array.shape != tuple(hw):
            raise ValueError(
                f"{where} is {array.shape[0]} x {array.shape[1]} px, but the image is {size} px: give the mask in the "
                "image's size, after the rotation that EXIF asks for"
            )
        rle, area = segmentation.encode_mask(array != 0), np.count_nonzero(array)
        if not area:
            raise ValueError(f"{where} is empty: it must be nonzero on the object")
    if area == hw[0] * hw[1]:
        raise ValueError(f"{where} covers the whole image: outline only the object, or give a larger part of the photo")
    return rle


def _pixels(mask: Any) -> np.ndarray:
    """A mask as an array; of a picture its alpha channel, where it has one."""
    if isinstance(mask, str | PathLike):
        try:
            with Image.open(mask) as picture:
                return _pixels(picture)
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no mask {mask}: check the name") from None
        except OSError as error:
            raise ValueError(f"cannot read the mask {mask} ({error}): give an image of the object's outline") from None
    if not isinstance(mask, Image.Image):
        return np.asarray(mask)
    if "A" in mask.getbands():
        return np.asarray(mask.getchannel("A"))
    return np.asarray(mask if len(mask.getbands()) == 1 else mask.convert("L"))


def _given_boxes(boxes: Any, where: str) -> list[np.ndarray]:
    """The boxes of an image's objects."""
    try:
        return list(np.asarray(boxes, np.float64).reshape(-1, 4))
    except (ValueError, TypeError):
        raise ValueError(f"{where}: boxes must be x0, y0, x1, y1 in pixels, four numbers for each mask") from None


def _box(rle: dict, box: Any, hw: tuple[int, int], where: str) -> tuple[float, float, float, float]:
    """A box, given or tight, inside the image."""
    x, y, w, h = segmentation.mask_box(rle)
    if box is None:
        return x, y, x + w, y + h
    x0, y0, x1, y1 = (float(v) for v in box)
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(hw[1])), min(y1, float(hw[0]))
    if not (min(x1, x + w) > max(x0, x) and min(y1, y + h) > max(y0, y)):
        raise ValueError(
            f"{where}: its box {[float(v) for v in box]} does not enclose it: give x0, y0, x1, y1 in pixels"
        )
    return x0, y0, x1, y1
