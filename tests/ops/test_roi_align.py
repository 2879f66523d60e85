import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.ops import roi_align
from tests.reference import boxes as twin

BOXES = np.float32([
    [3.2, 5.1, 40.7, 31.9], [0, 0, 63, 47], [-20, -9, 25, 20], [50, 30, 90, 80], [10, 10, 10.5, 10.4],
    [7, 9, 7, 9], [100, 100, 140, 120], [2, 1, 61, 6], [12, 4, 26, 18],
])  # fmt: skip
FEATURE = np.random.default_rng(0).normal(size=(12, 16, 3)).astype(np.float32)


@pytest.mark.parametrize("sampling", [0, 1, 2, 3])
def test_equals_twin(sampling):
    pool = jax.jit(functools.partial(roi_align.roi_align, stride=4, size=7, sampling=sampling))
    want = [twin.roi_align(FEATURE.astype(float), b.astype(float), 4, 7, sampling) for b in BOXES]
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
    monkeypatch.setattr(roi_align, "_PIECE", 5 * 16 * 3 * 2)  # two boxes at a time
    close(pool(FEATURE, BOXES), whole)
    close(jax.jit(jax.grad(loss))(FEATURE), grad)


@pytest.mark.parametrize("sampling", [0, 2])
def test_levels(sampling):
    maps = {
        l: np.random.default_rng(l).normal(size=(64 >> l, 64 >> l, 2)).astype(np.float32) for l in (2, 3, 4)
    }
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
