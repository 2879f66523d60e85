"""Outlines, labels and spotlights, pixel by pixel."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from maskdiff_jax.reporting import drawing

SQUARE = np.zeros((9, 9), bool)
SQUARE[2:7, 2:7] = True


def test_inner_edge_and_grow_by_hand():
    edge = drawing.inner_edge(SQUARE, 1)
    assert edge.sum() == 16 and not edge[3:6, 3:6].any()
    assert drawing.inner_edge(SQUARE, 9).sum() == 25
    grown = drawing.grow(SQUARE, 1)
    assert grown.sum() == 25 + 4 * 5 and not grown[1, 1]  # city-block distance: no corners
    whole = np.ones((4, 4), bool)
    assert drawing.inner_edge(whole, 1).sum() == 12  # the picture's border closes the outline


def test_enlarged_masks_keep_their_area():
    for factor in (1, 2, 6):
        large = drawing.enlarge_mask(SQUARE, factor)
        assert large.dtype == bool and large.shape == (9 * factor, 9 * factor)
        assert large.sum() == pytest.approx(25 * factor**2, rel=0.1)
    soft = drawing.enlarge_mask(np.where(SQUARE, 0.9, 0.2), 1)
    np.testing.assert_array_equal(soft, SQUARE)


def test_mask_window():
    assert drawing.mask_window(SQUARE, 1) == (slice(1, 8), slice(1, 8))
    assert drawing.mask_window(SQUARE, 5) == (slice(0, 12), slice(0, 12))
    rows, columns = drawing.mask_window(np.zeros((3, 3), bool), 2)
    assert np.zeros((3, 3))[rows, columns].size == 0


@pytest.mark.parametrize("corner", [(0, 0), (15, 20), (35, 35)])
def test_outlines_in_the_window_of_the_object_are_those_of_the_whole_picture(monkeypatch, corner):
    picture = np.random.default_rng(0).integers(0, 256, (60, 60, 3)).astype(np.float32)
    mask = np.zeros((60, 60), bool)
    mask[corner[0] : corner[0] + 25, corner[1] : corner[1] + 25] = np.hypot(*np.mgrid[-12:13, -12:13]) < 11.5
    for line_width in (1, 8):
        found, expected = picture.copy(), picture.copy()
        drawing.paint_mask(found, mask, (250, 0, 0), line_width)
        with monkeypatch.context() as patch:
            patch.setattr(drawing, "mask_window", lambda mask, margin: (slice(None), slice(None)))
            drawing.paint_mask(expected, mask, (250, 0, 0), line_width)
        np.testing.assert_array_equal(found, expected)
        assert (found != picture).any()


def test_labels_stay_inside_and_apart():
    picture = Image.new("RGB", (100, 100))
    draw, taken = ImageDraw.Draw(picture), []
    for corner in ((-50, -50), (500, 500), (20, 50), (22, 52), (22, 54)):
        drawing.draw_label(draw, corner, "cat", (0, 250, 0), star=True, taken=taken)
    assert all(0 <= x0 < x1 <= 100 and 0 <= y0 < y1 <= 100 for x0, y0, x1, y1 in taken)
    painted = (np.asarray(picture) > 0).any(-1)
    assert painted.sum() > 0.9 * sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in taken)  # so they do not overlap


def test_spotlight_dims_the_outside():
    picture = np.full((36, 36, 3), 200, np.uint8)
    out = drawing.spotlight(picture, SQUARE.astype(np.float32))
    np.testing.assert_array_equal(out[18, 18], (200, 200, 200))
    np.testing.assert_array_equal(out[0, 0], (50, 50, 50))
    assert (out == drawing.PALETTE[1]).all(-1).sum() > 4 * 18


def test_a_star_has_five_points_up():
    picture = Image.new("RGB", (41, 41))
    drawing.draw_star(ImageDraw.Draw(picture), 20, 20, 18, (255, 255, 255))
    inside = np.asarray(picture)[..., 0] > 0
    assert inside[20, 20] and inside[3, 20] and not inside[3, 10] and not inside[36, 20]
    assert (inside != inside[:, ::-1]).mean() < 0.05  # symmetric except for rounding
