"""LabelMe's shapes as masks: geometry against masks written by hand."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.data.formats import images, recognize
from tests.data.formats.photos import labelme, masks, rectangle, shape

SQUARE = [[2, 1], [6, 1], [6, 4], [2, 4]]


def png(mask):
    file = io.BytesIO()
    Image.fromarray(mask * 255).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_polygons_and_rectangles(tmp_path):
    labelme(tmp_path, shape(SQUARE), shape([[16, 9], [10, 5]], "dog", "rectangle"), shape([[1, 1]], kind="point"))
    found = recognize.read_annotations(tmp_path)
    (cup, first), (dog, second) = masks(found)
    assert found.format == "LabelMe" and (cup, dog) == ("cup", "dog")
    assert (first == rectangle(2, 1, 6, 4)).all() and (second == rectangle(10, 5, 16, 9)).all()
    assert found.documents["all"]["annotations"][0]["bbox"] == [2, 1, 4, 3]
    assert found.documents["all"]["annotations"][0]["area"] == 12
    assert list(found.notes) == ["shape without area: point of 1 points (first: cup in a.json)"]


def test_circle(tmp_path):
    labelme(tmp_path, shape([[40, 30], [40, 50]], kind="circle"), size=(80, 60))
    [(_, mask)] = masks(recognize.read_annotations(tmp_path))
    y, x = np.mgrid[:60, :80]
    exact = np.hypot(x + 0.5 - 40, y + 0.5 - 30) < 20
    assert (mask != exact).sum() < 0.06 * exact.sum()  # pixels of the edge
    assert abs(int(mask.sum()) - 400 * np.pi) < 0.06 * 400 * np.pi


def test_shapes_of_a_group_are_one_object(tmp_path):
    parts = [shape(SQUARE, group_id=3), shape([[10, 5], [16, 9]], kind="rectangle", group_id=3)]
    labelme(tmp_path, *parts, shape(SQUARE, "dog", group_id=3))
    (_, both), (name, alone) = masks(recognize.read_annotations(tmp_path))
    assert (both == rectangle(2, 1, 6, 4) + rectangle(10, 5, 16, 9)).all()
    assert name == "dog" and (alone == rectangle(2, 1, 6, 4)).all()


def test_a_mask_keeps_its_hole_and_joins_polygons(tmp_path):
    ring = rectangle(0, 0, 6, 5, (5, 6)) - rectangle(2, 2, 4, 3, (5, 6))
    painted = shape([[10, 3], [15, 7]], kind="mask", mask=png(ring), group_id=1)
    labelme(tmp_path, painted, shape(SQUARE, group_id=1))
    [(_, mask)] = masks(recognize.read_annotations(tmp_path))
    expected = rectangle(10, 3, 16, 8) - rectangle(12, 5, 14, 6) + rectangle(2, 1, 6, 4)
    assert (mask == expected).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_values_are_pillows(orientation):
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    image = Image.fromarray(values)
    exif = image.getexif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    expected = images.decode_image(file.getvalue(), "a")[..., 0]
    assert (images.turned(values, orientation) == expected).all()


@pytest.mark.parametrize("orientation", (5, 6, 7, 8))
def test_shapes_of_the_stored_image_are_turned_with_it(tmp_path, orientation):
    """Where LabelMe's json has the size before EXIF rotation."""
    mask = shape([[2, 1], [5, 3]], "dog", "mask", mask=png(np.ones((3, 4), np.uint8)))
    labelme(tmp_path, shape(SQUARE), mask, orientation=orientation)
    found = recognize.read_annotations(tmp_path)
    [image] = found.documents["all"]["images"]
    assert (image["height"], image["width"]) == (20, 10)
    expected = images.turned(rectangle(2, 1, 6, 4), orientation)
    assert all((m == expected).all() for _, m in masks(found)) and expected.shape == (20, 10)


def test_shapes_of_the_shown_image_stay(tmp_path):
    """LabelMe itself applies the rotation before it shows the image."""
    labelme(tmp_path, shape(SQUARE), orientation=6, imageHeight=20, imageWidth=10)
    [(_, mask)] = masks(recognize.read_annotations(tmp_path))
    assert (mask == rectangle(2, 1, 6, 4, (20, 10))).all()


@pytest.mark.parametrize(
    "shapes, more, message",
    [
        ([shape([[1, 2], [3]])], {}, "points that are not pairs of numbers"),
        ([shape(SQUARE, "")], {}, r"shapes\[0\] has no label"),
        ([shape(SQUARE)], {"imageWidth": 40}, "image has 40 x 10 px, but it has 20 x 10"),
        ([shape([[2, 1], [5, 3]], kind="mask", mask="!")], {}, "type mask but contains no PNG"),
        ([shape([[1, 1]], kind="point")], {}, "no object with a mask.*not used: 1 x shape without area"),
        ([shape([[90, 1], [95, 1], [95, 9]])], {}, "no object with a mask.*no pixel in the image"),
        ([shape(SQUARE, "__ignore__")], {}, "no object with a mask.*label __ignore__"),
    ],
)
def test_faults_are_named(tmp_path, shapes, more, message):
    labelme(tmp_path, *shapes, **more)
    with pytest.raises(ValueError, match=message):
        recognize.read_annotations(tmp_path)


def test_a_missing_image_is_named(tmp_path):
    labelme(tmp_path, shape(SQUARE), imageData="abc")
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"names the image a.jpg, which is missing.*imageData"):
        recognize.read_annotations(tmp_path)


def test_the_image_is_found_by_its_name(tmp_path):
    labelme(tmp_path, shape(SQUARE), imagePath="..\\other\\a.jpg")
    assert recognize.read_annotations(tmp_path).documents["all"]["images"][0]["file_name"] == "a.jpg"
    document = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(document | {"imagePath": "of another machine.png"}))
    assert recognize.read_annotations(tmp_path).documents["all"]["images"][0]["file_name"] == "a.jpg"
