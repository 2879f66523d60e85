"""Which format a file or folder is in, and COCO json with its images."""

import json

import pytest

from maskdiff_jax.data.formats import coco_json, recognize
from tests.data.formats.photos import labelme, photo, rectangle, save_mask, shape, yolo
from tests.data.small_json import annotation

SQUARE = [[2, 1], [6, 1], [6, 4], [2, 4]]


def coco(path, name="a.jpg", **more):
    document = {
        "images": [{"id": 7, "file_name": name, "width": 20, "height": 10}],
        "annotations": [annotation()],
        "categories": [{"id": 5, "name": "dog"}],
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("folder", (".", "images", "train", "images/train"))
def test_images_of_a_coco_json_are_found_near_it(tmp_path, folder):
    photo(tmp_path / folder / "a.jpg")
    found = recognize.read_annotations(coco(tmp_path / "train.json"))
    assert found.image_dir == (tmp_path / folder).resolve() and found.format == "COCO json"
    assert found.documents["all"]["annotations"] == [annotation()]


def test_splits_of_coco_files(tmp_path):
    """Roboflow's layout, with its empty supercategory."""
    categories = [{"id": 0, "name": "pets", "supercategory": "none"}, {"id": 5, "name": "dog", "supercategory": "pets"}]
    for split in ("train", "valid"):
        photo(tmp_path / split / f"{split}.jpg")
        coco(tmp_path / split / "_annotations.coco.json", f"{split}.jpg", categories=categories)
    found = recognize.read_annotations(tmp_path)
    assert set(found.documents) == {"train", "test"}
    assert found.documents["test"]["images"][0]["file_name"] == "valid/valid.jpg"
    assert (found.image_dir / "valid/valid.jpg").is_file()
    assert [c["name"] for c in found.documents["train"]["categories"]] == ["dog"]
    [(kind, count)] = found.notes.items()
    assert "'pets', the empty supercategory that Roboflow adds (dropped)" in kind and count == 2


def test_validation_and_test_files_are_one_test_set(tmp_path):
    for split in ("train", "valid", "test"):
        photo(tmp_path / split / f"{split}.jpg")
        coco(tmp_path / split / "_annotations.coco.json", f"{split}.jpg")
    document = recognize.read_annotations(tmp_path).documents["test"]
    assert [(i["id"], i["file_name"]) for i in document["images"]] == [(7, "test/test.jpg"), (15, "valid/valid.jpg")]
    assert [(a["id"], a["image_id"]) for a in document["annotations"]] == [(1, 7), (2, 15)]
    coco(tmp_path / "valid" / "_annotations.coco.json", "valid.jpg", categories=[{"id": 5, "name": "cat"}])
    with pytest.raises(ValueError, match="valid/_annotations.coco.json lists other classes than the json of the other"):
        recognize.read_annotations(tmp_path)


def test_a_supercategory_that_has_objects_is_a_class():
    categories = [{"id": 1, "name": "dog", "supercategory": "dog"}, {"id": 2, "name": "pug", "supercategory": "dog"}]
    with_dog = {"categories": categories, "annotations": [{"category_id": 1}, {"category_id": []}]}
    assert coco_json.dummies(with_dog) == []
    assert coco_json.dummies(with_dog | {"annotations": [{"category_id": 2}]}) == ["dog"]


@pytest.mark.parametrize(
    "document, message",
    [
        (
            {"shapes": [], "imagePath": "a.jpg"},
            "a json of LabelMe, which has one json per image: convert the whole folder",
        ),
        ({"_via_img_metadata": {}}, "VIA: export the annotations in COCO format"),
        ([{"annotations": [], "data": {}}], "Label Studio in its own format: choose COCO"),
        ({"a": 1}, "is it a COCO-format json?"),
    ],
)
def test_another_json_is_named(tmp_path, document, message):
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        recognize.read_annotations(tmp_path / "a.json")


def test_empty_unknown_and_missing_paths(tmp_path):
    with pytest.raises(ValueError, match="has no annotations that can be read: give a COCO-format json"):
        recognize.read_annotations(tmp_path)
    with pytest.raises(ValueError, match="is not an annotation file"):
        recognize.read_annotations(photo(tmp_path / "a.jpg"))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        recognize.read_annotations(tmp_path / "nothing")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid json"):
        recognize.read_annotations(tmp_path)


def test_several_formats_are_named(tmp_path):
    labelme(tmp_path, shape(SQUARE))
    save_mask(tmp_path / "a_cup_1.png", rectangle(0, 0, 9, 9))
    yolo(tmp_path, {"b": []})
    with pytest.raises(ValueError, match=r"several formats \(LabelMe, YOLO-seg, mask files\)"):
        recognize.read_annotations(tmp_path)


def test_several_coco_files_and_missing_images(tmp_path):
    photo(tmp_path / "a.jpg")
    coco(tmp_path / "one.json")
    coco(tmp_path / "two.json")
    with pytest.raises(ValueError, match=r"has 2 COCO-format json files \(one.json, two.json\)"):
        recognize.read_annotations(tmp_path)
    with pytest.raises(FileNotFoundError, match="names the image b.jpg, which is missing"):
        recognize.read_annotations(coco(tmp_path / "one.json", "b.jpg"))
    with pytest.raises(ValueError, match="lists no image"):
        recognize.read_annotations(coco(tmp_path / "one.json", images=[]))
