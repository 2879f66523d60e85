"""What the sizes of the presets cost: the counts, and that the json is of today's presets."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import tables
from benchmarks.timing import model_sizes
from configs import base, presets


def test_a_product_of_matrices_has_two_flops_per_entry_and_term():
    a, b = np.ones((200, 300), np.float32), np.ones((300, 500), np.float32)
    assert model_sizes.gflop(jnp.matmul, a, b) == pytest.approx(2 * 200 * 300 * 500 / 1e9)


@pytest.mark.parametrize("size", presets.SIZES)
def test_the_json_is_of_the_presets(size):
    config, row = base.get_config(f"coco,size={size}"), tables.results("model_sizes")["sizes"][size]
    assert row["padded_hw"] == list(model_sizes.largest(config))
    assert (row["short_side"], row["mask_size"]) == (config.data.test_short_side, config.model.mask.size)
    for part in ("detector", "mask"):
        assert (row["steps"][part], row["batch"][part]) == (config.train[part].steps, config.train[part].batch)


def test_random_images_are_a_detector_batch():
    config = base.get_config("coco,size=tiny")
    batch, shapes = model_sizes.random_images(config, 2), model_sizes.images(config, 2)
    assert batch.image.shape == shapes.image.shape == (2, 256, 384, 3)
    assert [x.shape for x in batch.instances] == [x.shape for x in shapes.instances]
    boxes = batch.instances.boxes[batch.instances.classes >= 0]
    assert len(boxes) == 2 * model_sizes.OBJECTS
    assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes[:, 2:] <= (384, 256)).all()
