"""What the readers of other formats return: images with annotations as COCO-style documents, one per split.

The readers are `labelme`, `yolo` and `mask_files`; `recognize.read_annotations` picks one. Everything after them reads
COCO-style documents (cocodataset.org, "Data format").
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from maskdiff_jax.data.formats import segmentation

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")  # of image files


class Collected(NamedTuple):
    """The annotated images of a file or folder."""

    format: str  # "COCO json", "LabelMe", "YOLO-seg" or "mask files"
    documents: dict[str, dict[str, Any]]  # "train" and "test", or "all" where there is one set -> COCO-style document
    image_dir: Path  # the folder that "file_name" is relative to
    notes: Counter  # what was not used, by kind


class Annotated(NamedTuple):
    """An image file and its objects."""

    path: Path
    height: int  # px, after the rotation that EXIF asks for
    width: int  # px, likewise
    objects: Sequence[tuple[str, Any]]  # class name, and a COCO "segmentation": polygons or RLE


def collect(
    form: str, splits: dict[str, Sequence[Annotated]], notes: Counter, names: Sequence[str] | None = None
) -> Collected:
    """Numbers images, classes and objects and makes a COCO-style document of each split.

    Args:
      form: the name of the format.
      splits: as `Collected.documents`.
      notes: what was not used, by kind.
      names: the classes in the order of their ids; None: those of the objects, sorted.

    Raises:
      ValueError: there is no image or no object at all.
    """
    every = [a for part in splits.values() for a in part]
    found = {name for a in every for name, _ in a.objects}
    if not found:
        unused = "".join(f"; not used: {n} x {kind}" for kind, n in notes.items())
        raise ValueError(f"the {form} annotations have no object with a mask: outline the objects{unused}")
    ids = {name: k for k, name in enumerate(sorted(found) if names is None else names, 1)}
    folder = Path(os.path.commonpath([a.path.resolve().parent for a in every]))
    documents = {split: _document(part, ids, folder) for split, part in splits.items()}
    return Collected(form, documents, folder, notes)


def _document(part: Sequence[Annotated], ids: dict[str, int], folder: Path) -> dict[str, Any]:
    listed, annotations = [], []
    for k, image in enumerate(part, 1):
        name = image.path.resolve().relative_to(folder).as_posix()
        listed.append({"id": k, "file_name": name, "height": image.height, "width": image.width})
        for class_name, shape in image.objects:
            rle, area = segmentation.from_json(shape, image.height, image.width, [])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": k,
                    "category_id": ids[class_name],
                    "bbox": list(segmentation.mask_box(rle)),
                    "area": float(area),
                    "iscrowd": 0,
                    "segmentation": shape,
                }
            )
    categories = [{"id": i, "name": name} for name, i in ids.items()]
    return {"images": listed, "annotations": annotations, "categories": categories}


def is_usable(shape: Any, height: int, width: int, where: str, notes: Counter) -> bool:
    """Whether a COCO "segmentation" has a pixel in the image; if not, `notes` counts why and names `where`."""
    try:
        segmentation.from_json(shape, height, width, [])
        return True
    except segmentation.Unusable as error:
        notes[f"{str(error).replace('annotation', 'object')} (first: {where})"] += 1
        return False


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def open_mask(path: Path) -> Image.Image:
    """A mask file; ValueError if it is not an image."""
    try:
        with Image.open(path) as image:
            image.load()
            return image.copy()
    except Exception as error:  # each of Pillow's readers raises its own errors
        raise ValueError(f"cannot read the mask {path} ({type(error).__name__}): replace the file") from None
