"""What is said of a model before and after it was adapted; the whole of it runs in tests/launch/test_adapt.py."""

import json

import numpy as np
from PIL import Image

from maskdiff_jax import workdir
from maskdiff_jax.data.dataset import Annotation, Category
from maskdiff_jax.data.formats import segmentation
from maskdiff_jax.evaluation import adaptation
from maskdiff_jax.inference import adaptation as photos_on_disk
from maskdiff_jax.inference import predictor
from tests.inference.test_adaptation import model, photos


def test_hits_and_false_detections():
    class Found:
        """Two detections of class "mug": the object itself, and the other half of the photo."""

        labels = ("mug", "mug", "cup")
        masks = (np.eye(8, dtype=bool), ~np.eye(8, dtype=bool), np.eye(8, dtype=bool))

        def __init__(self, which=(0, 1, 2)):
            self.labels, self.masks = [Found.labels[i] for i in which], [Found.masks[i] for i in which]

        def __getitem__(self, i):
            return Found((i,))

        def mask(self, i):
            return self.masks[i]

    rle = segmentation.encode_mask(np.eye(8, dtype=bool))
    mug = Annotation(1, 1, 1, (0, 0, 8, 8), rle, 8.0, False)
    categories = (Category(1, "cup", False), Category(2, "mug", True))
    assert adaptation.score(mug, "mug", {"adapted": Found(), "add_class": None}) == {"adapted": 1.0}
    assert adaptation.false_detections([mug], categories, [1], Found()) == 1
    assert adaptation.false_detections([], categories, [1], Found()) == 2
    assert adaptation.summarize([{"a": 1.0}, {"a": 0.4}]) == {"a": {"objects": 2, "found": 1, "iou": 0.7}}
    assert adaptation.summarize([]) == {}


class Blind:
    """A predictor that finds nothing."""

    labels = ()

    def __init__(self, *_):
        self.seen = []

    def __call__(self, image):
        self.seen.append(image[0, 0, 0])
        return self

    def add_class(self, name, images, masks):
        assert (name, len(images)) == ("mug", 2)

    def plot(self):
        return Image.new("RGB", (64, 48))


def test_photos_of_a_validation_split_are_checked_on(tmp_path, monkeypatch, capsys):
    """Both photos of the training split are shots, so the only objects to check on are those of the other split."""
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
    mine, held_out = photos(tmp_path / "train"), photos(tmp_path / "val", ("mug", "class3", "cup"))
    out = tmp_path / "out"
    photos_on_disk.write(out, out, model(), mine, ["mug"], held_out)
    data = photos_on_disk.open_data(out)
    shots = [a.id for info in data.infos for a in info.annotations if a.class_id == 12]
    (out / "run").mkdir()
    (out / "run" / workdir.SHOTS).write_text(json.dumps({"12": shots}))
    loaded = []
    monkeypatch.setattr(predictor, "load", lambda folder: loaded.append(Blind()) or loaded[-1])
    adaptation.compare(out, "model", ["mug"], 2)
    found = json.loads((out / adaptation.FOUND).read_text())
    assert found["photos"] == 4  # the one with a cup shows no class of the model
    assert found["held_out"]["adapted"] == {"objects": 1, "found": 0, "iou": 0.0, "false": 0}
    assert "adapted: 0 of 1 objects found in photos without a shot" in capsys.readouterr().out
    assert [x.seen for x in loaded] == 2 * [[1, 10, 1, 10]]


def test_many_held_out_photos_are_sampled_evenly(tmp_path, monkeypatch):
    (tmp_path / "val").mkdir()
    held_out = photos(tmp_path / "val", 5 * ("mug",))
    monkeypatch.setattr(photos_on_disk, "HELD_OUT_PHOTOS", 3)
    photos_on_disk.write(tmp_path / "out", tmp_path / "out", model(), held_out, ["mug"], held_out)
    kept = photos_on_disk.open_held_out(tmp_path / "out")
    assert kept is not None and [kept.read(i)[0, 0, 0] for i in range(len(kept.infos))] == [1, 19, 37]
