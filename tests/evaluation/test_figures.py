"""The figures of an evaluation: all of them are written, and their programs hold no weights and no shots."""

import jax

from maskdiff_jax.data.synthetic import scenes
from maskdiff_jax.evaluation import figures
from maskdiff_jax.model import build
from tests import lowered, tiny


def test_figures_are_written_by_programs_without_data(tmp_path, monkeypatch):
    config, trained = tiny.config(), tiny.trained()
    dataset = scenes.scenes("shapes", "test", 0, 3)
    segmenter = tiny.model()._segmenter  # before jax.jit is measured: its programs are not the figures'
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
    figures.render(config, tmp_path, build(config.model), trained.params, dataset, trained.support, [], segmenter)
    names = {"scenes_00.png", "scenes_01.png", "support.png", "forward.png", "denoising.png", "samples.png"}
    assert {p.name for p in tmp_path.iterdir()} == names
    assert len(largest) == figures.SAMPLES and max(largest) <= 1024
