import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.ops import roi_align
from tests.reference import boxes as reference

BOXES = np.float32([
    [3.2, 5.1, 40.7, 31.9], [0, 0, 63, 47], [-20, -9, 25, 20], [50, 30, 90, 80], [10, 10, 10.5, 10.4],
    [7, 9, 7, 9], [100, 100, 140, 120], [2, 1, 61, 6], [12, 4, 26, 18],
])  # fmt: skip
FEATURE = np.random.default_rng(0).normal(size=(12, 16, 3)).astype(np.float32)


@pytest.mark.parametrize("sampling", [0, 1, 2, 3])
def test_equals_the_reference(sampling):
    pool = jax.jit(functools.partial(roi_align.roi_align, stride=4, size=7, sampling=sampling))
    want = [reference.roi_align(FEATURE.astype(float), b.astype(float), 4, 7, sampling) for b in BOXES]
    np.testing.assert_allclose(pool(FEATURE, BOXES), want, atol=2e-5)


def test_pieces_and_extent_change_nothing(monkeypatch):

    def pool(feature, boxes, sampling=0, **kw):
        one = functools.partial(roi_align.roi_align, stride=4, size=5, sampling=sampling)
        return jax.jit(one)(feature, boxes, **kw)

    close = functools.partial(np.testing.assert_allclose, atol=1e-5)
    whole = pool(FEATURE, BOXES)
    wide = np.pad(FEATURE, ((0, 4), (0, 8), (0, 0)), constant_values=9.0)
    for sampling in (0, 2):
        got = pool(wide, BOXES, extent=jnp.array([12, 16]), sampling=sampling)
        close(got, pool(FEATURE, BOXES, sampling=sampling))
    loss = lambda f: (pool(f, BOXES) ** 2).sum()
    grad = jax.jit(jax.grad(loss))(FEATURE)
    monkeypatch.setattr(roi_align, "_PIECE_BYTES", 5 * 16 * 3 * 4 * 2)  # two boxes at a time, of nine
    close(pool(FEATURE, BOXES), whole)
    close(jax.jit(jax.grad(loss))(FEATURE), grad)


@pytest.mark.parametrize("sampling", [0, 2])
def test_levels(sampling):
    maps = {l: np.random.default_rng(l).normal(size=(64 >> l, 64 >> l, 2)).astype(np.float32) for l in (2, 3, 4)}
    boxes = np.float32([[4, 4, 14, 14], [4, 4, 24, 24], [0, 0, 60, 60], [0, 0, 0, 0]])
    level = roi_align.assign_level(boxes, canonical=(20.0, 3), lowest=2, highest=4)
    np.testing.assert_array_equal(level, [2, 3, 4, 2])
    pool = functools.partial(roi_align.multilevel_roi_align, size=3, sampling=sampling, canonical=(20.0, 3))
    got = jax.jit(pool)(maps, boxes)
    for i, l in enumerate(map(int, level)):
        one = functools.partial(roi_align.roi_align, stride=2**l, size=3, sampling=sampling)
        np.testing.assert_allclose(got[i], jax.jit(one)(maps[l], boxes[i : i + 1])[0], atol=1e-5)
    grad = jax.jit(jax.grad(lambda b: pool(maps, b).sum()))(boxes)
    np.testing.assert_array_equal(grad, 0)  # boxes are data here


@pytest.mark.parametrize("size", [7, 14, 28])
def test_samples_of_exact_multiples(size):
    """A constant divisor becomes a rounded reciprocal under jit: ceil(21 / 7) was 4."""
    count = jax.jit(functools.partial(roi_align.samples_per_bin, size=size))
    n = np.arange(1, 2000)
    exact = np.float32(n * size)
    np.testing.assert_array_equal(count(exact), n)
    np.testing.assert_array_equal(count(np.nextafter(exact, np.float32(0))), n)
    np.testing.assert_array_equal(count(np.nextafter(exact, np.float32(np.inf))), n + 1)
    np.testing.assert_array_equal(count(np.float32([0.0, -0.5, -7.0, -21.0, 1e-6])), [0, 0, 0, 0, 1])


def test_boxes_of_exact_multiples_equal_the_reference():
    """A side of 21 cells in 7 bins takes 3 samples per bin, as by an exact division."""
    feature = np.random.default_rng(1).normal(size=(46, 50, 2)).astype(np.float32)
    boxes = np.float32([[0, 0, 4 * w, 4 * h] for w, h in ((21, 42), (42, 21), (49, 7), (14, 21))])
    got = jax.jit(functools.partial(roi_align.roi_align, stride=4, size=7, sampling=0))(feature, boxes)
    want = [reference.roi_align(feature.astype(float), b.astype(float), 4, 7, 0) for b in boxes]
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_weights_equal_a_sum_over_all_samples():
    """The few samples that can touch a cell are all that do: random, thin, long, clamped and shifted boxes."""
    rng = np.random.default_rng(2)
    low = np.concatenate([rng.uniform(-30, 40, 400), rng.integers(-8, 40, 400) / 2]).astype(np.float32)
    side = np.concatenate([np.exp(rng.uniform(-3, 5, 400)), rng.integers(0, 120, 400) / 2]).astype(np.float32)
    high, cells, extent, size = low + side, 40, 33, 7
    weights = lambda low, high: roi_align._average(roi_align._bins(low, high, np.full(800, extent), size), cells)
    got = jax.jit(weights)(low, high)
    length, checked = high.astype(float) - low, 0
    for i, n in enumerate(np.ceil(length / size).astype(int)):
        at = low[i] + (np.arange(size)[:, None] + (np.arange(n) + 0.5) / max(n, 1)) * (length[i] / size)
        hat = np.maximum(1 - np.abs(np.clip(at, 0, extent - 1)[..., None] - np.arange(cells)), 0)
        if (np.minimum(np.abs(at + 1), np.abs(at - extent)) < 1e-4).any():
            continue  # rounding decides on which side of a limit a sample lies
        checked += 1
        want = (hat * ((at >= -1) & (at <= extent))[..., None]).sum(1) / max(n, 1)
        np.testing.assert_allclose(got[i], want, atol=5e-5, err_msg=f"{low[i]} {high[i]}")
    assert checked > 700


def test_split_boxes():
    assert roi_align.split_boxes(9, 9) == (1, 9)
    assert roi_align.split_boxes(1000, 222) == (5, 200)
    assert roi_align.split_boxes(512, 222) == (3, 176)
    assert roi_align.split_boxes(9, 2) == (5, 2)
    for boxes in range(1, 300):
        for most in (1, 3, 8, 50):
            count, piece = roi_align.split_boxes(boxes, most)
            assert piece <= most and count * piece >= boxes and count * piece < boxes + 8 * count


@pytest.mark.parametrize("rows", [9, 40])
def test_no_loop_depends_on_the_boxes(rows, monkeypatch):
    """The only loops are over pieces of fixed size."""
    monkeypatch.setattr(roi_align, "_PIECE_BYTES", 7 * 16 * 3 * 4 * 16)  # 16 boxes at a time
    boxes = np.concatenate([BOXES] * 5)[:rows]
    maps = {2: FEATURE, 3: FEATURE[:6, :8]}
    pool = functools.partial(roi_align.multilevel_roi_align, size=7, sampling=0, canonical=(20.0, 3))
    text = jax.jit(jax.grad(lambda f: pool(f, boxes).sum())).lower(maps).compile().as_text()
    loops = re.findall(r" while\(.*", text)
    assert len(loops) <= (2 if rows > 16 else 0) and all("known_trip_count" in loop for loop in loops)
