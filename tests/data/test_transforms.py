import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskdiff_jax.data import transforms


# height, width, short side, long side -> worked out by hand from detectron2's ResizeShortestEdge
@pytest.mark.parametrize(
    ("h", "w", "short", "long", "expected"),
    [
        (480, 640, 800, 1333, (800, 1067)),  # 640 * 800 / 480 = 1066.67
        (640, 480, 800, 1333, (1067, 800)),
        (480, 640, 640, 1333, (640, 853)),  # 853.33
        (500, 500, 800, 1333, (800, 800)),
        (300, 640, 800, 1333, (625, 1333)),  # 1706.67 > 1333: 800 * 1333 / 1706.67 = 624.84
        (640, 300, 800, 1333, (1333, 625)),
        (427, 640, 672, 1333, (672, 1007)),  # 1007.21
        (128, 128, 128, 128, (128, 128)),
    ],
)
def test_size_formula(h, w, short, long, expected):
    assert transforms.resized_hw(h, w, short, long) == expected


def test_region_is_never_enlarged():
    assert transforms.region_hw(480, 640, 640) == (480, 640)
    assert transforms.region_hw(100, 50, 640) == (100, 50)
    assert transforms.region_hw(1000, 2000, 640) == (320, 640)


@st.composite
def image_and_boxes(draw):
    h, w = draw(st.integers(2, 700)), draw(st.integers(2, 700))
    n = draw(st.integers(0, 5))
    unit = st.floats(0, 1, width=32)
    boxes = []
    for _ in range(n):
        x, y = sorted((draw(unit) * w, draw(unit) * w)), sorted((draw(unit) * h, draw(unit) * h))
        boxes.append((x[0], y[0], x[1], y[1]))
    return (h, w), np.array(boxes, np.float64).reshape(-1, 4)


@given(image_and_boxes(), st.integers(1, 900), st.integers(1, 900))
def test_scaled_boxes_stay_inside_and_come_back(sample, new_h, new_w):
    hw, boxes = sample
    scaled = transforms.scale_boxes(boxes, hw, (new_h, new_w))
    assert (scaled >= 0).all() and (scaled <= (new_w, new_h, new_w, new_h)).all()
    assert (scaled[:, 2:] >= scaled[:, :2]).all()
    np.testing.assert_allclose(transforms.scale_boxes(scaled, (new_h, new_w), hw), boxes, atol=1e-6)


@given(image_and_boxes())
def test_flip_twice_is_nothing(sample):
    hw, boxes = sample
    once = transforms.flip_boxes(boxes, hw[1])
    assert (once[:, 2] >= once[:, 0]).all()
    np.testing.assert_allclose(transforms.flip_boxes(once, hw[1]), boxes, atol=1e-9)


@given(image_and_boxes(), st.floats(0, 0.5), st.floats(0, 0.5), st.integers(0, 99))
def test_jittered_box_stays_inside_its_crop_window(sample, jitter, context, seed):
    hw, boxes = sample
    for box in boxes:
        margin = transforms.needed_margin(jitter, context)
        x0, y0, x1, y1 = transforms.crop_window(box, margin, hw)
        assert 0 <= x0 < x1 <= hw[1] and 0 <= y0 < y1 <= hw[0]
        moved = transforms.jitter_box(box, jitter, np.random.default_rng(seed))
        whole = transforms.expand_box(moved, context, hw)
        assert (whole[2:] - whole[:2] >= 1 - 1e-9).all()
        big = (box[2:] - box[:2]).min() > 8  # below, the least side of one pixel decides
        if big:
            assert (whole >= np.array([x0, y0, x0, y0]) - 1e-6).all()
            assert (whole <= np.array([x1, y1, x1, y1]) + 1e-6).all()


def test_box_of_a_flipped_image_holds_the_same_pixels():
    image = np.random.default_rng(0).integers(0, 255, (20, 31, 3), np.uint8)
    x0, y0, x1, y1 = 4, 3, 11, 9
    fx0, fy0, fx1, fy1 = transforms.flip_boxes(np.array([[x0, y0, x1, y1]]), 31)[0]
    np.testing.assert_array_equal(image[:, ::-1][fy0:fy1, fx0:fx1], image[y0:y1, x0:x1][:, ::-1])


