"""Classes that a user adds to a predictor: found, saved, dropped; mistakes leave the model as it was."""

import threading

import jax
import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.data import transforms
from maskdiff_jax.data.dataset import Category
from maskdiff_jax.imprinting import features_of
from maskdiff_jax.inference import export, predictor, shots
from maskdiff_jax.model import build
from tests import compiling, tiny
from tests.inference.test_predictor import photo

IMAGES = [photo(64, 64, 1), photo(40, 60, 2)]
MASKS = [np.zeros((64, 64), bool), np.zeros((40, 60), bool)]
MASKS[0][10:40, 20:50] = True
MASKS[1][5:30, 8:40] = True


@pytest.fixture
def model():
    """With the programs of `tiny.model`, which are compiled once for all tests."""
    found = predictor.Predictor(tiny.calibrated(), noise_seed=0, samples=1, min_score=0.0, keep_samples=False)
    programs = tiny.model()._segmenter
    found._segmenter = found._segmenter._replace(detect=programs.detect, sample=programs.sample, crop=programs.crop)
    return found


def test_a_class_is_added_used_saved_and_dropped(model, tmp_path):
    before = model(IMAGES[0])
    assert model.names == tuple(f"class{i}" for i in range(12))
    model.add_class("mug", IMAGES, MASKS)
    assert model.names[12:] == ("mug",) and len(model.categories) == 13
    found, detect = model(IMAGES[0]), model._segmenter.detect
    assert found.names == tuple(c.name for c in model.categories) and set(found.labels) <= set(found.names)
    model.add_class("jug", IMAGES[1], MASKS[1])
    assert model.names[12:] == ("mug", "jug")
    model(IMAGES[0])
    assert model._segmenter.detect is detect and detect._cache_size() == 1  # compiled for more classes already
    model.remove_class("jug")
    again = model(IMAGES[0])
    assert again.labels == found.labels
    np.testing.assert_allclose(again.region_soft, found.region_soft, atol=1e-5)

    model.save(tmp_path / "mine")
    loaded = predictor.load(tmp_path / "mine", min_score=0.0)
    assert loaded.names == model.names and loaded.categories[12] == Category(35, "mug", True)
    jax.tree.map(np.testing.assert_array_equal, loaded.trained.params, model.trained.params)
    jax.tree.map(np.testing.assert_array_equal, loaded.trained.support, model.trained.support)
    jax.tree.map(np.testing.assert_array_equal, loaded.trained.calibration, model.trained.calibration)
    assert predictor.read_config(tmp_path / "mine").model.num_classes == 13
    model.remove_class("mug")
    after = model(IMAGES[0])
    assert after.labels == before.labels
    np.testing.assert_allclose(after.scores, before.scores, atol=1e-5)
    np.testing.assert_allclose(after.region_soft, before.region_soft, atol=1e-4)


def test_the_new_class_is_detected_where_its_vector_says(model):
    """With the class vector of another class, its objects are those of the new class."""
    before = model(IMAGES[0])
    model.add_class("mug", IMAGES, MASKS)
    kernel = np.array(model.trained.params["detector"]["box_predictor"]["cls_score"]["kernel"])
    best = before.class_ids[0]
    kernel[:, 12], kernel[:, best] = kernel[:, best], 0.0
    changed = model.trained.params["detector"]["box_predictor"] | {"cls_score": {"kernel": kernel}}
    detector = model.trained.params["detector"] | {"box_predictor": changed}
    model.use(model.trained._replace(params=model.trained.params | {"detector": detector}))
    found = model(IMAGES[0])
    assert found.labels[0] == "mug" and found.scores[0] == pytest.approx(before.scores[0], abs=0.05)


