"""Resizing, flips, crops and augmentation of one image, box or object.

Boxes are xyxy in px of the image they come with. A resized crop, and so a shot, is uint8 [M, M, 4]: RGB and the
soft mask ("alpha", 0..255) of one object.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

BILINEAR = Image.Resampling.BILINEAR
MAX_OWN_IOU = 0.75  # of a shot's alpha with the query's mask, where both are the same object
OWN_TRIES = 4  # augmentations that are tried before the shot is shrunk
MAX_TURN = 0.44  # radians, 25 degrees: of a shot or a region
STRETCH = 0.22  # log of the largest factor by which a region's side is stretched or shrunk, 1.25


def resized_hw(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """Height and width after detectron2's ResizeShortestEdge (detectron2/data/transforms/augmentation_impl.py).

    Args:
      height: px.
      width: px.
      short_side: px that the shorter side becomes, unless the longer one then exceeds `long_side`.
      long_side: px that the longer side has at most.
    """
    scale = short_side / min(height, width)
    new = [short_side, scale * width] if height < width else [scale * height, short_side]
    if max(new) > long_side:
        scale = long_side / max(new)
        new = [v * scale for v in new]
    return int(new[0] + 0.5), int(new[1] + 0.5)


def region_hw(height: int, width: int, long_side: int) -> tuple[int, int]:
    """Size of the image that mask regions are cropped from: the long side at most `long_side`, never enlarged."""
    if max(height, width) <= long_side:
        return height, width
    scale = long_side / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(image: np.ndarray, hw: tuple[int, int], *, mirror: bool = False) -> np.ndarray:
    """uint8 [h, w, 3] or [h, w] to another size, then mirrored if asked; bilinear, antialiased when it shrinks."""
    if image.shape[:2] == tuple(hw):
        return image[:, ::-1] if mirror else image
    resized = Image.fromarray(image).resize((hw[1], hw[0]), BILINEAR)
    if mirror:  # Pillow moves whole pixels, several times faster than a copy of numpy's mirrored view
        resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(resized)


def scale_boxes(boxes: np.ndarray, old_hw: Sequence[int], new_hw: Sequence[int]) -> np.ndarray:
    """Boxes [N, 4] of an image whose (height, width) changes from old_hw to new_hw, clipped to it."""
    y, x = new_hw[0] / old_hw[0], new_hw[1] / old_hw[1]
    return clip_boxes(np.asarray(boxes, np.float64) * (x, y, x, y), new_hw)


def clip_boxes(boxes: np.ndarray, hw: Sequence[int]) -> np.ndarray:
    """Boxes [N, 4] clipped to an image of (height, width)."""
    return np.clip(boxes, 0, (hw[1], hw[0], hw[1], hw[0]))


def flip_boxes(boxes: np.ndarray, width: float) -> np.ndarray:
    """Boxes [N, 4] in the image mirrored left to right."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], -1)


def has_sides(boxes: np.ndarray, least: float = 1e-5) -> np.ndarray:
    """bool [N]: both sides are longer than `least` px; detectron2 drops the others (structures/boxes.py, nonempty)."""
    return (boxes[:, 2] - boxes[:, 0] > least) & (boxes[:, 3] - boxes[:, 1] > least)