def test_degenerate_boxes():
    boxes = np.array([[0, 0, 1, 1], [3, 3, 3, 9], [3, 3, 9, 3], [2, 2, 2 + 1e-6, 5]])
    assert transforms.has_sides(boxes).tolist() == [True, False, False, False]


def test_smallest_bucket_that_fits():
    buckets = ((800, 1344), (1344, 800), (1088, 1088))
    assert transforms.padded_size((800, 1067), buckets) == (800, 1344)
    assert transforms.padded_size((1067, 800), buckets) == (1344, 800)
    assert transforms.padded_size((1000, 1000), buckets) == (1088, 1088)
    with pytest.raises(ValueError, match="add a larger one"):
        transforms.padded_size((1344, 1344), buckets)


def test_cut_is_pillows_resize_of_each_channel():
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (50, 61, 3), np.uint8)
    mask = (rng.random((50, 61)) < 0.3).astype(np.uint8)
    box = np.array([7.3, 4.1, 55.2, 44.9])
    got = transforms.crop_resize(transforms.pack(rgb, mask), box, 32)
    options = {"resample": Image.Resampling.BILINEAR, "box": tuple(box)}
    np.testing.assert_array_equal(got[..., :3], Image.fromarray(rgb).resize((32, 32), **options))
    np.testing.assert_array_equal(got[..., 3], Image.fromarray(mask * 255).resize((32, 32), **options))


def test_augmented_shot_keeps_its_form_but_not_its_pose():
    y, x = np.mgrid[:32, :32]
    shape = (x + 2 * y < 50) & (x > 4)  # no symmetry at all
    shot = np.full((32, 32, 4), 90, np.uint8)
    shot[..., 3] = shape * 255
    rng = np.random.default_rng(0)
    seen = [transforms.augment_shot(shot, rng) for _ in range(50)]
    for out in seen:
        assert out.shape == shot.shape and out.dtype == np.uint8
        assert not np.array_equal(out[..., 3], shot[..., 3])
        assert 0.5 < (out[..., 3] >= 128).sum() / shape.sum() < 1.5
    assert len({out.tobytes() for out in seen}) > 40


def colored_crop(height=90, width=120):
    """A crop with a green ellipse on red, its box and its mask."""
    y, x = np.mgrid[:height, :width]
    mask = ((((x + 0.5) / width - 0.5) / 0.3) ** 2 + (((y + 0.5) / height - 0.5) / 0.25) ** 2 < 1).astype(np.uint8)
    rgb = np.where(mask[..., None], (20, 220, 30), (200, 40, 60)).astype(np.uint8)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)
    return transforms.pack(rgb, mask), box


def test_augmented_region_and_mask_move_together_in_a_tight_box():
    rng = np.random.default_rng(0)
    packed, box = colored_crop()
    sides, colors = [], []
    for _ in range(40):
        changed, tight = transforms.augment_region(packed, box, 64, rng)
        pixels = np.asarray(changed).astype(int)
        inside = pixels[..., 3] >= 128
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        assert tight.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        green = pixels[..., 1] > pixels[..., 0]  # of any brightness
        sure = (pixels[..., 3] < 5) & pixels[..., :3].any(-1) | (pixels[..., 3] > 250)
        assert np.array_equal(green[sure], inside[sure])
        sides.append((tight[2:] - tight[:2]).tolist())
        colors.append(pixels[inside, 1].mean())
    widths, heights = np.array(sides).T
    ratios = widths / heights
    assert ratios.min() < 1.2 < 1.8 < ratios.max()  # 1.6 before
    assert np.std(colors) > 5 and len(set(np.round(colors))) > 10  # recolored, most of them


def test_augmented_region_is_shrunk_to_what_the_mask_needs():
    packed, box = colored_crop(900, 1200)
    _, tight = transforms.augment_region(packed, box, 16, np.random.default_rng(0))
    assert 16 <= (tight[2:] - tight[:2]).max() <= 45  # 2 x 16 px, stretched and turned


def test_augmented_region_of_a_hair_stays_as_it_is():
    mask = np.zeros((40, 400), np.uint8)
    mask[20] = 1
    packed = transforms.pack(np.zeros((40, 400, 3), np.uint8), mask)
    box = np.array([0.0, 20.0, 400.0, 21.0])
    changed, same = transforms.augment_region(packed, box, 16, np.random.default_rng(0))
    assert changed is packed and same is box
