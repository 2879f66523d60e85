"""Annotated photos written as the dataset of the preset custom."""

import json

import pytest

from maskdiff_jax.data.formats import coco, convert, recognize
from tests.data.formats.photos import labelme, rectangle, shape, yolo

SQUARE = [[2, 1], [6, 1], [6, 4], [2, 4]]


@pytest.fixture
def five(tmp_path):
    """Five photos: a cup on each, a dog on the first."""
    for k in range(5):
        labelme(tmp_path / "in", shape(SQUARE), *([shape(SQUARE, "dog")] * (k == 0)), name=str(k))
    return recognize.read_annotations(tmp_path / "in")


def test_one_set_is_split(five, tmp_path):
    text = convert.write(five, tmp_path / "out" / "custom")
    documents = {s: json.loads((tmp_path / f"out/custom/{s}.json").read_text()) for s in ("train", "test")}
    [test] = documents["test"]["images"]
    assert len(documents["train"]["images"]) == 4 and test["file_name"] != "0.jpg"  # the dog's only photo
    assert (
        f"the source has a single set; chosen as test images: {test['file_name']}" in text
        and "classes: cup, dog" in text
    )
    assert documents["train"]["categories"] == documents["test"]["categories"]
    for split, document in documents.items():
        dataset = coco.load(tmp_path / f"out/custom/{split}.json", tmp_path / "out" / "custom" / split)
        assert len(dataset.infos) == len(document["images"])
        assert all(i.annotations and dataset.read(k).shape == (10, 20, 3) for k, i in enumerate(dataset.infos))
        assert sum(len(i.annotations) for i in dataset.infos) == len(document["annotations"])
    convert.write(five, tmp_path / "again")
    assert (tmp_path / "again" / "test.json").read_text() == (tmp_path / "out/custom/test.json").read_text()
    assert (rectangle(2, 1, 6, 4).sum(), documents["test"]["annotations"][0]["area"]) == (12, 12)


@pytest.mark.parametrize("share", (0, 0.2))
def test_without_a_test_set(tmp_path, share):
    labelme(tmp_path / "in", shape(SQUARE))
    text = convert.write(recognize.read_annotations(tmp_path / "in"), tmp_path / "out", share)
    assert "no test set" in text and '--config.data.test_json=""' in text
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["train", "train.json"]


def test_splits_of_the_source_are_kept(tmp_path):
    line = "0 0.1 0.1 0.3 0.1 0.3 0.4"
    yolo(tmp_path / "in", {"a": [line]}, split="train")
    yolo(tmp_path / "in", {"a": [line], "b": [line]}, split="val")
    text = convert.write(recognize.read_annotations(tmp_path / "in"), tmp_path / "out")
    assert len(list((tmp_path / "out" / "test").iterdir())) == 2 and "one set" not in text
    assert [p.name for p in (tmp_path / "out" / "train").iterdir()] == ["a.jpg"]


def test_nothing_is_half_written(five, tmp_path):
    (tmp_path / "in" / "3.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="no image .*3.jpg"):
        convert.write(five, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    with pytest.raises(FileExistsError, match="exists and is not empty: give another --output"):
        convert.write(five, tmp_path / "in")
    with pytest.raises(ValueError, match="share of test images is 1.5"):
        convert.write(five, tmp_path / "out", 1.5)
