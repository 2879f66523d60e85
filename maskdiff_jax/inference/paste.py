"""Pastes the soft masks of boxes into their images, on the host. The cost depends on the box and not on the image.

The rule is that of `paste_masks_in_image` in detectron2 (layers/mask_ops.py): the M x M values belong to the centers of
the box's M x M cells, pixels in between are interpolated bilinearly, and outside the box the mask is zero.
"""

from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_utils


class _Axis(NamedTuple):
    """The pixels of one axis that a box reaches, and their positions among M zero-padded values."""

    start: int  # start <= pixel < stop
    stop: int
    below: np.ndarray  # [stop - start] index 0..M+1 into the padded values: the value at or before the pixel
    above: np.ndarray  # [stop - start] index 0..M+1: the value after it
    share: np.ndarray  # [stop - start] float32, 0..1: weight of `above`


def context_box(box: np.ndarray, context: float, hw: Any) -> np.ndarray:
    """A box with a margin on every side, clipped to the image; the same as `ops.masks.context_box`.

    Args:
      box: [4] xyxy, px.
      context: the margin, as a share of the box's side.
      hw: height and width of the image, px.

    Returns:
      [4] float32.
    """
    box, margin = np.asarray(box, np.float32), np.float32(context)
    side = margin * (box[2:] - box[:2])
    limit = np.array([hw[1], hw[0], hw[1], hw[0]], np.float32)
    return np.clip(np.concatenate([box[:2] - side, box[2:] + side]), np.float32(0), limit)


def paste(mask: np.ndarray, box: np.ndarray, hw: Any) -> np.ndarray:
    """Pastes a soft mask into an image of zeros.

    Args:
      mask: [M, M] in 0..1.
      box: [4] xyxy, px; an empty box pastes nothing.
      hw: height and width of the image, px.

    Returns:
      [h, w] float32 in 0..1. Outside the box it is 0, but up to one pixel beyond there can be values below 0.5.
    """
    out = np.zeros((int(hw[0]), int(hw[1])), np.float32)
    x, y = _axis(box[0], box[2], len(mask), out.shape[1]), _axis(box[1], box[3], len(mask), out.shape[0])
    columns = _interpolate(_padded(mask).T, x)  # [columns, M + 2]
    out[y.start : y.stop, x.start : x.stop] = _interpolate(np.ascontiguousarray(columns.T), y)
    return out


def paste_rle(mask: np.ndarray, box: np.ndarray, hw: Any, threshold: float) -> dict[str, Any]:
    """The compressed COCO RLE of ``paste(mask, box, hw) >= threshold``, without that image in memory.

    RLE runs down the columns. In a column the interpolated mask is piecewise linear between the M values, so its runs
    start and end where a piece crosses the threshold: M comparisons per column, whatever the height of the box.

    Args:
      mask: [M, M] in 0..1.
      box: [4] xyxy, px; an empty box gives an empty mask.
      hw: height and width of the image, px.
      threshold: above 0, up to 1.

    Returns:
      {"size": [h, w], "counts": str}, as `data.formats.segmentation.encode_mask` gives it.

    Raises:
      ValueError: a threshold of 0 or less, which would put all pixels outside the box into the mask.
    """
    if not threshold > 0:
        raise ValueError(f"threshold={threshold} must be above 0 (eval.mask_threshold)")
    height, width = int(hw[0]), int(hw[1])
    x, y = _axis(box[0], box[2], len(mask), width), _axis(box[1], box[3], len(mask), height)
    values = _interpolate(_padded(mask).T, x)  # [columns, M + 2]
    inside = values >= threshold
    column, node = np.nonzero(inside[:, 1:] != inside[:, :-1])  # in the order of RLE
    first, second = values[column, node].astype(np.float64), values[column, node + 1]
    position = node - 1 + (threshold - first) / (second - first)  # among the M values
    top, bottom = float(box[1]), float(box[3])
    pixel = (position + 0.5) * (bottom - top) / len(mask) + top - 0.5
    # where the mask begins: the first pixel inside; where it ends: the first pixel outside
    change = np.where(inside[column, node], np.floor(pixel) + 1, np.ceil(pixel))
    change = np.minimum(np.maximum(change, y.start), y.stop).astype(np.int64)
    return _rle((column + x.start) * height + change, height, width)


def _padded(mask: np.ndarray) -> np.ndarray:
    """[M, M] -> [M + 2, M + 2] float32, padded with zeros on every side."""
    out = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), np.float32)
    out[1:-1, 1:-1] = mask
    return out


def _rle(changes: np.ndarray, height: int, width: int) -> dict[str, Any]:
    """RLE of a mask that starts with 0 and changes at each of these pixels, counted down the columns, ascending."""
    at, times = np.unique(changes, return_counts=True)
    at = at[(times % 2 == 1) & (at < height * width)]  # two changes at one pixel cancel
    runs = np.diff(np.concatenate([[0], at, [height * width]]))
    rle = mask_utils.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return {"size": [height, width], "counts": bytes(rle["counts"]).decode()}


def _axis(start: float, end: float, size: int, length: int) -> _Axis:
    """The pixels of an axis of ``length`` px that a box from start to end reaches, for ``size`` = M values."""
    start, end = float(start), float(end)
    low, high = max(int(np.floor(start)) - 1, 0), min(int(np.ceil(end)) + 1, length)
    if not (end > start and high > low):
        low = high = 0
    position = (np.arange(low, high) + 0.5 - start) / max(end - start, 1e-6) * size - 0.5
    whole = np.floor(position)
    index = whole.astype(np.int64) + 1
    below, above = (np.minimum(np.maximum(i, 0), size + 1) for i in (index, index + 1))
    return _Axis(low, high, below, above, (position - whole).astype(np.float32))


def _interpolate(values: np.ndarray, axis: _Axis) -> np.ndarray:
    """Padded values [M + 2, n] -> pixels of the axis [stop - start, n]."""
    share = axis.share[:, None]
    return values[axis.below] * (1 - share) + values[axis.above] * share
