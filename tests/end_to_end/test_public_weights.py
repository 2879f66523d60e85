"""From a detector of other classes, in a file as detectron2 writes it, to a model of custom classes: the scripts."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from maskdiff_jax import model, workdir
from maskdiff_jax.data.formats import coco
from maskdiff_jax.data.synthetic import scenes
from tests import launched
from tests.rehearsal import weights

SIZES = {
    "data.workers": 0, "data.short_sides": "(64,)", "data.test_short_side": 64, "data.long_side": 64,
    "data.region_long_side": 64, "data.buckets": "((64,64),)", "model.dtype": "float32",
    "model.detector.blocks": "(1,1,1,1)", "model.detector.width": 8, "model.detector.fpn_channels": 16,
    "model.detector.fc_channels": 32, "model.detector.rpn_pre_nms_train": 50, "model.detector.proposals_train": 32,
    "model.detector.roi_samples": 16, "model.mask.size": 16, "model.mask.slots": 2, "model.mask.unet.width": 16,
    "model.mask.unet.multipliers": "(1,)", "model.mask.unet.blocks": 1, "model.mask.unet.attention": "()",
    "train.devices": 1,
}  # fmt: skip
STEPS = {
    f"train.{phase}.{field}": n
    for phase in ("detector", "mask", "novel")
    for field, n in (("steps", 2), ("batch", 2))
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset of shapes, and a detector of 80 classes that was imported before there was any dataset."""
    folder = tmp_path_factory.mktemp("public")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "BLOCKS", (1, 1, 1, 1))
        weights.write_zoo(folder / "detector.pkl", width=8, fpn=16, fc=32)
    done = launch(folder, "import_weights", "base.py:custom,weights=detector", "detector.pkl")
    assert (
        "runs/weights-detector\nto start training from these weights: launch/train.py with the same --config\n"
        in done.out
    )
    for split, kind, count in (("train", "support", 40), ("test", "test", 4)):
        coco.save(scenes.scenes("shapes", kind, 0, count), folder / f"data/{split}.json", folder / f"data/{split}")
    return folder


def launch(folder, script, config, *arguments, code=0, **changes):
    fields = SIZES | {"data.root": "data"} | {k.replace("__", "."): v for k, v in changes.items()}
    flags = [f"--config={launched.ROOT}/configs/{config}", *(f"--config.{k}={v}" for k, v in fields.items())]
    done = launched.run(script, *flags, *arguments, cwd=folder)
    assert done.code == code, done.err[-3000:]
    return done


def parameters(run):
    """Paths and values, and the config."""
    config = workdir.read_config(run)
    return flatten_dict(jax.device_get(workdir.load_weights(run, model.build(config.model))), sep="/"), config


@pytest.mark.slow
@pytest.mark.parametrize("novel", ["('ring',)", "('star','ring','arrow')"], ids=["one", "several"])
def test_both_stages_and_an_export(folder, novel):
    first, second = (f"{stage}-{novel.count(',')}" for stage in ("base", "fewshot"))
    options = [*(f"--config.{k}={v}" for k, v in STEPS.items())]
    done = launch(
        folder, "train", "base.py:custom,weights=detector", *options, f"--workdir={first}", data__novel_classes=novel
    )
    assert "note: weights=detector: a detector trained on COCO has seen all 80 classes" in done.out
    assert "from runs/weights-detector: copied: detector/backbone (" in done.out
    assert "box_predictor/cls_score/kernel float32[32, 81] (new: float32[32, 13])" in done.out
    assert "box_predictor/cls_score/bias float32[81] (new: missing)" in done.out
    assert "dropped: mask_head (all of it is new)" in done.out
    before, _ = parameters(folder / "runs/weights-detector")
    after, config = parameters(folder / first)
    for name, value in after.items():
        if name.startswith("detector/") and "/box_predictor/" not in name:
            np.testing.assert_array_equal(value, before[name], err_msg=name)
    assert after["detector/box_predictor/bbox_pred/kernel"].shape == (32, 4 * 12)
    phases = [json.loads(x)["phase"] for x in (folder / first / "metrics.jsonl").read_text().splitlines()]
    assert set(phases) == {"detector", "mask"} and config.init_from == "runs/weights-detector"

    done = launched.run(
        "train", f"--config={launched.ROOT}/configs/fewshot.py:custom,shots=2", *options, f"--workdir={second}",
        f"--config.init_from={first}", "--config.data.workers=0", "--config.train.devices=1", cwd=folder,
    )  # fmt: skip
    assert done.code == 0 and "weights = 'detector'" in done.out, done.err[-3000:]
    tuned, config = parameters(folder / second)
    changed = {k.split("/")[1] for k, v in tuned.items() if k[0] == "d" and not np.array_equal(v, after[k])}
    assert changed == {"box_predictor"} and config.data.novel_classes == eval(novel)
    output = f"{second}-export"
    assert launched.run("export", second, f"--output={output}", cwd=folder).code == 0
    photo = sorted((folder / "data/test").iterdir())[0]
    done = launched.run("sample", output, str(photo), f"--output={output}-samples", cwd=folder)
    assert done.code == 0 and (folder / f"{output}-samples/results.json").exists(), done.err[-3000:]


def test_what_is_missing_is_said(folder, tmp_path):
    """No detector, a backbone alone, a detector of another size."""
    config = "base.py:custom,weights=detector"
    done = launch(folder, "train", config, "--config.init_from=nothing", code=2)
    assert (
        "nothing holds no detector to start from: download one and import it with launch/import_weights.py" in done.err
    )
    document = {"filled": ["detector/backbone/stem/conv1/kernel"]}
    workdir.create(tmp_path, workdir.read_config(folder / "runs/weights-detector"))
    (tmp_path / workdir.IMPORTED).write_text(json.dumps(document))
    done = launch(folder, "train", config, f"--config.init_from={tmp_path}", code=2)
    assert "holds the weights of a backbone, but weights=detector needs a whole detector" in done.err
    done = launch(folder, "train", config, model__detector__width=16, code=2)
    assert "model.detector.width is 8 there and 16 here" in done.err
