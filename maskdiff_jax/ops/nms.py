"""Exact greedy non-maximum suppression with static shapes, for ONE image.

A candidates, D results. Equal scores are ranked by position, as a stable sort does.
"""

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax.ops import boxes as box_ops
from maskdiff_jax.types import Array


def nms(
    boxes: Array, scores: Array, threshold: float, *, classes: Array | None = None, valid: Array | None = None
) -> Array:
    """The boxes that greedy suppression keeps.

    Args:
      boxes: [A, 4] xyxy, px.
      scores: [A].
      threshold: a box is suppressed if its IoU with a kept box of higher score is larger than this.
      classes: [A] or None; boxes of different classes do not suppress each other.
      valid: [A] bool or None; other boxes are neither kept nor suppress.

    Returns:
      keep [A] bool, in the order of the input.
    """
    valid = jnp.ones(scores.shape, bool) if valid is None else valid
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), stable=True)
    keep = _sorted_nms(boxes[order], valid[order], threshold, None if classes is None else classes[order])
    return jnp.zeros(scores.shape, bool).at[order].set(keep)


def nms_top(
    boxes: Array,
    scores: Array,
    threshold: float,
    *,
    count: int,
    classes: Array,
    valid: Array,
    block: int = 256,
) -> tuple[Array, Array]:
    """The `count` best boxes that class-aware greedy suppression keeps, without an [A, A] matrix.

    Candidates are taken in blocks by descending score; a block is compared with the boxes kept so far, then with
    itself. Candidates after the `count`-th kept box cannot change the result, so the loop ends there: exact, and
    usually one or two rounds.

    Args:
      boxes, scores, threshold, classes, valid: as in `nms`.
      count: D.
      block: candidates per round.

    Returns:
      index [D] int32 into the candidates, best first, and filled [D] bool.
    """
    size = scores.shape[0]
    boxes, classes, valid = jnp.asarray(boxes), jnp.asarray(classes), jnp.asarray(valid)
    block = min(block, size)
    rounds = -(-size // block)
    ranked = jnp.argsort(jnp.where(valid, -scores, jnp.inf), stable=True).astype(jnp.int32)
    ranked = jnp.pad(ranked, (0, rounds * block - size), constant_values=-1)
    n_valid = valid.sum()

    def more(state):
        i, found, _ = state
        return (i * block < n_valid) & (found < count)

    def step(state):
        i, found, kept = state
        index = jax.lax.dynamic_slice(ranked, (i * block,), (block,))
        b, c = boxes[index], classes[index]
        old, filled = boxes[kept], jnp.arange(count) < found
        suppressed = (box_ops.iou(old, b) > threshold) & (classes[kept][:, None] == c) & filled[:, None]
        keep = _sorted_nms(b, valid[index] & (index >= 0) & ~suppressed.any(0), threshold, c)
        # kept boxes beyond the last slot are dropped
        slot = jnp.where(keep, found + jnp.cumsum(keep) - 1, count)
        return i + 1, jnp.minimum(found + keep.sum(), count), kept.at[slot].set(index, mode="drop")

    zero = jnp.zeros((), jnp.int32)
    _, found, kept = jax.lax.while_loop(more, step, (zero, zero, jnp.zeros((count,), jnp.int32)))
    return kept, jnp.arange(count) < found


def class_agnostic(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """The boxes that greedy suppression keeps whatever their classes are, of any number of boxes on the host.

    The result is that of ``nms`` without classes; this one compiles nothing for each new number of boxes.

    Args:
      boxes: [n, 4] xyxy, px.
      scores: [n].
      threshold: as in `nms`.

    Returns:
      keep [n] bool, in the order of the input.
    """
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0)
    areas = sides[:, 0] * sides[:, 1]
    keep = np.zeros(len(boxes), bool)
    for i in np.argsort(-scores, kind="stable"):
        better = boxes[keep]
        shared = np.minimum(boxes[i, 2:], better[:, 2:]) - np.maximum(boxes[i, :2], better[:, :2])
        shared = np.maximum(shared, 0.0).prod(1)
        keep[i] = not (shared > threshold * (areas[i] + areas[keep] - shared)).any()
    return keep


def _sorted_nms(boxes: Array, valid: Array, threshold: float, classes: Array | None) -> Array:
    """Greedy suppression of boxes sorted by descending score: keep [A] bool.

    keep[i] = valid[i] and no j < i with keep[j] and IoU > threshold. Only smaller indices appear on the
    right, so this has one fixpoint, the greedy result; iterating from `valid` settles at least one more
    index per round and in practice all of them within a few (the longest chain of suppressions).
    """
    over = box_ops.iou(boxes, boxes) > threshold
    if classes is not None:
        over &= classes[:, None] == classes[None, :]
    over = jnp.triu(over, 1)  # [higher, lower]

    def step(state):
        keep, _ = state
        new = valid & ~(over & keep[:, None]).any(0)
        return new, (new != keep).any()

    return jax.lax.while_loop(lambda s: s[1], step, (valid, jnp.array(True)))[0]
