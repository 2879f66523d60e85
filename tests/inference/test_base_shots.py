"""Photos that an export keeps: which objects are shots, what the others become, and a round trip through files."""

import numpy as np
import pytest

from maskdiff_jax.data.dataset import Annotation, Category, Dataset, ImageInfo
from maskdiff_jax.data.formats import segmentation
from maskdiff_jax.inference import base_shots
from tests import tiny


def dataset():
    """Three photos, each with an object of base classes 0 and 1 and of the novel class 2; ids 10 * photo + class."""
    infos = []
    for photo in range(3):
        annotations = []
        for c in range(3):
            mask = np.zeros((64, 64), bool)
            mask[20 * c : 20 * c + 15, 5:30] = True
            box = (5.0, 20.0 * c, 30.0, 20.0 * c + 15)
            rle = segmentation.encode_mask(mask)
            annotations.append(Annotation(10 * photo + c, photo, c, box, rle, 375.0, False))
        infos.append(ImageInfo(photo, f"deep/photo {photo}.jpg", 64, 64, tuple(annotations)))
    categories = tuple(Category(k + 1, name, k == 2) for k, name in enumerate(("cup", "dog", "zebra")))
    return Dataset("d", "support", categories, infos, lambda i: np.full((64, 64, 3), 50 * i, np.uint8))


def config(**fewshot):
    c = tiny.config().copy_and_resolve_references().unlock()
    c.model.mask.slots = 1
    c.fewshot.update(fewshot)
    return c


def test_one_shot_of_each_class_and_no_other_object_is_one():
    kept = base_shots.sample(config(), dataset(), {0: (0,), 1: (1,), 2: (22,)})
    shots = [a for i in kept.infos for a in i.annotations if not a.crowd]
    assert sorted(a.class_id for a in shots) == [0, 1, 2]
    assert [a.id for a in shots if a.class_id == 2] == [22]  # the run's own
    others = [a for i in kept.infos for a in i.annotations if a.crowd]
    assert len(others) == 2 * len(kept.infos) - 2 and {a.class_id for a in others} <= {0, 1}
    assert [i.file_name for i in kept.infos] == [f"{k:06}.png" for k in range(len(kept.infos))]


def test_stage_1_keeps_base_classes_alone():
    c = config()
    c.stage = "base"
    kept = base_shots.sample(c, dataset(), {0: (0,), 1: (1,), 2: (22,)})
    assert {a.class_id for i in kept.infos for a in i.annotations} == {0, 1}


def test_round_trip(tmp_path):
    assert base_shots.read(tmp_path) is None
    kept = base_shots.sample(config(), dataset(), {2: (22,)})
    base_shots.write(tmp_path, kept)
    back = base_shots.read(tmp_path)
    assert back.infos == kept.infos
    for i in range(len(kept.infos)):
        np.testing.assert_array_equal(back.read(i), kept.read(i))
    (tmp_path / base_shots.FOLDER / base_shots.JSON).write_text("{")
    with pytest.raises(ValueError, match=r"base_shots/train.json"):
        base_shots.read(tmp_path)
