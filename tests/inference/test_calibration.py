"""Box features of known classes: which objects they are of, and the file that keeps them."""

import numpy as np
import pytest

from maskdiff_jax.data import pipeline
from maskdiff_jax.data.fewshot.shots import shot_dataset
from maskdiff_jax.data.support import make_support_set
from maskdiff_jax.inference import calibration
from maskdiff_jax.model import build
from tests import compiling, tiny

PERFECT = calibration.Calibration(np.ones((4, 3), np.float32), np.array([0, 1, 1, 2], np.int32))


def test_base_classes_give_ten_objects_and_novel_ones_their_shots(tmp_path, monkeypatch):
    config = tiny.config().unlock()
    config.data.update(root=str(tmp_path), shapes_support=60)
    config.fewshot.shots = 2
    support_split = pipeline.open_split(config.data, "support")
    shots, _ = make_support_set(config, support_split)
    found = calibration.compute(config, tiny.trained().params, support_split, shots)
    assert found.features.shape == (len(found.labels), 32) and found.features.dtype == np.float32
    counts = np.bincount(found.labels, minlength=12)
    assert (counts[8:] == 2).all() and (counts[:8] <= calibration.MOST).all() and counts[:8].max() > 2
    novel = shot_dataset(support_split, {9: shots[9]}, "background")
    forward = compiling.jit(build(config.model).box_features)
    batch = next(pipeline.eval_batches(novel, config.data, batch=1))
    expected = forward(tiny.trained().params, batch.image, batch.image_hw, batch.instances.boxes)[0, 0]
    assert np.abs(found.features[found.labels == 9] - np.asarray(expected)).max(1).min() < 1e-3
    config.stage = "base"
    assert set(calibration.compute(config, tiny.trained().params, support_split, shots).labels) == set(range(8))
    with monkeypatch.context() as patch:  # as with many classes
        patch.setattr(calibration, "OBJECTS", 8)
        patch.setattr(calibration, "LEAST", 1)
        few = calibration.compute(config, tiny.trained().params, support_split, shots)
        assert np.bincount(few.labels).tolist() == [1] * 8
    config.model.detector.classifier = "linear"
    assert calibration.compute(config, tiny.trained().params, support_split, shots) is None


def test_round_trip(tmp_path):
    path = tmp_path / "features.npz"
    assert calibration.read(path, 3, 3) is None
    calibration.write(path, PERFECT)
    for x, y in zip(calibration.read(path, 3, 3), PERFECT, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.array([0, 1, 1, 3], np.int32)}, {"labels": np.array([-1, 1, 1, 2], np.int32)},
        {"labels": np.zeros(3, np.int32)}, {"labels": np.zeros(4)}, {"features": np.ones((4, 2), np.float32)},
        {"features": np.ones((4, 3))}, {"features": np.full((4, 3), np.nan, np.float32)},
    ],
)  # fmt: skip
def test_damage(tmp_path, change):
    calibration.write(tmp_path / "features.npz", PERFECT._replace(**change))
    with pytest.raises(ValueError, match="features.npz is damaged: "):
        calibration.read(tmp_path / "features.npz", 3, 3)


def test_a_broken_file(tmp_path):
    path = tmp_path / "features.npz"
    calibration.write(path, PERFECT)
    for data in (b"", path.read_bytes()[:100], b"PK" + path.read_bytes()[5:]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="features.npz is damaged"):
            calibration.read(path, 3, 3)
