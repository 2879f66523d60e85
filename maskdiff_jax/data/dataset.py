"""The dataset type of ``data/``: images, their annotations and a function that reads pixels.

Masks are compressed COCO RLE (``{"size": [height, width], "counts": str}``), boxes are xyxy in pixels of the image
file, class ids are positions in `Dataset.categories` (0..C-1, ascending category id).
"""

import difflib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from maskdiff_jax.data.formats import images


class Category(NamedTuple):
    id: int  # as in the json
    name: str
    novel: bool


class Annotation(NamedTuple):
    id: int
    image_id: int
    class_id: int  # 0..C-1
    box: tuple[float, float, float, float]  # xyxy, px, inside the image
    rle: dict[str, Any]  # {"size": [h, w], "counts": str}
    area: float  # px, as the json gives it, else the mask's
    crowd: bool  # a region of many objects: never a target, never a shot
    ignore: bool = False  # known to be there, but neither a target nor background

    @property
    def is_target(self) -> bool:
        """Whether an annotation is a training target: neither a crowd region nor ignored."""
        return not (self.crowd or self.ignore)


class ImageInfo(NamedTuple):
    id: int
    file_name: str
    height: int  # px
    width: int  # px
    annotations: tuple[Annotation, ...]


class Dataset(NamedTuple):
    """One split of a dataset."""

    name: str
    split: str
    categories: tuple[Category, ...]
    infos: Sequence[ImageInfo]
    read: Callable[[int], np.ndarray]  # position in infos -> uint8 [h, w, 3] RGB
    # ids of all annotations in the order of the file, which TFA's sampler depends on; () = order of infos
    annotation_order: Sequence[int] = ()
    encoded: Callable[[int], bytes] | None = None  # position in infos -> the image file's bytes
    # what pycocotools reads in the json behind the dataset, see `formats.ground_truth`; None: there is no json
    truth: Callable[[], dict[str, Any]] | None = None


def large_enough(annotation: Annotation, min_box_side: float, min_mask_area: float) -> bool:
    """Whether the mask head can learn from an object of this size.

    Args:
      annotation: of the object.
      min_box_side: px, of the shorter side of its box (config.data.min_box_side).
      min_mask_area: px (config.data.min_mask_area).
    """
    x0, y0, x1, y1 = annotation.box
    return min(x1 - x0, y1 - y0) >= min_box_side and annotation.area >= min_mask_area


def with_novel(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The same dataset with the categories called `names` marked novel; ValueError for unknown names."""
    known = [c.name for c in dataset.categories]
    unknown = [n for n in names if n not in known]
    if unknown:
        similar = [m for n in unknown for m in difflib.get_close_matches(n, known, n=1)]
        hint = f"did you mean {', '.join(similar)}? " if similar else ""
        raise ValueError(
            f"data.novel_classes names {', '.join(unknown)}, which the {dataset.split} split of {dataset.name} does "
            f"not have: {hint}its classes are {', '.join(known)}"
        )
    return dataset._replace(categories=tuple(c._replace(novel=c.name in names) for c in dataset.categories))


def subset(dataset: Dataset, positions: Sequence[int], infos: Sequence[ImageInfo]) -> Dataset:
    """Dataset of `infos`, whose pixels are those of `positions` in `dataset`."""
    encoded = None if dataset.encoded is None else at_positions(dataset.encoded, positions)
    return dataset._replace(infos=infos, read=at_positions(dataset.read, positions), encoded=encoded)


def at_positions(read: Callable[[int], Any], positions: Sequence[int] | np.ndarray) -> Callable[[int], Any]:
    """A function i -> ``read(positions[i])`` that can be pickled if `read` can."""
    return functools.partial(_at, read, np.asarray(positions, np.int64))


def encoded_image(dataset: Dataset, i: int) -> bytes:
    """The i-th image as the bytes of an image file: the original file if there is one, otherwise a PNG."""
    if dataset.encoded is not None:
        return dataset.encoded(i)
    return images.png(dataset.read(i))


def _at(read: Callable[[int], Any], positions: np.ndarray, i: int) -> Any:
    return read(int(positions[i]))
