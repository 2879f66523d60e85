"""The second pass of iFS-RCNN: a head looks at each predicted box again, estimates its IoU and corrects it.

Follows VinAIResearch/iFS-RCNN, modeling/roi_heads/roi_heads.py, with static shapes. B images, R sampled RoIs, N
candidates, C classes, F channels. Boxes are xyxy in pixels of the network's input.

The head sees the features of the predicted box and the variances of its four deltas. A separate phase
(`training.stages`) trains only this head and the box regression.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from maskdiff_jax import losses
from maskdiff_jax.detector_settings import Settings
from maskdiff_jax.nets import rcnn
from maskdiff_jax.ops import boxes as box_ops
from maskdiff_jax.ops import select
from maskdiff_jax.ops.assign import SampledRois
from maskdiff_jax.ops.batch import per_image
from maskdiff_jax.types import Array, Detections, PyTree

IOU_BETA = 0.5  # knee of the smooth L1 loss of the mapped IoU [iFS-RCNN]

Crop = Callable[[Array], Array]  # boxes [B, N, 4] -> features [B, N, S, S, F]


def head(s: Settings) -> rcnn.RefineHead:
    """The module; its parameters are those of "refine"."""
    return rcnn.RefineHead(s.fc_channels, s.dtype)


def mapped_iou(iou: Array, lowest: float) -> Array:
    """Linear map of IoU: `lowest`..1 -> -1..1, what a tanh can predict."""
    return (2.0 * iou - (1.0 + lowest)) / (1.0 - lowest)


def iou_of(logit: Array, lowest: float) -> Array:
    """The IoU that the head predicts, in `lowest`..1: inverse of `mapped_iou` after a tanh.

    The published code calls it at test with lowest = 0.5, the default of its constructor, though the head is trained
    with 0.7. Here both are `detector.refine_iou`.
    """
    return 0.5 * (jnp.tanh(logit) * (1.0 - lowest) + 1.0 + lowest)


def losses_of(
    s: Settings, params: PyTree, crop: Crop, rois: SampledRois, deltas: Array, image_hw: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The losses of the head on the boxes predicted for foreground RoIs.

    Args:
      params: of "refine".
      crop: cuts features out.
      rois: [B, R], foreground first.
      deltas: [B, R, C or 1, 8] predicted; they get no gradient from here.
      image_hw: [B, 2].

    Returns:
      the losses by name; metrics by name.
    """
    first = max(int(s.roi_samples * s.roi_positive), 1)  # no RoI after these is foreground
    rois = jax.tree.map(lambda x: x[:, :first], rois)
    foreground = rois.used & (rois.labels < s.num_classes)
    own = losses.own_class(jax.lax.stop_gradient(deltas[:, :first]), jnp.clip(rois.labels, 0, s.num_classes - 1))
    gt = box_ops.decode(rois.targets, rois.boxes, s.box_weights)
    clip = per_image(box_ops.clip)
    pred = clip(box_ops.decode(own[..., :4], rois.boxes, s.box_weights), image_hw)
    pred = jnp.where(foreground[..., None], pred, 0.0)
    iou, pairs = overlaps(pred, gt, foreground, s.refine_iou)
    logits, shifts = head(s).apply({"params": params}, crop(pred), losses.box_variance(own[..., 4:]))
    targets = box_ops.encode(pred, gt, s.box_weights)
    parts = pair_losses(logits, shifts, iou, targets, pairs, lowest=s.refine_iou)
    error = jnp.where(pairs, jnp.abs(iou_of(logits, s.refine_iou) - iou), 0.0)
    count = jnp.maximum(pairs.sum(), 1)
    return parts, {
        "refine_pairs": pairs.sum(-1).mean(dtype=jnp.float32),  # per image
        "iou": jnp.where(pairs, iou, 0.0).sum() / count,
        "iou_error": error.sum() / count,
    }


def overlaps(pred: Array, gt: Array, foreground: Array, lowest: float) -> tuple[Array, Array]:
    """IoU of each predicted box with the object of its RoI, and whether the pair is trained on.

    Args:
      pred, gt: [..., 4].
      foreground: [...] bool.
      lowest: a pair's IoU must be larger.

    Returns:
      [...] in 0..1, [...] bool.
    """
    iou = box_ops.paired_iou(pred, gt)
    return iou, foreground & (iou > lowest)


def pair_losses(
    logits: Array, deltas: Array, iou: Array, targets: Array, pairs: Array, *, lowest: float
) -> dict[str, Array]:
    """Smooth L1 of the mapped IoU, and L1 of the deltas: means over the pairs, 0 where there is none.

    Args:
      logits, iou: [...].
      deltas, targets: [..., 4].
      pairs: [...] bool.
      lowest: see `mapped_iou`.
    """
    error = losses.smooth_l1(jnp.tanh(logits), mapped_iou(iou, lowest), beta=IOU_BETA)
    box = losses.smooth_l1(deltas, targets, beta=0.0).mean(-1)
    count = jnp.maximum(pairs.sum(), 1)
    return {
        "loss_iou": jnp.where(pairs, error, 0.0).sum() / count,
        "loss_refine": jnp.where(pairs, box, 0.0).sum() / count,
    }


def detect(
    s: Settings, params: PyTree, crop: Crop, scores: Array, deltas: Array, proposals: select.Proposals, image_hw: Array
) -> Detections:
    """Candidates over the score limit, without suppression -> refined, score times IoU -> limit and suppression.

    Args:
      params, crop: as in `losses_of`.
      scores: [B, P, C].
      deltas: [B, P, C or 1, 8].
      proposals: [B, P].
      image_hw: [B, 2].
    """
    best = functools.partial(
        select.best_candidates, weights=s.box_weights, min_score=s.min_score, count=s.refine_candidates
    )
    found, raw = per_image(best)(scores, deltas, proposals, image_hw)
    logits, shifts = head(s).apply({"params": params}, crop(found.boxes), losses.box_variance(raw))
    boxes = per_image(box_ops.clip)(box_ops.decode(shifts, found.boxes, s.box_weights), image_hw)
    found = found._replace(boxes=boxes, scores=found.scores * iou_of(logits, s.refine_iou))
    finish = functools.partial(select.suppress, min_score=s.min_score, threshold=s.nms, count=s.max_detections)
    return per_image(finish)(found)
