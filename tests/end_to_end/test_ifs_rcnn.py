"""iFS-RCNN, tiny, through both stages and evaluation."""

import json

import jax
import numpy as np
import pytest

from maskdiff_jax import checkpoint, model, workdir
from maskdiff_jax.data.synthetic import scenes
from maskdiff_jax.nets.classifiers import NO_VARIANCE
from tests.end_to_end.test_end_to_end import ROOT, TINY, launch

pytestmark = pytest.mark.slow  # its parts are checked in test_classifiers.py, test_refinement.py and test_stages.py
TINY_IFS = TINY | {"train.refine.steps": 3, "train.refine.batch": 2, "train.detector.steps": 4, "train.mask.steps": 0}
BASE, FEWSHOT = "runs/base-shapes-ifs_rcnn", "runs/fewshot-shapes-ifs_rcnn-2shot-seed1"


def flags(folder, argument, **changes):
    values = TINY_IFS | {"data.root": folder / "data"} | changes
    config = f"{ROOT}/configs/baselines/ifs_rcnn.py:{argument}"
    return ["--config", config, *(f"--config.{k}={v}" for k, v in values.items())]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    launch("train", *flags(folder, "stage=base"), cwd=folder)
    novel_only = {"train.detector.steps": 0}
    launch("train", *flags(folder, "shots=2,seed=1", **novel_only), cwd=folder)
    launch("evaluate", *flags(folder, "shots=2,seed=1", **novel_only), cwd=folder)
    return folder


def test_phases_and_metrics(trained):
    for run, phases in ((BASE, ["detector", "refine"]), (FEWSHOT, ["novel"])):
        lines = [json.loads(x) for x in (trained / run / "metrics.jsonl").read_text().splitlines()]
        assert list(dict.fromkeys(x["phase"] for x in lines)) == phases
        assert all(np.isfinite(x["loss"]) for x in lines)
    document = json.loads((trained / FEWSHOT / "metrics.json").read_text())
    assert document["config"]["method"] == "ifs_rcnn" and document["config"]["model"]["detector"]["probit_scale"] == 1.5
    for name in ("bbox/AP", "segm/base/AP50", "segm/novel/AP50"):
        assert 0.0 <= document["metrics"][name] <= 100.0
    assert document["metrics"]["detections"] > 0


def test_stage_2_adds_novel_classes_and_leaves_the_others(trained):
    config = workdir.read_config(trained / FEWSHOT)
    like = jax.eval_shape(model.build(config.model).init, jax.random.key(0))
    first, second = (checkpoint.load_params(workdir.weights_folder(trained / x), like) for x in (BASE, FEWSHOT))
    novel = np.isin(scenes.NAMES, scenes.NOVEL)
    ours, theirs = (x["detector"].pop("box_predictor") for x in (second, first))
    for part, leaf in (("cls_score", "kernel"), ("cls_score", "bias"), ("cls_score", "rho"), ("bbox_pred", "kernel"),
                       ("bbox_variance", "bias")):  # fmt: skip
        a, b = (np.moveaxis(np.asarray(x[part][leaf]), -1, 0) for x in (ours, theirs))
        if part == "cls_score":
            a, b = a[:-1], b[:-1]
        a, b = (x.reshape(12, -1) for x in (a, b))
        np.testing.assert_array_equal(a[~novel], b[~novel])
        assert (a[novel] != b[novel]).any(), (part, leaf)
    rho = np.asarray(ours["cls_score"]["rho"])[:, :-1]
    assert (rho[:, ~novel] <= NO_VARIANCE / 2).all() and (np.abs(rho[:, novel]) < 5).all()
    jax.tree.map(np.testing.assert_array_equal, second["detector"], first["detector"])
    predictor, before = (x["mask_head"].pop("predictor") for x in (second, first))
    jax.tree.map(np.testing.assert_array_equal, second["mask_head"], first["mask_head"])
    for leaf, value in predictor.items():
        value, old = np.asarray(value), np.asarray(before[leaf])
        np.testing.assert_array_equal(value[..., ~novel], old[..., ~novel])
        assert (value[..., novel] != old[..., novel]).any()
