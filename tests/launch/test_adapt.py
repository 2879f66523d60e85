"""launch/adapt.py: from an export and annotated photos to an export with a new class."""

import json

import numpy as np
import pytest

from maskdiff_jax.data.formats import images
from maskdiff_jax.inference import export, predictor
from tests import launched, tiny
from tests.inference.test_adaptation import photos, stored

SHORT = [f"--config.train.{phase}.steps=1" for phase in ("novel", "detector", "mask")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An export of one base class with photos of it, and three photos of a new class."""
    from maskdiff_jax.inference import classes

    folder = tmp_path_factory.mktemp("adapt")
    trained = tiny.calibrated()
    one = classes.active_only(trained)
    for name in [c.name for c in one.categories[1:]]:
        one = classes.removed(one, name)
    export.write(folder / "model", one._replace(base_shots=stored()))
    export.write(folder / "bare", one)
    photos(folder, ("mug", "mug", "mug"))
    return folder


def adapt(folder, *more, model="model", out="out"):
    arguments = (f"--model={model}", "--images=photos", "--annotations=shots.json", f"--out={out}", *more)
    return launched.run("adapt", *arguments, cwd=folder)


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
    assert set(summary["held_out"]) == {"adapted", "instant addition"}
    sheet = images.decode_image((folder / "out" / "before_after.png").read_bytes(), "sheet")
    assert sheet.shape[1] > 900 and np.ptp(sheet) > 0
    again = adapt(folder, "--shots=2", *SHORT)
    assert again.code == 0 and again.out == "done already: out/model\n"
    other = adapt(folder, "--shots=1", *SHORT)
    assert other.code == 2 and "out exists and is not of this call: give another folder with --out" in other.err


def test_mistakes_leave_nothing(folder):
    for more, model, words in (
        ([], "bare", "launch/export.py RUN --base_shots"),
        (["--shots=4"], "model", "--shots=4, but there are only 3 objects of 'mug'"),
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
