"""Exports for jax alone: what is in the folder, another mask head, what is not overwritten, nothing half-written."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from maskdiff_jax.inference import export, paste, stablehlo, stablehlo_run
from maskdiff_jax.model import build
from tests import tiny

pytest.importorskip("flatbuffers", reason="jax.export needs flatbuffers: make installs it")


@pytest.fixture
def quick(monkeypatch):
    """The programs are not traced: what surrounds them is tested."""

    class Program:
        def serialize(self):
            return bytearray(b"program")

    monkeypatch.setattr(stablehlo, "_programs", lambda *_: iter([("detect_64x64", Program())]))


def test_what_is_in_the_folder(tmp_path):
    """Programs hold no weights, and the weights are those of the model, in their dtype and under their names."""
    stablehlo.write(tmp_path / "model", tiny.trained())
    files = {path.name: path for path in (tmp_path / "model").iterdir()}
    programs = ["detect_64x64.jax_export", "masks_1.jax_export", "masks_4.jax_export"]  # no image has more than 4
    assert sorted(files) == sorted([*programs, "run.py", "serving.json", "weights.npz"])
    assert files["run.py"].read_bytes() == Path(stablehlo_run.__file__).read_bytes()
    with np.load(files["weights.npz"]) as arrays:
        weights = dict(arrays)
    np.testing.assert_array_equal(weights.pop("support/shots"), tiny.trained().support.shots)
    back = stablehlo._unnamed(tiny.trained().params, weights)
    jax.tree.map(np.testing.assert_array_equal, back, tiny.trained().params)
    assert {x.dtype for x in weights.values()} == {np.dtype(np.float32)}
    for name in programs:
        program = jax.export.deserialize(bytearray(files[name].read_bytes()))
        assert program.platforms == ("cpu", "cuda") and program.nr_devices == 1
        largest = max(
            len(line) for line in program.mlir_module().splitlines() if "stablehlo.constant" in line
        )  # the table of the noise schedule is the largest constant
        assert largest < 5000, name


def test_what_the_script_is_told(tmp_path, quick):
    config = tiny.config().unlock()
    config.stage, config.eval.noise_seed, config.eval.mask_min_score = "base", 7, 0.25
    config.data.buckets, config.data.context = ((64, 64), (32, 64), (64, 64)), 0.25
    stablehlo.write(tmp_path / "model", tiny.trained()._replace(config=config.lock()), ("cpu",))
    document = json.loads((tmp_path / "model" / "serving.json").read_text())
    assert document["active"] == list(range(8)) and document["platforms"] == ["cpu"]
    assert document["categories"][8] == {"id": 25, "name": "class8", "novel": True}
    assert document["jax"] == jax.__version__ and document["min_score"] == 0.25
    assert document["context"] == 0.25 and document["threshold"] == 0.5 and document["mask_batches"] == [1, 4]
    assert document["padded_sizes"] == [[64, 64], [32, 64]]
    assert document["noise_key"] == jax.random.key_data(jax.random.key(7)).tolist()


def test_an_older_export_is_replaced_and_other_files_are_not(tmp_path, quick):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("do not lose me")
    export.write(tmp_path / "orbax", tiny.trained())
    for folder in ("mine", "orbax"):
        with pytest.raises(FileExistsError, match="not an export of this format: give another folder with --output"):
            stablehlo.run(tiny.config(), tmp_path / "no run", tmp_path / folder)
    assert (tmp_path / "mine" / "thesis.tex").exists() and (tmp_path / "orbax" / "export.json").exists()
    stablehlo.write(tmp_path / "model", tiny.trained())
    (tmp_path / "model" / "old.txt").write_text("of the older export")
    stablehlo.write(tmp_path / "model", tiny.trained())
    assert not (tmp_path / "model" / "old.txt").exists() and (tmp_path / "model" / "run.py").exists()


def test_nothing_is_left_of_an_export_that_failed(tmp_path, quick, monkeypatch):
    stablehlo.write(tmp_path / "model", tiny.trained())
    before = {path: path.read_bytes() for path in (tmp_path / "model").iterdir()}

    def full(*_, **arrays):
        raise OSError("the disk is full")

    monkeypatch.setattr(np, "savez", full)
    for name in ("model", "another"):
        with pytest.raises(OSError, match="the disk is full"):
            stablehlo.write(tmp_path / name, tiny.trained())
    assert {path: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_platforms_that_do_not_exist(tmp_path):
    for platforms, message in ((("gpu",), "unknown platform 'gpu': choose from cpu, cuda"), ((), "no platform")):
        with pytest.raises(ValueError, match=message):
            stablehlo.run(tiny.config(), tmp_path / "no run", tmp_path / "model", platforms)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ValueError, match="needs the package flatbuffers: pip install flatbuffers"):
        stablehlo.run(tiny.config(), tmp_path / "no run", tmp_path / "model")


def test_a_head_that_sees_features(tmp_path):
    """Mask R-CNN's head: regions are RoI features, masks have another side, boxes no margin."""
    config = tiny.config().unlock()
    config.model.mask.head = "cnn"
    config.model.mask.cnn.update(convs=1, channels=16, roi_size=7)
    model = build(config.model)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: (0.1 * rng.standard_normal(x.shape)).astype(x.dtype), shapes)
    stablehlo.write(tmp_path / "model", tiny.trained()._replace(config=config.lock(), params=params), ("cpu",))
    served = stablehlo_run.Model(tmp_path / "model", min_score=0.0)
    assert served.options["context"] == 0.0 and served.options["mask_side"] == model.mask_side == 14
    image = rng.integers(0, 256, (50, 70, 3), np.uint8)
    found, (_, _, classes, regions) = served(image), served.detect(image)
    assert regions.shape == (1, 4, 7, 7, 16) and len(found["scores"]) == 4
    keys, shots = jax.random.split(jax.random.key(0), 4), served.shots[classes[0]]
    expected = jax.jit(model.segment)(params, keys, regions[0], shots, classes[0])
    np.testing.assert_allclose(found["soft"], expected, atol=1e-5)
    for soft, box, mask in zip(found["soft"], found["boxes"], found["masks"], strict=True):
        np.testing.assert_array_equal(mask, paste.paste(soft, box, (50, 70)) >= 0.5)
    served.min_score = 1.0
    nothing = served(image)
    assert nothing["masks"].shape == (0, 50, 70) and nothing["soft"].shape == (0, 14, 14)
    assert nothing["names"].shape == (0,) and nothing["boxes"].shape == (0, 4)
