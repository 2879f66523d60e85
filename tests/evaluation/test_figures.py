"""The figures of an evaluation: all of them are written, and their programs hold no weights and no shots."""

import jax

from maskdiff_jax.data.dataset import Annotation, Category, Dataset, ImageInfo
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
    for name in ("scenes_07.png", "scenes_plan.png"):  # of an evaluation with more figures; of another program
        (tmp_path / name).write_bytes(b"")
    figures.render(config, tmp_path, build(config.model), trained.params, dataset, trained.support, [], segmenter)
    names = {"scenes_00.png", "scenes_01.png", "support.png", "forward.png", "denoising.png", "samples.png"}
    assert {p.name for p in tmp_path.iterdir()} == names | {"scenes_plan.png"}
    assert len(largest) == figures.SAMPLES + 1 and max(largest) <= 1024


def test_a_mask_head_without_noise_has_no_figures_of_it(tmp_path):
    config, trained = tiny.config(), tiny.trained()
    with config.unlocked():
        config.eval.figures = 1
    (tmp_path / "denoising.png").write_bytes(b"")  # of another head, earlier
    model = build(config.model)._replace(mask_features=lambda *_: None, trajectory=None, segment=None)
    dataset, segmenter = scenes.scenes("shapes", "test", 0, 1), tiny.model()._segmenter
    figures.render(config, tmp_path, model, trained.params, dataset, trained.support, [], segmenter)
    assert {p.name for p in tmp_path.iterdir()} == {"scenes_00.png", "support.png"}


def test_two_thirds_of_the_scenes_have_novel_objects_where_there_are_so_many():
    def split(novel):
        objects = [(Annotation(k, k, int(n), (0, 0, 9, 9), {}, 81.0, False),) for k, n in enumerate(novel)]
        infos = [ImageInfo(k, f"{k}.png", 9, 9, a) for k, a in enumerate(objects)]
        return Dataset("x", "test", (Category(1, "base", False), Category(2, "new", True)), infos, lambda i: None)

    assert figures.chosen_scenes(split([0, 1, 0, 1, 1, 0]), 3) == [1, 3, 0]
    assert figures.chosen_scenes(split([0, 1, 0]), 3) == [1, 0, 2]
    assert figures.chosen_scenes(split([1, 1, 1, 1]), 3) == [0, 1, 2]
    assert figures.chosen_scenes(split([0]), 3) == [0]


def test_a_scene_shows_confident_results_and_one_of_those_that_overlap():
    row = lambda score, *box: {"score": score, "bbox": list(box), "category_id": 1}
    best, hidden, apart, weak = (
        row(0.9, 0, 0, 10, 10),
        row(0.8, 0, 0, 10, 9),
        row(0.5, 8, 0, 10, 10),
        row(0.2, 50, 50, 5, 5),
    )
    assert figures._shown([weak, hidden, apart, best]) == [best, apart]
