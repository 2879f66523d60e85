"""A model that several people use at once: each has their own classes, settings change masks and not objects."""

import threading

import numpy as np
import pytest

from maskdiff_jax.inference import export, shared_model
from maskdiff_jax.inference.inputs import Photo
from maskdiff_jax.inference.shared_model import Settings, SharedModel
from tests import tiny
from tests.inference.test_predictor import photo
from tests.inference.test_predictor_classes import IMAGES, MASKS

PHOTO = Photo(photo(64, 64, 1), "a.png")


@pytest.fixture(scope="module")
def model():
    return SharedModel(tiny.calibrated(), samples=1, least_score=0.0)


def test_what_one_adds_the_others_do_not_have(model):
    before = model.segment(model.base, PHOTO)
    assert before.file == "a.png" and len(before)
    mine = model.add_class(model.base, "mug", IMAGES, MASKS)
    yours = model.add_class(model.base, "jug", IMAGES[:1], MASKS[:1])
    assert shared_model.names(mine)[12:] == ("mug",) and shared_model.names(yours)[12:] == ("jug",)
    assert len(shared_model.names(model.base)) == 12
    assert model.segment(mine, PHOTO).names[12:] == ("mug",) and model.segment(yours, PHOTO).names[12:] == ("jug",)
    after = model.segment(model.base, PHOTO)
    assert after.names == before.names and after.labels == before.labels
    np.testing.assert_allclose(after.region_soft, before.region_soft, atol=1e-4)
    assert shared_model.names(model.remove_class(mine, "mug")) == shared_model.names(model.base)
    with pytest.raises(ValueError, match="there is no class 'mug'"):
        model.remove_class(yours, "mug")
    with pytest.raises(ValueError, match="there is a class 'mug' already"):
        model.add_class(mine, "mug", IMAGES, MASKS)


def test_an_added_class_survives_an_export(model, tmp_path):
    mine = model.add_class(model.base, "mug", IMAGES, MASKS)
    export.write(tmp_path / "mine", mine)
    assert shared_model.names(shared_model.load(tmp_path / "mine").base) == shared_model.names(mine)


def test_threads_see_their_own_classes(model):
    people = [model.base, model.add_class(model.base, "mug", IMAGES, MASKS)]
    expected, wrong = [model.segment(trained, PHOTO).names for trained in people], []

    def look(k):
        for _ in range(3):
            if model.segment(people[k], PHOTO).names != expected[k]:
                wrong.append(k)

    threads = [threading.Thread(target=look, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and expected[0] != expected[1]


def test_settings_change_the_masks_alone(model):
    assert model.settings == Settings(1.0, 2, 1) and model.has_sampler and model.threshold == 0.5
    mine = model.add_class(model.base, "mug", IMAGES, MASKS)
    own, other = model.segment(model.base, PHOTO), model.segment(model.base, PHOTO, Settings(3.0, 1, 1))
    np.testing.assert_allclose(other.boxes, own.boxes, atol=1e-3)
    assert other.labels == own.labels and np.abs(other.region_soft - own.region_soft).max() > 1e-3
    assert mine.config.model.mask.diffusion.steps == 2  # what is saved has the model's sampler


def test_steps_that_the_schedule_has_not(model):
    with pytest.raises(ValueError, match="steps"):
        model.segment(model.base, PHOTO, Settings(1.0, 201, 1))


def test_a_models_own_settings_are_in_range():
    document = tiny.config().unlock()
    document.model.mask.diffusion.guidance = 30.0
    model = SharedModel(tiny.calibrated()._replace(config=document.lock()), samples=1)
    assert model._predictor(model.base, model.settings).trained is model.base


def test_settings_out_of_range(model):
    for settings, words in (
        (Settings(-1.0, 2, 1), "the guidance weight is -1.0: give one from 0 to 20"),
        (Settings(1.0, 0, 1), "the number of steps is 0: give one from 1 to 1000"),
        (Settings(1.0, 2, 99), "the number of samples is 99: give one from 1 to 16"),
        (Settings(None, 2, 1), "the guidance weight is None"),
    ):
        with pytest.raises(ValueError, match=words):
            model.segment(model.base, PHOTO, settings)


def test_evaluations_of_the_network(model):
    assert model.evaluations(Settings(1.0, 4, 3)) == 12
    assert model.evaluations(Settings(2.0, 4, 3)) == 24  # with the class and without


def test_only_the_last_used_predictors_are_kept(monkeypatch):
    class Stub:
        def __init__(self, trained, **options):
            self.options = options

        def use(self, trained):
            self.trained = trained

    monkeypatch.setattr(shared_model, "Predictor", Stub)
    model = SharedModel(tiny.calibrated(), samples=1)
    own = model._predictor(model.base, model.settings)
    for steps in range(3, 5 + shared_model.KEPT):
        found = model._predictor(model.base, Settings(1.0, steps, 2))
        assert found.trained.config.model.mask.diffusion.steps == steps and found.options["samples"] == 2
    assert len(model._predictors) == 1 + shared_model.KEPT
    assert model._predictor(model.base, model.settings) is own
    assert Settings(1.0, 3, 2) not in model._predictors
