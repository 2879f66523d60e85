"""From the networks' outputs to boxes, for ONE image: proposals of the first stage, detections of the second.

A_l anchors of level l, P proposals, D detections, C classes. Boxes are xyxy in pixels of the network's input.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from maskdiff_jax.ops import boxes as box_ops
from maskdiff_jax.ops import nms
from maskdiff_jax.types import Array, Detections

RPN_WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # of dx, dy, dw, dh in the first stage [detectron2]


class Proposals(NamedTuple):
    """Boxes of one image (or, vmapped, of many), best first."""

    boxes: Array  # [P, 4], zeros in padding
    scores: Array  # [P] logits, -inf in padding
    valid: Array  # [P] bool


def propose(
    anchors: dict[int, Array],
    logits: dict[int, Array],
    deltas: dict[int, Array],
    inside: dict[int, Array],
    hw: Array,
    *,
    pre_nms: int,
    threshold: float,
    count: int,
) -> Proposals:
    """The best anchors as proposals [detectron2 proposal_generator/proposal_utils.py].

    Per level the `pre_nms` best logits are decoded, clipped to the image, boxes without area dropped, and suppressed;
    of all levels together the `count` best are kept.

    Args:
      anchors, logits, deltas: level -> [A_l, 4], [A_l], [A_l, 4].
      inside: level -> [A_l] bool, anchors that exist for this image.
      hw: [2] height and width of the image, px.
      pre_nms: candidates per level.
      threshold: IoU above which the box of lower score is suppressed.
      count: P.
    """
    most = min(pre_nms, max(len(a) for a in anchors.values()))
    boxes, scores, valid = [], [], []
    for level in anchors:
        k = min(pre_nms, len(anchors[level]))
        score, index = jax.lax.top_k(jnp.where(inside[level], logits[level], -jnp.inf), k)
        box = box_ops.clip(box_ops.decode(deltas[level][index], anchors[level][index], RPN_WEIGHTS), hw)
        good = jnp.isfinite(score) & jnp.isfinite(box).all(-1) & (box[:, 2:] > box[:, :2]).all(-1)
        boxes.append(jnp.pad(jnp.where(good[:, None], box, 0.0), ((0, most - k), (0, 0))))
        scores.append(jnp.pad(score, (0, most - k), constant_values=-jnp.inf))
        valid.append(jnp.pad(good, (0, most - k)))
    boxes, scores, valid = jnp.stack(boxes), jnp.stack(scores), jnp.stack(valid)
    keep = jax.vmap(lambda b, s, v: nms.nms(b, s, threshold, valid=v))(boxes, scores, valid)
    flat = jnp.where(keep, scores, -jnp.inf).reshape(-1)
    flat = jnp.pad(flat, (0, max(0, count - flat.size)), constant_values=-jnp.inf)
    best, index = jax.lax.top_k(flat, count)
    found = best > -jnp.inf
    return Proposals(jnp.where(found[:, None], boxes.reshape(-1, 4)[index], 0.0), best, found)


def detections(
    scores: Array,
    deltas: Array,
    proposals: Proposals,
    hw: Array,
    *,
    weights: tuple[float, ...],
    min_score: float,
    threshold: float,
    count: int,
) -> Detections:
    """Decoding, and suppression within each class [detectron2 roi_heads/fast_rcnn.py].

    Every (proposal, class) pair over the limit is a candidate; none is dropped beforehand (`nms.nms_top`).

    Args:
      scores: [P, C] in 0..1.
      deltas: [P, C, 4] per class, or [P, 1, 4] for all classes.
      hw: [2] height and width of the image, px.
      weights: of the box coder.
      min_score: a candidate's score must be larger.
      threshold: IoU above which the box of lower score and the same class is suppressed.
      count: D.

    Returns:
      boxes [D, 4], scores [D] in 0..1, classes [D]; boxes without area are no detections.
    """
    found = _candidates(scores, deltas, proposals, hw, weights)
    return suppress(found, min_score=min_score, threshold=threshold, count=count)


class Candidates(NamedTuple):
    """Boxes of one image (or, vmapped, of many) that may become detections."""

    boxes: Array  # [N, 4], inside the image; anything where not valid
    scores: Array  # [N] in 0..1
    classes: Array  # [N] class ids
    valid: Array  # [N] bool


def best_candidates(
    scores: Array, deltas: Array, proposals: Proposals, hw: Array, *,
    weights: tuple[float, ...], min_score: float, count: int,
) -> tuple[Candidates, Array]:  # fmt: skip
    """The best (proposal, class) pairs, without suppression.

    Args:
      scores, deltas, proposals, hw, weights, min_score: as in `detections`; deltas may be [P, C or 1, 8].
      count: N.

    Returns:
      candidates, best first; what follows the four deltas of each, [N, 0 or 4].
    """
    found = _candidates(scores, deltas[..., :4], proposals, hw, weights)
    ranked = jnp.where(found.valid & (found.scores > min_score), found.scores, -jnp.inf)
    kept = min(count, ranked.size)
    best, index = jax.lax.top_k(ranked, kept)
    rest = jnp.broadcast_to(deltas[..., 4:], (*scores.shape, deltas.shape[-1] - 4))
    chosen = jax.tree.map(lambda x: x[index], (found._replace(valid=ranked > -jnp.inf), rest.reshape(ranked.size, -1)))
    return jax.tree.map(lambda x: jnp.pad(x, ((0, count - kept), *((0, 0),) * (x.ndim - 1))), chosen)


def _candidates(
    scores: Array, deltas: Array, proposals: Proposals, hw: Array, weights: tuple[float, ...]
) -> Candidates:
    """Every (proposal, class) pair, N = P C."""
    p, c = scores.shape
    boxes = box_ops.clip(box_ops.decode(deltas, proposals.boxes[:, None], weights), hw)
    boxes = jnp.broadcast_to(boxes, (p, c, 4)).reshape(-1, 4)
    return Candidates(boxes, scores.reshape(-1), jnp.tile(jnp.arange(c), p), jnp.repeat(proposals.valid, c))


def suppress(found: Candidates, *, min_score: float, threshold: float, count: int) -> Detections:
    """The best candidates that suppression within each class keeps; the arguments are those of `detections`."""
    boxes, scores, classes, valid = found
    good = jnp.isfinite(boxes).all(-1) & (boxes[:, 2:] > boxes[:, :2]).all(-1) & (scores > min_score)
    index, filled = nms.nms_top(
        boxes,
        scores,
        threshold,
        count=count,
        classes=classes,
        valid=good & valid,
        block=max(4 * count, 128),
    )
    return Detections(
        jnp.where(filled[:, None], boxes[index], 0.0),
        jnp.where(filled, scores[index], 0.0),
        jnp.where(filled, classes[index], -1),
    )
