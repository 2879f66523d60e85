"""The whole run, tiny, through the scripts that a user calls: train, train, evaluate, export, sample, report."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import distill, fewshot
from maskdiff_jax.training import stages
from tests import launched

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "data.shapes_train": 24, "data.shapes_support": 96, "data.shapes_test": 6,
    "model.detector.blocks": "(1,1,1,1)", "model.detector.width": 8, "model.detector.fpn_channels": 16,
    "model.detector.fc_channels": 32, "model.detector.min_score": 0.01, "model.mask.size": 16,
    "model.mask.unet.width": 16, "model.mask.unet.multipliers": "(1,)", "model.mask.unet.attention": "()",
    "model.mask.diffusion.steps": 2, "train.detector.steps": 4, "train.mask.steps": 4, "train.novel.steps": 2,
    "train.detector.batch": 2, "train.mask.batch": 4, "train.novel.batch": 2, "train.save_every": 2,
    "eval.mask_min_score": 0.0, "eval.mask_top_n": 3, "eval.batch": 2, "eval.mask_batch": 8, "eval.figures": 2,
}  # fmt: skip


def launch(script, *flags, cwd, ok=True, run=launched.run):
    """Runs a script; `run=launched.start` does it in a separate process, which each script must pass once."""
    out = run(script, *flags, cwd=cwd)
    if ok:
        assert out.code == 0, out.err[-3000:]
    else:
        assert out.code in (1, 2), out.err[-3000:]
        assert "Traceback" not in out.err, out.err[-3000:]
    return out


def flags(folder, config, **changes):
    values = TINY | {"data.root": folder / "data"} | changes
    return ["--config", f"{ROOT}/configs/{config}", *(f"--config.{k}={v}" for k, v in values.items())]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which both stages were trained and stage 2 was evaluated."""
    folder = tmp_path_factory.mktemp("run")
    launch("train", *flags(folder, "base.py"), cwd=folder, run=launched.start)
    launch("train", *flags(folder, "fewshot.py:shots=2,seed=1"), cwd=folder)
    launch("evaluate", *flags(folder, "fewshot.py:shots=2,seed=1"), cwd=folder)
    return folder


STAGE2 = "runs/fewshot-shapes-2shot-seed1"


def test_a_run_is_distilled(trained):
    small = {"distill.guidance": 2.0, "distill.steps": 4, "distill.rounds": "(2,)"}
    launch("train", *flags(trained, "distill.py:shots=2,seed=1", **small), cwd=trained)
    run = trained / "runs/distill-shapes-2shot-seed1"
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(x["phase"] for x in lines)) == ["guidance", "steps2"]
    assert (run / "shots.json").read_text() == (trained / STAGE2 / "shots.json").read_text()
    launch("evaluate", *flags(trained, "distill.py:shots=2,seed=1", **small), cwd=trained)
    ours, theirs = (json.loads((r / "metrics.json").read_text())["metrics"] for r in (run, trained / STAGE2))
    assert ours["bbox/AP"] == theirs["bbox/AP"]  # the detector stays as it is


def test_distillation_says_what_does_not_fit(tmp_path):
    def refused(match):
        with pytest.raises(ValueError, match=match):
            stages.distill_stage(config, tmp_path)

    theirs = fewshot.get_config("shapes,shots=2,seed=1").unlock()
    theirs.fewshot.novel_init = "random"  # as good as any other
    (tmp_path / "config.json").write_text(theirs.to_json_best_effort())
    config = distill.get_config("shapes,shots=2,seed=1").unlock()
    config.init_from = str(tmp_path)
    config.distill.update(rounds=(3,))
    refused("half of the one before")
    config.distill.update(rounds=(4,))
    refused("set sampler=ddim, eta=0.0, steps=4")
    config.distill.update(rounds=(4, 2))
    with pytest.raises(FileNotFoundError, match="training has not finished"):  # all fits, except the weights
        stages.distill_stage(config, tmp_path)
    config.model.mask.diffusion.prediction, config.fewshot.seed, config.data.context = "v", 2, 0.1
    refused("data.context: 0.0 there, 0.1 here; fewshot.seed: 1 there, 2 here; .*prediction: 'sigmoid' there, 'v' here")
    theirs.stage = "base"
    (tmp_path / "config.json").write_text(theirs.to_json_best_effort())
    refused("must start from a run of stage 2")


