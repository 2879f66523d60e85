"""One evaluation: what it writes and where, its variants of AP, mask IoU, and what stops it before hours of work."""

import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from maskdiff_jax import workdir
from maskdiff_jax.data.dataset import with_novel
from maskdiff_jax.data.synthetic import scenes
from maskdiff_jax.evaluation import coco_eval, evaluate
from maskdiff_jax.inference import export
from tests import launched, tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny.write_run(tmp_path_factory.mktemp("evaluate") / "run")


def test_progress_counts_images(monkeypatch, capsys):
    """Batches are of one padded size, so three images may be two batches of two, filled up."""
    batches = [tiny.batch_of_ids([0, -1]), tiny.batch_of_ids([1, 2])]
    monkeypatch.setattr(evaluate.pipeline, "eval_batches", lambda *args, **options: iter(batches))
    config, segmenter = tiny.config(), SimpleNamespace(mesh=None)
    monkeypatch.setattr(evaluate.segment, "round_up", lambda count, mesh: count)
    dataset = SimpleNamespace(infos=[None] * 3)
    assert list(evaluate._batches(config, segmenter, dataset, "detecting")) == batches
    assert "3/3" in capsys.readouterr().err


def test_a_run_is_evaluated_into_another_folder(run, tmp_path):
    """The run folder is all that is given, and stays as it was; metrics.json says what it is of."""
    before = sorted(p.name for p in run.iterdir())
    done = launched.run(
        "evaluate", run, f"--output={tmp_path}", "--config.eval.gt_classes_only=true", "--config.eval.rescore=true"
    )
    assert done.code == 0, done.err
    assert f"evaluated: {tmp_path / 'metrics.json'}" in done.out
    assert "only classes in the ground truth of each image: bbox/AP" in done.out
    assert sorted(p.name for p in run.iterdir()) == before
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert (document["stage"], document["preset"], document["shots"], document["noise_seed"]) == (
        "fewshot",
        "shapes",
        2,
        0,
    )
    assert document["config"]["eval"]["rescore"] is True
    assert len(document["shots_per_class"]) == 12 and len(document["novel_classes"]) == 4
    metrics = document["metrics"]
    assert metrics["images"] == 6 and metrics["mask_iou/all"] > 0
    for prefix in ("", "gt_classes_only/", "rescored/"):
        assert 0 <= metrics[f"{prefix}segm/novel/AP50"] <= 100
    assert metrics["gt_classes_only/bbox/AP"] >= metrics["bbox/AP"]
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    assert len(predictions) == metrics["detections"] > 0
    assert sum("segmentation" not in p for p in predictions) == metrics["detections_without_mask"]
    figures = {p.name for p in (tmp_path / "figures").iterdir()}
    assert {"scenes_00.png", "scenes_01.png", "support.png", "forward.png", "denoising.png", "samples.png"} == figures


