import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from maskdiff_jax.ops import nms
from tests.reference import boxes as reference

A = 12
# whole numbers and few scores: exact IoUs, many ties
row = st.tuples(
    *[st.integers(0, 12)] * 2, *[st.integers(0, 8)] * 2, st.integers(0, 4), st.integers(0, 1), st.booleans()
)
rows = st.lists(row, min_size=A, max_size=A)
run = jax.jit(lambda b, s, t, c, v: nms.nms(b, s, t, classes=c, valid=v))
top = jax.jit(lambda b, s, t, c, v: nms.nms_top(b, s, t, count=5, classes=c, valid=v, block=4))


def unpack(rows):
    r = np.array(rows, float)
    boxes = np.concatenate([r[:, :2], r[:, :2] + r[:, 2:4]], -1).astype(np.float32)
    return boxes, r[:, 4].astype(np.float32), r[:, 5].astype(np.int32), r[:, 6].astype(bool)


@settings(max_examples=150, deadline=None)
@given(rows, st.sampled_from([0.1, 0.3, 0.5, 0.7]))
def test_equals_the_greedy_reference(rows, threshold):
    boxes, scores, classes, valid = unpack(rows)
    real = np.flatnonzero(valid)
    limit = np.float32(threshold)
    kept = [real[i] for i in reference.nms(boxes[real], scores[real], limit, classes[real])]
    keep = np.asarray(run(boxes, scores, limit, classes, valid))
    assert set(np.flatnonzero(keep)) == set(kept)
    index, filled = (np.asarray(v) for v in top(boxes, scores, limit, classes, valid))
    assert list(index[filled]) == kept[:5]  # in the same order, truncated at the count


def test_a_chain_of_suppressions():
    """Every box overlaps its neighbors: the fixpoint needs as many rounds as there are boxes."""
    x = np.arange(40.0)[:, None]
    boxes = np.concatenate([x, 0 * x, x + 2.5, 0 * x + 1], -1).astype(np.float32)
    keep = nms.nms(boxes, -jnp.arange(40.0), 0.4)
    np.testing.assert_array_equal(keep, np.arange(40) % 2 == 0)
    index, filled = nms.nms_top(
        boxes, -jnp.arange(40.0), 0.4, count=50, classes=np.zeros(40, int), valid=np.ones(40, bool), block=7
    )
    assert list(np.asarray(index)[np.asarray(filled)]) == list(range(0, 40, 2))


def test_nothing_valid():
    boxes = jnp.ones((3, 4))
    assert not nms.nms(boxes, jnp.ones(3), 0.5, valid=jnp.zeros(3, bool)).any()
    _, filled = nms.nms_top(boxes, jnp.ones(3), 0.5, count=2, classes=jnp.zeros(3, int), valid=jnp.zeros(3, bool))
    assert not filled.any()


def test_class_agnostic_suppression_by_hand():
    boxes = np.float32([
        [1, 0, 11, 10],  # IoU 90 / 110 with the next, which is better
        [0, 0, 10, 10],
        [0, 0, 10, 5],  # IoU 0.5 with the best: not above the threshold
        [4, 0, 14, 10],  # 70 / 130 with the first, which is suppressed itself; 60 / 140 with the best
        [20, 20, 20, 30],  # without area
        [0, 0, 10, 10],  # a tie with the third: the first of both in the input is the better one
    ])  # fmt: skip
    scores = np.float32([0.8, 0.9, 0.5, 0.4, 0.3, 0.9])
    keep = nms.class_agnostic(boxes, scores, 0.5)
    assert keep.tolist() == [False, True, True, True, True, False]
    assert nms.class_agnostic(boxes, scores, 0.4).tolist() == [False, True, False, False, True, False]
    assert nms.class_agnostic(boxes[:0], scores[:0], 0.5).tolist() == []


@settings(max_examples=150, deadline=None)
@given(rows, st.sampled_from([0.1, 0.3, 0.5, 0.7]))
def test_class_agnostic_suppression_equals_that_of_one_class(rows, threshold):
    boxes, scores, _, valid = unpack(rows)
    keep = np.asarray(run(boxes, scores, np.float32(threshold), np.zeros(A, np.int32), valid))
    np.testing.assert_array_equal(nms.class_agnostic(boxes[valid], scores[valid], np.float32(threshold)), keep[valid])
