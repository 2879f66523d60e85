"""A project as one config file in a user's own folder: both stages, evaluation, export, sampling, all from there."""

import json

import pytest

from maskdiff_jax import workdir
from maskdiff_jax.data.formats import coco
from maskdiff_jax.data.synthetic import scenes
from tests import launched

FILE = """
from configs import project

def change(config):
    config.data.root = "photos"
    config.data.novel_classes = ("ring", "arrow")
    data, detector, mask, train = config.data, config.model.detector, config.model.mask, config.train
    data.update(workers=0, short_sides=(64,), test_short_side=64, long_side=64, region_long_side=64)
    data.buckets = ((64, 64),)
    detector.update(blocks=(1, 1, 1, 1), width=8, fpn_channels=16, fc_channels=32, min_score=0.0)
    detector.update(rpn_pre_nms_train=50, proposals_train=32, roi_samples=16, proposals_test=16)
    mask.update(size=16, slots=2)
    mask.unet.update(width=16, multipliers=(1,), blocks=1, attention=())
    for phase in (train.detector, train.mask, train.novel):
        phase.update(steps=3, batch=2)
    train.update(devices=1, log_every=1)
    config.eval.update(mask_top_n=2, mask_min_score=0.0, batch=2, mask_batch=4, figures=0)

def get_config(arg=None):
    return project.get_config(arg, "cups", "custom,size=tiny", change)
"""


@pytest.mark.slow
def test_one_file_for_both_stages(tmp_path):
    (tmp_path / "cups.py").write_text(FILE)
    for split, kind, count in (("train", "support", 40), ("test", "test", 4)):
        coco.save(
            scenes.scenes("shapes", kind, 0, count), tmp_path / f"photos/{split}.json", tmp_path / "photos" / split
        )

    def launch(script, *arguments):
        done = launched.run(script, *arguments, cwd=tmp_path)
        assert done.code == 0, done.err[-3000:]
        return done.out

    out = launch("train", "--config=cups.py")
    assert "plan: detector: 3 steps of 2 images, " in out and "\ndetector: 3 steps at " in out
    assert "; then mask: 3 steps" in out
    launch("train", "--config=cups.py:shots=2,seed=1")
    first, second = "runs/base-custom-cups", "runs/fewshot-custom-cups-2shot-seed1"
    configs = [workdir.read_config(tmp_path / run) for run in (first, second)]
    assert configs[1].init_from == first and configs[1].model == configs[0].model
    assert [c.data.novel_classes for c in configs] == [("ring", "arrow")] * 2
    launch("evaluate", second)
    metrics = json.loads((tmp_path / second / "metrics.json").read_text())
    assert (metrics["shots"], metrics["seed"]) == (2, 1)
    launch("export", second, "--output=model")
    launch("sample", "model", str(next((tmp_path / "photos/test").iterdir())), "--output=found")
    assert (tmp_path / "found/results.json").is_file()
