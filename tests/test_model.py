"""The model: its parts take their own parameters, and an unknown head is named with the known ones."""

import jax
import numpy as np
import pytest

from maskdiff_jax.model import build
from maskdiff_jax.types import Batch, Instances
from tests import tiny


def test_each_function_takes_the_parameters_of_its_part():
    config, model = tiny.config(), build(tiny.config().model)
    params = jax.eval_shape(model.init, jax.random.key(0))
    assert params.keys() == {"detector", "mask_head"}
    found = jax.eval_shape(
        model.detect, {"detector": params["detector"]}, np.zeros((2, 64, 64, 3), np.uint8), np.full((2, 2), 64),
        np.ones(12, bool),
    )  # fmt: skip
    d = config.model.detector.max_detections
    assert [x.shape for x in found] == [(2, d, 4), (2, d), (2, d)]
    n, side = 3, config.model.mask.size
    objects = (
        jax.random.split(jax.random.key(0), n), np.zeros((n, side, side, 3), np.uint8),
        np.zeros((n, 2, side, side, 4), np.uint8), np.zeros(n, np.int32),
    )  # fmt: skip
    head = {"mask_head": params["mask_head"]}
    assert jax.eval_shape(model.segment, head, *objects).shape == (n, side, side)
    noisy, estimates = jax.eval_shape(model.trajectory, head, *objects)
    assert noisy.shape == estimates.shape == (config.model.mask.diffusion.steps, n, side, side)


def test_a_head_that_sees_roi_features_is_part_of_the_detectors_loss():
    config = tiny.config().unlock()
    config.model.mask.head = "cnn"
    plain, model = build(tiny.config().model), build(config.model)
    assert (plain.gt_mask_side, plain.mask_features) == (0, None)
    params = jax.eval_shape(model.init, jax.random.key(0))
    boxes = np.zeros((2, 3, 4), np.float32)
    image, hw = np.zeros((2, 64, 64, 3), np.uint8), np.full((2, 2), 64)
    cells = jax.eval_shape(model.mask_features, {"detector": params["detector"]}, image, hw, boxes)
    cnn, channels = config.model.mask.cnn, config.model.detector.fpn_channels
    assert cells.shape == (2, 3, cnn.roi_size, cnn.roi_size, channels)
    side = model.gt_mask_side
    instances = Instances(boxes, np.zeros((2, 3), np.int32), np.zeros((2, 3), bool))
    batch = Batch(image, hw, hw, np.arange(2), instances, gt_masks=np.zeros((2, 3, side, side), np.uint8))
    _, metrics = jax.eval_shape(model.detector_loss, params, jax.random.key(0), batch, np.ones(12, bool))
    assert "loss_mask" in metrics
    _, metrics = jax.eval_shape(
        plain.detector_loss, {"detector": params["detector"]}, jax.random.key(0), batch, np.ones(12, bool)
    )
    assert "loss_mask" not in metrics


def test_an_unknown_head_lists_the_known_ones():
    config = tiny.config().unlock()
    config.model.mask.head = "unet"
    with pytest.raises(ValueError, match="unknown model.mask.head 'unet': choose diffusion, plain_unet, cnn"):
        build(config.model)


def test_equal_configs_share_what_is_compiled():
    """And a config that changes afterwards does not reach the model."""
    config = tiny.config().unlock()
    model = build(config.model)
    assert build(tiny.config().model) is model
    config.model.mask.size = 32
    other = build(config.model)
    assert (model.mask_side, other.mask_side) == (16, 32)
    assert build(tiny.config().model).mask_side == 16
