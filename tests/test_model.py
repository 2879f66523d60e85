"""The model: its parts take their own parameters, and an unknown head is named with the known ones."""

import jax
import numpy as np
import pytest

from maskdiff_jax.model import build
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


def test_an_unknown_head_lists_the_known_ones():
    config = tiny.config().unlock()
    config.model.mask.head = "unet"
    with pytest.raises(ValueError, match="unknown model.mask.head 'unet': choose diffusion, plain_unet"):
        build(config.model)
