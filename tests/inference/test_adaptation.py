"""What stage 2 starts from when classes are added to an export: the data, the weights, and what is refused."""

import json

import numpy as np
import pytest

from maskdiff_jax import workdir
from maskdiff_jax.data.dataset import Annotation, Dataset, ImageInfo
from maskdiff_jax.data.formats import coco, segmentation
from maskdiff_jax.inference import adaptation
from maskdiff_jax.model import build
from tests import tiny
from tests.data.formats.photos import labelme, photo, rectangle, save_mask, shape, yolo

SQUARE = [[10, 10, 40, 10, 40, 40, 10, 40]]


def stored():
    """One photo of each class of `tiny.trained`."""
    mask = np.zeros((64, 64), bool)
    mask[8:30, 8:30] = True
    rle = segmentation.encode_mask(mask)
    infos = [
        ImageInfo(k, f"{k}.png", 64, 64, (Annotation(k, k, k, (8.0, 8.0, 30.0, 30.0), rle, 484.0, False),))
        for k in range(12)
    ]
    black = np.zeros((64, 64, 3), np.uint8)
    return Dataset("base_shots", "train", tiny.trained().categories, infos, lambda i: black)


def model(base_shots=True):
    return tiny.trained()._replace(base_shots=stored() if base_shots else None)


def forgetful():
    """Its photos show neither class3, class5 nor class7, and it has no shots of class 0, whose photo is gone too."""
    trained, photos = model(), stored()
    count = trained.support.count.copy()
    count[0] = 0
    kept = [i for i in photos.infos if i.id not in (0, 3, 5, 7)]
    return trained._replace(base_shots=photos._replace(infos=kept), support=trained.support._replace(count=count))


def photos(folder, names=("mug", "mug"), segmentations=None):
    """Reads a json with an image and an object for each of these class names."""
    categories = sorted(set(names))
    shapes = segmentations or [SQUARE] * len(names)
    document = {
        "categories": [{"id": k, "name": name} for k, name in enumerate(categories)],
        "images": [{"id": k, "file_name": f"{k}.png", "width": 64, "height": 48} for k in range(len(names))],
        "annotations": [
            {"id": k, "image_id": k, "category_id": categories.index(name), "iscrowd": 0}
            | ({"segmentation": shape} if shape else {"bbox": [1, 1, 20, 20]})
            for k, (name, shape) in enumerate(zip(names, shapes, strict=True))
        ],
    }
    (folder / "photos").mkdir()
    for k in range(len(names)):
        (folder / "photos" / f"{k}.png").write_bytes(coco.images.png(np.full((48, 64, 3), 9 * k + 1, np.uint8)))
    (folder / "shots.json").write_text(json.dumps(document))
    return adaptation.read_photos(folder / "shots.json", folder / "photos")


def test_dataset_and_run_of_stage_1(tmp_path):
    trained = model()
    found = photos(tmp_path, ("mug", "class3", "mug"))
    new, notes = adaptation.new_classes(trained, found)
    assert new == {"mug": 2} and notes == []
    adaptation.write(tmp_path / "out", tmp_path / "out", trained, found, list(new))
    data = adaptation.open_data(tmp_path / "out")
    assert [c.name for c in data.categories] == [*(c.name for c in trained.categories), "mug"]
    assert data.categories[-1].id == 35 and len(data.infos) == 15
    labels = [a.class_id for i in data.infos for a in i.annotations]
    assert np.bincount(labels).tolist() == [1, 1, 1, 2, *8 * [1], 2]
    own = [k for k, i in enumerate(data.infos) if adaptation.is_own(i)]
    assert own == [12, 13, 14] and data.read(14)[0, 0, 0] == 19
    config = workdir.read_config(tmp_path / "out" / "start")
    assert config.stage == "base" and config.model.num_classes == 13 and config.data.novel_classes == ("mug",)
    params = workdir.load_weights(tmp_path / "out" / "start", build(config.model))
    kernel, old = (p["detector"]["box_predictor"]["cls_score"]["kernel"] for p in (params, trained.params))
    np.testing.assert_array_equal(np.delete(kernel, 12, 1), old)
    assert not np.asarray(kernel)[:, 12].any()


@pytest.mark.parametrize(
    "shape, words",
    [
        (None, "1 x annotation without a mask"),
        ([[100, 100, 140, 100, 140, 140]], "first: annotations.*give every object an outline inside its photo"),
        ([[0, 0, 64, 0, 64, 48, 0, 48]], "0.png: a mask covers the whole photo"),
    ],
)
def test_unusable_masks(tmp_path, shape, words):
    with pytest.raises(ValueError, match=words):
        photos(tmp_path, ("mug", "mug", "mug"), [shape, SQUARE, SQUARE])


