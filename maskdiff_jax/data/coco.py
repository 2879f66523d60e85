"""COCO-format annotations: what a data set is to the rest of ``data/``.

`Records` is a list of images with their annotations and a function that reads pixels. Masks are
compressed COCO RLE (``{"size": [height, width], "counts": str}``), boxes are xyxy in stored pixels,
class ids are positions in `Records.categories` (0..C-1, ascending category id).
"""

import functools
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pycocotools import mask as mask_utils

MIN_SIDE = 1e-5  # px: detectron2 drops boxes that are not wider and higher than this


class Category(NamedTuple):
    id: int  # as in the json
    name: str
    novel: bool


class Annotation(NamedTuple):
    id: int
    image_id: int
    class_id: int  # 0..C-1
    box: tuple[float, float, float, float]  # xyxy, stored px, inside the image
    rle: dict[str, Any]  # {"size": [h, w], "counts": str}
    area: float  # px, as the json gives it, else the mask's
    crowd: bool  # a region of many objects: never a target, never a shot
    ignore: bool = False  # known to be there, but neither a target nor background


class ImageInfo(NamedTuple):
    id: int
    file_name: str
    height: int
    width: int
    annotations: tuple[Annotation, ...]


class Records(NamedTuple):
    """One split of a data set."""

    name: str
    split: str
    categories: tuple[Category, ...]
    infos: Sequence[ImageInfo]
    read: Callable[[int], np.ndarray]  # position in infos -> uint8 [h, w, 3] RGB
    # ids of all annotations in the order of the file, which TFA's sampler depends on; () = order of infos
    annotation_order: Sequence[int] = ()
    encoded: Callable[[int], bytes] | None = None  # position in infos -> the image file's bytes


def load(
    json_path: str | Path,
    image_dir: str | Path,
    novel_classes: Sequence[str] = (),
    *,
    name: str = "custom",
    split: str = "train",
    problems: Counter | None = None,
) -> Records:
    """Reads a COCO-format json; images are opened one by one when `Records.read` asks for them.

    Boxes are clipped to the image. Annotations without a pixel or without a box are dropped, crowd
    regions are kept with ``crowd=True``.

    Args:
      json_path: the annotations; needs "images", "annotations" and "categories".
      image_dir: the folder that "file_name" is relative to.
      novel_classes: names of the categories that are novel.
      name: of the data set, for messages.
      split: of the data set, for messages.
      problems: counts what was mended, by kind, if given.

    Raises:
      FileNotFoundError: the json or the image folder is missing.
      ValueError: the json is broken, an id is no whole number, is out of range or occurs twice, an
        annotation points to nothing, or a novel class is unknown.
    """
    json_path, image_dir = Path(json_path), Path(image_dir)
    if not json_path.is_file():
        raise FileNotFoundError(f"{name}: no annotation file {json_path}: put the COCO-format json there")
    if not image_dir.is_dir():
        raise FileNotFoundError(f"{name}: no image folder {image_dir}: put the images of {json_path} there")
    try:
        raw = json.loads(json_path.read_text())
        images, annotations, raw_categories = raw["images"], raw["annotations"], raw["categories"]
    except json.JSONDecodeError as error:
        raise ValueError(f"{json_path} is no valid json ({error}): write it again") from None
    except (KeyError, TypeError):
        raise ValueError(f"{json_path} needs the lists 'images', 'annotations', 'categories'") from None
    problems = Counter() if problems is None else problems

    categories = tuple(
        Category(c["id"], c["name"], False) for c in sorted(raw_categories, key=lambda c: c["id"])
    )
    _check_ids([c.id for c in categories], "category", json_path)
    _check_ids([i["id"] for i in images], "image", json_path)
    # the official crowd regions have ids above 2**31; annotation ids never enter an int32 array
    _check_ids([a["id"] for a in annotations], "annotation", json_path, limit=2**63)
    class_of = {c.id: k for k, c in enumerate(categories)}
    sizes = {i["id"]: (int(i["height"]), int(i["width"])) for i in images}

    by_image: dict[int, list[Annotation]] = {i["id"]: [] for i in images}
    order = []
    for a in annotations:
        if a["image_id"] not in sizes:
            raise ValueError(
                f"{json_path}: annotation {a['id']} is of image {a['image_id']}, which is not listed"
            )
        if a["category_id"] not in class_of:
            raise ValueError(
                f"{json_path}: annotation {a['id']} is of category {a['category_id']}, not listed"
            )
        parsed = _annotation(a, sizes[a["image_id"]], class_of[a["category_id"]], problems)
        if parsed is not None:
            by_image[parsed.image_id].append(parsed)
            order.append(parsed.id)
    infos = [ImageInfo(i["id"], i["file_name"], *sizes[i["id"]], tuple(by_image[i["id"]])) for i in images]
    problems["image without annotations"] += sum(not i.annotations for i in infos)

    files = tuple(i.file_name for i in infos)
    shapes = tuple((i.height, i.width) for i in infos)
    records = Records(
        name, split, categories, infos,
        read=functools.partial(_read_file, str(image_dir), files, shapes),
        annotation_order=tuple(order),
        encoded=functools.partial(_read_bytes, str(image_dir), files),
    )  # fmt: skip
    return with_novel(records, novel_classes)


