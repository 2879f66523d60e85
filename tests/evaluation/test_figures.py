"""The pictures of an evaluation: all of them are written, and their programs hold no weights and no shots."""

import jax
import numpy as np

from maskdiff_jax.data.synthetic import scenes
from maskdiff_jax.evaluation import figures
from maskdiff_jax.inference import segment
from maskdiff_jax.model import build
from maskdiff_jax.types import SupportSet
from tests import lowered
from tests.inference.test_predictor import tiny_config


def test_pictures_are_written_by_programs_without_data(tmp_path, monkeypatch):
    config, rng = tiny_config(), np.random.default_rng(0)
    model, dataset = build(config.model), scenes.scenes("shapes", "test", 0, 3)
    like = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda x: (0.1 * rng.standard_normal(x.shape)).astype(x.dtype), like)
    support = SupportSet(rng.integers(0, 256, (12, 2, 16, 16, 4), np.uint8), np.full(12, 2, np.int32))
    segmenter = segment.make_segmenter(
        model, support, size=16, context=0.1, top_n=4, mask_batches=(4,), threshold=0.5, samples=1, noise_seed=0,
    )  # fmt: skip
    largest, jit = [], jax.jit

    def measured(function):
        compiled = jit(function)

        def call(*arguments):
            largest.append(max(lowered.constants(compiled, *arguments), default=0))
            return compiled(*arguments)

        return call

    monkeypatch.setattr(figures.jax, "jit", measured)
    with config.unlocked():
        config.eval.figures = 2
    figures.render(config, tmp_path, model, params, dataset, support, [], segmenter)
    names = {"scenes_00.png", "scenes_01.png", "support.png", "forward.png", "denoising.png", "samples.png"}
    assert {p.name for p in tmp_path.iterdir()} == names
    assert len(largest) == figures.SAMPLES and max(largest) <= 1024
