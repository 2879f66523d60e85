"""From images to the inputs of a mask head: crops, value ranges, the condition. `inference.paste` is the inverse.

N objects, K shots, M mask side. All but `condition` are for one image or one object; boxes are xyxy
in pixels (the first pixel covers 0..1) and may be traced.
"""

import jax.numpy as jnp

from maskdiff_jax.ops.roi_align import roi_align
from maskdiff_jax.types import Array


def _resample_weights(start: Array, end: Array, size: int, length: int, valid: Array | int) -> Array:
    """[size, length]: the triangle filter that resizes pixels start..end of an axis to `size` samples."""
    scale = (end - start) / size
    reach = jnp.maximum(scale, 1.0)  # when shrinking the filter grows: no aliasing
    center = start + (jnp.arange(size) + 0.5) * scale
    pixel = jnp.arange(length) + 0.5
    w = jnp.maximum(0.0, 1.0 - jnp.abs(pixel[None] - center[:, None]) / reach)
    w = jnp.where(pixel[None] < valid, w, 0.0)
    return w / jnp.maximum(w.sum(1, keepdims=True), 1e-6)


def crop_resize(image: Array, box: Array, size: int, hw: Array | None = None) -> Array:
    """Crops a box from an image and resizes it to a square, as pillow's `resize(box=..., BILINEAR)` does.

    Args:
      image: [H, W, F], any real dtype.
      box: [4] xyxy, inside the image; an empty one gives a constant region.
      size: side of the result in px.
      hw: [2] height and width of the image inside [H, W], the rest is padding; None: all of it.

    Returns:
      [size, size, F] float32, values in the image's range (up to half a gray level from pillow, which rounds
      to integers after each axis).
    """
    height, width = image.shape[:2]
    valid_h, valid_w = (height, width) if hw is None else (hw[0], hw[1])
    rows = _resample_weights(box[1], box[3], size, height, valid_h)
    cols = _resample_weights(box[0], box[2], size, width, valid_w)
    return jnp.einsum("yh,hwf,xw->yxf", rows, image.astype(jnp.float32), cols, precision="highest")


def roi_target(mask: Array, box: Array, size: int) -> Array:
    """The target of Mask R-CNN's mask head for a box [detectron2 structures/masks.py, `BitMasks.crop_and_resize`].

    Args:
      mask: [H, W] of 0 and 1, the object in its image.
      box: [4] xyxy.
      size: S, cells per side.

    Returns:
      [S, S] float32, the object's share of each cell; detectron2 thresholds it at 0.5.
    """
    cells = roi_align(mask.astype(jnp.float32)[..., None], box[None], stride=1, size=size, sampling=0)
    return cells[0, ..., 0]


def roi_target_of_crop(mask: Array, gt_box: Array, box: Array, size: int) -> Array:
    """`roi_target` of a mask that is stored cropped to its box.

    Args:
      mask: [G, G] of 0 and 1, the object in its box; outside it there is nothing.
      gt_box: [4] xyxy, that box; an empty one gives zeros or ones.
      box: [4] xyxy, the box to make a target for, in the same pixels.
      size: S, cells per side.

    Returns:
      [S, S] float32, the object's share of each cell.
    """
    low, sides = gt_box[:2], jnp.maximum(gt_box[2:] - gt_box[:2], 1e-5)
    inside = (box.reshape(2, 2) - low) * (mask.shape[0] / sides)
    # RoIAlign repeats the last pixels of an image: with a border of zeros nothing is repeated
    return roi_target(jnp.pad(mask, 1), inside.reshape(4) + 1.0, size)


def context_box(box: Array, context: float, hw: Array) -> Array:
    """A box [..., 4] with a margin of `context` times its side on every side, clipped to the image ([2])."""
    x0, y0, x1, y1 = jnp.moveaxis(box, -1, 0)
    dx, dy = context * (x1 - x0), context * (y1 - y0)
    grown = jnp.stack([x0 - dx, y0 - dy, x1 + dx, y1 + dy], -1)
    return jnp.clip(grown, 0.0, jnp.stack([hw[1], hw[0], hw[1], hw[0]]).astype(jnp.float32))


def unit_rgb(rgb: Array) -> Array:
    """0..255 -> -1..1, float32."""
    return rgb.astype(jnp.float32) / 127.5 - 1.0


def composite_shot(rgba: Array, background: str) -> Array:
    """A shot as the net's input: the object, its background removed.

    Args:
      rgba: [..., M, M, 4], 0..255, alpha = soft mask; all zero = an empty slot.
      background: value of removed pixels: "gray" (0, the middle of the range) or "black" (-1).

    Returns:
      [..., M, M, 3] float32 in -1..1; an empty slot is zero whatever the background.

    Raises:
      ValueError: another background.
    """
    if background not in ("gray", "black"):
        raise ValueError(f"mask.shot_background is '{background}', must be gray or black")
    alpha = rgba[..., 3:].astype(jnp.float32) / 255.0
    fill = 0.0 if background == "gray" else -1.0
    out = alpha * unit_rgb(rgba[..., :3]) + (1.0 - alpha) * fill
    return jnp.where((alpha > 0).any((-3, -2, -1), keepdims=True), out, 0.0)


def condition(region: Array, shots: Array, *, slots: int, background: str) -> Array:
    """Region and shots, concatenated along the channels: what the UNet is conditioned on.

    Args:
      region: [N, M, M, 3] 0..255. shots: [N, K, M, M, 4] 0..255 RGBA; all zero = empty.
      slots: shots that the result has room for; missing ones are zero.
      background: see `composite_shot`.

    Returns:
      [N, M, M, 3 + 3 slots] float32 in -1..1.

    Raises:
      ValueError: more shots than slots.
    """
    n, k, m = shots.shape[:3]
    if k > slots:
        raise ValueError(f"{k} shots are given to {slots} slots: train a mask head with mask.slots >= {k}")
    objects = composite_shot(shots, background)
    objects = jnp.moveaxis(objects, 1, 3).reshape(n, m, m, 3 * k)
    objects = jnp.pad(objects, ((0, 0), (0, 0), (0, 0), (0, 3 * (slots - k))))
    return jnp.concatenate([unit_rgb(region), objects], -1)
