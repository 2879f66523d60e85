"""Proposals and detections by hand; against detectron2: tests/parity/test_parity_detector.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax.ops import select

HW = jnp.array([50, 60])
ANCHORS = {
    3: jnp.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [55, 5, 75, 25], [40, 40, 48, 48]]),
    4: jnp.array([[0.0, 0, 10, 10], [70, 70, 90, 90]]),
}
LOGITS = {3: jnp.array([2.0, 1.0, 0.5, 3.0, 9.0]), 4: jnp.array([1.5, 8.0])}


def propose(count, pre_nms=10):
    deltas = {level: jnp.zeros((len(a), 4)) for level, a in ANCHORS.items()}
    inside = {level: jnp.ones(len(a), bool) for level, a in ANCHORS.items()}
    inside[3] = inside[3].at[4].set(False)  # its logit is the highest
    run = jax.jit(functools.partial(select.propose, pre_nms=pre_nms, threshold=0.7, count=count))
    return run(ANCHORS, LOGITS, deltas, inside, HW)


def test_proposals():
    """Clipped; one outside the image and one outside the map dropped; suppressed within a level only."""
    out = propose(count=6)
    want = [[55, 5, 60, 25], [0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 30, 30]]
    np.testing.assert_allclose(out.boxes, want + [[0] * 4] * 2, atol=1e-4)
    np.testing.assert_allclose(out.scores, [3.0, 2.0, 1.5, 0.5, -np.inf, -np.inf])
    np.testing.assert_array_equal(out.valid, [True] * 4 + [False] * 2)


def test_proposals_are_limited_per_level_and_in_all():
    np.testing.assert_allclose(propose(count=2).scores, [3.0, 2.0])
    np.testing.assert_allclose(propose(count=4, pre_nms=1).scores, [3.0, -np.inf, -np.inf, -np.inf])


def detect(scores, deltas, count, min_score=0.1):
    boxes = jnp.array([[0.0, 0, 20, 20], [1, 0, 21, 20], [30, 30, 50, 50], [0, 0, 0, 0]])
    proposals = select.Proposals(boxes, jnp.zeros(4), jnp.array([True, True, True, False]))
    options = dict(weights=(10.0, 10.0, 5.0, 5.0), min_score=min_score, threshold=0.5, count=count)
    return jax.jit(functools.partial(select.detections, **options))(scores, deltas, proposals, HW)


PROBABILITIES = np.array([[0.6, 0.3, 0.1], [0.5, 0.05, 0.45], [0.2, 0.05, 0.75], [0.9, 0.05, 0.05]], np.float32)


def test_detections():
    """Two classes: suppression within a class, a score limit, padding proposals dropped."""
    out = detect(PROBABILITIES[:, :2], jnp.zeros((4, 2, 4)), count=5)
    np.testing.assert_array_equal(out.classes, [0, 1, 0, -1, -1])
    np.testing.assert_allclose(out.scores, [0.6, 0.3, 0.2, 0, 0], rtol=1e-5)
    want = [[0, 0, 20, 20], [0, 0, 20, 20], [30, 30, 50, 50], [0] * 4, [0] * 4]
    np.testing.assert_allclose(out.boxes, want, atol=1e-4)
    np.testing.assert_allclose(
        detect(PROBABILITIES[:, :2], jnp.zeros((4, 1, 4)), count=2).scores, [0.6, 0.3], rtol=1e-5
    )


def test_detections_use_the_deltas_of_their_class():
    deltas = jnp.zeros((4, 2, 4)).at[0, 1, 0].set(5.0)  # class 1 moves by 5 / 10 of the width to the right
    out = detect(PROBABILITIES[:, :2], deltas, count=2)
    np.testing.assert_allclose(out.boxes, [[0, 0, 20, 20], [10, 0, 30, 20]], atol=1e-4)
    empty = detect(PROBABILITIES[:, :2], jnp.zeros((4, 2, 4)).at[:, :, 0].set(1e4), count=2)
    np.testing.assert_array_equal(empty.classes, -1)  # clipped to nothing
