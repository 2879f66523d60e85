"""Image files as arrays: every file that Pillow reads becomes uint8 RGB, or an error that names it.

As detectron2 does (detectron2/data/detection_utils.py, read_image): rotated as EXIF says, transparency dropped (the
color below it is kept), of an animation the first frame. Unlike it, 16-bit gray is scaled to 8 bit, where Pillow clips.
A file that is missing or broken is an error and is never skipped, so that no image is silently dropped from training;
`checks.check` finds all such files beforehand.
"""

import io
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

# an image of more pixels is refused by Pillow as a decompression bomb
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**26)
_ORIENTATION = 0x0112  # the EXIF tag
_ROTATIONS = {  # EXIF orientation -> what shows the stored image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Size(NamedTuple):
    """The size of an image file."""

    height: int  # px, after the rotation that EXIF asks for
    width: int  # px, likewise
    stored: tuple[int, int]  # height, width before it, px
    orientation: int  # of EXIF, 1..8


def png(image: np.ndarray) -> bytes:
    """Lossless bytes of a uint8 image [h, w, 3] or [h, w]."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=3)  # 3: half the time of 6, 5 % larger
    return buffer.getvalue()


def decode_image(data: bytes, where: str) -> np.ndarray:
    """An image file as an array.

    Args:
      data: the bytes of the file.
      where: its name, for messages.

    Returns:
      uint8 [h, w, 3] RGB, rotated as its EXIF says.

    Raises:
      ValueError: it is not an image that Pillow can read; names it and the fix.
    """
    if not data:
        raise ValueError(f"cannot read the image {where} (it is empty): replace the file")
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()  # first: Pillow itself rotates TIFF files and then drops the tag
            rotation = _ROTATIONS.get(_orientation(image))
            rgb = _rgb(image)
            return np.asarray(rgb if rotation is None else rgb.transpose(rotation))
    except Image.DecompressionBombError:
        raise ValueError(
            f"cannot read the image {where} (more than {MAX_PIXELS} pixels): make it smaller or divide it into tiles"
        ) from None
    except Exception as error:  # each of Pillow's readers raises its own errors; the fix is the same
        what = str(error) or type(error).__name__
        if "cannot identify image file" in what:  # Pillow's text has the address of a buffer
            what = "not an image, or of a format that Pillow does not know"
        raise ValueError(f"cannot read the image {where} ({what}): replace the file") from None


def read_bytes(folder: str, names: Sequence[str], i: int) -> bytes:
    """The i-th file's bytes; FileNotFoundError if it cannot be opened.

    If there is no such name, the spellings of other systems are tried: the same characters composed or decomposed
    (macOS), folders separated by backslashes (Windows).
    """
    first = None
    for name in _spellings(names[i]):
        try:
            return (Path(folder) / name).read_bytes()
        except OSError as error:
            first = first or error
    raise FileNotFoundError(
        f"cannot read the image {Path(folder) / names[i]} ({first.strerror if first else ''}): put the file there"
    )


def read_file(folder: str, names: Sequence[str], sizes: Sequence[tuple[int, int]], i: int) -> np.ndarray:
    """The i-th image, uint8 [h, w, 3] RGB, of the (height, width) it should have.

    Raises:
      FileNotFoundError: the file cannot be opened.
      ValueError: it is not an image, or of another size.
    """
    data, path = read_bytes(folder, names, i), str(Path(folder) / names[i])
    image = decode_image(data, path)
    _check_size(image.shape[:2], tuple(sizes[i]), data, path)
    return image


def read_encoded(folder: str, names: Sequence[str], sizes: Sequence[tuple[int, int]], i: int) -> bytes:
    """The bytes of the i-th file, for copying; its size is checked as in `read_file`, most files without decoding."""
    data, path = read_bytes(folder, names, i), str(Path(folder) / names[i])
    try:
        with Image.open(io.BytesIO(data)) as image:
            size = image.height, image.width
            rotated = image.format != "TIFF" and _orientation(image) >= 5
    except Exception:  # decoding says what is wrong
        size, rotated = decode_image(data, path).shape[:2], False
    _check_size(size[::-1] if rotated else size, tuple(sizes[i]), data, path)
    return data


def read_size(path: str | Path) -> Size:
    """The size of an image file, for most files without decoding it.

    Raises:
      FileNotFoundError: the file cannot be opened.
      ValueError: it is not an image that Pillow can read.
    """
    data = read_bytes(str(Path(path).parent), [Path(path).name], 0)
    try:
        with Image.open(io.BytesIO(data)) as image:
            stored = image.height, image.width
            orientation = 1 if image.format == "TIFF" else _orientation(image)
    except Exception:  # decoding says what is wrong
        height, width = decode_image(data, str(path)).shape[:2]
        return Size(height, width, (height, width), 1)
    height, width = stored[::-1] if orientation >= 5 else stored
    return Size(height, width, stored, orientation)


def is_16_bit(data: bytes) -> bool:
    """Whether a readable image file has 16 bits per value, of which `decode_image` keeps the upper 8."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data[24] == 16  # bit depth, in the header
    with Image.open(io.BytesIO(data)) as image:
        return image.mode.startswith("I;16")


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """The values [h, w] of the image as stored, turned as its EXIF asks for."""
    return {
        1: values,
        2: values[:, ::-1],
        3: values[::-1, ::-1],
        4: values[::-1],
        5: values.T,
        6: values.T[:, ::-1],
        7: values[::-1, ::-1].T,
        8: values.T[::-1],
    }[orientation]


def _rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB; ValueError for pixels without a known range."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        # the upper byte, which is also what Pillow keeps of 16-bit colors
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(
            f"pixels of 32 bit, mode {image.mode}, have no known value range; save the image with 8 or 16 bits"
        )
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1 where there is none or it cannot be read, as in detectron2."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # the image itself may still be good
        return 1


def _check_size(found: tuple[int, ...], wanted: tuple[int, ...], data: bytes, path: str) -> None:
    """ValueError that names the file and the fix if (height, width) are not those of the json."""
    if found == wanted:
        return
    text = f"{path} is {found[1]} x {found[0]} px, its json says {wanted[1]} x {wanted[0]}"
    if found == wanted[::-1] and _stored_size(data) == wanted:
        raise ValueError(
            f"{text}, which is its size before the rotation in its EXIF data: if the annotations fit the image "
            "as stored, remove the EXIF orientation from the file, otherwise correct the json"
        )
    raise ValueError(f"{text}: correct width and height in the json")


def _stored_size(data: bytes) -> tuple[int, int]:
    """(height, width) as stored, before any rotation."""
    with Image.open(io.BytesIO(data)) as image:
        return image.height, image.width


def _spellings(name: str) -> list[str]:
    """The name and its spellings on other systems, without repeats."""
    names = (name, name.replace("\\", "/"))
    return list(dict.fromkeys(form for n in names for form in _unicode_forms(n)))


def _unicode_forms(name: str) -> list[str]:
    return [name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)]
