"""Mask-head batches: the region of an object, its mask, and shots of other objects of its class."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from maskdiff_jax.data import transforms
from maskdiff_jax.data.cache import Cached
from maskdiff_jax.data.crops import CropInfos, Crops
from maskdiff_jax.types import MaskBatch


class MaskOptions(NamedTuple):
    """The last six as in config.data."""

    slots: int  # K
    min_shots: int  # 1..slots
    size: int  # M, px
    box_jitter: float
    context: float
    flip: float
    shot_augment: float
    shot_drop: float
    region_augment: float


class CropTable(NamedTuple):
    classes: np.ndarray  # [all crops]
    boxes: np.ndarray  # [all crops, 4] px of the crop
    members: dict[int, np.ndarray]  # class -> its crops
    rank: np.ndarray  # [all crops], position of a crop among its class's members
    packed: Callable[[int], Image.Image]  # crop -> PIL image of RGB and mask, see transforms.pack
    shot: Callable[[int], np.ndarray]  # crop -> uint8 [M, M, 4]


def mask_batch(table: CropTable, options: MaskOptions, members: np.ndarray, rng: np.random.Generator) -> MaskBatch:
    """The batch of the crops `members` [B] of the table; box, flip, shots and their augmentation are random."""
    n, size = len(members), options.size
    region = np.empty((n, size, size, 3), np.uint8)
    mask = np.empty((n, size, size), np.uint8)
    shots = np.zeros((n, options.slots, size, size, 4), np.uint8)
    for row, k in enumerate(members):
        packed, box = table.packed(int(k)), table.boxes[k]
        # no random number at 0: batches stay what they were before there was this option
        if options.region_augment and rng.random() < options.region_augment:
            packed, box = transforms.augment_region(packed, box, size, rng)
        box = transforms.jitter_box(box, options.box_jitter, rng)
        box = transforms.expand_box(box, options.context, (packed.height, packed.width))
        query = transforms.crop_resize(packed, box, size)
        if rng.random() < options.flip:
            query = query[:, ::-1]
        region[row], mask[row] = query[..., :3], query[..., 3] >= 128
        if rng.random() >= options.shot_drop:
            chosen, alone = sample_shots(table.members[int(table.classes[k])], int(table.rank[k]), options, rng)
            augment = rng.random(len(chosen)) < options.shot_augment
            for slot, i in enumerate(chosen):
                shot = table.shot(int(i))
                if alone:  # its silhouette is the answer
                    shot = transforms.augment_own_shot(shot, mask[row], rng)
                elif augment[slot]:
                    shot = transforms.augment_shot(shot, rng)
                shots[row, slot] = shot
    return MaskBatch(region, mask, shots, table.classes[members])


def sample_shots(
    members: np.ndarray, rank: int, options: MaskOptions, rng: np.random.Generator
) -> tuple[np.ndarray, bool]:
    """Samples the shots of one query.

    Args:
      members: the crops of its class.
      rank: position of the query itself among them.
      options: slots and min_shots are read.
      rng: random number generator.

    Returns:
      min_shots..slots crops, never the query itself unless its class has no other; and whether it has no other.
    """
    count = int(rng.integers(options.min_shots, options.slots, endpoint=True))
    others = len(members) - 1
    if others == 0:
        return np.repeat(members, count), True
    if others > 4 * count:
        # a few of many: sample until they differ, far cheaper than a permutation of all
        picked: dict[int, None] = {}
        while len(picked) < count:
            picked[int(rng.integers(others))] = None
        chosen = np.array(list(picked))
    else:
        rounds = [rng.permutation(others) for _ in range(-(-count // others))]
        chosen = np.concatenate(rounds)[:count]
    return members[chosen + (chosen >= rank)], False


def crop_table(crops: Crops, size: int, context: float, cache_bytes: int) -> CropTable:
    """Collects what batches need of crops; caches up to `cache_bytes` of crops and shots.

    Shots have priority: a query reads one crop, but up to `slots` shots.
    """
    infos = CropInfos.of(crops.infos)
    classes, boxes = infos.class_ids, infos.boxes
    members = {int(c): np.flatnonzero(classes == c) for c in np.unique(classes)}
    rank = np.zeros(len(classes), np.int64)
    for positions in members.values():
        rank[positions] = np.arange(len(positions))
    for_shots = min(cache_bytes, len(classes) * shot_bytes(size))
    packed = Cached(functools.partial(_packed, crops.read), cache_bytes - for_shots, _packed_bytes)
    prepared = crops.shots(size)
    read_shot = functools.partial(_shot, packed, boxes, size, context) if prepared is None else prepared
    return CropTable(classes, boxes, members, rank, packed, Cached(read_shot, for_shots, _nbytes))


def decoded_bytes(crops: Crops, size: int, margin: float) -> int:
    """An upper bound of the memory that all crops and their shots need, in bytes.

    Args:
      crops: any.
      size: M of the shots, px.
      margin: of the crops on each side, as a share of the box's side.
    """
    boxes = CropInfos.of(crops.infos).boxes
    sides = (boxes[:, 2:] - boxes[:, :2]) * (1 + 2 * margin) + 2  # crops are whole pixels
    return int(4 * sides.prod(1).sum()) + len(boxes) * shot_bytes(size)


def shot_bytes(size: int) -> int:
    """Bytes of one shot of `size` px."""
    return 4 * size * size


def _packed(read: Callable[[int], tuple[np.ndarray, np.ndarray]], i: int) -> Image.Image:
    return transforms.pack(*read(i))


def _packed_bytes(packed: Image.Image) -> int:
    return 4 * packed.width * packed.height


def _shot(packed: Callable[[int], Image.Image], boxes: np.ndarray, size: int, context: float, i: int) -> np.ndarray:
    return transforms.crop_shot(packed(i), boxes[i], size, context)


def _nbytes(array: np.ndarray) -> int:
    return array.nbytes
