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
    if size == "tiny":
        assert row["public_detector"] == {}
        return
    public = base.get_config(f"coco,size={size},weights=detector").train.detector
    assert (row["public_detector"]["steps"], row["public_detector"]["batch"]) == (public.steps, public.batch)
    assert row["public_detector"]["gflop_train_image"] < row["gflop"]["train_detector_image"] / 2
    for gpu in tables.CARDS:
        planned = tables.results("model_sizes")["compiled"][gpu][size]
        assert planned.keys() == model_sizes.COMPILED.keys() and max(p["peak_gib"] for p in planned.values()) < 20


def test_hours_are_steps_times_the_roofline_and_flops_by_a_share_of_the_peak():
    compiled = {"detector": {"roofline_ms": 100.0, "tflop": 10.0}, "mask": {"roofline_ms": 50.0, "tflop": 2.0}}
    sizes = {"paper": {"steps": {"detector": 72_000, "mask": 36_000}, "public_detector": {}}}
    found = {"sizes": sizes, "compiled": {"rtx3090": {"paper": compiled}}}
    # 7,200 + 1,800 seconds; 720,000 + 72,000 TFLOP at 0.3 x 71 TFLOPS
    assert tables._gpu_hours(found, "paper", "rtx3090", "detector") == "2 to 10"
    assert tables._gpu_hours(found, "tiny", "rtx3090", "detector") == ""


def test_random_images_are_a_detector_batch():
    config = base.get_config("coco,size=tiny")
    batch, shapes = model_sizes.random_images(config, 2), model_sizes.images(config, 2)
    assert batch.image.shape == shapes.image.shape == (2, 256, 384, 3)
    assert [x.shape for x in batch.instances] == [x.shape for x in shapes.instances]
    boxes = batch.instances.boxes[batch.instances.classes >= 0]
    assert len(boxes) == 2 * model_sizes.OBJECTS
    assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes[:, 2:] <= (384, 256)).all()
