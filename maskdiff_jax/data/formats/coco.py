"""Reads and writes COCO-format annotations (cocodataset.org, "Data format") as `Dataset`."""

import functools
import itertools
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from maskdiff_jax import atomic
from maskdiff_jax.data.dataset import Annotation, Category, Dataset, ImageInfo, encoded_image, with_novel
from maskdiff_jax.data.formats import coco_json, images, segmentation
from maskdiff_jax.data.formats import ground_truth as truth
from maskdiff_jax.data.formats.segmentation import Unusable

MIN_SIDE = 1e-5  # px: detectron2 drops boxes that are not wider and higher than this (structures/boxes.py, nonempty)
OVERHANG = 1.0  # px: a box that leaves its image by less is rounding and is clipped without a message

# kinds of problems that other modules and tests name
DROPPED = "(dropped)"
RENUMBERED = "annotation id missing, not a whole number or used twice (got a new id)"
CROWD = "crowd region (not used as a target)"
EMPTY = "image without annotations"
REFUSED = "file that training rejects: more than half of its annotations are dropped"


def load(
    json_path: str | Path,
    image_dir: str | Path,
    novel_classes: Sequence[str] = (),
    *,
    name: str = "custom",
    split: str = "train",
    problems: Counter | None = None,
    examples: dict[str, str] | None = None,
) -> Dataset:
    """Reads a COCO-format json. Images are read later, one by one, by `Dataset.read`.

    A problem of the file or of an image entry is an error. An annotation with a problem is fixed where nothing has to
    be guessed (box clipped to the image, box or area taken from the mask) and dropped otherwise; both are counted by
    kind. Crowd regions are kept with ``crowd=True``. An annotation id that is missing, not a whole number or used
    before is replaced by the lowest free one, in the order of the file; an exact repeat of an annotation is dropped.
    If more than half of the annotations would be dropped, the whole file is considered wrong, which is an error.
    Scoring does not depend on any of this: `Dataset.truth` reads the file as pycocotools does.

    Args:
      json_path: the annotations; needs "images", "annotations" and "categories".
      image_dir: the folder that "file_name" is relative to; its own name may come first (train/a.jpg in train).
      novel_classes: names of the categories that are novel.
      name: of the dataset, for messages.
      split: of the dataset, for messages.
      problems: counts what was dropped, fixed or may be wrong, by kind; then nothing is printed, and dropping more
        than half is only counted. None: a line on stderr says what was dropped or fixed, once per file and process.
      examples: gets the first place of each kind of problem, if given.

    Raises:
      FileNotFoundError: the json or the image folder is missing.
      ValueError: the json is broken; an image or a category lacks a field or has one of the wrong type,
        an id out of range or one that occurs twice; most annotations are unusable; a novel class is
        unknown.
    """
    json_path, image_dir = Path(json_path), Path(image_dir)
    if not json_path.is_file():
        raise FileNotFoundError(f"{name}: no annotation file {json_path}: put the COCO-format json there")
    if not image_dir.is_dir():
        raise FileNotFoundError(f"{name}: no image folder {image_dir}: put the images of {json_path} there")
    raw_images, annotations, raw_categories = coco_json.lists(json_path)
    categories = tuple(Category(*c, False) for c in coco_json.categories(raw_categories, json_path))
    listed = _inside(image_dir, coco_json.images(raw_images, json_path))
    found: Counter = Counter()
    first = {} if examples is None else examples
    kept = _usable_annotations(annotations, listed, categories, found, first)
    by_image: dict[int, list[Annotation]] = {image.id: [] for image in listed}
    for a in kept:
        by_image[a.image_id].append(a)
    infos = [ImageInfo(*image, tuple(by_image[image.id])) for image in listed]
    found[EMPTY] = sum(not i.annotations for i in infos)
    found["image file that the json lists twice, with different ids"] = len(infos) - len({i.file_name for i in infos})
    if problems is None:
        _tell(found, first, len(annotations), json_path)
    else:
        problems.update(found)
        problems[REFUSED] += _too_many(found, len(annotations))

    files = tuple(i.file_name for i in infos)
    shapes = tuple((i.height, i.width) for i in infos)
    dataset = Dataset(
        name, split, categories, infos,
        read=functools.partial(images.read_file, str(image_dir), files, shapes),
        annotation_order=tuple(a.id for a in kept),
        encoded=functools.partial(images.read_encoded, str(image_dir), files, shapes),
        truth=functools.partial(truth.load, json_path),
    )  # fmt: skip
    return with_novel(dataset, novel_classes)


