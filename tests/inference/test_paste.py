"""Masks pasted inside their boxes: as over the whole image, and RLE that pycocotools would write."""

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from maskdiff_jax.data.formats import segmentation
from maskdiff_jax.inference import paste
from maskdiff_jax.ops import masks as ops
from tests.reference import paste as reference

context_box = jax.jit(ops.context_box)
OPTIONS = {"derandomize": True, "database": None, "deadline": None}
side = st.integers(1, 40)
fraction = st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 0.25, 0.5, 1.0]))


@st.composite
def cases(draw):
    """A mask [M, M], a box in an image (with its margin, clipped, perhaps at the border or a pixel wide), its size."""
    h, w, m = draw(side), draw(side), draw(st.sampled_from([1, 2, 4, 8, 16]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    mask = rng.random((m, m), np.float32)
    if draw(st.booleans()):
        mask = np.round(mask)
    x0, x1 = sorted((draw(fraction) * w, draw(fraction) * w))
    y0, y1 = sorted((draw(fraction) * h, draw(fraction) * h))
    if draw(st.booleans()):
        x0, y0 = np.floor((x0, y0))
        x1, y1 = min(x0 + 1, w), min(y0 + 1, h)
    return mask, np.array([x0, y0, x1, y1], np.float32), (h, w), draw(st.sampled_from([0.0, 0.1, 0.5]))


WHOLE = (np.ones((4, 4), np.float32), np.array([0, 0, 9, 7], np.float32), (7, 9), 0.0)  # the image from edge to edge


@settings(max_examples=150, **OPTIONS)
@given(case=cases(), threshold=st.sampled_from([0.3, 0.5, 0.7]))
@example(case=WHOLE, threshold=0.5)
def test_pasting_agrees_with_dense_matrices(case, threshold):
    mask, box, hw, context = case
    around = paste.context_box(box, context, hw)
    np.testing.assert_allclose(around, context_box(box, context, np.array(hw)), atol=1e-5)
    expected = reference.paste(mask, around, hw)
    np.testing.assert_allclose(paste.paste(mask, around, hw), expected, atol=2e-5)
    rle = paste.paste_rle(mask, around, hw, threshold)
    clear = np.abs(expected - threshold) > 2e-5  # of float32; elsewhere rounding decides
    np.testing.assert_array_equal(segmentation.decode_mask(rle)[clear], (expected >= threshold)[clear])


@settings(max_examples=150, **OPTIONS)
@given(case=cases())
@example(case=WHOLE)
def test_the_runs_are_those_of_pycocotools(case):
    mask, box, hw, _ = case
    rle = paste.paste_rle(mask, box, hw, 0.5)
    assert rle == segmentation.encode_mask(segmentation.decode_mask(rle))
    assert rle["size"] == list(hw) and isinstance(rle["counts"], str)


def test_pixel_centers_on_the_outline_belong_to_the_mask():
    """Every number is exact: cells of two pixels, an outline through pixel centers, values that are the threshold."""
    mask = np.zeros((4, 4), np.float32)
    mask[1:3, 1:3] = 1
    mask[0, :2], mask[:, 3] = 0.5, 0.5
    ties = 0
    for box in ([3, 2, 11, 10], [2.5, 2.5, 10.5, 10.5], [3, 2, 7, 6], [3, 2, 5, 4], [0, 0, 13, 12], [3, 2, 19, 18]):
        box = np.array(box, np.float32)
        expected = reference.paste(mask, box, (12, 13))
        assert paste.paste_rle(mask, box, (12, 13), 0.5) == segmentation.encode_mask(expected >= 0.5)
        ties += (expected == 0.5).sum()
    assert ties > 20


def test_random_masks_in_large_boxes():
    rng = np.random.default_rng(0)
    for box in ([0, 0, 300, 200], [100.3, 20.2, 299.9, 181.7], [40.5, 60.1, 47.2, 66.6], [299, 199, 300, 200]):
        mask, box = rng.random((16, 16), np.float32), np.array(box, np.float32)
        expected = reference.paste(mask, box, (200, 300))
        found = segmentation.decode_mask(paste.paste_rle(mask, box, (200, 300), 0.5))
        clear = np.abs(expected - 0.5) > 2e-5
        assert (~clear).sum() < 5 and found.any()
        np.testing.assert_array_equal(found[clear], (expected >= 0.5)[clear])


def test_nothing_to_paste():
    ones = np.ones((8, 8), np.float32)
    for box in ([5, 5, 5, 9], [5, 5, 9, 5], [6, 5, 3, 9], [0, 0, 0, 0], [20, 20, 20, 20]):
        rle = paste.paste_rle(ones, np.array(box, np.float32), (20, 20), 0.5)
        assert mask_utils.area(rle) == 0 == paste.paste(ones, np.array(box, np.float32), (20, 20)).sum()
        assert rle == segmentation.encode_mask(np.zeros((20, 20)))
    assert mask_utils.area(paste.paste_rle(0 * ones, np.array([2, 2, 9, 9]), (20, 20), 0.5)) == 0
    with pytest.raises(ValueError, match="eval.mask_threshold"):
        paste.paste_rle(ones, np.array([2, 2, 9, 9]), (20, 20), 0.0)


def test_a_mask_keeps_to_its_box():
    out = paste.paste(np.ones((8, 8), np.float32), np.array([3.0, 4.0, 13.0, 10.0]), (16, 20))
    inside = np.zeros((16, 20), bool)
    inside[4:10, 3:13] = True
    np.testing.assert_array_equal(out > 0.5, inside)
    assert out.max() <= 1.0 + 1e-6 and not out[:2].any() and not out[:, 15:].any()


def test_cropping_and_pasting_are_inverse():
    true = np.zeros((40, 48), np.float32)
    true[8:30, 10:37] = np.hypot(*np.mgrid[-11:11, -13:14]) < 11
    box = np.array([8.5, 7.0, 39.0, 31.5], np.float32)
    crop = np.asarray(jax.jit(ops.crop_resize, static_argnums=2)(true[..., None], box, 32))[..., 0]
    out = segmentation.decode_mask(paste.paste_rle(crop, box, (40, 48), 0.5)) > 0
    assert (out & (true > 0)).sum() / (out | (true > 0)).sum() > 0.95
