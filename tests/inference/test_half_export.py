"""Exports with float16 weights: half the size, float32 again when read, the same masks; what float16 cannot hold."""

import json

import jax
import numpy as np
import pytest

from maskdiff_jax.inference import export, predictor
from tests import tiny

SCENE = np.random.default_rng(2).integers(0, 256, (64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    export.write(folder / "full", tiny.calibrated())
    export.write(folder / "half", tiny.calibrated(), half=True)
    return folder


def test_weights_are_read_as_float32_and_all_else_is_the_same(folders):
    full, half = export.read(folders / "full"), export.read(folders / "half")
    for a, b in zip(jax.tree.leaves(full.params), jax.tree.leaves(half.params), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a).astype(np.float16), b)
    assert half.calibration.features.dtype == np.float32
    np.testing.assert_array_equal(full.calibration.features.astype(np.float16), half.calibration.features)
    np.testing.assert_array_equal(full.calibration.labels, half.calibration.labels)
    jax.tree.map(np.testing.assert_array_equal, full.support, half.support)
    assert (full.categories, full.config.to_dict()) == (half.categories, half.config.to_dict())
    stored = {name: json.loads((folders / name / "export.json").read_text())["weights"] for name in ("full", "half")}
    assert stored == {"full": "float32", "half": "float16"}


def test_arrays_take_half_the_room(folders):
    def size(name):
        return sum(f.stat().st_size for f in (folders / name / export.PARAMS).rglob("*/d/*"))

    assert 0.4 < size("half") / size("full") < 0.6


def test_it_finds_the_same_objects_and_masks(folders):
    one, other = (predictor.load(folders / name)(SCENE) for name in ("full", "half"))
    assert len(one) > 1 and one.labels == other.labels
    np.testing.assert_allclose(one.boxes, other.boxes, atol=0.5)
    np.testing.assert_allclose(one.scores, other.scores, atol=0.01)
    both, either = (f(one.masks, other.masks).sum() for f in (np.logical_and, np.logical_or))
    assert either > 0 and both / either > 0.99


def test_an_export_without_the_type_of_its_weights_is_float32(folders, tmp_path):
    path = folders / "full" / "export.json"
    whole = path.read_text()
    document = json.loads(whole)
    del document["weights"]  # as older versions wrote it
    path.write_text(json.dumps(document))
    try:
        jax.tree.map(np.testing.assert_array_equal, export.read(folders / "full").params, tiny.trained().params)
        path.write_text(json.dumps(document | {"weights": "float16"}))
        with pytest.raises(ValueError, match="params is missing, damaged or of another model .*float32.*float16"):
            export.read(folders / "full")
        path.write_text(json.dumps(document | {"weights": "int8"}))
        with pytest.raises(ValueError, match="its weights must be float32 or float16; export the run again"):
            export.read(folders / "full")
    finally:
        path.write_text(whole)


def test_a_changed_weight_is_noticed(tmp_path, monkeypatch):
    """The checksum is that of the stored float16 numbers."""
    from maskdiff_jax import checkpoint

    export.write(tmp_path / "model", tiny.trained(), half=True)
    load = checkpoint.ocp.load

    def damaged(*args, **kwargs):
        params = load(*args, **kwargs)
        kernel = params["detector"]["box_predictor"]["cls_score"]["kernel"]
        assert kernel.dtype == np.float16
        params["detector"]["box_predictor"]["cls_score"]["kernel"] = kernel.at[0, 0].add(1)
        return params

    monkeypatch.setattr(checkpoint.ocp, "load", damaged)
    with pytest.raises(ValueError, match="the checksum of detector/box_predictor/cls_score/kernel is wrong"):
        export.read(tmp_path / "model")


@pytest.mark.parametrize("part", ["params", "features"])
def test_what_float16_cannot_hold_is_named_and_nothing_is_written(tmp_path, part):
    model = tiny.calibrated()
    if part == "params":
        params = jax.tree.map(np.array, model.params)
        params["detector"]["box_predictor"]["cls_score"]["kernel"][0, 0] = -7e4
        model, name = model._replace(params=params), "the parameter detector/box_predictor/cls_score/kernel"
    else:
        features = model.calibration.features.copy()
        features[1, 2] = 7e4
        model = model._replace(calibration=model.calibration._replace(features=features))
        name = "the features of the classes"
    with pytest.raises(ValueError, match=f"{name} holds a value of size 7e\\+04, too large for float16 .at most 65504"):
        export.write(tmp_path / "model", model, half=True)
    assert list(tmp_path.iterdir()) == []