def test_shots_and_features_are_those_of_training(model):
    dataset = shots.read(IMAGES, MASKS, None, Category(0, "mug", True), 0)
    mine = model._shot_features(dataset)
    forward = compiling.jit(build(tiny.config().model).box_features)
    data = tiny.config().data
    expected, _ = features_of(dataset, data, 1, tiny.trained().params, forward)
    order = np.abs(mine[:, None] - expected[None]).max(-1).argmin(1)  # eval_batches sorts by padded size
    np.testing.assert_allclose(mine, expected[order], atol=1e-3)
    assert sorted(order) == [0, 1]
    model.add_class("mug", IMAGES, MASKS)
    packed = transforms.pack(IMAGES[0], MASKS[0].astype(np.uint8))
    shot = transforms.crop_shot(packed, np.array([20.0, 10, 50, 40]), 16, data.context)
    difference = np.abs(shot.astype(int) - np.asarray(model._segmenter.shots)[12, 0])
    assert difference.max() <= 1  # crops with a margin first, where rounding may differ


@pytest.mark.parametrize(
    "name, images, masks, message",
    [
        ("class3", IMAGES, MASKS, "there is a class 'class3' already"),
        ("mug", IMAGES[0], np.zeros((64, 64), bool), "image 1, mask 1 is empty"),
        ("mug", IMAGES[0], [MASKS[0]] * 3, "3 shots of 'mug': this mask head was trained with 1 to 2 shots of a class"),
        ("mug", IMAGES[0], [], "0 shots of 'mug': this mask head was trained with 1 to 2"),
        ("mug", IMAGES, MASKS[::-1], "image 1, mask 1 is 40 x 60 px, but the image is 64 x 64 px"),
    ],
)
def test_mistakes_leave_the_model_as_it_was(model, name, images, masks, message):
    trained = model.trained
    with pytest.raises(ValueError, match=message):
        model.add_class(name, images, masks)
    assert model.trained is trained and len(model.names) == 12


def test_models_that_hold_no_features(tmp_path):
    """A run, or an export of an older version."""
    export.write(tmp_path / "old", tiny.trained())
    with pytest.raises(ValueError, match="holds no features of its classes.*: it is a run, an export of an older"):
        predictor.load(tmp_path / "old").add_class("mug", IMAGES, MASKS)


def test_threads_take_turns(model):
    """A call while a class is added sees the model before or after; of two of one name one is refused."""
    refused = []

    def add():
        try:
            model.add_class("mug", IMAGES, MASKS)
        except ValueError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=add) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        found = model(IMAGES[0])
        assert len(found.names) in (12, 13) and set(found.labels) <= set(found.names)
    for thread in threads:
        thread.join()
    assert model.names[12:] == ("mug",) and len(refused) == 1 and "there is a class 'mug' already" in refused[0]


def test_nothing_else_is_overwritten(model, tmp_path):
    (tmp_path / "thesis.tex").write_text("do not lose me")
    with pytest.raises(FileExistsError, match="is not empty and not an export"):
        model.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_shots_in_a_folder_or_from_a_generator(model, tmp_path):
    """In the order of the files' names; the same shots as in a list."""
    for name, image in zip(("b.png", "a.png"), IMAGES, strict=True):
        Image.fromarray(image).save(tmp_path / name)
    kept = []
    for images, masks in ((IMAGES, MASKS), ((image for image in IMAGES), MASKS), (tmp_path, MASKS[::-1])):
        model.add_class("mug", images, masks)
        kept.append(model.trained.support.shots[12, :2])
        model.remove_class("mug")
    np.testing.assert_array_equal(kept[0], kept[1])
    np.testing.assert_array_equal(kept[0], kept[2][::-1])


def test_a_model_is_saved_over_the_export_that_it_was_loaded_from(model, tmp_path):
    model.save(tmp_path / "mine")
    loaded = predictor.load(tmp_path / "mine", min_score=0.0)
    loaded.remove_class("class3")
    loaded.save(tmp_path / "mine")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    again = predictor.load(tmp_path / "mine")
    assert again.names == loaded.names and "class3" not in again.names
    jax.tree.map(np.testing.assert_array_equal, again.trained.params, loaded.trained.params)
