"""launch/sample.py: images with the masks of an export or of a run, and what is not an image."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from maskdiff_jax.data.synthetic import scenes
from maskdiff_jax.inference import export, predictor
from tests import launched, tiny


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "model"
    export.write(folder, tiny.trained())
    return folder


def save_image(path, height, width):
    path.parent.mkdir(exist_ok=True)
    small = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def test_images_are_segmented_and_others_are_named(exported, tmp_path):
    first, second = save_image(tmp_path / "one.png", 64, 64), save_image(tmp_path / "a" / "one.png", 40, 80)
    (tmp_path / "notes.txt").write_text("no image")
    files, out = [first, tmp_path / "notes.txt", tmp_path / "gone.png", second], tmp_path / "out"
    done = launched.run("sample", exported, *files, f"--output={out}", "--min_score=0")
    assert done.code == 1
    complaints = [x for x in done.err.splitlines() if x.startswith("sample.py:")]
    assert len(complaints) == 2 and "notes.txt" in complaints[0] and "gone.png" in complaints[1]
    assert sorted(p.name for p in out.iterdir()) == ["one.png", "one_4.png", "results.json"]
    results = json.loads((out / "results.json").read_text())
    assert {r["image_id"] for r in results} == {1, 4} and results[0]["category_id"] % 3 == 1
    assert results[0]["file_name"] == str(first) and results[0]["category_name"].startswith("class")
    assert rle.decode(results[-1]["segmentation"]).shape == (40, 80)
    assert done.out.endswith(f"{len(results)} objects in 2 images\n")


def test_each_object_once_where_asked_for(exported, tmp_path, monkeypatch):
    """tests/inference/test_predictor.py says what the predictor does with it."""
    options = []

    def load(folder, **given):
        options.append(given["class_agnostic_nms"])
        raise ValueError("stopped")

    monkeypatch.setattr(predictor, "load", load)
    image = save_image(tmp_path / "one.png", 64, 64)
    for flag in ([], ["--class_agnostic_nms"]):
        assert launched.run("sample", exported, image, *flag).code == 2
    assert options == [False, True]


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "usage: sample.py MODEL image.jpg"),
        (["{exported}"], "usage: sample.py MODEL image.jpg"),
        (["nowhere", "x.png"], "nowhere holds no model: give the folder of a trained run"),
        (["--model={exported}", "{exported}", "--samples=0"], "samples=0: give at least 1"),
        (["{exported}", "x.png", "gone/"], "there is no file or folder x.png, gone/: check the name"),
        (["{exported}", "x.png", "--config.model.mask.size=32"], "model.mask.size"),
        (["{exported}", "x.png", "--config.eval.sampels=2"], "sampels"),
        (["{exported}", "{image}", "--output={exported}/export.json"], "give another folder with --output"),
    ],
)
def test_mistakes_are_one_sentence(exported, arguments, words, tmp_path):
    image = save_image(tmp_path / "images" / "one.png", 64, 64)
    done = launched.run("sample", *(x.format(exported=exported, image=image) for x in arguments), cwd=tmp_path)
    assert done.code in (1, 2) and words in done.err and done.err.strip().count("\n") == 0, done
    assert [x.name for x in tmp_path.iterdir()] == ["images"]  # earlier results would stay as they are


def test_a_run_folder_with_another_sampler(tmp_path):
    run, image = tiny.write_run(tmp_path / "run"), save_image(tmp_path / "one.png", 64, 64)
    done = launched.run(
        "sample", f"--workdir={run}", image, f"--output={tmp_path / 'out'}", "--min_score=0", "--rescore",
        "--config.model.mask.diffusion.steps=1",
    )  # fmt: skip
    assert done.code == 0, done
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(results) == 4 and {r["category_name"] for r in results} <= set(scenes.NAMES)
