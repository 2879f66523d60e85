import numpy as np
import pytest

from maskdiff_jax.data.formats.segmentation import decode_mask
from maskdiff_jax.data.synthetic import outlines, scenes


def same(first, second):
    return first[1] == second[1] and np.array_equal(first[0], second[0])


@pytest.mark.parametrize("level", list(scenes.LEVELS))
def test_scene_depends_on_its_seed_alone(level):
    one = scenes.scene(level, "test", 3, 5)
    scenes.scene(level, "test", 9, 1)
    assert same(one, scenes.scene(level, "test", 3, 5))
    for other in (scenes.scene(level, "test", 4, 5), scenes.scene(level, "support", 3, 5)):
        assert not np.array_equal(one[0], other[0])


def test_classes_are_those_of_the_config():
    from configs import base

    assert tuple(c.name for c in scenes.CATEGORIES if c.novel) == base.get_config().data.novel_classes
    assert [c.id for c in scenes.CATEGORIES] == list(range(1, 13))
    assert sum(not c.novel for c in scenes.CATEGORIES) == 8


@pytest.mark.parametrize("level", list(scenes.LEVELS))
@pytest.mark.parametrize("split", scenes.SPLITS)
def test_annotations_fit_their_masks(level, split):
    look = scenes.LEVELS[level]
    for index in range(15):
        image, info = scenes.scene(level, split, 0, index)
        assert image.shape == (look.side, look.side, 3) and image.dtype == np.uint8
        assert info.annotations or level == "shapes_hard"
        total = np.zeros(image.shape[:2], int)
        for a in info.annotations:
            mask = decode_mask(a.rle)
            total += mask
            y, x = np.nonzero(mask)
            assert a.box == (x.min(), y.min(), x.max() + 1, y.max() + 1)
            assert a.area == mask.sum() and not a.crowd
            if level == "shapes":
                assert min(a.box[2] - a.box[0], a.box[3] - a.box[1]) >= 24
            if split == "train":
                assert not scenes.CATEGORIES[a.class_id].novel
        assert total.max() <= 1  # each pixel belongs to one object


def test_masks_are_what_lies_on_top():
    look = scenes.LEVELS["shapes_hard"]
    objects, owner = scenes._arrange(np.random.default_rng(2), look, np.arange(6))
    assert len(objects) >= 4
    expected = np.full(owner.shape, -1)
    for k, thing in enumerate(objects):
        for y, x in zip(*np.nonzero(thing.alpha >= 128), strict=True):
            expected[y + thing.corner[1], x + thing.corner[0]] = k
    np.testing.assert_array_equal(owner, expected)
    for k, thing in enumerate(objects):
        assert (owner == k).sum() >= look.min_visible * thing.area * thing.inside


def test_hard_base_scenes_hide_novel_objects():
    """A scene with hidden novel objects holds more things than it labels."""
    hidden = 0
    for index in range(40):
        rng = np.random.default_rng([0, 1, 0, index])
        count = 1 + int(rng.choice(6, p=scenes.LEVELS["shapes_hard"].objects))
        rng.choice(8, count)
        hidden += rng.random() < 0.3
        labeled = len(scenes.scene("shapes_hard", "train", 0, index)[1].annotations)
        assert labeled <= count
    assert 4 <= hidden <= 22  # 12 expected, 3.5 standard deviations


@pytest.mark.parametrize("name", scenes.NAMES)
def test_coverage_agrees_with_points_in_polygons(name):
    parts = outlines.place(outlines.OUTLINES[name], np.array([20.3, 19.8]), np.array([30.0, 26.0]), 0.7)
    cover, (x0, y0) = outlines.coverage(parts)
    y, x = np.mgrid[: cover.shape[0], : cover.shape[1]] + 0.5
    inside = np.zeros(cover.shape, bool)
    for part in parts:  # even-odd rule, so that the second part is a hole
        for (ax, ay), (bx, by) in zip(part, np.roll(part, -1, 0), strict=True):
            crosses = (ay > y + y0) != (by > y + y0)
            with np.errstate(divide="ignore", invalid="ignore"):
                inside ^= crosses & (x + x0 < (bx - ax) * (y + y0 - ay) / (by - ay) + ax)
    # a pixel's center and its coverage may disagree only at the outline
    assert not inside[cover == 0].any() and inside[cover == 255].all()
    outline = sum(np.hypot(*(p - np.roll(p, -1, 0)).T).sum() for p in parts)
    assert ((cover >= 128) != inside).sum() <= 0.25 * outline
    area = [abs(_shoelace(p)) for p in parts]
    assert cover.sum() / 255 == pytest.approx(area[0] - sum(area[1:]), rel=0.04)
    for axis in (x, y):
        assert abs(axis[cover >= 128].mean() - axis[inside].mean()) < 0.2  # no shift


def _shoelace(p):
    q = np.roll(p, -1, 0)
    return (p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum() / 2


def test_color_says_nothing_about_the_class(support_split):
    """Mean colors of the classes lie as close together as chance has it."""
    colors, classes = [], []
    for i, info in enumerate(support_split.infos):
        for a in info.annotations:
            colors.append(support_split.read(i)[decode_mask(a.rle).astype(bool)].mean(0))
            classes.append(a.class_id)
    colors, classes = np.array(colors), np.array(classes)
    for c in np.unique(classes):
        chosen = colors[classes == c]
        error = colors.std(0) / np.sqrt(len(chosen))
        assert (np.abs(chosen.mean(0) - colors.mean(0)) < 4 * error).all()


def test_two_outlines_differ_under_rotation_and_aspect():
    """The best overlap of two classes over turns and stretches stays clear of 1."""
    grids = {}
    for name in scenes.NAMES:
        turns = [(a, s) for a in np.arange(0, 6.28, 0.35) for s in ((44.0, 44.0), (44.0, 33.0), (33.0, 44.0))]
        masks = []
        for angle, size in turns:
            canvas = np.zeros((72, 72), bool)
            cover, (x, y) = outlines.coverage(
                outlines.place(outlines.OUTLINES[name], np.array([36.0, 36.0]), np.array(size), angle)
            )
            canvas[y : y + cover.shape[0], x : x + cover.shape[1]] = cover >= 128
            masks.append(canvas.ravel())
        grids[name] = np.array(masks, np.float32)
    for i, first in enumerate(scenes.NAMES):
        for second in scenes.NAMES[i + 1 :]:
            a, b = grids[first][:3], grids[second]
            both = a @ b.T
            iou = both / (a.sum(1)[:, None] + b.sum(1)[None] - both)
            assert iou.max() < 0.88, (first, second, iou.max())
