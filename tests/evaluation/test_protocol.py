"""The grid's layout on disk, what is missing of it, and streams that are read once."""

import json

import pytest

from configs import fewshot
from maskdiff_jax.evaluation import protocol
from maskdiff_jax.workdir import as_json


def model(tmp_path, settings=("all",), **fields):
    config = fewshot.get_config("shapes,shots=5,seed=3").unlock()
    config.update_from_flattened_dict(fields)
    return protocol.make_model(tmp_path, config.lock(), settings)


def test_folders(tmp_path):
    every = model(tmp_path)
    assert every.folder == tmp_path / "fewshot-5shot-seed3" and list(every.evaluations) == [every.folder]
    novel = model(tmp_path, ("novel", "voc"), **{"fewshot.classes": "novel"})
    assert novel.name == "fewshot-novel-5shot-seed3" and list(novel.evaluations) == [novel.folder, novel.folder / "voc"]
    ours, voc = novel.evaluations.values()
    assert (ours.eval.source, voc.eval.source, voc.eval.gt_classes_only) == ("", "voc", True)
    assert as_json(novel.config) == as_json(ours)  # trained as ever
    assert protocol.noise_folder(every.folder, 2) == every.folder / "noise2"


def finish(grid_model, noise_seed, **metrics):
    """Writes metrics as an evaluation does."""
    for folder, config in grid_model.evaluations.items():
        path = protocol.noise_folder(folder, noise_seed) / "metrics.json"
        path.parent.mkdir(parents=True)
        config = protocol.with_noise_seed(config, noise_seed)
        path.write_text(json.dumps({"config": as_json(config), "metrics": metrics}))


def test_what_is_missing(tmp_path):
    grid_model = model(tmp_path)
    assert protocol.unfinished(grid_model, [0, 1]) == {grid_model.folder: [0, 1]}
    finish(grid_model, 1)
    assert protocol.unfinished(grid_model, [0, 1, 2]) == {grid_model.folder: [0, 2]}
    assert protocol.unfinished(grid_model, [1]) == {}
    path = protocol.noise_folder(grid_model.folder, 1) / "metrics.json"
    document = json.loads(path.read_text())
    del document["config"]["size"]  # as version 0.1 wrote it
    path.write_text(json.dumps(document))
    assert protocol.unfinished(grid_model, [1]) == {}
    moved = model(tmp_path, **{"data.root": "elsewhere", "eval.batch": 3, "eval.figures": 0})
    assert protocol.unfinished(moved, [1]) == {}
    with pytest.raises(ValueError, match=r"noise1/metrics.json is of another config \(eval.samples: 1 there, 5 here\)"):
        protocol.unfinished(model(tmp_path, **{"eval.samples": 5}), [1])
    (grid_model.folder / "noise1" / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match="metrics.json is broken: delete it"):
        protocol.unfinished(grid_model, [1])


def test_a_head_without_noise_is_sampled_once(tmp_path):
    plain = model(tmp_path, **{"model.mask.head": "plain_unet"})
    assert protocol.unfinished(plain, [3, 4]) == {plain.folder: [0]}
    finish(plain, 0, **{"segm/base/AP": 50.0, "segm/novel/AP": 20.0})
    assert protocol.unfinished(plain, [3, 4]) == {}
    assert protocol.summary(plain, [3, 4]) == (
        "segm AP base 50.0 novel 20.0 (a mask head without noise: only noise0)"
    )  # fmt: skip


def test_the_summary_is_a_mean_over_noise_seeds(tmp_path):
    novel = model(tmp_path, ("novel", "voc"), **{"fewshot.classes": "novel"})
    finish(novel, 0, **{"segm/novel/AP": 20.0})
    finish(novel, 1, **{"segm/novel/AP": 30.0})
    assert protocol.summary(novel, [0, 1]) == "segm AP novel 25.0, voc segm AP novel 25.0 (2 noise seeds)"


def test_a_stream_is_read_once():
    source = iter("abc")
    kept = protocol.Kept(source)
    assert list(kept) == list("abc") == list(kept)
    assert next(source, None) is None