def test_training_leaves_what_others_rely_on(trained):
    for run, phases in (("runs/base-shapes", ["detector", "mask"]), (STAGE2, ["novel", "detector", "mask"])):
        lines = [json.loads(x) for x in (trained / run / "metrics.jsonl").read_text().splitlines()]
        assert list(dict.fromkeys(x["phase"] for x in lines)) == phases
        assert all(np.isfinite(x["loss"]) for x in lines)
        assert json.loads((trained / run / "config.json").read_text())["data"]["shapes_train"] == 24
        assert [p.name for p in (trained / run / "checkpoints").iterdir()] == ["final"]
        assert list((trained / run / "tensorboard").iterdir())
    shots = json.loads((trained / STAGE2 / "shots.json").read_text())
    assert shots


def test_metrics_describe_themselves(trained):
    m = json.loads((trained / STAGE2 / "metrics.json").read_text())
    assert (m["stage"], m["preset"], m["shots"], m["seed"], m["noise_seed"]) == ("fewshot", "shapes", 2, 1, 0)
    names = ("bbox/AP", "bbox/AP50", "segm/AP", "segm/base/AP50", "segm/novel/AP50", "mask_iou/all", "mask_iou/novel")
    for name in names:
        assert 0.0 <= m["metrics"][name] <= 100.0
    assert m["metrics"]["images"] == 6 and m["metrics"]["mask_iou/all"] > 0
    assert set(m["seconds"]) == {"novel", "detector", "mask", "evaluation"}
    assert m["images_per_second"] is None or m["images_per_second"] > 0
    assert m["config"]["train"]["mask"]["steps"] == 4
    predictions = json.loads((trained / STAGE2 / "predictions.json").read_text())
    assert len(predictions) == m["metrics"]["detections"] > 0
    without = [p for p in predictions if "segmentation" not in p]
    assert len(without) == m["metrics"]["detections_without_mask"]
    names = {p.name for p in (trained / STAGE2 / "figures").iterdir()}
    assert {"scenes_00.png", "support.png", "forward.png", "denoising.png", "samples.png"} <= names


def test_evaluation_again_gives_the_same(trained):
    before = json.loads((trained / STAGE2 / "metrics.json").read_text())["metrics"]
    launch("evaluate", *flags(trained, "fewshot.py:shots=2,seed=1"), cwd=trained, run=launched.start)
    assert json.loads((trained / STAGE2 / "metrics.json").read_text())["metrics"] == before


def test_stage_2_freezes_the_features(trained):
    import jax

    from configs import base
    from maskdiff_jax import checkpoint, model

    c = base.get_config()
    fields = c.unlock()
    fields.update_from_flattened_dict(
        {k: eval(v) if isinstance(v, str) else v for k, v in TINY.items() if k.startswith("model")}
    )
    like = jax.eval_shape(model.build(c.model).init, jax.random.key(0))
    folders = [trained / run / "checkpoints/final" for run in ("runs/base-shapes", STAGE2)]
    first, second = (checkpoint.load_params(folder, like) for folder in folders)
    changed = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, a), b in zip(jax.tree.leaves_with_path(first), jax.tree.leaves(second), strict=True)
        if not np.array_equal(a, b)
    }
    detector = {x for x in changed if x.startswith("detector/")}
    trained_part = ("cls_score/kernel", "bbox_pred/kernel", "bbox_pred/bias")
    assert detector == {f"detector/box_predictor/{x}" for x in trained_part}
    assert any(x.startswith("mask_head/") for x in changed)


def test_finished_run_is_not_repeated(trained):
    out = launch("train", *flags(trained, "base.py"), cwd=trained)
    assert "compiling" not in out.err


