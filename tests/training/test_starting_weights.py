"""The weights that a run starts from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from maskdiff_jax import checkpoint, workdir
from maskdiff_jax.training import starting_weights

RESET = ("detector/box_predictor/cls_score/.*",)


class Small:
    """Two parameters of the detector, one of the mask head; all are ``value``, the classifier has ``classes``."""

    def __init__(self, value, classes, bias=False):
        self.value, self.shape, self.bias = value, (2, classes), bias

    def init(self, key):
        cls_score = {"kernel": jnp.full(self.shape, self.value)}
        if self.bias:
            cls_score["bias"] = jnp.full(self.shape[1:], self.value)
        box_predictor = {"cls_score": cls_score, "bbox_pred": {"kernel": jnp.full((2, 4), self.value)}}
        return {"detector": {"box_predictor": box_predictor}, "mask_head": {"w": jnp.full((3,), self.value)}}


@pytest.fixture
def before(tmp_path, monkeypatch):
    """A finished run with a linear classifier, whose weights are 1."""
    model = Small(1.0, 3, bias=True)
    config = base.get_config("shapes").unlock()
    config.model.detector.classifier = "linear"
    workdir.create(tmp_path, config)
    checkpoint.save_params(workdir.weights_folder(tmp_path), model.init(None))
    monkeypatch.setattr(starting_weights, "build", lambda fields: model)
    return tmp_path


def test_reset_parameters_are_new_and_may_have_another_shape(before):
    config = base.get_config("shapes").unlock()
    config.update(init_from=str(before))
    config.train.reset = RESET
    params = starting_weights.starting_params(config, Small(7.0, 5))
    predictor = params["detector"]["box_predictor"]
    assert list(predictor["cls_score"]) == ["kernel"]
    np.testing.assert_array_equal(predictor["cls_score"]["kernel"], np.full((2, 5), 7.0))
    np.testing.assert_array_equal(predictor["bbox_pred"]["kernel"], np.ones((2, 4)))
    np.testing.assert_array_equal(params["mask_head"]["w"], np.ones(3))
    config.train.reset = ("mask_head/.*",)  # the classifier is still another one
    with pytest.raises(ValueError, match="model.detector.classifier is 'linear' there and 'cosine' here"):
        starting_weights.starting_params(config, Small(7.0, 5))


def test_reset_needs_a_run_to_start_from():
    config = base.get_config("shapes").unlock()
    config.train.reset = RESET
    with pytest.raises(ValueError, match="give --config.init_from too, or omit train.reset"):
        starting_weights.starting_params(config, Small(7.0, 5))


def test_a_detector_of_other_shapes_is_not_taken_over(before):
    config = base.get_config("shapes").unlock()
    config.detector_from, config.model.detector.classifier = str(before), "linear"
    params = starting_weights.starting_params(config, Small(7.0, 3, bias=True))
    assert jax.tree.all(jax.tree.map(lambda x: bool((x == 1).all()), params["detector"]))
    np.testing.assert_array_equal(params["mask_head"]["w"], np.full(3, 7.0))
    with pytest.raises(ValueError, match=r"bias is float32\[3\] there, missing here.*: use the config that it was"):
        starting_weights.starting_params(config, Small(7.0, 3))


def test_what_no_pattern_names_must_be_there_with_the_same_shape():
    new, old = Small(7.0, 5).init(None), Small(1.0, 3, bias=True).init(None)
    assert starting_weights.with_reset(new, new, (), "run") == new
    with pytest.raises(ValueError, match=r"of run are of another model \(detector/box_predictor/cls_score/bias"):
        starting_weights.with_reset(new, old, ("mask_head/.*",), "run")
    with pytest.raises(ValueError, match=r"kernel is float32\[2, 3\] there, float32\[2, 5\] here"):
        starting_weights.with_reset(new, old, (".*/bias",), "run")
    with pytest.raises(ValueError, match=r"mask_head/w is missing there, float32\[3\] here"):
        starting_weights.with_reset(new, {"detector": new["detector"]}, RESET, "run")


def test_the_log_says_what_is_taken_over_and_what_is_dropped(before, capsys):
    config = base.get_config("shapes").unlock()
    config.update(init_from=str(before), train={"reset": (*RESET, "mask_head/.*")})
    config.model.num_classes = 7  # may differ: every parameter that depends on it ...
    with pytest.raises(ValueError, match="model.num_classes is 12 there and 7 here"):  # ... but the regressor is new
        starting_weights.starting_params(config, Small(7.0, 5))
    config.train.reset = ("detector/box_predictor/.*", "mask_head/.*")
    starting_weights.starting_params(config, Small(7.0, 5))
    assert capsys.readouterr().out.splitlines() == [
        f"from {before}: copied: nothing",
        f"from {before}: dropped: detector/box_predictor/bbox_pred/kernel float32[2, 4] (new: float32[2, 4]); "
        "detector/box_predictor/cls_score/bias float32[3] (new: missing); "
        "detector/box_predictor/cls_score/kernel float32[2, 3] (new: float32[2, 5])",
        f"from {before}: dropped: mask_head/w float32[3] (new: float32[3])",
    ]
    config.model.num_classes, config.train.reset = 12, RESET
    starting_weights.starting_params(config, Small(7.0, 5))
    taken = capsys.readouterr().out.splitlines()[0]
    assert taken == f"from {before}: copied: detector/box_predictor (8 parameters), mask_head (3 parameters)"


def test_a_pattern_that_names_nothing_is_an_error():
    new = Small(7.0, 5).init(None)
    with pytest.raises(ValueError, match="train.reset has 'detector/cls_score/.*', which no parameter's name matches"):
        starting_weights.with_reset(new, new, ("detector/cls_score/.*",), "run")
