"""Which ground-truth object an anchor or a proposal stands for, and which of them are trained on.

N ground-truth slots, A anchors or proposals of ONE image. Labels: 1 object, 0 background, -1 neither.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from maskdiff_jax.ops import boxes as box_ops
from maskdiff_jax.types import Array

# what covers an ignored object this much is not called background
IGNORE_IOU = 0.3  # RoIs: below, a box shows little of the object
IGNORE_COVER = 0.5  # share of an anchor's own area: small anchors inside a large object


def match(
    iou: Array,
    valid: Array,
    *,
    thresholds: tuple[float, ...],
    labels: tuple[int, ...],
    low_quality: bool,
) -> tuple[Array, Array]:
    """Gives each anchor its best object and a label by their overlap [detectron2 modeling/matcher.py].

    Args:
      iou: [N, A] in 0..1.
      valid: [N] bool, False for padding.
      thresholds: ascending IoU limits, e.g. (0.3, 0.7); an IoU at a limit belongs above it.
      labels: one more than limits, e.g. (0, -1, 1).
      low_quality: an anchor that ties an object's best IoU becomes 1 whatever that IoU is. Its object
        stays its own best one. As in detectron2 an object that no anchor touches (best IoU 0) turns
        every anchor with IoU 0 positive, so callers must not pass empty boxes as valid.

    Returns:
      index [A] int32 of the best object (the first of equals; 0 if there is none), label [A] int32.
    """
    iou = jnp.where(valid[:, None], iou, -1.0)
    index = jnp.argmax(iou, axis=0).astype(jnp.int32)
    best = jnp.max(iou, axis=0)
    label = jnp.full(best.shape, labels[0], jnp.int32)
    for limit, name in zip(thresholds, labels[1:], strict=True):
        label = jnp.where(best >= limit, name, label)
    if low_quality:
        peak = jnp.max(iou, axis=1, keepdims=True)
        label = jnp.where(((iou == peak) & valid[:, None]).any(0), 1, label)
    return index, label


def sample(key: Array, label: Array, *, count: int, positive: float) -> tuple[Array, Array, Array]:
    """Draws `count` anchors without replacement, at most a share `positive` of them with label 1.

    The rest are drawn from label 0; where there are too few of those, slots stay unused
    [detectron2 modeling/sampling.py].

    Args:
      key: random key.
      label: [A], 1, 0 or -1 (never drawn).

    Returns:
      index [count] int32, is_fg [count] bool, used [count] bool; objects first, then background, then
      unused slots (their index is valid but means nothing).
    """
    size = label.shape[0]
    order = jax.random.uniform(key, (size,))
    most = int(count * positive)
    fg = jax.lax.top_k(jnp.where(label == 1, order, -1.0), min(max(most, 1), size))[1]
    bg = jax.lax.top_k(jnp.where(label == 0, order, -1.0), min(count, size))[1]
    n_fg = jnp.minimum((label == 1).sum(), min(most, size))
    n_bg = jnp.minimum((label == 0).sum(), jnp.minimum(count - n_fg, size))
    slot = jnp.arange(count)
    is_fg = slot < n_fg
    from_fg, from_bg = jnp.minimum(slot, len(fg) - 1), jnp.clip(slot - n_fg, 0, len(bg) - 1)
    index = jnp.where(is_fg, fg[from_fg], bg[from_bg])
    return index.astype(jnp.int32), is_fg, slot < n_fg + n_bg


class GroundTruth(NamedTuple):
    """Objects of one image (or, vmapped, of many)."""

    boxes: Array  # [N, 4]
    classes: Array  # [N]; anything where neither target nor ignored
    target: Array  # [N] bool, to be found
    ignored: Array  # [N] bool, neither object nor background


def sample_anchors(
    key: Array,
    anchors: Array,
    inside: Array,
    gt: GroundTruth,
    *,
    thresholds: tuple[float, float],
    count: int,
    positive: float,
    weights: tuple[float, ...],
) -> tuple[Array, Array, Array, Array]:
    """Anchors in the loss of the first stage, and the deltas they should have.

    A background anchor is left out if an ignored object covers it: IoU at least the lower threshold, or at
    least `IGNORE_COVER` of the anchor's area.

    Args:
      anchors: [A, 4].
      inside: [A] bool, anchors that exist for this image.
      thresholds: IoU below which an anchor is background, from which it is an object.
      count: S, anchors drawn.
      positive: share of objects among them, at most.
      weights: of the box coder.

    Returns:
      index [S], is_fg [S], used [S], deltas [S, 4] (meaningless where not is_fg).
    """
    iou = jnp.where(inside, box_ops.iou(gt.boxes, anchors), -1.0)
    owner, label = match(iou, gt.target, thresholds=thresholds, labels=(0, -1, 1), low_quality=True)
    cover = box_ops.intersection(gt.boxes, anchors) / box_ops.area(anchors)
    hidden = (((iou >= thresholds[0]) | (cover >= IGNORE_COVER)) & gt.ignored[:, None]).any(0)
    label = jnp.where(inside & ~((label == 0) & hidden), label, -1)
    index, is_fg, used = sample(key, label, count=count, positive=positive)
    return index, is_fg, used, box_ops.encode(anchors[index], gt.boxes[owner[index]], weights)


def sample_rois(
    key: Array,
    boxes: Array,
    valid: Array,
    gt: GroundTruth,
    *,
    background: int,
    threshold: float,
    count: int,
    positive: float,
    weights: tuple[float, ...],
) -> tuple[Array, Array, Array, Array]:
    """RoIs in the loss of the second stage with their classes and deltas.

    The true boxes join the proposals. A background RoI is left out if its IoU with an ignored object is at
    least `IGNORE_IOU`.

    Args:
      boxes, valid: [P, 4] and [P], the proposals.
      background: class id of what is no object, C.
      threshold: IoU from which a RoI is an object.
      count: R, RoIs drawn.
      positive: share of objects among them, at most.
      weights: of the box coder.

    Returns:
      boxes [R, 4] (zeros where not used), classes [R], used [R], deltas [R, 4] (meaningless for background).
    """
    boxes = jnp.concatenate([boxes, gt.boxes])
    valid = jnp.concatenate([valid, gt.target])
    iou = box_ops.iou(gt.boxes, boxes)
    owner, label = match(iou, gt.target, thresholds=(threshold,), labels=(0, 1), low_quality=False)
    hidden = ((iou >= IGNORE_IOU) & gt.ignored[:, None]).any(0)
    label = jnp.where(valid & ~((label == 0) & hidden), label, -1)
    index, is_fg, used = sample(key, label, count=count, positive=positive)
    rois = jnp.where(used[:, None], boxes[index], 0.0)
    owner = owner[index]
    return (
        rois,
        jnp.where(is_fg, gt.classes[owner], background),
        used,
        box_ops.encode(rois, gt.boxes[owner], weights),
    )