def ground_truth(dataset: Dataset) -> dict[str, Any]:
    """The dataset as a COCO json dict, as `save` writes it."""
    annotations = []
    for info in dataset.infos:
        for a in info.annotations:
            x0, y0, x1, y1 = a.box
            annotations.append(
                {
                    "id": a.id,
                    "image_id": a.image_id,
                    "category_id": dataset.categories[a.class_id].id,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": a.area,
                    "iscrowd": int(a.crowd),
                    "segmentation": dict(a.rle),
                }
            )
    return {
        "info": {"description": f"{dataset.name} {dataset.split}"},
        "images": [{"id": i.id, "file_name": i.file_name, "height": i.height, "width": i.width} for i in dataset.infos],
        "annotations": annotations,
        "categories": [{"id": c.id, "name": c.name} for c in dataset.categories],
    }


def save(dataset: Dataset, json_path: str | Path, image_dir: str | Path) -> None:
    """Writes the dataset as a json and image files, the json last.

    Args:
      dataset: any.
      json_path: where the annotations go.
      image_dir: where `ImageInfo.file_name` is relative to.

    Raises:
      OSError: the disk is full or a folder cannot be written to.
    """
    json_path, image_dir = Path(json_path), Path(image_dir)
    json_path.parent.mkdir(parents=True, exist_ok=True)
    for i, info in enumerate(dataset.infos):
        path = image_dir / info.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded_image(dataset, i))
    atomic.write_json(json_path, ground_truth(dataset), indent=None)


def _inside(folder: Path, listed: Sequence[coco_json.Image]) -> list[coco_json.Image]:
    """The images with file names relative to a folder, where the json has them relative to the folder above it."""
    prefix = f"{folder.name}/"

    def name(given: str) -> str:
        plain = given.replace("\\", "/")
        below = plain.removeprefix("./").removeprefix(prefix)
        return below if below != plain and not (folder / plain).is_file() and (folder / below).is_file() else given

    return [image._replace(file_name=name(image.file_name)) for image in listed]


def _usable_annotations(
    annotations: Sequence, listed: Sequence[coco_json.Image], categories: Sequence[Category], found: Counter,
    first: dict[str, str],
) -> list[Annotation]:  # fmt: skip
    """The annotations of a json that are not dropped, in the order of the file, each with a unique id.

    Args:
      annotations: as in the json.
      listed: the images.
      categories: in the order of the class ids.
      found: counts what was dropped or fixed, by kind.
      first: gets the first place of each kind.
    """
    image_of = {image.id: image for image in listed}
    class_of = {c.id: k for k, c in enumerate(categories)}
    position: dict[int, int] = {}  # of the annotation with an id
    kept = []
    free, sums = _free_ids(annotations), segmentation.run_sums(annotations)
    for k, raw in enumerate(annotations):
        fixes: list[str] = []
        try:
            a = _annotation(raw, image_of, class_of, sums.get(k), fixes)
            if not (_is_id(a.id) and a.id not in position):
                if _is_id(a.id) and annotations[position[a.id]] == raw:
                    raise Unusable("exact repeat of an annotation")
                fixes.append(RENUMBERED)
                a = a._replace(id=next(free))
            kept.append(a)
            position[a.id] = k
        except Unusable as error:
            fixes = [f"{error} {DROPPED}"]
        for kind in fixes:
            found[kind] += 1
            first.setdefault(kind, f"annotations[{k}]")
    return kept


