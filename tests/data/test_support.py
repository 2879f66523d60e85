import numpy as np
import pytest

from configs import fewshot as fewshot_config
from maskdiff_jax.data.crops import crops_from_dataset
from maskdiff_jax.data.dataset import Category
from maskdiff_jax.data.fewshot import shots as fewshot
from maskdiff_jax.data.formats.segmentation import encode_mask
from maskdiff_jax.data.support import (
    active_class_ids,
    active_mask,
    class_ids,
    make_support_set,
    replace_shots,
    sample_shots,
    support_set,
)
from maskdiff_jax.types import SupportSet
from tests.data.tiny import squares


def test_active_classes_follow_the_stage():
    config, categories = fewshot_config.get_config().unlock(), [Category(i, str(i), i >= 8) for i in range(12)]
    assert class_ids(categories, novel=True).tolist() == [8, 9, 10, 11]
    assert active_class_ids(config, categories).tolist() == list(range(12))
    config.fewshot.classes = "novel"
    assert active_class_ids(config, categories).tolist() == [8, 9, 10, 11]
    config.stage = "base"
    ids = active_class_ids(config, categories)
    assert active_mask(ids, 12).tolist() == [i < 8 for i in range(12)]


def test_the_support_set_holds_the_sampled_shots(shapes_data, support_split):
    config = fewshot_config.get_config("shapes,shots=3").unlock()
    config.data = shapes_data
    config.model.mask.size = 16
    config.fewshot.classes = "novel"
    shots, support = make_support_set(config)
    assert shots == sample_shots(config, support_split) and sorted(shots) == [8, 9, 10, 11]
    assert support.count.tolist() == [0] * 8 + [3] * 4 and support.shots.shape == (12, 5, 16, 16, 4)
    everything = crops_from_dataset(support_split, shapes_data)
    expected = support_set(everything, shots, num_classes=12, slots=5, size=16, context=config.data.context)
    np.testing.assert_array_equal(support.shots, expected.shots)


def test_small_shots_are_in_the_support_set(shapes_data):
    """TFA's sampler takes objects that are too small to train the mask head on."""
    data = squares([(1, 0)], [(2, 0), (3, 2), (4, 0)])  # the only image with one of class 0
    small = data.infos[0].annotations[0]
    mask = np.zeros((40, 60), np.uint8)
    mask[7, 9:11] = 1
    small = small._replace(box=(9.0, 7.0, 11.0, 8.0), rle=encode_mask(mask), area=2.0)
    data = data._replace(infos=[data.infos[0]._replace(annotations=(small,)), data.infos[1]])
    shots = fewshot.sample(data, 1, 0, sampler="tfa", class_ids=[0, 2])
    assert shots[0] == (1,) and fewshot.sample(data, 1, 0, class_ids=[0], min_box_side=8)[0] != (1,)
    crops = crops_from_dataset(fewshot.shot_dataset(data, shots, "background"), shapes_data)
    support = support_set(crops, shots, num_classes=3, slots=1, size=8)
    assert support.count.tolist() == [1, 0, 1] and (support.shots[0, 0, ..., 3] > 100).any()


def test_what_the_mask_head_sees_in_ablations():
    """By hand: class 1 is not active and keeps its shots; the others pass theirs on by one, round."""
    shots = np.arange(1, 5, dtype=np.uint8).reshape(4, 1, 1, 1, 1) * np.ones((1, 2, 1, 1, 4), np.uint8)
    support, active = SupportSet(shots, np.array([2, 1, 1, 2], np.int32)), np.array([0, 2, 3], np.int32)
    assert replace_shots(support, "own", active) is support
    none = replace_shots(support, "none", active)
    assert none.shots.shape == shots.shape and not none.shots.any() and none.count.tolist() == [0, 0, 0, 0]
    other = replace_shots(support, "other", active)
    assert other.shots[:, 0, 0, 0, 0].tolist() == [3, 2, 4, 1] and other.count.tolist() == [1, 1, 2, 2]
    assert support.shots[:, 0, 0, 0, 0].tolist() == [1, 2, 3, 4]  # not changed
    with pytest.raises(ValueError, match="eval.support='other' needs two active classes: use 'none'"):
        replace_shots(support, "other", active[:1])
    with pytest.raises(ValueError, match="eval.support is 'all', must be own, none or other"):
        replace_shots(support, "all", active)


def test_support_set(shapes_data):
    data = squares([(1, 0), (2, 1)], [(3, 0)], [(4, 2)])
    crops = crops_from_dataset(data, shapes_data)
    support = support_set(crops, {0: (3, 1), 2: (4,)}, num_classes=3, slots=4, size=8)
    assert support.shots.shape == (3, 4, 8, 8, 4) and support.count.tolist() == [2, 0, 1]
    assert (support.shots[0, :2, ..., 3] > 200).all()  # the object fills its tight box
    assert not support.shots[0, 2:].any() and not support.shots[1].any()
    wide = support_set(crops, {0: (3, 1)}, num_classes=3, slots=4, size=8, context=0.2)
    assert (wide.shots[0, 0, 0, :, 3] < 128).all()
    with pytest.raises(ValueError, match="slots"):
        support_set(crops, {0: (3, 1)}, num_classes=3, slots=1, size=8)
    with pytest.raises(ValueError, match="no shot of a is large enough"):
        support_set(crops, {0: (99,)}, num_classes=3, slots=1, size=8)