def test_export_and_sample(trained):
    launch("export", *flags(trained, "fewshot.py:shots=2,seed=1"), "--output", "model", cwd=trained, run=launched.start)
    rng = np.random.default_rng(0)
    for name, size in (("a", (128, 128)), ("b", (200, 90))):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(trained / f"{name}.png")
    (trained / "broken.jpg").write_text("no image")
    images = ("a.png", "broken.jpg", "b.png")
    out = launch("sample", "--model", "model", "--output", "sampled", *images, cwd=trained, ok=False)
    assert "broken.jpg" in out.err and len(out.err.strip().splitlines()) < 6
    made = {p.name for p in (trained / "sampled").rglob("*")}
    assert any("a" in n and n.endswith(".png") for n in made) and any(n.endswith(".json") for n in made)


def test_report(trained):
    launch("report", "runs/base-shapes", STAGE2, "--output", "report", cwd=trained, ok=False)  # stage 1: no metrics
    launch("report", STAGE2, "--output", "report", cwd=trained)
    page = (trained / "report" / "index.html").read_text()
    assert "segm" in page and "data:image/png" in page and "http://" not in page


@pytest.mark.parametrize(
    "script, config, changes, words",
    [
        ("train", "base.py", {"train.mask.stepz": 3}, "stepz"),
        ("train", "base.py:coco", {"data.root": "nowhere"}, "nowhere"),
        ("train", "base.py", {"train.mask.lr": 0.5}, "train.mask.lr"),  # the workdir is another config's
        ("train", "fewshot.py:shots=9", {}, "slots"),
        ("train", "fewshot.py:shots=5,seed=7", {"init_from": "runs/none"}, "runs/none"),
        ("evaluate", "fewshot.py:shots=3", {}, "train first"),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence(trained, script, config, changes, words):
    out = launch(script, *flags(trained, config, **changes), cwd=trained, ok=False)
    assert words in out.err and len(out.err.strip().splitlines()) == 1, out.err


@pytest.mark.slow
def test_interrupted_training_goes_on(trained, tmp_path):
    """A run that is stopped after its first checkpoint ends with the same weights as one that is not.

    The loop alone, which always runs, is in test_loop.py.
    """
    shutil.copytree(trained / "data", tmp_path / "data")
    command = [sys.executable, "-c", STOPPED, str(ROOT), *flags(tmp_path, "base.py")]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert "Stopped" in out.stderr, out.stderr[-2000:]
    assert (tmp_path / "runs/base-shapes/checkpoints/detector/2").is_dir()
    launch("train", *flags(tmp_path, "base.py"), cwd=tmp_path)
    launch("evaluate", *flags(tmp_path, "base.py"), cwd=tmp_path)
    launch("evaluate", *flags(trained, "base.py"), cwd=trained)
    a, b = (json.loads((f / "runs/base-shapes/metrics.json").read_text()) for f in (tmp_path, trained))
    assert a["metrics"] == b["metrics"]


@pytest.mark.slow
def test_quickstart_ends_with_a_report_and_repeats_itself(tmp_path):
    """A hundredth of the steps: the same numbers when trained afresh, the finished result when not."""
    out = launch("quickstart", "--scale=0.01", cwd=tmp_path, run=launched.start)
    page = tmp_path / "runs/quickstart/report/index.html"
    assert "mask IoU" in out.out and page.stat().st_size > 100_000
    metrics = [tmp_path / f"runs/quickstart/{stage}/metrics.json" for stage in ("base", "fewshot")]
    first = [json.loads(m.read_text()) for m in metrics]
    assert first[1]["metrics"]["images"] == 160
    again = launch("quickstart", "--scale=0.01", cwd=tmp_path, run=launched.start)
    assert "detector:" not in again.err and out.out.split("report:")[0].split("percent")[1] in again.out
    launch("quickstart", "--scale=0.01", "--fresh", cwd=tmp_path, run=launched.start)
    for old, path in zip(first, metrics, strict=True):
        assert json.loads(path.read_text())["metrics"] == old["metrics"]


STOPPED = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from maskdiff_jax.training import metric_writer as writer
class Stopped(Exception): pass
def write(self, step, metrics, old=writer.MetricWriter.write):
    old(self, step, metrics)
    if step == 4: raise Stopped
writer.MetricWriter.write = write
from launch import train, cli
cli.run(train.main)
"""
