import numpy as np
import pytest

from maskdiff_jax.data.synthetic import outlines, scenes


@pytest.mark.parametrize("name", scenes.NAMES)
def test_coverage_agrees_with_points_in_polygons(name):
    polygons = outlines.place(outlines.OUTLINES[name], np.array([20.3, 19.8]), np.array([30.0, 26.0]), 0.7)
    cover, (x0, y0) = outlines.coverage(polygons)
    y, x = np.mgrid[: cover.shape[0], : cover.shape[1]] + 0.5
    inside = np.zeros(cover.shape, bool)
    for polygon in polygons:  # even-odd rule, so that the second polygon is a hole
        for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
            crosses = (ay > y + y0) != (by > y + y0)
            with np.errstate(divide="ignore", invalid="ignore"):
                inside ^= crosses & (x + x0 < (bx - ax) * (y + y0 - ay) / (by - ay) + ax)
    # a pixel's center and its coverage may disagree only at the outline
    assert not inside[cover == 0].any() and inside[cover == 255].all()
    outline = sum(np.hypot(*(p - np.roll(p, -1, 0)).T).sum() for p in polygons)
    assert ((cover >= 128) != inside).sum() <= 0.25 * outline
    area = [abs(_shoelace(p)) for p in polygons]
    assert cover.sum() / 255 == pytest.approx(area[0] - sum(area[1:]), rel=0.04)
    for axis in (x, y):
        assert abs(axis[cover >= 128].mean() - axis[inside].mean()) < 0.2  # no shift


def _shoelace(p):
    q = np.roll(p, -1, 0)
    return (p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum() / 2


def test_two_outlines_differ_under_rotation_and_aspect():
    """The best overlap of two classes over turns and stretches stays clear of 1."""
    grids = {}
    for name in scenes.NAMES:
        turns = [(a, s) for a in np.arange(0, 6.28, 0.35) for s in ((44.0, 44.0), (44.0, 33.0), (33.0, 44.0))]
        masks = []
        for angle, size in turns:
            scene = np.zeros((72, 72), bool)
            cover, (x, y) = outlines.coverage(
                outlines.place(outlines.OUTLINES[name], np.array([36.0, 36.0]), np.array(size), angle)
            )
            scene[y : y + cover.shape[0], x : x + cover.shape[1]] = cover >= 128
            masks.append(scene.ravel())
        grids[name] = np.array(masks, np.float32)
    for i, first in enumerate(scenes.NAMES):
        for second in scenes.NAMES[i + 1 :]:
            a, b = grids[first][:3], grids[second]
            both = a @ b.T
            iou = both / (a.sum(1)[:, None] + b.sum(1)[None] - both)
            assert iou.max() < 0.88, (first, second, iou.max())
