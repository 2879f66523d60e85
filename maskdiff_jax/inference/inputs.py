"""Images that users give the predictor: arrays, PIL images, files, folders, and lists of these.

Every image becomes uint8 [h, w, 3] RGB, rotated as its EXIF says. An input that is not an image is an error of one
sentence that names the input and says what to do.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image, ImageOps

from maskdiff_jax.data import transforms
from maskdiff_jax.data.formats.images import MAX_PIXELS, decode_image
from maskdiff_jax.types import Batch, Instances

SUFFIXES = frozenset(s for s, name in Image.registered_extensions().items() if name in Image.OPEN)
CHANNELS = (1, 3, 4)  # gray, RGB, RGBA


class Photo(NamedTuple):
    """One image."""

    pixels: np.ndarray  # uint8 [h, w, 3] RGB
    file: str | None  # what it was read from; None: it was given as pixels


def is_one(images: Any) -> bool:
    """Whether this is one image: an array, a PIL image, the name of a file, or bytes, which are rejected later."""
    if isinstance(images, str | os.PathLike):
        return not Path(images).is_dir()
    return isinstance(images, Image.Image | bytes | bytearray) or hasattr(images, "__array__")


def several(images: Any) -> Iterator[Any]:
    """The images of a folder in the order of their names, or those of an iterable one by one.

    Raises:
      TypeError: an object of another type.
      FileNotFoundError: a folder without an image.
    """
    if isinstance(images, str | os.PathLike):
        yield from _files(Path(images))
    elif isinstance(images, Iterable):
        for item in images:
            if isinstance(item, str | os.PathLike) and Path(item).is_dir():
                yield from _files(Path(item))
            else:
                yield item
    else:
        raise TypeError(
            f"not an image: {type(images).__name__}; give a uint8 array, a PIL image, a file, a folder or a "
            "list of these"
        )


def read(image: Any) -> Photo:
    """One image.

    Args:
      image: uint8 [h, w], [h, w, 1], [h, w, 3] RGB or [h, w, 4] RGBA, whose transparency is dropped; a PIL image; or
        the name of a file that Pillow reads.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not an image, another dtype or shape, or too large; names it and the fix.
      TypeError: an object of another type.
    """
    if isinstance(image, str | os.PathLike):
        return Photo(_from_file(Path(image)), str(image))
    if isinstance(image, Image.Image):
        return Photo(_checked(_from_pillow(image)), None)
    if hasattr(image, "__array__"):
        return Photo(_checked(np.asarray(image)), None)
    raise TypeError(f"not an image: {type(image).__name__}; give a uint8 array, a PIL image or the name of a file")


def as_batch(image: np.ndarray, image_id: int, data: Any) -> Batch:
    """One image as a batch of evaluation (``data.pipeline.eval_batches``), without ground truth.

    Args:
      image: uint8 [h, w, 3].
      image_id: 0 or more.
      data: config.data.
    """
    h, w = image.shape[:2]
    hw = transforms.resized_hw(h, w, data.test_short_side, data.long_side)
    hw = (max(hw[0], 1), max(hw[1], 1))  # a very long strip would shrink to nothing
    padded = np.zeros((1, *transforms.padded_size(hw, data.buckets), 3), np.uint8)
    padded[0, : hw[0], : hw[1]] = transforms.resize(image, hw)
    small = transforms.resize(image, transforms.region_hw(h, w, data.region_long_side))
    region = np.zeros((1, data.region_long_side, data.region_long_side, 3), np.uint8)
    region[0, : small.shape[0], : small.shape[1]] = small
    nothing = Instances(np.zeros((1, 1, 4), np.float32), np.full((1, 1), -1, np.int32), np.zeros((1, 1), bool))
    return Batch(
        image=padded,
        image_hw=np.array([hw], np.int32),
        original_hw=np.array([(h, w)], np.int32),
        image_id=np.array([image_id], np.int32),
        instances=nothing,
        region_image=region,
        region_hw=np.array([small.shape[:2]], np.int32),
    )


def batches(photos: list[Photo], size: int, data: Any) -> Iterator[Batch]:
    """Batches of images of one padded size, each filled up with images of id -1; other ids are positions in `photos`.

    Args:
      photos: of any sizes.
      size: images in a batch.
      data: config.data.
    """
    by_padded_size: dict[tuple[int, ...], list[Batch]] = {}
    for i, photo in enumerate(photos):
        single = as_batch(photo.pixels, i, data)
        by_padded_size.setdefault(single.image.shape, []).append(single)
    for singles in by_padded_size.values():
        for first in range(0, len(singles), size):
            some = singles[first : first + size]
            padding = some[0]._replace(image_id=np.array([-1], np.int32))
            some = some + [padding] * (size - len(some))
            yield jax.tree.map(lambda *x: np.concatenate(x), *some)


def _files(folder: Path) -> list[Path]:
    if not folder.exists():
        raise FileNotFoundError(f"there is no file or folder {folder}")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise FileNotFoundError(f"{folder} contains no image: give a folder with image files, such as .jpg or .png")
    return files


def _from_file(path: Path) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        hint = "give a file, or a list of files" if path.is_dir() else "check the name"
        raise FileNotFoundError(f"cannot read the image {path} ({error.strerror}): {hint}") from None
    return decode_image(data, str(path))


def _from_pillow(image: Image.Image) -> np.ndarray:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(_too_large((image.height, image.width)))
    try:
        rotated = ImageOps.exif_transpose(image)
    except OSError as error:  # Pillow reads the pixels of an opened file only now
        where = getattr(image, "filename", "") or "PIL image"
        raise ValueError(f"cannot read the image {where} ({error}): replace the file") from None
    if rotated.mode.startswith("I;16"):
        return (np.asarray(rotated).astype(np.uint16) >> 8).astype(np.uint8)
    if rotated.mode in ("I", "F"):
        raise ValueError(f'the image is of mode {rotated.mode}: scale it to 0..255 and convert it with convert("L")')
    return np.asarray(rotated.convert("RGB"))


def _checked(image: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3]; a ValueError says what is wrong and how to fix it."""
    shape = list(image.shape)
    form = "an image must be uint8 [h, w], [h, w, 3] or [h, w, 4]"
    if image.ndim == 4:
        raise ValueError(f"{form}, not {shape}: give several images as a list, list(images)")
    if image.ndim == 3 and image.shape[2] not in CHANNELS and image.shape[0] in CHANNELS:
        raise ValueError(f"{form}, not {shape}: put the channels last, image.transpose(1, 2, 0)")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in CHANNELS) or not image.size:
        raise ValueError(f"{form}, not {shape}")
    if image.dtype != np.uint8:
        scale = {"f": "(255 * image).astype('uint8') if it is in 0..1", "b": "image.astype('uint8') * 255"}
        fix = scale.get(image.dtype.kind, "scale it to 0..255 and convert it with astype('uint8')")
        raise ValueError(f"{form}, not {image.dtype}: {fix}")
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise ValueError(_too_large(image.shape))
    if image.ndim == 2:
        image = image[..., None]
    return np.repeat(image, 3, 2) if image.shape[2] == 1 else np.ascontiguousarray(image[..., :3])


def _too_large(shape: Any) -> str:
    return (
        f"an image of {shape[0]} x {shape[1]} px has more than {MAX_PIXELS} pixels: make it smaller or divide it "
        "into tiles"
    )
