"""Boxes: areas, overlaps, clipping and the coder between boxes and regression deltas.

Boxes are xyxy float32 in pixels with continuous coordinates: no "+1" anywhere [detectron2
structures/boxes.py, modeling/box_regression.py]. A anchors; N and M other numbers of boxes.
"""

import math

import jax.numpy as jnp
import numpy as np

from maskdiff_jax.types import Array

MAX_LOG_SCALE = math.log(1000.0 / 16.0)  # decoded sides grow at most 62.5 times [detectron2]
MIN_SIDE = 1e-6  # px; keeps padding (empty boxes) finite in the coder


def area(boxes: Array) -> Array:
    """[..., 4] -> [...], px^2; 0 for boxes with a negative side."""
    side = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    return side[..., 0] * side[..., 1]


def intersection(a: Array, b: Array) -> Array:
    """Shared areas of [N, 4] and [M, 4] boxes: [N, M], px^2."""
    top = jnp.maximum(a[:, None, :2], b[None, :, :2])
    side = jnp.maximum(jnp.minimum(a[:, None, 2:], b[None, :, 2:]) - top, 0.0)
    return side[..., 0] * side[..., 1]


def iou(a: Array, b: Array) -> Array:
    """Intersection over union of [N, 4] and [M, 4] boxes: [N, M] in 0..1; 0 where a box is empty."""
    shared = intersection(a, b)
    union = area(a)[:, None] + area(b)[None, :] - shared
    return jnp.where(shared > 0, shared / jnp.where(shared > 0, union, 1.0), 0.0)


def paired_iou(a: Array, b: Array) -> Array:
    """Intersection over union of each of two lists of boxes [..., 4] with its partner: [...]; 0 where one is empty."""
    side = jnp.maximum(jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2]), 0.0)
    shared = side[..., 0] * side[..., 1]
    return jnp.where(shared > 0, shared / jnp.where(shared > 0, area(a) + area(b) - shared, 1.0), 0.0)


def clip(boxes: Array, hw: Array) -> Array:
    """[..., 4] boxes clipped to an image of `hw` = (height, width)."""
    limit = jnp.stack([hw[1], hw[0], hw[1], hw[0]]).astype(boxes.dtype)
    return jnp.clip(boxes, 0.0, limit)


def encode(src: Array, target: Array, weights: tuple[float, ...]) -> Array:
    """Regression targets: the deltas [..., 4] that turn `src` into `target` boxes.

    (wx dcx / w, wy dcy / h, ww log(w' / w), wh log(h' / h)) with `weights` (wx, wy, ww, wh). Empty boxes
    count as `MIN_SIDE` wide, so that padding stays finite.
    """
    size = jnp.maximum(src[..., 2:] - src[..., :2], MIN_SIDE)
    to_size = jnp.maximum(target[..., 2:] - target[..., :2], MIN_SIDE)
    shift = (target[..., :2] + 0.5 * to_size - src[..., :2] - 0.5 * size) / size
    return jnp.concatenate([shift, jnp.log(to_size / size)], -1) * jnp.asarray(weights, src.dtype)


def decode(deltas: Array, src: Array, weights: tuple[float, ...]) -> Array:
    """Inverse of `encode`: [..., 4] boxes; growth is clamped at `MAX_LOG_SCALE`. Shapes broadcast."""
    deltas = deltas / jnp.asarray(weights, deltas.dtype)
    size = src[..., 2:] - src[..., :2]
    center = src[..., :2] + 0.5 * size + deltas[..., :2] * size
    half = 0.5 * jnp.exp(jnp.minimum(deltas[..., 2:], MAX_LOG_SCALE)) * size
    return jnp.concatenate([center - half, center + half], -1)


def anchors(hw: tuple[int, int], *, stride: int, size: float, ratios: tuple[float, ...]) -> Array:
    """The anchors of one level, [H W len(ratios), 4] in the order row, column, ratio.

    Args:
      hw: cells of the level.
      stride: px per cell; anchors are centered on cell corners, (column, row) * stride.
      size: px, square root of an anchor's area.
      ratios: height / width.
    """
    width = np.sqrt(size**2 / np.asarray(ratios))
    half = np.stack([width, np.asarray(ratios) * width], -1) / 2.0
    cell = jnp.asarray(np.concatenate([-half, half], -1), jnp.float32)
    y, x = jnp.arange(hw[0]) * stride, jnp.arange(hw[1]) * stride
    corner = jnp.stack(jnp.broadcast_arrays(x[None, :], y[:, None], x[None, :], y[:, None]), -1)
    return (corner[:, :, None].astype(jnp.float32) + cell).reshape(-1, 4)
