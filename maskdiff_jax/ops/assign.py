"""Which ground-truth object an anchor or a proposal is matched to, and which of them are sampled for the losses.

N ground-truth slots, A anchors or proposals of ONE image, R sampled RoIs. Labels as in detectron2: 1 foreground, 0
background, -1 neither.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from maskdiff_jax.ops import boxes as box_ops
from maskdiff_jax.types import Array

# a box that overlaps an ignored object at least this much is no background. detectron2 knows no ignored objects when it
# trains: the limits are ours
IGNORE_IOU = 0.3  # of RoIs: below, a box shows little of the object
IGNORE_COVER = 0.5  # share of an anchor's own area: small anchors inside a large object


def match(
    iou: Array,
    valid: Array,
    *,
    thresholds: tuple[float, ...],
    labels: tuple[int, ...],
    low_quality: bool,
) -> tuple[Array, Array]:
    """Matches each anchor with a ground-truth object and labels it [detectron2 modeling/matcher.py].

    Args:
      iou: [N, A] in 0..1.
      valid: [N] bool, False for padding.
      thresholds: ascending IoU limits, e.g. (0.3, 0.7); an IoU at a limit belongs above it.
      labels: of the intervals between the limits, one more than limits, e.g. (0, -1, 1).
      low_quality: an anchor that ties an object's best IoU gets label 1 whatever that IoU is. It stays matched with
        its own best object. As in detectron2 an object that no anchor touches (best IoU 0) labels every anchor with
        IoU 0 as foreground, so callers must not pass empty boxes as valid.

    Returns:
      matched_gt_idx [A] int32, the object of the highest IoU (the first of equals; 0 if there is none);
      label [A] int32.
    """
    iou = jnp.where(valid[:, None], iou, -1.0)
    matched_gt_idx = jnp.argmax(iou, axis=0).astype(jnp.int32)
    best = jnp.max(iou, axis=0)
    label = jnp.full(best.shape, labels[0], jnp.int32)
    for limit, above in zip(thresholds, labels[1:], strict=True):
        label = jnp.where(best >= limit, above, label)
    if low_quality:
        best_of_object = jnp.max(iou, axis=1, keepdims=True)
        label = jnp.where(((iou == best_of_object) & valid[:, None]).any(0), 1, label)
    return matched_gt_idx, label


def sample(key: Array, label: Array, *, count: int, positive: float) -> tuple[Array, Array, Array]:
    """Samples `count` anchors without replacement, at most a share `positive` of them with label 1.

    The rest have label 0; where there are too few of those, slots stay unused [detectron2 modeling/sampling.py].

    Args:
      key: random key.
      label: [A], 1, 0 or -1 (never sampled).
      count: R.
      positive: in 0..1.

    Returns:
      index [count] int32, is_fg [count] bool, used [count] bool; foreground first, then background, then
      unused slots (their index is valid but means nothing).
    """
    size = label.shape[0]
    order = jax.random.uniform(key, (size,))
    most_fg = int(count * positive)
    fg = jax.lax.top_k(jnp.where(label == 1, order, -1.0), min(max(most_fg, 1), size))[1]
    bg = jax.lax.top_k(jnp.where(label == 0, order, -1.0), min(count, size))[1]
    n_fg = jnp.minimum((label == 1).sum(), min(most_fg, size))
    n_bg = jnp.minimum((label == 0).sum(), jnp.minimum(count - n_fg, size))
    slot = jnp.arange(count)
    is_fg = slot < n_fg
    from_fg, from_bg = jnp.minimum(slot, len(fg) - 1), jnp.clip(slot - n_fg, 0, len(bg) - 1)
    index = jnp.where(is_fg, fg[from_fg], bg[from_bg])
    return index.astype(jnp.int32), is_fg, slot < n_fg + n_bg


class GroundTruth(NamedTuple):
    """Objects of one image (or, vmapped, of many)."""

    boxes: Array  # [N, 4] xyxy, px
    classes: Array  # [N]; anything where neither valid nor ignored
    valid: Array  # [N] bool, objects to be detected
    ignored: Array  # [N] bool, neither foreground nor background


class SampledAnchors(NamedTuple):
    """Anchors in the RPN's losses, of one image (or, vmapped, of many)."""

    index: Array  # [R] int32 into the anchors
    is_fg: Array  # [R] bool
    used: Array  # [R] bool, False in slots that nothing fills
    targets: Array  # [R, 4] regression targets; meaningless where not is_fg


class SampledRois(NamedTuple):
    """RoIs in the second stage's losses, of one image (or, vmapped, of many); foreground first."""

    boxes: Array  # [R, 4] xyxy, px; zeros where not used
    labels: Array  # [R] class ids, background C
    used: Array  # [R] bool, False in slots that nothing fills
    targets: Array  # [R, 4] regression targets; meaningless for background
    matched_gt_idx: Array  # [R] int32, the ground-truth object; meaningless for background


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
) -> SampledAnchors:
    """Samples anchors for the losses of the first stage [detectron2 proposal_generator/rpn.py].

    A background anchor is not sampled if it overlaps an ignored object: IoU at least the lower threshold, or at
    least `IGNORE_COVER` of the anchor's area.

    Args:
      anchors: [A, 4].
      inside: [A] bool, anchors that exist for this image.
      thresholds: IoU below which an anchor is background, from which it is foreground.
      count: R.
      positive: share of foreground among them, at most.
      weights: of the box coder.
    """
    iou = jnp.where(inside, box_ops.iou(gt.boxes, anchors), -1.0)
    matched_gt_idx, label = match(iou, gt.valid, thresholds=thresholds, labels=(0, -1, 1), low_quality=True)
    cover = box_ops.intersection(gt.boxes, anchors) / box_ops.area(anchors)
    on_ignored = (((iou >= thresholds[0]) | (cover >= IGNORE_COVER)) & gt.ignored[:, None]).any(0)
    label = jnp.where(inside & ~((label == 0) & on_ignored), label, -1)
    index, is_fg, used = sample(key, label, count=count, positive=positive)
    targets = box_ops.encode(anchors[index], gt.boxes[matched_gt_idx[index]], weights)
    return SampledAnchors(index, is_fg, used, targets)


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
) -> SampledRois:
    """Samples RoIs for the losses of the second stage [detectron2 roi_heads/roi_heads.py].

    The ground-truth boxes join the proposals. A background RoI is not sampled if its IoU with an ignored object is at
    least `IGNORE_IOU`.

    Args:
      boxes, valid: [P, 4] and [P] bool, the proposals.
      background: the label of background, C.
      threshold: IoU from which a RoI is foreground.
      count: R.
      positive: share of foreground among them, at most.
      weights: of the box coder.
    """
    boxes = jnp.concatenate([boxes, gt.boxes])
    valid = jnp.concatenate([valid, gt.valid])
    iou = box_ops.iou(gt.boxes, boxes)
    matched_gt_idx, label = match(iou, gt.valid, thresholds=(threshold,), labels=(0, 1), low_quality=False)
    on_ignored = ((iou >= IGNORE_IOU) & gt.ignored[:, None]).any(0)
    label = jnp.where(valid & ~((label == 0) & on_ignored), label, -1)
    index, is_fg, used = sample(key, label, count=count, positive=positive)
    rois = jnp.where(used[:, None], boxes[index], 0.0)
    matched = matched_gt_idx[index]
    labels = jnp.where(is_fg, gt.classes[matched], background)
    return SampledRois(rois, labels, used, box_ops.encode(rois, gt.boxes[matched], weights), matched)
