import numpy as np
import pytest

from maskdiff_jax.data.formats.segmentation import decode_mask
from maskdiff_jax.data.synthetic import scenes


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
