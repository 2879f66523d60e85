"""launch/export.py: a run folder becomes an export."""

import json

import jax
import numpy as np
import pytest

from maskdiff_jax.inference import predictor
from tests import launched, tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny.write_run(tmp_path_factory.mktemp("export_script") / "run")


def test_a_run_is_exported(run, tmp_path):
    done = launched.run("export", run, "--output=model", "--config.model.mask.diffusion.steps=1", cwd=tmp_path)
    assert done.code == 0, done.err
    count = sum(x.size for x in jax.tree.leaves(tiny.trained().params))
    assert done.out == f"exported: model ({count / 1e6:.1f} million parameters)\n"
    found = predictor.load(tmp_path / "model")
    jax.tree.map(np.testing.assert_array_equal, found._params, tiny.trained().params)
    assert found._config.model.mask.diffusion.steps == 1
    labels = found.trained.calibration.labels  # of base classes up to ten objects, of novel ones the two shots
    assert (np.bincount(labels)[8:] == 2).all() and len(np.unique(labels)) == 12


def test_a_run_becomes_programs_for_jax_alone(run, tmp_path):
    pytest.importorskip("flatbuffers", reason="jax.export needs flatbuffers: make installs it")
    done = launched.run("export", run, "--format=stablehlo", "--platforms=cpu", cwd=tmp_path)
    assert done.code == 0, done.err
    output = run / "export-stablehlo"
    assert done.out.startswith(f"exported: {output} (")
    document = json.loads((output / "serving.json").read_text())
    assert [c["name"] for c in document["categories"] if c["novel"]] == ["star", "ring", "arrow", "crescent"]
    assert document["platforms"] == ["cpu"] and (output / "run.py").is_file()


def test_photos_of_base_classes_come_along_on_request(run, tmp_path):
    done = launched.run("export", run, "--output=model", "--nofeatures", "--base_shots", "--half", cwd=tmp_path)
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "model" / "export.json").read_text())["weights"] == "float16"
    document = json.loads((tmp_path / "model" / "base_shots" / "train.json").read_text())
    assert len(document["categories"]) == 12
    shots = [a["category_id"] for a in document["annotations"] if not a["iscrowd"]]
    assert sorted(shots) == sorted(2 * [c["id"] for c in document["categories"]])  # slots=2, and two shots in the run
    found = predictor.load(tmp_path / "model")
    kept = found.trained.base_shots
    assert [i.file_name for i in kept.infos] == sorted(p.name for p in (tmp_path / "model/base_shots/images").iterdir())
    assert kept.read(0).shape == (kept.infos[0].height, kept.infos[0].width, 3)
    found.save(tmp_path / "model")  # over the folder that the photos are read from
    again = predictor.load(tmp_path / "model").trained.base_shots
    np.testing.assert_array_equal(again.read(0), kept.read(0))
    assert again.infos == kept.infos


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "no run given: name its folder"),
        (["nowhere"], "nowhere"),
        (["{run}", "--config.model.detector.width=16"], "model.detector.width"),
        (["{run}", "--format=stablehlo", "--base_shots"], "--base_shots needs --format=orbax"),
        (["{run}", "--format=stablehlo", "--half"], "--half needs --format=orbax"),
        (["{run}", "--format=onnx"], "unknown --format=onnx: choose orbax or stablehlo"),
        (["{run}", "--format=stablehlo", "--platforms=gpu"], "unknown platform 'gpu': choose from cpu, cuda, tpu"),
    ],
)
def test_mistakes_are_one_sentence(run, arguments, words, tmp_path):
    done = launched.run("export", *(x.format(run=run) for x in arguments), cwd=tmp_path)
    assert done.code == 2 and words in done.err and done.err.strip().count("\n") == 0, done
