"""The structure of a COCO-format json: its three lists, and its images and categories, each entry checked.

A problem here makes the whole file unusable: the error names the file, the entry and the fix. Problems of single
annotations are handled in `coco`.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maskdiff_jax.data.formats.images import MAX_PIXELS

LISTS = ("images", "annotations", "categories")


class Image(NamedTuple):
    """An entry of the list "images"."""

    id: int
    file_name: str
    height: int  # px
    width: int  # px


def lists(path: Path) -> tuple[list, list, list]:
    """The images, annotations and categories of a json file, their entries unchecked.

    Raises:
      ValueError: as `parse`.
    """
    raw = parse(path)
    return raw["images"], raw["annotations"], raw["categories"]


def parse(path: Path) -> dict[str, Any]:
    """The content of a COCO-format json, which has the three lists.

    Raises:
      ValueError: it is not json, or has no such lists; says what to do.
    """
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        raise ValueError(f"{path} is compressed with gzip: decompress it (gunzip)")
    try:
        raw = json.loads(data)  # bytes: UTF-8, -16 or -32, with or without a byte-order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid json ({error}): write it again") from None
    if is_coco(raw):
        return raw
    tool = _other_format(raw)
    hint = f"it looks like {tool}" if tool else "is it a COCO-format json?"
    raise ValueError(f"{path} needs the lists 'images', 'annotations', 'categories': {hint}")


def is_coco(document: Any) -> bool:
    """Whether a json has COCO's three lists."""
    return isinstance(document, dict) and all(isinstance(document.get(key), list) for key in LISTS)


def dummies(document: dict[str, Any]) -> list[str]:
    """The names of categories without annotations that are only the supercategory of others, as Roboflow adds one.

    Args:
      document: a COCO-format json whose categories are valid.
    """
    used = [a.get("category_id") for a in document["annotations"] if isinstance(a, dict)]
    used = {i for i in used if isinstance(i, int)}
    above = [c.get("supercategory") for c in document["categories"] if c.get("supercategory") != c["name"]]
    return [c["name"] for c in document["categories"] if c["id"] not in used and c["name"] in above]


def _other_format(document: Any) -> str:
    """The format of a json that is not in COCO format, and what to do; "" if the format is unknown."""
    if isinstance(document, dict) and isinstance(document.get("shapes"), list) and "imagePath" in document:
        return (
            "a json of LabelMe, which has one json per image: convert the whole folder with python "
            "launch/prepare_data.py --convert=FOLDER --output=datasets/custom"
        )
    if isinstance(document, dict) and "_via_img_metadata" in document:
        return "a project of VIA: export the annotations in COCO format from VIA"
    if isinstance(document, list) and document and isinstance(document[0], dict) and "annotations" in document[0]:
        return "an export of Label Studio in its own format: choose COCO when exporting"
    return ""


def categories(entries: Sequence, path: Path) -> list[tuple[int, str]]:
    """Id and name of each category, by ascending id; ValueError for a broken entry or a repeated id or name."""
    if not entries:
        raise ValueError(f"{path} has no category: each class needs an entry with id and name")
    result = []
    for k, entry in enumerate(entries):
        where = f"{path}: categories[{k}]"
        identity, name = _fields(entry, ("id", "name"), where)
        result.append((_id(identity, "category", where), _text(name, "name", where)))
    _unique([i for i, _ in result], "category id", path)
    _unique([name for _, name in result], "category name", path)
    return sorted(result)


def images(entries: Sequence, path: Path) -> list[Image]:
    """Each image in the order of the file; ValueError for a broken entry or a repeated id."""
    result = []
    for k, entry in enumerate(entries):
        where = f"{path}: images[{k}]"
        identity, name, height, width = _fields(entry, ("id", "file_name", "height", "width"), where)
        identity = _id(identity, "image", where)
        height, width = _side(height, "height", where), _side(width, "width", where)
        if height * width > MAX_PIXELS:
            raise ValueError(
                f"{where} has {width} x {height} px, more than the limit of {MAX_PIXELS} pixels: divide it into tiles"
            )
        if not _inside(_text(name, "file_name", where)):
            raise ValueError(f"{where} has the file_name {name!r}: it must be a path inside the image folder")
        result.append(Image(identity, name, height, width))
    _unique([image.id for image in result], "image id", path)
    return result


def _fields(entry: Any, keys: Sequence[str], where: str) -> list:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {_short(entry)}: it must be an object with {', '.join(keys)}")
    missing = [key for key in keys if key not in entry]
    if missing:
        raise ValueError(f"{where} (id {_short(entry.get('id'))}) has no {', '.join(missing)}: add it")
    return [entry[key] for key in keys]


def _id(value: Any, what: str, where: str) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError(f"{where}: {what} id {_short(value)} must be a whole number from 0 to {2**31 - 1}")
    return value


def _side(value: Any, key: str, where: str) -> int:
    if type(value) not in (int, float) or not 1 <= value <= MAX_PIXELS or value != int(value):
        raise ValueError(f"{where} has the {key} {_short(value)}: it must be a whole number of pixels, at least 1")
    return int(value)


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f"{where} has the {key} {_short(value)}: it must be a non-empty string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where} has the {key} {value!a}, which is not valid Unicode: write it in UTF-8") from None
    return value


def _inside(name: str) -> bool:
    """Whether a file name is a path inside its folder, on this and on other operating systems."""
    parts = name.replace("\\", "/").split("/")
    return parts[0] != "" and name[1:2] != ":" and ".." not in parts and parts[-1] not in ("", ".")


def _unique(values: Sequence, what: str, path: Path) -> None:
    if len(set(values)) != len(values):
        twice = Counter(values).most_common(1)[0][0]
        raise ValueError(f"{path}: {what} {_short(twice)} occurs more than once: it must be unique")


def _short(value: Any) -> str:
    """A value from the json for a message, whatever its size."""
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__}"
    text = json.dumps(value) if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."