def test_where_results_cannot_be_written_is_said_first(run, tmp_path, monkeypatch):
    """Before the weights are loaded, in one sentence, with the way out."""
    monkeypatch.setattr(evaluate, "open_run", lambda *_: pytest.fail("work has begun"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write to .*file/results .*: give another folder with --output"):
        evaluate.run(workdir.read_config(run), run, tmp_path / "file" / "results")
    done = launched.run("evaluate", run, f"--output={tmp_path / 'file' / 'results'}")
    assert done.code in (1, 2) and done.err.startswith("evaluate.py: cannot write to") and done.err.count("\n") == 1


def test_a_read_only_run_folder(run, monkeypatch):
    """As on a read-only disk: a test that runs as root can write to every folder."""

    def write(path, content):
        raise OSError(30, f"cannot write {path}: Read-only file system")

    monkeypatch.setattr("maskdiff_jax.atomic.write", write)
    with pytest.raises(OSError, match=r"cannot write to .*run \(Read-only file system\): give another folder"):
        evaluate.run(workdir.read_config(run), run)


def test_other_shots_than_those_of_training(run, tmp_path):
    """A dataset that was edited since training would be scored with other shots, and nothing would say so."""
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "shots.json").write_text('{"0": [1, 2]}')
    (copy / "seconds.json").write_text('{"mask": "long"}')
    output = tmp_path / "output"
    with pytest.raises(ValueError, match=r"seconds\.json is broken"):  # not after hours of work
        evaluate.run(workdir.read_config(copy), copy, output)
    (copy / "seconds.json").unlink()
    with pytest.raises(ValueError, match=r"other shots than .*run/shots\.json lists \(12 of 12 classes differ\)"):
        evaluate.run(workdir.read_config(copy), copy, output)
    with pytest.raises(ValueError, match="other shots than"):
        export.run(workdir.read_config(copy), copy, tmp_path / "model")


def test_the_mask_head_gets_the_support_set_that_is_asked_for(run, monkeypatch):
    config = workdir.read_config(run).unlock()
    shots = {}
    for choice in ("own", "none", "other"):
        config.eval.support = choice
        setup = evaluate.open_run(config, run)
        shots[choice] = np.asarray(setup.segmenter.shots)
        np.testing.assert_array_equal(shots[choice], setup.support.shots)  # which figures show
    assert not shots["none"].any()
    np.testing.assert_array_equal(shots["other"], np.roll(shots["own"], -1, 0))
    assert all((a != b).any() for a, b in zip(shots["own"], shots["other"], strict=True))


def test_a_scorer_that_is_not_installed_is_said_first(run, monkeypatch, tmp_path):
    monkeypatch.setattr(evaluate, "open_run", lambda *_: pytest.fail("work has begun"))
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    done = launched.run("evaluate", run, f"--output={tmp_path}", "--config.eval.scorer=faster_coco_eval")
    assert done.code == 2 and "pip install faster-coco-eval" in done.err and done.err.count("\n") == 1


def dataset():
    return with_novel(scenes.scenes("shapes", "test", 0, 3), ["star", "ring"])


def test_mean_mask_ious():
    data = dataset()
    names = [c.name for c in data.categories]
    novel, base = (next(i for i, c in enumerate(data.categories) if c.novel is x) for x in (True, False))
    metrics, per_class = evaluate.mean_mask_ious(data, {novel: [0.5, 1.0], base: [0.25]})
    assert metrics == pytest.approx({"mask_iou/all": 175 / 3, "mask_iou/base": 25.0, "mask_iou/novel": 75.0})
    assert per_class == {names[novel]: 75.0, names[base]: 25.0}
    assert evaluate.mean_mask_ious(data, {}) == ({}, {})


def test_the_mask_iou_of_a_model_of_novel_classes_has_no_base_classes(run):
    """They have no shots, and its mask head never saw them."""
    config = workdir.read_config(run).unlock()
    config.fewshot.classes, config.eval.images = "novel", 4
    setup = evaluate.open_run(workdir.read_config(run), run)
    novel = {i for i, c in enumerate(setup.dataset.categories) if c.novel}
    setup = setup._replace(shots={i: ids for i, ids in setup.shots.items() if i in novel})
    found = evaluate.find_objects(config, setup)
    seen = {int(i) for objects, _ in found.in_true_boxes for i in objects.class_id}
    truth = {a.class_id for info in setup.dataset.infos for a in info.annotations}
    assert seen == truth & novel and truth - novel
    assert evaluate.mask_ious(config, setup, evaluate.find_objects(config, setup)).keys() == seen


def test_the_variants_of_ap():
    """Wrong detections score higher than right ones: both variants of AP drop or lower some of them."""
    data, config = dataset(), tiny.config().unlock()
    ids = [c.id for c in data.categories]
    objects = [(info, a) for info in data.infos for a in info.annotations]
    here = {(info.id, ids[a.class_id]) for info, a in objects}
    right = [coco_eval.result_row(i.id, ids[a.class_id], 0.8, np.array(a.box), a.rle, 0.9) for i, a in objects]
    misplaced = [r | {"bbox": [0, 0, 5, 5], "score": 0.9, "confidence": 0.1} for r in right]
    elsewhere = {r["image_id"]: sorted({k for _, k in here if (r["image_id"], k) not in here}) for r in right}
    misnamed = [r | {"category_id": k, "score": 0.95} for r in right for k in elsewhere[r["image_id"]]]
    assert misnamed
    predictions = evaluate.Predictions(right + misplaced + misnamed, 0, None)
    plain = evaluate.score(config, data, predictions, np.arange(12)).metrics
    config.eval.update(gt_classes_only=True, rescore=True, tighten_boxes=True)
    metrics = evaluate.score(config, data, predictions, np.arange(12)).metrics
    assert {k: v for k, v in metrics.items() if k in plain} == plain
    assert plain["bbox/AP"] < metrics["gt_classes_only/bbox/AP"] < 100
    assert plain["bbox/AP"] < metrics["rescored/bbox/AP"] < 100
    assert plain["bbox/AP"] < metrics["tightened/bbox/AP"] < 100  # the misplaced boxes go where their masks are
    assert plain["segm/AP"] == metrics["tightened/segm/AP"]
    assert (plain["images"], plain["detections"], plain["detections_without_mask"]) == (3, len(predictions.results), 0)


def test_speed_starts_with_the_first_masks(monkeypatch):
    now = iter([10.0, 14.0])
    monkeypatch.setattr(evaluate.time, "monotonic", lambda: next(now))
    batch = tiny.batch_of_ids([1, 2, 3, -1])
    speed = evaluate.Speed()
    assert speed.images_per_second() is None
    batches = speed.counted([batch] * 3)
    next(batches)
    speed.start()
    speed.start()
    assert speed.images_per_second() is None  # nothing was loaded since
    list(batches)
    assert speed.images_per_second() == 6 / 4
