import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from maskdiff_jax.ops import boxes
from tests.reference import boxes as reference

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
side = st.floats(1.0, 300.0, width=32)
start = st.floats(-50.0, 500.0, width=32)
box = st.tuples(start, start, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
some = st.lists(box, min_size=3, max_size=3)  # one shape, one compilation
iou, encode = jax.jit(boxes.iou), jax.jit(boxes.encode, static_argnums=2)


def test_hand_made_overlaps():
    a = jnp.array([[0.0, 0, 10, 10], [0, 0, 0, 0], [20, 20, 30, 40]])
    b = jnp.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [22, 22, 22, 30]])
    want = [[1, 1 / 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(boxes.iou(a, b), want, atol=1e-7)
    np.testing.assert_array_equal(boxes.area(a), [100, 0, 200])
    np.testing.assert_array_equal(boxes.area(jnp.array([5.0, 5, 1, 9])), 0)


def test_clip():
    got = boxes.clip(jnp.array([[-3.0, -4, 200, 90], [10, 10, 20, 20]]), jnp.array([80, 120]))
    np.testing.assert_array_equal(got, [[0, 0, 120, 80], [10, 10, 20, 20]])


@settings(max_examples=60, deadline=None)
@given(some, some)
def test_iou_equals_the_reference(a, b):
    got = iou(jnp.array(a, jnp.float32), jnp.array(b, jnp.float32))
    a, b = np.float32(a).astype(float), np.float32(b).astype(float)
    np.testing.assert_allclose(got, [[reference.iou(p, q) for q in b] for p in a], atol=1e-4)
    assert (np.asarray(got) <= 1 + 1e-6).all() and (np.asarray(got) >= 0).all()


@settings(max_examples=60, deadline=None)
@given(some, some)
def test_coder_round_trip_and_reference(src, target):
    src, target = jnp.array(src, jnp.float32), jnp.array(target, jnp.float32)
    deltas = encode(src, target, WEIGHTS)
    f = lambda v: np.asarray(v, float)
    want = [reference.encode(s, t, WEIGHTS) for s, t in zip(f(src), f(target), strict=True)]
    np.testing.assert_allclose(deltas, want, rtol=1e-3, atol=1e-2)
    back = boxes.decode(deltas, src, WEIGHTS)
    want = [reference.decode(d, s, WEIGHTS) for d, s in zip(f(deltas), f(src), strict=True)]
    np.testing.assert_allclose(back, want, rtol=1e-4, atol=1e-2)
    growth = f(target)[:, 2:] - f(target)[:, :2]
    fits = (growth < 60 * (f(src)[:, 2:] - f(src)[:, :2])).all(-1)  # the decoder's clamp
    np.testing.assert_allclose(f(back)[fits], f(target)[fits], atol=5e-2)


def test_padding_is_finite_in_the_coder():
    zeros = jnp.zeros((2, 4))
    assert np.isfinite(boxes.encode(zeros, jnp.array([[0.0, 0, 9, 9], [0, 0, 0, 0]]), WEIGHTS)).all()


def test_anchors_by_hand():
    got = boxes.anchors((1, 2), stride=8, size=16, ratios=(0.25, 1.0, 4.0))
    cell = np.array([[-16.0, -4, 16, 4], [-8, -8, 8, 8], [-4, -16, 4, 16]])  # height / width = ratio
    np.testing.assert_allclose(got, np.concatenate([cell, cell + [8, 0, 8, 0]]))