def with_novel(records: Records, names: Sequence[str]) -> Records:
    """The same records with the categories called `names` marked novel; ValueError for unknown names."""
    known = [c.name for c in records.categories]
    unknown = [n for n in names if n not in known]
    if unknown:
        raise ValueError(
            f"data.novel_classes names {', '.join(unknown)}, which {records.name} lacks: "
            f"it has {', '.join(known)}"
        )
    return records._replace(categories=tuple(c._replace(novel=c.name in names) for c in records.categories))


def subset(records: Records, positions: Sequence[int], infos: Sequence[ImageInfo]) -> Records:
    """Records of `infos`, whose pixels are those of `positions` in `records`."""
    where = np.asarray(positions, np.int64)
    encoded = None if records.encoded is None else functools.partial(_at, records.encoded, where)
    return records._replace(infos=infos, read=functools.partial(_at, records.read, where), encoded=encoded)


def ground_truth(records: Records) -> dict[str, Any]:
    """The records as a COCO json dict: what pycocotools scores against, and what `save` writes."""
    annotations = []
    for info in records.infos:
        for a in info.annotations:
            x0, y0, x1, y1 = a.box
            annotations.append(
                {
                    "id": a.id,
                    "image_id": a.image_id,
                    "category_id": records.categories[a.class_id].id,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": a.area,
                    "iscrowd": int(a.crowd),
                    "segmentation": dict(a.rle),
                }
            )
    return {
        "info": {"description": f"{records.name} {records.split}"},
        "images": [
            {"id": i.id, "file_name": i.file_name, "height": i.height, "width": i.width}
            for i in records.infos
        ],
        "annotations": annotations,
        "categories": [{"id": c.id, "name": c.name} for c in records.categories],
    }


def save(records: Records, json_path: str | Path, image_dir: str | Path) -> None:
    """Writes the records as plain json and image files; the json comes last, under its name when whole."""
    json_path, image_dir = Path(json_path), Path(image_dir)
    json_path.parent.mkdir(parents=True, exist_ok=True)
    for i, info in enumerate(records.infos):
        path = image_dir / info.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded_image(records, i))
    temporary = json_path.with_name(json_path.name + f".tmp{os.getpid()}")
    temporary.write_text(json.dumps(ground_truth(records)))
    temporary.replace(json_path)


def encoded_image(records: Records, i: int) -> bytes:
    """The i-th image as the bytes of an image file: those it came from, else a PNG."""
    if records.encoded is not None:
        return records.encoded(i)
    return png(records.read(i))


