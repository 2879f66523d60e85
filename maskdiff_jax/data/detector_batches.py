"""Detector batches: resized images, padded to a common size, their boxes and, if asked for, masks."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from maskdiff_jax.data import transforms
from maskdiff_jax.data.dataset import Annotation, Dataset
from maskdiff_jax.data.formats.segmentation import decode_mask
from maskdiff_jax.types import Batch, Instances


class ImageTable(NamedTuple):
    """The data that a detector loader needs about its images; small, because each worker process gets a copy."""

    ids: np.ndarray  # [I]
    sizes: np.ndarray  # [I, 2] height, width of the image files
    start: np.ndarray  # [I + 1], the first object of each image
    boxes: np.ndarray  # [all, 4] px of the image file; targets first, then ignored ones, each from large to small
    classes: np.ndarray  # [all]
    ignore: np.ndarray  # [all]
    masks: Sequence[str]  # [all] RLE counts of the image file's size; () where no mask is asked for
    position: np.ndarray  # [I], in the dataset
    read: Callable[[int], np.ndarray]  # position -> uint8 [h, w, 3]


class TrainOptions(NamedTuple):
    """The first three as in config.data."""

    short_sides: tuple[int, ...]
    long_side: int
    flip: float
    mask_side: int  # G of Batch.gt_masks, px; 0: without them


def image_table(
    dataset: Dataset,
    positions: Sequence[int],
    slots: int,
    read: Callable[[int], np.ndarray],
    *,
    crowd: bool = False,
    masks: bool = False,
) -> ImageTable:
    """Collects the images at `positions`.

    Args:
      dataset: any.
      positions: of the images, in dataset.infos.
      slots: N; of more objects the largest are kept.
      read: position in the dataset -> pixels.
      crowd: whether crowd regions are kept, as ignored objects.
      masks: whether the objects' masks are kept.
    """
    infos = [dataset.infos[i] for i in positions]
    rows: list[Annotation] = []
    start = [0]
    for info in infos:
        kept = [a for a in info.annotations if crowd or not a.crowd]
        kept.sort(key=lambda a: (not a.is_target, -a.area))
        rows += kept[:slots]
        start.append(len(rows))
    return ImageTable(
        ids=np.array([i.id for i in infos], np.int32),
        sizes=np.array([(i.height, i.width) for i in infos], np.int64).reshape(-1, 2),
        start=np.array(start),
        boxes=np.array([a.box for a in rows], np.float64).reshape(-1, 4),
        classes=np.array([a.class_id for a in rows], np.int32),
        ignore=np.array([not a.is_target for a in rows], bool),
        masks=[a.rle["counts"] for a in rows] if masks else (),
        position=np.array(list(positions)),
        read=read,
    )


def training_batch(
    table: ImageTable,
    padded_size: tuple[int, int],
    slots: int,
    options: TrainOptions,
    members: np.ndarray,
    rng: np.random.Generator,
) -> Batch:
    """A batch of the images `members` [B] of the table; size and flip are random for each image."""
    batch, side = _empty(len(members), padded_size, slots), options.mask_side
    if side:
        batch = batch._replace(gt_masks=np.zeros((len(members), slots, side, side), np.uint8))
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
    """Batch `number` of a plan, filled up to `size` images, with the pixels that mask regions are cropped from.

    Args:
      table: of the images.
      plan: padded size and images of each batch.
      hw: height and width that each image of the table is resized to.
      slots: N.
      region_side: px, height and width that `region_image` is padded to.
      size: B.
      number: position in the plan.
    """
    padded_size, members = plan[number]
    batch = _empty(size, padded_size, slots)
    region = np.zeros((size, region_side, region_side, 3), np.uint8)
    region_hw = np.ones((size, 2), np.int32)
    for row, k in enumerate(members):
        image = table.read(int(table.position[k]))
        _fill(batch, row, table, k, image, hw[k], mirror=False)
        small = transforms.resize(image, transforms.region_hw(*image.shape[:2], region_side))
        region[row, : small.shape[0], : small.shape[1]] = small
        region_hw[row] = small.shape[:2]
    return batch._replace(region_image=region, region_hw=region_hw)


def _empty(size: int, padded_size: tuple[int, int], slots: int) -> Batch:
    instances = Instances(
        boxes=np.zeros((size, slots, 4), np.float32),
        classes=np.full((size, slots), -1, np.int32),
        ignore=np.zeros((size, slots), bool),
    )
    # height and width are 1 for images that only fill the batch: no division by zero
    return Batch(
        image=np.zeros((size, *padded_size, 3), np.uint8),
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
    if batch.gt_masks is not None:
        for slot, i in enumerate(np.arange(objects.start, objects.stop)[valid]):
            mask = _mask_in_box(table, k, i, batch.gt_masks.shape[-1])
            batch.gt_masks[row, slot] = mask[:, ::-1] if mirror else mask


def _mask_in_box(table: ImageTable, k: int, i: int, side: int) -> np.ndarray:
    """uint8 [side, side] of 0 and 1: the mask of object i, which is in image k, cropped to its box and resized."""
    mask = decode_mask({"size": table.sizes[k].tolist(), "counts": table.masks[i]})
    box = tuple(table.boxes[i].tolist())
    resized = Image.fromarray(mask * np.uint8(255)).resize((side, side), transforms.BILINEAR, box=box)
    return (np.asarray(resized) >= 128).astype(np.uint8)
