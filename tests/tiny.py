"""A model small enough for tests: random weights and shots, 64 px images, 16 px masks. Made and compiled once."""

import functools
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import fewshot
from maskdiff_jax import checkpoint, workdir
from maskdiff_jax.data.dataset import Category
from maskdiff_jax.inference import predictor
from maskdiff_jax.inference.calibration import Calibration
from maskdiff_jax.inference.export import TrainedModel
from maskdiff_jax.model import build
from maskdiff_jax.types import Batch, SupportSet


def config() -> ConfigDict:
    """A new copy, locked."""
    return shrink(fewshot.get_config("shapes"))


def shrink(config: ConfigDict) -> ConfigDict:
    """A config of any preset with images, nets and samplers as small as those of `config`, locked."""
    c = config.unlock()
    detector, mask = c.model.detector, c.model.mask
    c.data.update(short_sides=(64,), test_short_side=64, long_side=64, region_long_side=64, buckets=((64, 64),))
    detector.update(blocks=(1, 1, 1, 1), width=8, fpn_channels=16, fc_channels=32, max_detections=4)
    detector.update(proposals_test=16, rpn_pre_nms_test=16, min_score=0.01)
    mask.update(size=16, slots=2)
    mask.unet.update(width=16, multipliers=(1,), attention=())
    mask.cnn.update(channels=8, convs=1, roi_size=7)
    # a table of the noise schedule has T numbers and is part of the method, not data: keep it under a kilobyte
    mask.diffusion.update(steps=2, timesteps=200)
    c.eval.update(mask_top_n=4, mask_min_score=0.0)
    return c.lock()


@functools.cache
def trained() -> TrainedModel:
    """Random weights and two random shots of each of 12 classes, the last four of them novel."""
    return of_config(config())


def of_config(config: ConfigDict) -> TrainedModel:
    """As `trained`, of another config of 12 classes."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(build(config.model).init, jax.random.key(0))
    # no zero-initialized layer may hide what the mask head sees
    params = jax.tree.map(lambda x: (0.1 * rng.standard_normal(x.shape)).astype(x.dtype), shapes)
    support = SupportSet(rng.integers(0, 256, (12, 2, 16, 16, 4), np.uint8), np.full(12, 2, np.int32))
    categories = tuple(Category(3 * i + 1, f"class{i}", i >= 8) for i in range(12))
    return TrainedModel(params, config, categories, support)


def calibrated() -> TrainedModel:
    """`trained` with box features, three of each class, so that classes can be added."""
    labels = np.repeat(np.arange(12, dtype=np.int32), 3)
    features = np.abs(np.random.default_rng(1).standard_normal((36, 32))).astype(np.float32)
    return trained()._replace(calibration=Calibration(features, labels))


@functools.cache
def model() -> predictor.Predictor:
    """A predictor of `trained`, with one sample per object."""
    return predictor.Predictor(trained(), noise_seed=0, samples=1, min_score=0.0, keep_samples=False)


def write_run(folder: Path) -> Path:
    """A run folder as training leaves it, with the weights of `trained`; the dataset will be in `data` beside it."""
    c = config().unlock()
    c.data.update(root=str(folder.parent / "data"), shapes_support=60, shapes_test=6)
    c.fewshot.shots = 2
    c.eval.update(batch=3, mask_batch=4, figures=2)
    workdir.create(folder, c.lock())
    checkpoint.save_params(workdir.weights_folder(folder), trained().params)
    return folder


def batch_of_ids(image_ids: list[int]) -> Batch:
    """Black images with these ids; -1 is padding."""
    one = predictor.as_batch(np.zeros((64, 64, 3), np.uint8), 0, config().data)
    batch = jax.tree.map(lambda x: np.repeat(x, len(image_ids), 0), one)
    return batch._replace(image_id=np.array(image_ids, np.int32))
