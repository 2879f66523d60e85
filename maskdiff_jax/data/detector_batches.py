"""Detector batches: resized images in a canvas, and the boxes that went along."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from maskdiff_jax.data import transforms
from maskdiff_jax.data.dataset import Annotation, Dataset
from maskdiff_jax.types import Batch, Instances


class ImageTable(NamedTuple):
    """What a detector loader keeps of its images; small, since worker processes get a copy."""

    ids: np.ndarray  # [I]
    sizes: np.ndarray  # [I, 2] stored height, width
    start: np.ndarray  # [I + 1], where an image's objects begin
    boxes: np.ndarray  # [all, 4] stored px; targets first, then ignored ones, each from large to small
    classes: np.ndarray  # [all]
    ignore: np.ndarray  # [all]
    position: np.ndarray  # [I], in dataset
    read: Callable[[int], np.ndarray]


class TrainOptions(NamedTuple):
    short_sides: tuple[int, ...]
    long_side: int
    flip: float


def image_table(
    dataset: Dataset,
    positions: Sequence[int],
    slots: int,
    read: Callable[[int], np.ndarray],
    *,
    crowd: bool = False,
) -> ImageTable:
    """Gathers the images at `positions`.

    Args:
      dataset: any.
      positions: of the images, in dataset.infos.
      slots: N; of more objects the largest stay.
      read: what to read pixels with, by position in dataset.
      crowd: whether crowd regions stay, as ignored objects.
    """
    infos = [dataset.infos[i] for i in positions]
    rows: list[Annotation] = []
    start = [0]
    for info in infos:
        kept = [a for a in info.annotations if crowd or not a.crowd]
        kept.sort(key=lambda a: (a.ignore or a.crowd, -a.area))
        rows += kept[:slots]
        start.append(len(rows))
    return ImageTable(
        ids=np.array([i.id for i in infos], np.int32),
        sizes=np.array([(i.height, i.width) for i in infos], np.int64).reshape(-1, 2),
        start=np.array(start),
        boxes=np.array([a.box for a in rows], np.float64).reshape(-1, 4),
        classes=np.array([a.class_id for a in rows], np.int32),
        ignore=np.array([a.ignore or a.crowd for a in rows], bool),
        position=np.array(list(positions)),
        read=read,
    )


def training_batch(
    table: ImageTable,
    canvas: tuple[int, int],
    slots: int,
    options: TrainOptions,
    members: np.ndarray,
    rng: np.random.Generator,
) -> Batch:
    """A batch of the images `members` of the table: size and mirroring drawn for each image."""
    batch = _empty(len(members), canvas, slots)
    for row, k in enumerate(members):
        short = options.short_sides[rng.integers(len(options.short_sides))]
        hw = transforms.resized_hw(*table.sizes[k].tolist(), short, options.long_side)
        _fill(batch, row, table, k, table.read(int(table.position[k])), hw, mirror=rng.random() < options.flip)
    return batch


def test_batch(
    table: ImageTable,
    plan: Sequence[tuple[tuple[int, int], list[int]]],
    hw: Sequence[tuple[int, int]],
    slots: int,
    region_side: int,
    size: int,
    number: int,
) -> Batch:
    """Batch `number` of a plan of (canvas, images), filled up to `size`, with the pixels for mask regions.

    Args:
      hw: height and width of each image of the table in the batch.
      slots: N.
      region_side: px, side of the canvas of the mask regions' image.
    """
    canvas, members = plan[number]
    batch = _empty(size, canvas, slots)
    region = np.zeros((size, region_side, region_side, 3), np.uint8)
    region_hw = np.ones((size, 2), np.int32)
    for row, k in enumerate(members):
        image = table.read(int(table.position[k]))
        _fill(batch, row, table, k, image, hw[k], mirror=False)
        small = transforms.resize(image, transforms.region_hw(*image.shape[:2], region_side))
        region[row, : small.shape[0], : small.shape[1]] = small
        region_hw[row] = small.shape[:2]
    return batch._replace(region_image=region, region_hw=region_hw)


def _empty(size: int, canvas: tuple[int, int], slots: int) -> Batch:
    instances = Instances(
        boxes=np.zeros((size, slots, 4), np.float32),
        classes=np.full((size, slots), -1, np.int32),
        ignore=np.zeros((size, slots), bool),
    )
    # heights and widths of 1, so that nobody divides by the size of an image that only fills the batch
    return Batch(
        image=np.zeros((size, *canvas, 3), np.uint8),
        image_hw=np.ones((size, 2), np.int32),
        original_hw=np.ones((size, 2), np.int32),
        image_id=np.full(size, -1, np.int32),
        instances=instances,
    )


def _fill(
    batch: Batch, row: int, table: ImageTable, k: int, image: np.ndarray, hw: tuple[int, int], *, mirror: bool
) -> None:
    """Writes image k of the table into a row of the batch, in place."""
    resized = transforms.resize(image, hw, mirror=mirror)
    objects = slice(table.start[k], table.start[k + 1])
    boxes = transforms.scale_boxes(table.boxes[objects], table.sizes[k], hw)
    if mirror:
        boxes = transforms.flip_boxes(boxes, hw[1])
    valid = transforms.has_sides(boxes)
    n = int(valid.sum())
    batch.image[row, : hw[0], : hw[1]] = resized
    batch.image_hw[row] = hw
    batch.original_hw[row] = table.sizes[k]
    batch.image_id[row] = table.ids[k]
    batch.instances.boxes[row, :n] = boxes[valid]
    batch.instances.classes[row, :n] = table.classes[objects][valid]
    batch.instances.ignore[row, :n] = table.ignore[objects][valid]
