"""examples/make.py: a rehearsal of training, export and scores with a tiny net; the photos that it makes."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils

import maskdiff_jax
from configs import base
from examples import make
from maskdiff_jax.data.formats import coco, images
from maskdiff_jax.data.synthetic import scenes
from maskdiff_jax.inference import predictor

TINY = (
    "--config.data.shapes_train=12", "--config.data.shapes_support=60", "--config.data.shapes_test=4",
    "--config.model.detector.width=8", "--config.model.detector.blocks=(1,1,1,1)",
    "--config.model.detector.fpn_channels=16", "--config.model.detector.fc_channels=32",
    "--config.model.mask.size=16", "--config.model.mask.unet.width=16",
    "--config.model.mask.unet.multipliers=(1,)", "--config.model.mask.unet.attention=()",
    "--config.train.detector.batch=2", "--config.train.mask.batch=2",
)  # fmt: skip


def pixels(name):
    return images.read_file(str(make.FOLDER), [name], [(128, 128)], 0)


@pytest.mark.slow
def test_a_rehearsal_trains_scores_and_publishes_a_model_and_resumes(tmp_path):
    """The command in its docstring, with a tiny net and few scenes: first a trial on val, then the choice on test."""
    data, output, published = tmp_path / "data", tmp_path / "runs" / "short", tmp_path / "published"
    command = [
        sys.executable, "examples/make.py", "--only=model", "--steps=2", "--seeds=1", f"--output={output}",
        f"--publish={published}", f"--config.data.root={data}", *TINY,
    ]  # fmt: skip
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    for arguments in (["--split=val"], []):
        done = subprocess.run(
            [*command, *arguments], cwd=make.ROOT, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr
    assert (output / "base" / "metrics.jsonl").read_text().count('"step": 2') == 2  # trained once, both phases
    document = json.loads((output / "test.json").read_text())
    assert document["steps"] == {"detector": 2, "mask": 2} and document["images"] == 4
    assert set(document["training_seconds"]) == {"detector", "mask"}
    assert "segm/base/AP" in document["base"] and "segm/novel/AP" in document["added"]
    assert [t["steps"] for t in document["validation"]] == [document["steps"]]
    assert json.loads((output / "val.json").read_text())["split"] == "val"
    found = predictor.load(published)
    assert len(found.names) == 8 and found.trained.base_shots is not None
    assert json.loads((published / "export.json").read_text())["weights"] == "float16"


def test_photos_are_those_that_the_command_makes(tmp_path):
    make.make_photos(tmp_path)
    names = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.png"))
    committed = [p for p in make.FOLDER.rglob("*.png") if "model" not in p.parts]
    assert names == sorted(str(p.relative_to(make.FOLDER)) for p in committed) and len(names) == 12
    for name in names:  # pixels: other versions of zlib write other bytes
        np.testing.assert_array_equal(images.read_file(str(tmp_path), [name], [(128, 128)], 0), pixels(name))
    assert json.loads((tmp_path / "shots.json").read_text()) == json.loads((make.FOLDER / "shots.json").read_text())


def test_outlines_are_those_of_the_scenes():
    """Five stars, each alone in its photo; polygons give the mask back except for corners of pixels."""
    shots = coco.load(make.FOLDER / "shots.json", make.FOLDER / "shots")
    assert [c.name for c in shots.categories] == ["star"] and len(shots.infos) == 5
    found = {pixels(f"shots/{info.file_name}").tobytes(): info for info in shots.infos}
    compared = 0
    for index in range(600):
        image, info = scenes.scene("shapes", "test", make.SEED, index)
        if image.tobytes() in found:
            (truth,), (ours,) = info.annotations, found[image.tobytes()].annotations
            iou = mask_utils.iou([truth.rle], [ours.rle], [0])
            assert scenes.NAMES[truth.class_id] == "star" and iou[0, 0] > 0.97
            compared += 1
        if compared == 5:
            return
    raise AssertionError(f"only {compared} of 5 shots are scenes of this seed")


def test_no_split_has_the_seed_of_the_photos():
    for preset in ("shapes", "shapes_hard"):
        assert base.get_config(preset).data.shapes_seed != make.SEED


def test_unknown_arguments_are_named(capsys):
    with pytest.raises(SystemExit):
        make.main(["--step=3", "--config.data.shapes_train=3"])
    with pytest.raises(SystemExit):
        make.main(["more"])
    assert "unknown argument more" in capsys.readouterr().err


class Painter:
    """A predictor whose pictures are red, green once it has a class more, or blue after launch/adapt.py."""

    def __init__(self, folder, **options):
        assert options == {"min_score": 0.3, "class_agnostic_nms": True}
        self.color = (0, 0, 250) if str(folder).endswith("adapted/model") else (250, 0, 0)

    def add_class(self, name, images, masks):
        assert (name, len(images), [len(of_one) for of_one in masks]) == ("star", 5, [1] * 5)
        self.color = (0, 250, 0)

    def __call__(self, files):
        assert [file.name for file in files] == ["scene.png", "1.png", "2.png"]
        return [self._found(self.color) for _ in files]

    def _found(self, color):
        return SimpleNamespace(plot=lambda: Image.new("RGB", (384, 384), color))


def test_the_picture_has_a_row_for_each_scene_and_a_column_for_each_model(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(make.subprocess, "run", lambda command, check: calls.append(command))
    monkeypatch.setattr(maskdiff_jax, "load", Painter)
    make.make_picture(tmp_path / "model", make.FOLDER, tmp_path / "picture.png", ["--config.train.mask.steps=1"])
    script, *flags, override = calls[0][1:]
    assert script.endswith("launch/adapt.py") and override == "--config.train.mask.steps=1"
    known = {f"--{name}" for name in re.findall(r'DEFINE_\w+\("(\w+)"', Path(script).read_text())}
    assert {x.split("=")[0] for x in flags} == {"--out", "--model", "--images", "--annotations"} <= known
    sheet = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB"))
    height, width = sheet.shape[0] / 3, sheet.shape[1] / 3
    for row, column in itertools.product(range(3), range(3)):
        color = sheet[int((row + 0.45) * height), int((column + 0.5) * width)]
        assert color.argmax() == column and color.max() > 200 and np.sort(color)[1] < 50, (row, column, color)
