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
    slots: int
    min_shots: int
    size: int
    box_jitter: float
    context: float
    flip: float
    shot_augment: float
    shot_drop: float


class CropTable(NamedTuple):
    classes: np.ndarray  # [all crops]
    boxes: np.ndarray  # [all crops, 4] px of the crop
    members: dict[int, np.ndarray]  # class -> its crops
    rank: np.ndarray  # [all crops], where a crop stands among its class's members
    packed: Callable[[int], Image.Image]  # crop -> PIL picture of RGB and mask
    shot: Callable[[int], np.ndarray]  # crop -> uint8 [M, M, 4]


def mask_batch(table: CropTable, o: MaskOptions, members: np.ndarray, rng: np.random.Generator) -> MaskBatch:
    n = len(members)
    region = np.empty((n, o.size, o.size, 3), np.uint8)
    mask = np.empty((n, o.size, o.size), np.uint8)
    shots = np.zeros((n, o.slots, o.size, o.size, 4), np.uint8)
    for row, k in enumerate(members):
        packed = table.packed(int(k))
        box = transforms.jitter_box(table.boxes[k], o.box_jitter, rng)
        box = transforms.expand_box(box, o.context, (packed.height, packed.width))
        query = transforms.cut(packed, box, o.size)
        if rng.random() < o.flip:
            query = query[:, ::-1]
        region[row], mask[row] = query[..., :3], query[..., 3] >= 128
        if rng.random() >= o.shot_drop:
            chosen, alone = draw_shots(table.members[int(table.classes[k])], int(table.rank[k]), o, rng)
            augment = rng.random(len(chosen)) < o.shot_augment
            for slot, i in enumerate(chosen):
                shot = table.shot(int(i))
                if alone:  # its silhouette is the answer
                    shot = transforms.augment_own_shot(shot, mask[row], rng)
                elif augment[slot]:
                    shot = transforms.augment_shot(shot, rng)
                shots[row, slot] = shot
    return MaskBatch(region, mask, shots, table.classes[members])


def draw_shots(members: np.ndarray, rank: int, o: MaskOptions, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """Draws the shots of one sample.

    Args:
      members: the crops of its class.
      rank: where the sample itself stands among them.
      o: slots and min_shots are read.
      rng: to draw from.

    Returns:
      min_shots..slots crops, never the sample itself while its class has another; and whether it has none.
    """
    count = int(rng.integers(o.min_shots, o.slots, endpoint=True))
    others = len(members) - 1
    if others == 0:
        return np.repeat(members, count), True
    if others > 4 * count:
        # a few of many: draw until they differ, far cheaper than a permutation of all
        picked: dict[int, None] = {}
        while len(picked) < count:
            picked[int(rng.integers(others))] = None
        chosen = np.array(list(picked))
    else:
        rounds = [rng.permutation(others) for _ in range(-(-count // others))]
        chosen = np.concatenate(rounds)[:count]
    return members[chosen + (chosen >= rank)], False


def crop_table(crops: Crops, size: int, context: float, cache_bytes: int) -> CropTable:
    """Gathers what batches need of crops; keeps up to `cache_bytes` of pictures and of shots.

    The shots go first: a sample reads one picture, but up to `slots` shots.
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
    """What all crops and their shots take in memory, at most.

    Args:
      crops: any.
      size: M of the shots, px.
      margin: of the side, that the crops were cut with.
    """
    boxes = CropInfos.of(crops.infos).boxes
    sides = (boxes[:, 2:] - boxes[:, :2]) * (1 + 2 * margin) + 2  # whole pixels are cut
    return int(4 * sides.prod(1).sum()) + len(boxes) * shot_bytes(size)


def shot_bytes(size: int) -> int:
    return 4 * size * size


def _packed(read: Callable[[int], tuple[np.ndarray, np.ndarray]], i: int) -> Image.Image:
    return transforms.pack(*read(i))


def _packed_bytes(picture: Image.Image) -> int:
    return 4 * picture.width * picture.height


def _shot(packed: Callable[[int], Image.Image], boxes: np.ndarray, size: int, context: float, i: int) -> np.ndarray:
    return transforms.shot_cut(packed(i), boxes[i], size, context)


def _nbytes(array: np.ndarray) -> int:
    return array.nbytes