def test_exports_that_stage_2_cannot_start_from():
    adaptation.check_can_adapt(model())
    with pytest.raises(ValueError, match="keeps no photos .*launch/export.py RUN --base_shots"):
        adaptation.check_can_adapt(model(False))
    distilled = tiny.config().unlock()
    distilled.stage = "distill"
    with pytest.raises(ValueError, match="distilled.* stage 2 would undo that: export the run that was distilled"):
        adaptation.check_can_adapt(model()._replace(config=distilled))


def test_the_fingerprint_is_of_contents(tmp_path):
    one, again, other = (tmp_path / name for name in ("one", "again", "other"))
    for folder in (one, again, other):
        folder.mkdir()
    first = adaptation.fingerprint(photos(one))
    assert adaptation.fingerprint(photos(again)) == first
    assert adaptation.fingerprint(photos(other, ("cup", "cup"))) != first
    path = again / "photos" / "1.png"
    path.write_bytes(coco.images.png(np.full((48, 64, 3), 11, np.uint8)))
    assert adaptation.fingerprint(adaptation.read_photos(again / "shots.json", again / "photos")) != first


def test_what_cannot_be_added(tmp_path):
    for k, (trained, names, shapes, words) in enumerate(
        [
            (forgetful(), ("mug", "class3"), None, "would forget class5, class7: .* annotate .* with remove_class"),
            (model(), ("class3",), None, "no new class: the photos show class3, and the model knows class0"),
            (model(), ("mug",), [[[1, 1, 5, 1, 5, 40]]], r"too small for this mask head, the first in 0.png \('mug'\)"),
        ]
    ):
        folder = tmp_path / str(k)
        folder.mkdir()
        with pytest.raises(ValueError, match=words):
            adaptation.new_classes(trained, photos(folder, names, shapes))


def test_a_name_that_is_nearly_known_gets_a_note(tmp_path):
    _, notes = adaptation.new_classes(model(), photos(tmp_path, ("Class3", "mug")))
    assert notes == ["'Class3' becomes a new class; the model has 'class3': rename your class if you mean the same"]


def test_shots():
    assert adaptation.choose_shots({"mug": 7, "cup": 3}, 0, 5, 0) == 3
    assert adaptation.choose_shots({"mug": 7}, 0, 5, 0) == 5
    assert adaptation.choose_shots({"mug": 7}, 2, 5, 0) == 2
    with pytest.raises(ValueError, match="--shots=4, but there are only 3 objects of 'cup'"):
        adaptation.choose_shots({"mug": 7, "cup": 3}, 4, 5, 0)
    with pytest.raises(ValueError, match="6 shots, but this mask head was trained with 1 to 5"):
        adaptation.choose_shots({"mug": 7}, 6, 5, 0)


def write_as(form, root):
    """Two photos with a square of 30 px each, as a labeling tool leaves them."""
    square = [[10, 10], [40, 10], [40, 40], [10, 40]]
    if form == "LabelMe":
        for name in "ab":
            labelme(root, shape(square, "mug"), name=name, size=(64, 48))
    if form == "YOLO":
        flat = " ".join(f"{x / 64} {y / 48}" for x, y in square)
        yolo(root, {"a": [f"0 {flat}"], "b": [f"0 {flat}"]}, names=("mug",))
        for name in "ab":
            photo(root / "images" / f"{name}.jpg", size=(64, 48))
    if form == "masks":
        for name in "ab":
            photo(root / f"{name}.jpg", size=(64, 48))
            save_mask(root / f"{name}_mug_1.png", 255 * rectangle(10, 10, 40, 40, (48, 64)))


@pytest.mark.parametrize("form", ["LabelMe", "YOLO", "masks"])
def test_annotations_of_every_format(tmp_path, form):
    """COCO json is what the other tests read."""
    write_as(form, tmp_path / form)
    found = adaptation.read_photos(tmp_path / form, None)
    assert adaptation.new_classes(model(), found) == ({"mug": 2}, [])
    objects = [a for i in found.infos for a in i.annotations]
    assert [a.box for a in objects] == 2 * [(10, 10, 40, 40)] and {a.area for a in objects} == {900}
    assert adaptation.fingerprint(adaptation.read_photos(tmp_path / form, None)) == adaptation.fingerprint(found)
    assert found.read(1).shape == (48, 64, 3)
