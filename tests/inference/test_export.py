"""Exported models: a round trip, what must not be overwritten, and damaged files, which are named in one sentence."""

import json
import random
import shutil

import jax
import numpy as np
import pytest

from maskdiff_jax import checkpoint
from maskdiff_jax.inference import export
from tests import tiny
from tests.mutations import MUTATIONS, mutated


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "model"
    export.write(folder, tiny.trained())
    return folder


@pytest.fixture
def copied(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def rewrite(folder, change):
    """Applies `change` to what export.json holds."""
    document = json.loads((folder / export.DOCUMENT).read_text())
    change(document)
    (folder / export.DOCUMENT).write_text(json.dumps(document))


def test_round_trip(exported):
    trained, back = tiny.trained(), export.read(exported)
    jax.tree.map(np.testing.assert_array_equal, trained.params, back.params)
    jax.tree.map(np.testing.assert_array_equal, trained.support, back.support)
    assert back.categories == trained.categories
    assert back.config.to_dict() == trained.config.to_dict()
    with pytest.raises(AttributeError, match="cannot be changed"):
        back.config.preset = "other"


def test_an_older_export_is_replaced_and_other_files_are_not(copied, tmp_path):
    (copied / "old.txt").write_text("of the older export")
    export.write(copied, tiny.trained())
    assert sorted(p.name for p in copied.iterdir()) == ["export.json", "params", "support.npz"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("do not lose me")
    (tmp_path / "file").write_text("")
    for folder in ("mine", "file"):
        with pytest.raises(FileExistsError, match="give another folder with --output"):
            export.run(tiny.config(), tmp_path / "no run", tmp_path / folder)
    assert (tmp_path / "mine" / "thesis.tex").exists()
    with pytest.raises(OSError, match="cannot write to .*file/sub .*: give another folder with --output"):
        export.run(tiny.config(), tmp_path / "no run", tmp_path / "file" / "sub" / "model")


def test_no_export(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not an exported model: make one with launch/export.py"):
        export.read(tmp_path)


def test_fields_that_do_not_go_together(copied):
    rewrite(copied, lambda d: d["config"]["model"]["mask"]["unet"].update(heads=3, attention=[8]))
    with pytest.raises(ValueError, match="describes a model that cannot be built .*heads.*export the run again"):
        export.read(copied)


def test_an_older_version(copied):
    rewrite(copied, lambda d: d["config"]["model"]["mask"]["diffusion"].pop("guidance_interval"))
    with pytest.raises(ValueError, match="another version .* .it has no model.mask.diffusion.guidance_interval"):
        export.read(copied)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d["categories"].pop(), "num_classes=12 categories"),
        (lambda d: d["categories"][3].update(id=1), "two categories have the same id"),
        (lambda d: d["categories"][3].update(name="a\nb"), "a category is not of the form"),
        (lambda d: d["config"]["model"]["mask"].update(slots=3), r"holds shots \[12, 2, .*config says \[12, 3, "),
        (
            lambda d: d["config"]["model"]["detector"].update(fc_channels=33),
            "params is missing, damaged or of another model .*: export the run again",
        ),
    ],
)
def test_parts_that_do_not_fit(copied, change, message):
    rewrite(copied, change)
    with pytest.raises(ValueError, match=message):
        export.read(copied)


def test_damaged_shots(copied):
    path = copied / export.SUPPORT
    whole = path.read_bytes()
    for data in (b"", whole[: len(whole) // 2], b"PK" + whole[5:], whole[:60] + b"\xff" * 20 + whole[80:]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="support.npz is missing or damaged .*: export the run again"):
            export.read(copied)
    with open(path, "wb") as file:
        np.savez(file, shots=tiny.trained().support.shots, count=np.full(12, 3))
    with pytest.raises(ValueError, match=r"has shot counts outside 0\.\.2"):
        export.read(copied)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax drops some of its futures
def test_damaged_weights(copied):
    for file in (copied / export.PARAMS).rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[:-500])
    for _ in range(2):
        with pytest.raises(ValueError, match="params is missing, damaged or of another model .*: export the run again"):
            export.read(copied)
        shutil.rmtree(copied / export.PARAMS, ignore_errors=True)


@pytest.fixture
def quick(monkeypatch):
    """Weights that fit are not read each time: the checks before that are what is tested."""
    template = jax.eval_shape(lambda: tiny.trained().params)
    shapes = jax.tree.map(lambda x: x.shape, template)

    def load(folder, wanted):
        if jax.tree.structure(wanted) != jax.tree.structure(template):
            raise ValueError("of another model")
        if jax.tree.map(lambda x: x.shape, wanted) != shapes:
            raise ValueError("of another model")
        return tiny.trained().params

    monkeypatch.setattr(checkpoint, "load_params", load)


@pytest.mark.parametrize("first", range(0, MUTATIONS, 50))
def test_mutated_documents(copied, first, quick):
    """A model of the right shapes or one sentence; MASKDIFF_FUZZ=1000 tries more of them."""
    path = copied / export.DOCUMENT
    document = json.loads(path.read_text())
    for seed in range(first, min(first + 50, MUTATIONS)):
        path.write_text(mutated(document, random.Random(seed)))
        try:
            back = export.read(copied)
        except ValueError as error:
            assert "export the run again" in str(error), seed
            assert "\n" not in str(error) and len(str(error)) < 1000, seed
        else:
            assert len(back.categories) == back.config.model.num_classes == 12, seed
