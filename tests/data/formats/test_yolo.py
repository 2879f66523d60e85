"""YOLO's text files as masks; names and splits from data.yaml, classes.txt or the folders."""

import numpy as np
import pytest

from maskdiff_jax.data.formats import recognize
from tests.data.formats.photos import masks, photo, rectangle, yolo

SQUARE = "1 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4"  # of a 20 x 10 px photo: x 2 to 6, y 1 to 4


def files(found, split):
    return [i["file_name"].rsplit("/")[-1] for i in found.documents[split]["images"]]


@pytest.mark.parametrize("yaml", (True, False))
def test_outlines_and_names(tmp_path, yaml):
    found = recognize.read_annotations(yolo(tmp_path, {"a": [SQUARE, "", "0" + SQUARE[1:]], "b": []}, yaml=yaml))
    (first, mask), (second, _) = masks(found)
    assert found.format == "YOLO-seg" and (first, second) == ("dog", "cup")
    assert (mask == rectangle(2, 1, 6, 4)).all()
    assert files(found, "all") == ["a.jpg", "b.jpg"]  # a photo without a line has no object
    assert [c["id"] for c in found.documents["all"]["categories"]] == [1, 2]


def test_shares_are_of_the_upright_image(tmp_path):
    yolo(tmp_path, {"a": [SQUARE]})
    photo(tmp_path / "images" / "a.jpg", orientation=6)
    [(_, mask)] = masks(recognize.read_annotations(tmp_path))
    assert (mask == rectangle(1, 2, 3, 8, (20, 10))).all()


def test_a_keyhole_outline_leaves_a_hole(tmp_path):
    """YOLO has one outline per object: a hole is reached by a line of no width."""
    points = [(2, 1), (14, 1), (14, 9), (2, 9), (2, 5), (6, 5), (6, 7), (10, 7), (10, 3), (6, 3), (6, 5), (2, 5)]
    line = "0 " + " ".join(f"{x / 20} {y / 10}" for x, y in points)
    [(_, mask)] = masks(recognize.read_annotations(yolo(tmp_path, {"a": [line]})))
    expected = rectangle(2, 1, 14, 9) - rectangle(6, 3, 10, 7)
    off = np.argwhere(mask != expected)
    assert all(y == 5 and 2 <= x < 6 for y, x in off)  # at most the line itself


def test_splits_of_data_yaml(tmp_path):
    yolo(tmp_path, {"a": [SQUARE]}, split="train")
    yolo(tmp_path, {"b": [SQUARE]}, split="val")
    (tmp_path / "data.yaml").write_text(
        "path: /elsewhere\ntrain: images/train\nval: ../images/val\nnames:\n  0: cup\n  1: dog\n"
    )
    found = recognize.read_annotations(tmp_path / "data.yaml")
    assert files(found, "train") == ["a.jpg"] and files(found, "test") == ["b.jpg"]
    assert (masks(found, "test")[0][1] == rectangle(2, 1, 6, 4)).all()


def test_one_set_that_is_both_train_and_val(tmp_path):
    yolo(tmp_path, {"a": [SQUARE]})
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [cup, dog]\n")
    assert list(recognize.read_annotations(tmp_path).documents) == ["all"]


def test_roboflows_layout(tmp_path):
    for split, stem in (("train", "a"), ("valid", "b")):
        photo(tmp_path / split / "images" / f"{stem}.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / f"{stem}.txt").write_text(SQUARE)
    (tmp_path / "classes.txt").write_text("cup\ndog\n")
    found = recognize.read_annotations(tmp_path)
    assert files(found, "train") == ["a.jpg"] and files(found, "test") == ["b.jpg"]
    assert len(masks(found, "train")) == len(masks(found, "test")) == 1


@pytest.mark.parametrize(
    "line, message",
    [
        ("0 0.5 0.5 0.2 0.2", "no object with a mask.*1 x box without an outline.*a.txt, line 1"),
        ("0 0.1 0.1 0.3 0.1 0.3", "a.txt, line 2 must be the number of the class and x y of at least three points"),
        ("cup 0.1 0.1 0.3 0.1 0.3 0.4", "a.txt, line 2 must be the number of the class"),
        ("2 0.1 0.1 0.3 0.1 0.3 0.4", "line 2 has the class 2, but there are 2 names"),
        ("0 10 10 30 10 30 40", "coordinates outside 0..1"),
        ("0 nan 0.1 0.3 0.1 0.3 0.4", "coordinates outside 0..1"),
    ],
)
def test_faults_are_named(tmp_path, line, message):
    first = [] if "box without" in message else [SQUARE]
    with pytest.raises(ValueError, match=message):
        recognize.read_annotations(yolo(tmp_path, {"a": [*first, line]}))


@pytest.mark.parametrize(
    "text, message",
    [
        ("names: [a, a]", "needs 'names': a list of the classes, each only once"),
        ("names: {1: a}", "needs 'names'"),
        ("train: images", "needs 'names'"),
        ("names: [", "is not valid YAML"),
        ("train: photos\nnames: [cup, dog]", "names the image folder photos, which is missing"),
    ],
)
def test_faults_of_data_yaml_are_named(tmp_path, text, message):
    yolo(tmp_path, {"a": [SQUARE]})
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        recognize.read_annotations(tmp_path)


def test_missing_names_images_and_several_yaml_files(tmp_path):
    yolo(tmp_path, {"a": [SQUARE]})
    (tmp_path / "b.yaml").write_text("names: [a]")
    (tmp_path / "data.yaml").rename(tmp_path / "c.yaml")
    with pytest.raises(ValueError, match="several YAML files"):
        recognize.read_annotations(tmp_path)
    (tmp_path / "b.yaml").unlink()
    (tmp_path / "c.yaml").unlink()
    with pytest.raises(FileNotFoundError, match="no class names: add classes.txt"):
        recognize.read_annotations(tmp_path)
    (tmp_path / "classes.txt").write_text("cup\ncup\n")
    with pytest.raises(ValueError, match="one class per line, each only once"):
        recognize.read_annotations(tmp_path)
    (tmp_path / "classes.txt").write_text("cup\ndog\n")
    (tmp_path / "images" / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="but no images"):
        recognize.read_annotations(tmp_path)