def _annotation(
    raw: Any,
    image_of: dict[int, coco_json.Image],
    class_of: dict[int, int],
    sums: tuple[int, int] | None,
    fixes: list[str],
) -> Annotation:
    """One entry with its id as in the json, valid or not.

    Args:
      raw: the entry.
      image_of: image id -> image.
      class_of: category id -> class id.
      sums: as for `segmentation.from_json`.
      fixes: gets the kinds of problems that were fixed.

    Raises:
      Unusable: the annotation has to be dropped.
    """
    if not isinstance(raw, dict):
        raise Unusable("annotation entry that is not a json object")
    try:
        image, class_id = image_of.get(raw.get("image_id")), class_of.get(raw.get("category_id"))
    except TypeError:  # a list or a dict
        raise Unusable("annotation whose image_id or category_id is not a number") from None
    if image is None:
        raise Unusable("annotation of an image that is not listed")
    if class_id is None:
        raise Unusable("annotation of a category that is not listed")
    crowd = raw.get("iscrowd", 0)
    if crowd not in (0, 1, None):  # bools and 1.0 too are equal to 0 or 1
        raise Unusable("annotation whose iscrowd is neither 0 nor 1")
    rle, pixels = segmentation.from_json(raw.get("segmentation"), image.height, image.width, fixes, sums)
    x, y, w, h = _box(raw.get("bbox"), fixes) or segmentation.mask_box(rle)
    box = (max(x, 0.0), max(y, 0.0), min(x + w, float(image.width)), min(y + h, float(image.height)))
    if not (box[2] - box[0] > MIN_SIDE and box[3] - box[1] > MIN_SIDE):
        raise Unusable("annotation without a box inside the image")
    unclipped = (x, y, x + w, y + h)
    if box != unclipped and max(abs(a - b) for a, b in zip(box, unclipped, strict=True)) > OVERHANG:
        fixes.append("box extends beyond the image (clipped)")
    if crowd:
        fixes.append(CROWD)
    area = raw.get("area", pixels)
    # the area inside a polygon may exceed the image's where the polygon leaves the image
    if type(area) not in (int, float) or not 0 < area <= 2 * image.height * image.width:
        fixes.append("area is not a possible number of pixels (computed from the mask)")
        area = pixels
    return Annotation(raw.get("id"), image.id, class_id, box, rle, float(area), bool(crowd))


def _box(raw: Any, fixes: list[str]) -> tuple[float, float, float, float] | None:
    """x, y, width, height; None: there is none, use the box of the mask."""
    if raw is None:
        return None
    try:
        x, y, w, h = raw
        if math.isfinite(x + y + w + h):
            return float(x), float(y), float(w), float(h)
    except (TypeError, ValueError, OverflowError):
        pass
    fixes.append("bbox is not four numbers (computed from the mask)")
    return None


def _is_id(i: Any) -> bool:
    # the official crowd regions have ids above 2**31; annotation ids never enter an int32 array
    return type(i) is int and 0 <= i < 2**63


def _free_ids(annotations: Sequence) -> Iterator[int]:
    """Whole numbers from 1 on that no annotation has as its id."""
    taken = {a["id"] for a in annotations if isinstance(a, dict) and _is_id(a.get("id"))}
    yield from (i for i in itertools.count(1) if i not in taken)


def _too_many(found: Counter, total: int) -> bool:
    return 2 * sum(n for kind, n in found.items() if kind.endswith(DROPPED)) > total


def _tell(found: Counter, first: dict[str, str], total: int, path: Path) -> None:
    """One line on stderr about what was dropped or fixed; ValueError if too much was dropped."""
    kinds = "; ".join(
        f"{n} x {kind}" + (f", first {first[kind]}" if kind in first else "")
        for kind, n in found.most_common()
        if n and kind not in (CROWD, EMPTY)
    )
    if _too_many(found, total):
        raise ValueError(
            f"{path}: more than half of its {total} annotations cannot be used; check that the file is right and "
            f"that its lists of images and categories belong to these annotations: {kinds}"
        )
    if kinds:
        _say_once(f"{path}, {total} annotations: {kinds}")


@functools.cache
def _say_once(text: str) -> None:
    print(text, file=sys.stderr)