def png(image: np.ndarray) -> bytes:
    """Lossless bytes of a uint8 image [h, w, 3] or [h, w]."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=3)  # 3: half the time of 6, 5 % larger
    return buffer.getvalue()


def decode_image(data: bytes, where: str) -> np.ndarray:
    """uint8 [h, w, 3] RGB, turned as its EXIF says; ValueError that names `where` if it is no image."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"cannot read the image {where} ({error}): replace the file") from None


def decode_mask(rle: dict[str, Any]) -> np.ndarray:
    """uint8 [h, w] of 0 and 1."""
    return mask_utils.decode(rle)


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """RLE of a [h, w] mask of 0 and 1 (or bool)."""
    rle = mask_utils.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(s) for s in rle["size"]], "counts": bytes(rle["counts"]).decode()}


def _annotation(raw: dict, hw: tuple[int, int], class_id: int, problems: Counter) -> Annotation | None:
    height, width = hw
    rle = _rle(raw.get("segmentation"), height, width)
    if rle is None or mask_utils.area(rle) == 0:
        problems["annotation without a mask (dropped)"] += 1
        return None
    x, y, w, h = (float(v) for v in raw["bbox"]) if "bbox" in raw else mask_utils.toBbox(rle).tolist()
    box = (max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height)))
    if not (box[2] - box[0] > MIN_SIDE and box[3] - box[1] > MIN_SIDE):  # also catches NaN
        problems["annotation without a box inside the image (dropped)"] += 1
        return None
    if box != (x, y, x + w, y + h):
        problems["box reaches out of the image (clipped)"] += 1
    crowd = bool(raw.get("iscrowd", 0))
    problems["crowd region (no target)"] += crowd
    area = float(raw["area"]) if "area" in raw else float(mask_utils.area(rle))
    return Annotation(raw["id"], raw["image_id"], class_id, box, rle, area, crowd)


def _rle(segmentation: Any, height: int, width: int) -> dict[str, Any] | None:
    """Compressed RLE of polygons, of uncompressed or of compressed RLE; None if there is nothing to see."""
    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            return None
        if isinstance(segmentation["counts"], list):
            rle = mask_utils.frPyObjects(segmentation, height, width)
        else:
            rle = dict(segmentation)
    else:
        polygons = [p for p in segmentation or () if len(p) >= 6 and len(p) % 2 == 0]
        if not polygons:
            return None
        rle = mask_utils.merge(mask_utils.frPyObjects(polygons, height, width))
    counts = rle["counts"]
    return {"size": [height, width], "counts": counts.decode() if isinstance(counts, bytes) else counts}


def _check_ids(ids: Sequence, what: str, path: Path, limit: int = 2**31) -> None:
    for i in ids:
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < limit:
            raise ValueError(f"{path}: {what} id {i!r} must be a whole number from 0 to {limit - 1}")
    if len(set(ids)) != len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise ValueError(f"{path}: {what} id {twice} occurs more than once: ids must be unique")


def _at(function: Callable[[int], Any], positions: np.ndarray, i: int) -> Any:
    return function(int(positions[i]))


def _read_bytes(image_dir: str, files: Sequence[str], i: int) -> bytes:
    path = Path(image_dir) / files[i]
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileNotFoundError(
            f"cannot read the image {path} ({error.strerror}): put the file there"
        ) from None


def _read_file(image_dir: str, files: Sequence[str], sizes: Sequence[tuple[int, int]], i: int) -> np.ndarray:
    image = decode_image(_read_bytes(image_dir, files, i), str(Path(image_dir) / files[i]))
    if image.shape[:2] != sizes[i]:
        raise ValueError(
            f"{Path(image_dir) / files[i]} is {image.shape[1]} x {image.shape[0]} px, its json says "
            f"{sizes[i][1]} x {sizes[i][0]}: correct width and height in the json"
        )
    return image
