"""Classes are added to and dropped from a trained model; the others keep every weight."""

import jax
import numpy as np
import pytest

from configs import base
from maskdiff_jax.data.dataset import Category
from maskdiff_jax.data.support import active_class_ids
from maskdiff_jax.inference import classes
from maskdiff_jax.inference.calibration import Calibration
from maskdiff_jax.inference.export import TrainedModel
from maskdiff_jax.model import build
from maskdiff_jax.types import SupportSet
from tests import tiny

SHOTS = np.full((2, 16, 16, 4), 7, np.uint8)


def features(count=2):
    return np.abs(np.random.default_rng(5).standard_normal((count, 32))).astype(np.float32)


def kernel(trained):
    return np.asarray(trained.params["detector"]["box_predictor"]["cls_score"]["kernel"])


def check_shapes(trained):
    """The parameters are those of the model that the config describes."""
    expected = jax.eval_shape(build(trained.config.model).init, jax.random.key(0))
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x.shape, y.shape), trained.params, expected)


def test_a_class_is_added():
    before = tiny.calibrated()
    after = classes.added(before, "mug", features(), SHOTS)
    check_shapes(after)
    assert after.categories == (*before.categories, Category(35, "mug", True)) and after.config.model.num_classes == 13
    np.testing.assert_array_equal(kernel(after)[:, :12], kernel(before)[:, :12])
    np.testing.assert_array_equal(kernel(after)[:, 13], kernel(before)[:, 12])  # background
    assert np.linalg.norm(kernel(after)[:, 12]) == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(after.support.shots[12], SHOTS)
    assert after.support.count.tolist() == [2] * 13
    np.testing.assert_array_equal(after.support.shots[:12], before.support.shots)
    np.testing.assert_array_equal(after.calibration.labels[-3:], [11, 12, 12])
    np.testing.assert_array_equal(after.calibration.features[-2:], features())
    assert len(active_class_ids(after.config, after.categories)) == 13


def test_the_mask_head_sees_no_class():
    """The same masks as with class -1, from the shots alone."""
    before = tiny.calibrated()
    after = classes.added(before, "mug", features(), SHOTS)
    rng = np.random.default_rng(0)
    region, keys = rng.integers(0, 256, (1, 16, 16, 3), np.uint8), jax.random.split(jax.random.key(0), 1)
    arguments = keys, region, SHOTS[None]
    new = jax.jit(build(after.config.model).segment)(after.params, *arguments, np.array([12]))
    segment = jax.jit(build(before.config.model).segment)
    np.testing.assert_allclose(new, segment(before.params, *arguments, np.array([-1])), atol=1e-5)
    assert np.abs(new - segment(before.params, *arguments, np.array([3]))).max() > 1e-3


def test_adding_then_removing_changes_nothing():
    before = tiny.calibrated()
    after = classes.removed(classes.added(before, "mug", features(), SHOTS), "mug")
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    jax.tree.map(np.testing.assert_array_equal, after.support, before.support)
    jax.tree.map(np.testing.assert_array_equal, after.calibration, before.calibration)
    assert after.categories == before.categories and after.config.model.num_classes == 12


def test_any_class_is_removed():
    before = tiny.calibrated()
    after = classes.removed(before, "class3")
    check_shapes(after)
    kept = [0, 1, 2, *range(4, 13)]
    np.testing.assert_array_equal(kernel(after), kernel(before)[:, kept])
    np.testing.assert_array_equal(after.support.shots, before.support.shots[kept[:-1]])
    assert [c.name for c in after.categories][:5] == ["class0", "class1", "class2", "class4", "class5"]
    np.testing.assert_array_equal(after.calibration.labels, np.repeat(np.arange(11), 3))
    np.testing.assert_array_equal(after.calibration.features[9:], before.calibration.features[12:])
    with pytest.raises(ValueError, match="there is no class 'mug': the classes are class0, class1"):
        classes.removed(before, "mug")
    only = before
    for name in [c.name for c in before.categories[1:]]:
        only = classes.removed(only, name)
    with pytest.raises(ValueError, match="'class0' is the only class, and a model needs one"):
        classes.removed(only, "class0")


def test_a_base_model_forgets_the_classes_that_it_was_never_trained_on():
    """So they can be added by their names."""
    trained = tiny.calibrated()
    config = trained.config.copy_and_resolve_references().unlock()
    config.stage = "base"
    base_model = classes.active_only(trained._replace(config=config.lock()))
    check_shapes(base_model)
    assert [c.name for c in base_model.categories] == [f"class{i}" for i in range(8)]
    classes.check_can_add(base_model, "class9")
    added = classes.added(base_model, "class9", features(), SHOTS)
    assert len(active_class_ids(added.config, added.categories)) == 9


def class_specific() -> TrainedModel:
    """A model with boxes and masks for each class, MTFA's."""
    c = base.get_config("shapes").unlock()
    c.data.novel_classes = ()
    c.model.update(num_classes=3)
    detector, mask = c.model.detector, c.model.mask
    detector.update(blocks=(1, 1, 1, 1), width=8, fpn_channels=16, fc_channels=32, class_agnostic_boxes=False)
    mask.update(head="cnn", slots=2, size=16)
    mask.cnn.update(convs=1, channels=8, class_agnostic=False)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(build(c.model).init, jax.random.key(0))
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(x.dtype), shapes)
    support = SupportSet(np.zeros((3, 2, 16, 16, 4), np.uint8), np.zeros(3, np.int32))
    calibration = Calibration(np.abs(rng.standard_normal((9, 32))).astype(np.float32), np.arange(9, dtype=np.int32) % 3)
    categories = tuple(Category(i, f"c{i}", False) for i in range(3))
    return TrainedModel(params, c.lock(), categories, support, calibration)


def test_class_specific_boxes_and_masks_start_as_the_mean():
    before = class_specific()
    after = classes.added(before, "mug", features(), SHOTS)
    check_shapes(after)
    old, new = (np.asarray(x.params["detector"]["box_predictor"]["bbox_pred"]["kernel"]) for x in (before, after))
    np.testing.assert_array_equal(new[:, :12], old)
    np.testing.assert_allclose(new[:, 12:], old.reshape(-1, 3, 4).mean(1), atol=1e-6)
    old, new = (np.asarray(x.params["mask_head"]["predictor"]["bias"]) for x in (before, after))
    np.testing.assert_allclose(new, [*old, old.mean()], atol=1e-6)
    back = classes.removed(after, "mug")
    jax.tree.map(np.testing.assert_array_equal, back.params, before.params)


@pytest.mark.parametrize("name", ["", " ", "a\nb", None, 5])
def test_names(name):
    with pytest.raises(ValueError, match="a class needs a name, but .* was given"):
        classes.check_can_add(tiny.calibrated(), name)


def test_models_that_cannot_be_added_to():
    with pytest.raises(ValueError, match="there is a class 'class3' already: give another name, or call remove_class"):
        classes.check_can_add(tiny.calibrated(), "class3")
    with pytest.raises(
        ValueError, match="holds no features of its classes.* export the run again with launch/export.py"
    ):
        classes.check_can_add(tiny.trained(), "mug")
    config = tiny.config().unlock()
    config.model.detector.classifier = "linear"
    with pytest.raises(
        ValueError, match="to a model with a cosine classifier, but this model's is linear: train stage 2"
    ):
        classes.check_can_add(tiny.calibrated()._replace(config=config), "mug")
