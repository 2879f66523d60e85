"""Baselines with Mask R-CNN's mask head, tiny, through the scripts that a user calls."""

import json

import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.inference import predictor
from tests.end_to_end.test_end_to_end import flags, launch

pytestmark = pytest.mark.slow
SMALL = {"model.mask.cnn.channels": 8, "model.mask.cnn.convs": 1, "model.mask.cnn.roi_size": 7}
STAGE2 = "runs/fewshot-shapes-mtfa-2shot-seed1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which both stages of MTFA were trained and stage 2 was evaluated."""
    folder = tmp_path_factory.mktemp("run")
    launch("train", *flags(folder, "baselines/mtfa.py:shapes,stage=base", **SMALL), cwd=folder)
    launch("train", *flags(folder, "baselines/mtfa.py:shapes,shots=2,seed=1", **SMALL), cwd=folder)
    launch("evaluate", *flags(folder, "baselines/mtfa.py:shapes,shots=2,seed=1", **SMALL), cwd=folder)
    return folder


def test_detector_and_mask_head_train_together(trained):
    for run, phases in (("runs/base-shapes-mtfa", ["detector"]), (STAGE2, ["novel", "detector"])):
        lines = [json.loads(x) for x in (trained / run / "metrics.jsonl").read_text().splitlines()]
        assert list(dict.fromkeys(x["phase"] for x in lines)) == phases
        assert all(np.isfinite(x["loss"]) and x["loss_mask"] > 0 for x in lines)


def test_it_is_evaluated_as_every_method(trained):
    document = json.loads((trained / STAGE2 / "metrics.json").read_text())
    assert document["config"]["method"] == "mtfa" and document["metrics"]["mask_iou/all"] > 0
    assert {"bbox/AP", "segm/base/AP50", "segm/novel/AP"} <= document["metrics"].keys()
    names = {p.name for p in (trained / STAGE2 / "figures").iterdir()}
    assert names == {"scenes_00.png", "scenes_01.png", "support.png"}  # there is no noise to show


def test_an_export_samples_the_same_masks(trained):
    """The predictor's masks, of the export, are those that the evaluation of the run pasted."""
    launch("export", *flags(trained, "baselines/mtfa.py:shapes,shots=2,seed=1", **SMALL), "--output", "model",
           cwd=trained)  # fmt: skip
    found = predictor.load(trained / "model")(np.full((90, 128, 3), 128, np.uint8))
    assert found.region_soft.shape == (len(found.rles), 14, 14) and found.masks.shape[1:] == (90, 128)
    Image.new("RGB", (128, 128)).save(trained / "a.png")
    launch("sample", "--model", "model", "--output", "sampled", "a.png", cwd=trained)
    assert list((trained / "sampled").rglob("*.json"))


def test_imtfa_adds_classes_without_training(tmp_path):
    """Its runs on base classes find each other; stage 2 has no phase, and is scored with another cosine scale."""
    steps = {"train.detector.steps": 0, "train.mask.steps": 0, "train.novel.steps": 0}
    launch("train", *flags(tmp_path, "baselines/imtfa_fc.py:shapes", **SMALL), cwd=tmp_path)
    launch("train", *flags(tmp_path, "baselines/imtfa.py:shapes,stage=base", **SMALL), cwd=tmp_path)
    second = flags(tmp_path, "baselines/imtfa.py:shapes,shots=2,seed=1", **SMALL, **steps)
    assert "nothing is trained" in launch("train", *second, cwd=tmp_path).out
    run = "runs/fewshot-shapes-imtfa-2shot-seed1"
    assert not (tmp_path / run / "metrics.jsonl").exists()
    launch("evaluate", run, "--config.model.detector.cosine_scale=5.0", cwd=tmp_path)
    document = json.loads((tmp_path / run / "metrics.json").read_text())
    assert document["config"]["method"] == "imtfa" and document["metrics"]["mask_iou/all"] > 0
    assert document["config"]["model"]["detector"]["cosine_scale"] == 5.0
