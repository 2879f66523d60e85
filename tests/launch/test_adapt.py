"""launch/adapt.py: from an export and annotated photos to an export with a new class."""

import json
import os
import re
import shutil
import signal

import jax
import numpy as np
import pytest

from configs import base, fewshot
from configs.ablations import plain_unet
from configs.baselines import ifs_rcnn, imtfa, mtfa
from launch import cli
from maskdiff_jax import workdir
from maskdiff_jax.data.formats import images
from maskdiff_jax.inference import adaptation, classes, export, predictor
from maskdiff_jax.training import loop, stages
from maskdiff_jax.training import run as training
from tests import launched, tiny
from tests.data.formats.photos import photo, yolo
from tests.inference.test_adaptation import photos, stored

SHORT = [f"--config.train.{phase}.steps=1" for phase in ("novel", "detector", "mask")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An export of one base class with photos of it, and three photos of a new class."""
    folder = tmp_path_factory.mktemp("adapt")
    one = classes.active_only(tiny.calibrated())
    for name in [c.name for c in one.categories[1:]]:
        one = classes.removed(one, name)
    export.write(folder / "model", one._replace(base_shots=stored()))
    export.write(folder / "bare", one)
    photos(folder, ("mug", "mug", "mug"))
    return folder


def adapt(folder, *more, model="model", out="out"):
    arguments = (f"--model={model}", "--images=photos", "--annotations=shots.json", f"--out={out}", *more)
    return launched.run("adapt", *arguments, cwd=folder)


@pytest.fixture
def begun(monkeypatch):
    """Stops each call where stage 2 would begin; the list gets its config."""
    calls = []

    def run(config, folder):
        calls.append(config)
        raise KeyboardInterrupt("stopped")

    monkeypatch.setattr(training, "run", run)
    return calls


@pytest.mark.slow
def test_one_base_class_and_one_new_class(folder):
    done = adapt(folder, "--shots=2", *SHORT)
    assert done.code == 0, done.err
    assert "new: mug (3 objects); K = 2" in done.out and "adapted: out/model" in done.out
    found = predictor.load(folder / "out" / "model")
    assert found.names == ("class0", "mug")
    summary = json.loads((folder / "out" / "found.json").read_text())
    assert summary["shots"] == 2 and summary["held_out"]["adapted"]["objects"] == 1
    line = summary["held_out"]["adapted"]
    assert 0 <= line["iou"] <= 1 and line["found"] in (0, 1) and line["false"] >= 0
    assert set(summary["held_out"]) == {"adapted", "add_class"}
    sheet = images.decode_image((folder / "out" / "before_after.png").read_bytes(), "sheet")
    assert sheet.shape[1] > 900 and np.ptp(sheet) > 0
    again = adapt(folder, "--shots=2", *SHORT)
    assert again.code == 0 and again.out == "already done: out/model\n"
    other = adapt(folder, "--shots=1", *SHORT)
    assert other.code == 2
    assert "out exists and is not of this call (other --shots): give another folder with --out" in other.err


@pytest.mark.slow
def test_an_interrupted_adaptation_resumes(folder, monkeypatch):
    """SIGTERM in the second step of the mask head; the same command ends with the weights of a call without it."""
    options = ["--config.train.novel.steps=1", "--config.train.detector.steps=1", "--config.train.mask.steps=3"]
    options += ["--config.train.side_by_side=false"]
    assert adapt(folder, *options, out="whole").code == 0
    make_step = loop.make_step

    def stopped_step(*args, **kwargs):
        step, calls = make_step(*args, **kwargs), []

        def run(*args):
            calls.append(args)
            if len(calls) == 2:  # the other phases have one step
                os.kill(os.getpid(), signal.SIGTERM)
            return step(*args)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(loop, "make_step", stopped_step)
        stopped = adapt(folder, *options, out="cut")
    assert stopped.code == 1 and "of phase 'mask' is saved; the same command resumes from there" in stopped.err, stopped
    assert not (folder / "cut" / "model").exists()
    assert adapt(folder, *options, out="cut").code == 0
    whole, cut = (export.read(folder / out / "model") for out in ("whole", "cut"))
    jax.tree.map(np.testing.assert_array_equal, cut.params, whole.params)
    np.testing.assert_array_equal(cut.support.shots, whole.support.shots)


def test_mistakes_leave_nothing(folder):
    for more, model, words in (
        ([], "bare", "launch/export.py RUN --base_shots"),
        (["--shots=4"], "model", "--shots=4, but there are only 3 objects of 'mug'"),
        (["--config.train.mask.stepz=1"], "model", "stepz"),
        (["--config.train.mask.optimizer=best"], "model", "train.mask: unknown optimizer 'best'"),
        (["--config.model.mask.size=32"], "model", "model.mask.size=32 was given, but"),
        ([], "nowhere", "nowhere is not an exported model"),
        ([], "", "--model is missing"),
    ):
        done = adapt(folder, *more, model=model, out="mine")
        assert done.code == 2 and words in done.err and done.err.strip().count("\n") == 0, done
        assert not list(folder.glob("mine*"))


def test_a_folder_of_something_else_stays(folder):
    (folder / "thesis").mkdir()
    (folder / "thesis" / "text.tex").write_text("")
    done = adapt(folder, out="thesis")
    assert done.code == 2 and "thesis exists and is not of this call" in done.err
    assert [p.name for p in (folder / "thesis").iterdir()] == ["text.tex"]


def test_jax_is_set_up_before_it_runs(folder, monkeypatch):
    """XLA reads its flags when the first array is made, as reading the export's weights does."""
    order = []

    def read(path):
        order.append("weights")
        raise ValueError("stopped")

    monkeypatch.setattr(cli, "set_up_jax", lambda size: order.append(size))
    monkeypatch.setattr(export, "read", read)
    assert adapt(folder, out="early").code == 2
    assert order == [tiny.config().model.mask.size, "weights"]


def test_changed_photos_are_another_call(folder, begun, tmp_path):
    shutil.copytree(
        folder, tmp_path / "mine", ignore=lambda _, names: [n for n in names if n in ("out", "cut", "whole")]
    )
    mine = tmp_path / "mine"

    def call(words):
        done = adapt(mine)
        assert done.code == (2 if "call" in words else 1) and words in done.err, done

    call("stopped")
    json_file, image = mine / "shots.json", mine / "photos" / "1.png"
    for path, other in ((json_file, json_file.read_text().replace("40", "41").encode()), (image, images.png(WHITE))):
        before = path.read_bytes()
        path.write_bytes(other)
        call("out exists and is not of this call (other contents of the photos or annotations)")
        path.write_bytes(before)
    call("stopped")
    assert len(begun) == 2


def test_steps_that_were_given_are_kept(folder, begun):
    export.write(folder / "whole_coco", tiny.of_config(grown(fewshot.get_config("coco")))._replace(base_shots=stored()))
    given = ("--config.train.detector.steps=80000", "--config.train.novel.steps=1", "--config.data.workers=0")
    done = adapt(folder, *given, model="whole_coco", out="given")
    assert done.code == 1 and done.err.endswith("stopped\n"), done
    [second] = begun
    assert (second.train.novel.steps, second.train.detector.steps) == (1, 80_000) and second.train.mask.steps < 100
    shutil.rmtree(folder / "given")


def test_the_validation_split_is_said_to_be_held_out(folder, begun):
    """YOLO's val; the run trains on the photos of train alone."""
    square = "0 0.2 0.2 0.6 0.2 0.6 0.8 0.2 0.8"
    for split, names in (("train", "ab"), ("val", "c")):
        yolo(folder / "yolo", {name: [square] for name in names}, names=("mug",), split=split)
        for name in names:
            photo(folder / "yolo" / "images" / split / f"{name}.jpg", size=(64, 48))
    done = adapt(folder, "--images=", "--annotations=yolo", out="of_yolo")
    assert done.code == 1 and "new: mug (2 objects); K = 2" in done.out, done
    assert "photos of a validation or test split are not trained on; 1 of 1 check what is found\n" in done.out
    data, kept = adaptation.open_data(folder / "of_yolo"), adaptation.open_held_out(folder / "of_yolo")
    assert sum(map(adaptation.is_own, data.infos)) == 2
    assert [info.file_name for info in kept.infos] == ["held_out/0001.jpg"] and kept.categories == data.categories


WHITE = np.full((48, 64, 3), 255, np.uint8)


def grown(config):
    """A config of any preset, tiny and of 12 classes, four of them novel."""
    config = tiny.shrink(config).unlock()
    config.model.num_classes = 12
    config.data.workers = 0
    return config.lock()


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "name, config, words",
    [
        slow("shapes_hard", fewshot.get_config("shapes_hard"), ""),
        ("custom", fewshot.get_config("custom,size=tiny"), ""),
        slow("coco", fewshot.get_config("coco"), ""),
        ("literal", fewshot.get_config("coco,paper=true,shots=2"), ""),
        slow("stage_1", base.get_config("coco,size=small"), ""),
        slow("plain_unet", plain_unet.get_config("shapes"), ""),
        ("mtfa", mtfa.get_config("shapes"), ""),
        slow("imtfa", imtfa.get_config("shapes"), ""),
        slow("ifs_rcnn", ifs_rcnn.get_config("shapes"), ""),
        ("zoo", base.get_config("coco,weights=zoo"), "weights=zoo has seen the novel classes"),
    ],
)
def test_exports_of_every_kind(folder, begun, name, config, words):
    config = grown(config)
    trained = tiny.of_config(config)
    if config.stage == "base":
        trained = trained._replace(categories=tuple(c._replace(novel=False) for c in trained.categories))
    export.write(folder / name, trained._replace(base_shots=stored()))
    given = ("--config.data.workers=0", "--config.data.shot_unlabeled=background")
    done = adapt(folder, "--shots=2", *given, model=name, out=f"of_{name}")
    if words:
        assert done.code == 2 and words in done.err and not list(folder.glob(f"of_{name}*")), done
        return
    assert done.code == 1 and done.err.endswith("stopped\n"), done
    [second] = begun
    run = folder / f"of_{name}" / "run"
    run.mkdir()
    stages.fewshot_stage(second, run)  # opens data and weights, raises what training would
    assert second.model.num_classes == 13 and second.data.novel_classes == ("mug",)
    assert second.data.shot_unlabeled == "background" and second.fewshot.short_classes == "take_all"
    assert second.model.mask.head == config.model.mask.head
    frozen = [re.fullmatch("|".join(second.train.frozen), f"mask_head/{x}/kernel") for x in ("conv0", "predictor")]
    assert [x is not None for x in frozen] == [config.model.mask.head == "cnn", False]
    if name in ("coco", "literal", "stage_1"):  # for two shots of 13 classes, not for COCO's benchmark
        phases = [second.train[phase].steps for phase in ("novel", "detector", "mask")]
        batch = second.train.mask.batch
        assert phases == [150 if name == "stage_1" else 500, 1000, round(100 * 2 * 13 / batch)]
        assert "plan: detector: 1,000 steps of" in done.out and "plan: steps are for 26 shots, 2 of each" in done.out
    if name == "custom":  # 13 classes, not the 20 of an unknown number
        assert second.train.mask.steps == round(100 * 2 * 13 / 16)
    assert workdir.read_config(folder / f"of_{name}" / "start").preset == config.preset
    shutil.rmtree(folder / f"of_{name}")