def padded_size(hw: tuple[int, int], buckets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The bucket (height, width) of the smallest area that an image of `hw` fits in; ValueError if none does."""
    fits = [(b[0], b[1]) for b in buckets if b[0] >= hw[0] and b[1] >= hw[1]]
    if not fits:
        raise ValueError(
            f"an image of {hw[0]} x {hw[1]} px fits none of data.buckets {tuple(map(tuple, buckets))} "
            "(height, width): add a larger one or lower data.long_side"
        )
    return min(fits, key=lambda b: b[0] * b[1])


def jitter_box(box: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Moves a box [4] and scales its sides, each at random by up to +-`amount` of the side.

    The detector's boxes are loose, so the mask head is trained with loose boxes too (docs/design.md, "The mask
    head's training data").
    """
    if amount == 0:
        return box
    shift, scale = amount * rng.uniform(-1, 1, (2, 2))
    size = box[2:] - box[:2]
    center = (box[:2] + box[2:]) / 2 + shift * size
    half = size * (1 + scale) / 2
    return np.concatenate([center - half, center + half])


def expand_box(box: np.ndarray, context: float, hw: Sequence[int]) -> np.ndarray:
    """Adds a margin of `context` times the side on each of the four sides, then clips to the image.

    The result is at least one pixel wide and high.
    """
    size = box[2:] - box[:2]
    box = np.concatenate([box[:2] - context * size, box[2:] + context * size])
    limit = np.array([hw[1], hw[0]], np.float64)
    low = np.clip(box[:2], 0, limit - 1)
    return np.concatenate([low, np.clip(np.maximum(box[2:], low + 1), 0, limit)])


def crop_window(box: Sequence[float], margin: float, hw: Sequence[int]) -> tuple[int, int, int, int]:
    """Whole-pixel window x0, y0, x1, y1 inside the image around a box and its margin."""
    x0, y0, x1, y1 = box
    dx, dy = margin * (x1 - x0), margin * (y1 - y0)
    left, top = max(0, math.floor(x0 - dx)), max(0, math.floor(y0 - dy))
    right, bottom = min(hw[1], math.ceil(x1 + dx)), min(hw[0], math.ceil(y1 + dy))
    left, top = min(left, hw[1] - 1), min(top, hw[0] - 1)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def needed_margin(jitter: float, context: float) -> float:
    """The smallest crop margin, as a share of the side, that holds every jittered and expanded box."""
    return 1.5 * jitter + context * (1 + jitter)


def pack(rgb: np.ndarray, mask: np.ndarray) -> Image.Image:
    """RGB [h, w, 3] and mask [h, w] of 0 and 1 as one four-channel PIL image.

    PIL multiplies RGBA by its alpha before it resizes. CMYK is its only other mode of four channels and resizes
    each on its own, so that one call crops colors and mask.
    """
    packed = np.empty((*mask.shape, 4), np.uint8)
    packed[..., :3] = rgb
    np.multiply(mask, 255, out=packed[..., 3])
    return _as_image(packed)


def _as_image(packed: np.ndarray) -> Image.Image:
    """uint8 [h, w, 4] as a PIL image; shares the memory where it is contiguous."""
    return Image.frombuffer("CMYK", packed.shape[1::-1], np.ascontiguousarray(packed), "raw", "CMYK", 0, 1)


def crop_resize(packed: Image.Image, box: np.ndarray, size: int) -> np.ndarray:
    """uint8 [size, size, 4]: the box [4] of a packed image, resized to a square, antialiased."""
    return np.asarray(packed.resize((size, size), BILINEAR, box=tuple(box.tolist())))


def crop_shot(packed: Image.Image, box: np.ndarray, size: int, context: float) -> np.ndarray:
    """uint8 [size, size, 4]: an object as a shot. The background's colors are kept; the mask head removes them.

    Args:
      packed: from `pack`.
      box: [4], px of the packed image.
      size: M, px.
      context: margin on each side, as a share of the box's side (config.data.context).
    """
    return crop_resize(packed, expand_box(box, context, (packed.height, packed.width)), size)


def augment_shot(shot: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A shot [M, M, 4] after random changes: rotated, moved or scaled, perhaps mirrored, and recolored.

    A symmetric or round object may still cover the pixels that it covered before; see `augment_own_shot`.
    """
    turn, mirror, recolor = rng.random(3)
    quarters = 0
    if turn < 0.5:
        quarters = int(rng.integers(1, 4))
    else:
        angle, scale = rng.uniform(-MAX_TURN, MAX_TURN), rng.uniform(0.85, 1.15)
        shot = _affine(shot, angle, scale, rng.uniform(-0.1, 0.1, 2))
    shot = _rotate(shot, quarters, mirror < 0.5)
    if recolor < 0.8:
        shot = _recolor(shot, rng)
    return shot


def augment_own_shot(shot: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Augments a shot [M, M, 4] that shows the query's own object, with a minimum change of its pose.

    The alpha of such a shot is the answer: a head that sees it in the pose of the query learns to copy it instead of
    to segment, and fails on other objects (docs/design.md, "Shots that are the query"). `augment_shot` may leave the
    silhouette almost where it was (round and symmetric ones under quarter turns, any under a small affine). So it is
    repeated until the IoU of the shot's alpha and the query's mask is at most MAX_OWN_IOU. A silhouette that none of
    these tries moves enough (a filled box, a disk) is shrunk to an area with which the IoU cannot be larger.

    Args:
      shot: of the query's object.
      mask: [M, M] of 0 and 1, the query's mask in its region.
      rng: random number generator.
    """
    for _ in range(OWN_TRIES):
        augmented = augment_shot(shot, rng)
        if silhouette_iou(augmented, mask) <= MAX_OWN_IOU:
            return augmented
    area, target = max(1, (shot[..., 3] >= 128).sum()), mask.sum()
    scale = math.sqrt(min(1.0, target / area) * rng.uniform(0.5, 0.9) * MAX_OWN_IOU)
    return _recolor(_affine(shot, rng.uniform(-MAX_TURN, MAX_TURN), scale, rng.uniform(-0.1, 0.1, 2)), rng)


def silhouette_iou(shot: np.ndarray, mask: np.ndarray) -> float:
    """Intersection over union, 0..1, of a shot's alpha [M, M, 4] and a mask [M, M] of 0 and 1, pixel on pixel."""
    alpha, mask = shot[..., 3] >= 128, mask.astype(bool)
    union = np.count_nonzero(alpha | mask)
    return np.count_nonzero(alpha & mask) / union if union else 0.0


def augment_region(
    packed: Image.Image, box: np.ndarray, size: int, rng: np.random.Generator
) -> tuple[Image.Image, np.ndarray]:
    """A crop after random changes of pixels and mask together: stretched, recolored, turned.

    Each side is stretched by up to a quarter, then the crop is turned by up to MAX_TURN. What lies beyond its border
    becomes 0.

    Args:
      packed: from `pack`, with a margin around the object.
      box: [4] of the object, px of the crop.
      size: M, px; a crop whose object is larger than twice that is shrunk, which saves time.
      rng: random number generator.

    Returns:
      The crop, of another size, and the tight box [4] of the turned object. Crop and box stay as they are where the
      object is too thin to be seen after the change.
    """
    shrink = min(1.0, 2 * size / float((box[2:] - box[:2]).max()))
    stretch = np.exp(rng.uniform(-STRETCH, STRETCH, 2)) * shrink
    angle, recolor = rng.uniform(-MAX_TURN, MAX_TURN), rng.random() < 0.8
    width, height = (max(1, round(side * s)) for side, s in zip(packed.size, stretch, strict=True))
    resized = packed.resize((width, height), BILINEAR, reducing_gap=2.0)
    if recolor:
        resized = _as_image(_recolor(np.asarray(resized), rng))
    turned = resized.rotate(math.degrees(angle), BILINEAR, expand=True)
    inside = np.asarray(turned)[..., 3] >= 128
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    if not len(rows):
        return packed, box
    tight = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)
    return turned, tight


def _rotate(shot: np.ndarray, quarters: int, mirror: bool) -> np.ndarray:
    """Quarter turns, then a flip from left to right; each pixel moves as one number, which is ten times faster."""
    pixels = np.rot90(np.ascontiguousarray(shot).view(np.uint32)[..., 0], quarters)
    pixels = np.ascontiguousarray(pixels[:, ::-1] if mirror else pixels)
    return pixels.view(np.uint8).reshape(shot.shape)


def _affine(shot: np.ndarray, angle: float, scale: float, shift: np.ndarray) -> np.ndarray:
    """Rotates (radians), scales and shifts (share of the side, [2]) around the center; 0 beyond the border."""
    side = shot.shape[0]
    center, (x, y) = side / 2, side / 2 + shift * side
    # PIL wants the inverse: output pixel -> input pixel
    cos, sin = 1 / scale * math.cos(angle), 1 / scale * math.sin(angle)
    inverse = (
        cos, sin, center - cos * x - sin * y,
        -sin, cos, center + sin * x - cos * y,
    )  # fmt: skip
    return np.asarray(_as_image(shot).transform((side, side), Image.Transform.AFFINE, inverse, BILINEAR))


def _recolor(shot: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Changes contrast and brightness at random, slightly different per channel; the mask is unchanged."""
    gain = rng.uniform(0.75, 1.25) * rng.uniform(0.9, 1.1, 3)
    offset = rng.uniform(-25, 25) + rng.uniform(-12, 12, 3)
    levels = np.arange(256)
    out = shot.copy()
    for k in range(3):
        table = np.clip((levels - 128) * gain[k] + 128 + offset[k], 0, 255).astype(np.uint8)
        # a look-up by bytes.translate is twice as fast as numpy's
        plane = shot[..., k].tobytes().translate(table.tobytes())
        out[..., k] = np.frombuffer(plane, np.uint8).reshape(out.shape[:2])
    return out
