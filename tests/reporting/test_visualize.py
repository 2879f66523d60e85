"""Figures: sizes, where color lands, that nothing is lost on empty input."""

from typing import NamedTuple

import numpy as np
import pytest

from maskdiff_jax.reporting import visualize
from maskdiff_jax.types import SupportSet


class Category(NamedTuple):
    id: int
    name: str
    novel: bool


CATEGORIES = (Category(1, "circle", False), Category(2, "star", True))
GRAY = np.full((40, 60, 3), 100, np.uint8)


def square(h: int = 40, w: int = 60) -> np.ndarray:
    mask = np.zeros((h, w), bool)
    mask[10:30, 20:44] = True
    return mask


def test_overlay_enlarges_small_images_and_keeps_large_ones():
    assert visualize.overlay(GRAY).shape == (240, 360, 3)  # 6 x 60 = 360 is nearest to 384
    assert visualize.overlay(np.zeros((500, 400, 3), np.uint8)).shape == (500, 400, 3)
    assert visualize.enlarge_factor(128, 128) == 3


def test_overlay_paints_inside_the_mask_only():
    out = visualize.overlay(GRAY, square()[None], colors=[(250, 0, 0)], factor=4)
    inside, outside = out[80, 128], out[8, 8]
    assert inside[0] > 130 and inside[1] < 100
    np.testing.assert_array_equal(outside, (100, 100, 100))
    np.testing.assert_array_equal(out[41, 128], (250, 0, 0))  # the outline has the class's color
    assert out[39, 128].max() < 40  # with a dark rim around it


def test_overlay_of_soft_masks_boxes_and_labels():
    soft = np.where(square(), 0.9, 0.2)[None]
    plain = visualize.overlay(GRAY, soft, factor=4)
    np.testing.assert_array_equal(plain, visualize.overlay(GRAY, square()[None], factor=4))
    box = np.array([[20.0, 10.0, 44.0, 30.0]])
    labeled = visualize.overlay(GRAY, None, box, ["star"], np.array([0.5]), [(0, 250, 0)], novel=[True], factor=4)
    np.testing.assert_array_equal(labeled[100, 80], (0, 250, 0))  # left side of the box
    assert (labeled[20:40, 80:160] == (0, 250, 0)).all(-1).mean() > 0.4  # the label above it


def test_overlay_of_an_object_without_a_mask_and_of_boxes_at_the_edge():
    empty = np.zeros((1, 40, 60), bool)
    out = visualize.overlay(GRAY, empty, np.array([[-5.0, -5.0, 80.0, 50.0]]), ["circle"], factor=2)
    assert out.shape == (80, 120, 3)
    assert visualize.overlay(GRAY, empty, labels=["circle"], factor=2).shape == (80, 120, 3)


@pytest.mark.parametrize("n", [0, 2])
def test_side_by_side(n):
    some = visualize.Objects(
        np.tile([[20.0, 10.0, 44.0, 30.0]], (n, 1)).reshape(-1, 4),
        np.arange(n),
        np.tile(square()[None], (n, 1, 1)),
    )
    out = visualize.side_by_side(GRAY, some, some._replace(scores=np.full(n, 0.7)), CATEGORIES)
    assert out.dtype == np.uint8 and out.shape[1] == 2 * 360 + 10 and out.shape[0] > 240
    assert (out[30:, :360] == out[30:, 370:]).all() == (n == 0)  # the scores differ


def test_support_sheet_shows_filled_slots_and_leaves_empty_ones_blank():
    shots = np.zeros((2, 3, 16, 16, 4), np.uint8)
    shots[:, :, 4:12, 4:12] = (200, 30, 30, 255)
    out = visualize.support_sheet(SupportSet(shots, np.array([3, 1])), CATEGORIES, cell=40)
    assert out.shape[0] == 2 * 40 + 6
    red = (np.abs(out.astype(int) - (200, 30, 30)).max(-1) < 30).sum((0, 1))
    assert red > 0
    first, second = out[:40], out[46:]
    reds = [(np.abs(x.astype(int) - (200, 30, 30)).max(-1) < 30).sum() for x in (first, second)]
    assert reds[0] == 3 * reds[1]  # the second class has one shot of three


def test_strip_and_samples():
    mask = np.zeros((32, 32), np.float32)
    mask[8:24, 8:24] = 1.0
    row = visualize.strip([mask, mask * 3.0 - 1.0, np.zeros((32, 32, 3), np.uint8)], ["t = 0", "t = 9"], cell=64)
    assert row.shape == (64 + 2 + 3 + 18, 3 * 66 + 2 * 6, 3)
    np.testing.assert_array_equal(row[33, 33], (255, 255, 255))
    np.testing.assert_array_equal(row[3, 3], (0, 0, 0))
    region = np.full((32, 32, 3), 200, np.uint8)
    sheet = visualize.samples(region, mask, [mask, 1.0 - mask], cell=64, title="star (novel)")
    assert sheet.shape[1] == 4 * 66 + 3 * 6
    assert sheet[22 + 33, 72 + 33].mean() > 150 > sheet[22 + 4, 72 + 4].mean()  # lit inside the mask


def test_joining_pictures_keeps_every_pixel():
    a, b = np.full((4, 5, 3), 7, np.uint8), np.full((6, 3, 3), 9, np.uint8)
    row, column = visualize.beside([a, b], gap=2), visualize.above([a, b], gap=2)
    assert row.shape == (6, 10, 3) and column.shape == (12, 5, 3)
    assert (row == 7).sum() == a.size and (column == 9).sum() == b.size


def test_to_rgb_clips_and_repeats():
    gray = visualize.to_rgb(np.array([[-1.0, 0.5, 2.0]]))
    np.testing.assert_array_equal(gray[0, :, 0], (0, 128, 255))
    assert visualize.to_rgb(np.zeros((2, 2, 4), np.uint8)).shape == (2, 2, 3)
