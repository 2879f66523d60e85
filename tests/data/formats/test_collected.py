"""COCO-style documents of annotated images, whatever format they were read from."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.data.formats import collected
from maskdiff_jax.data.formats.collected import Annotated

SQUARE = [[2, 3, 6, 3, 6, 8, 2, 8]]  # 4 x 5 px


def test_a_document_for_each_split(tmp_path):
    """Ids count from 1 in each split, classes have the same ids in both, names are relative to the common folder."""
    splits = {
        "train": [Annotated(tmp_path / "train" / "a.png", 10, 20, [("dog", SQUARE), ("cup", SQUARE)])],
        "test": [Annotated(tmp_path / "val" / "b.png", 10, 20, [("dog", SQUARE)])],
    }
    found = collected.collect("YOLO-seg", splits, Counter())
    assert found.format == "YOLO-seg" and found.image_dir == tmp_path
    train, test = found.documents["train"], found.documents["test"]
    assert train["categories"] == test["categories"] == [{"id": 1, "name": "cup"}, {"id": 2, "name": "dog"}]
    assert train["images"] == [{"id": 1, "file_name": "train/a.png", "height": 10, "width": 20}]
    assert test["images"][0]["file_name"] == "val/b.png"
    assert [(a["id"], a["image_id"], a["category_id"]) for a in train["annotations"]] == [(1, 1, 2), (2, 1, 1)]
    assert [(a["id"], a["category_id"]) for a in test["annotations"]] == [(1, 2)]
    dog = train["annotations"][0]
    assert (dog["bbox"], dog["area"], dog["iscrowd"]) == ([2.0, 3.0, 4.0, 5.0], 20.0, 0)
    assert dog["segmentation"] == SQUARE


def test_the_order_of_given_names_is_kept(tmp_path):
    splits = {"all": [Annotated(tmp_path / "a.png", 10, 20, [("dog", SQUARE)])]}
    found = collected.collect("YOLO-seg", splits, Counter(), names=["dog", "cup"])
    assert [c["name"] for c in found.documents["all"]["categories"]] == ["dog", "cup"]


def test_without_an_object_the_message_says_what_was_not_used(tmp_path):
    splits = {"all": [Annotated(tmp_path / "a.png", 10, 20, [])]}
    with pytest.raises(ValueError, match=r"the LabelMe annotations have no object with a mask.*not used: 2 x points"):
        collected.collect("LabelMe", splits, Counter({"points": 2}))


def test_a_shape_without_a_pixel_is_counted():
    notes = Counter()
    assert collected.is_usable(SQUARE, 10, 20, "a.json", notes) and not notes
    assert not collected.is_usable([[30, 3, 36, 3, 36, 8]], 10, 20, "a.json", notes)
    assert [(count, "a.json" in kind) for kind, count in notes.items()] == [(1, True)]


def test_image_files_are_sorted_and_visible(tmp_path):
    for name in ("b.JPG", "a.png", ".c.png", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in collected.image_files(tmp_path)] == ["a.png", "b.JPG"]


def test_a_mask_file(tmp_path):
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / "mask.png")
    assert np.array_equal(np.asarray(collected.open_mask(tmp_path / "mask.png")), np.eye(4))
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cannot read the mask .*broken\.png .*replace the file"):
        collected.open_mask(tmp_path / "broken.png")
