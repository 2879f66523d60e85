"""Bad annotation files as they occur: each kind of problem is dropped or fixed and counted, or an error names it."""

import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.data.formats import coco, segmentation
from maskdiff_jax.data.formats.segmentation import decode_mask
from tests.data.small_json import IMAGE, SQUARE, UNLISTED_CATEGORY, annotation, load, without

UNLISTED_IMAGE = "annotation of an image that is not listed (dropped)"

NO_NUMBER = "annotation whose image_id or category_id is not a number (dropped)"

NO_MASK = "annotation without a mask (dropped)"

NO_PIXEL = "annotation whose mask has no pixel in the image (dropped)"

NO_BOX = "annotation without a box inside the image (dropped)"

POLYGON = "annotation with a broken polygon (dropped)"

RLE = "annotation with a broken RLE (dropped)"

RLE_SIZE = "annotation whose RLE is of another size than its image (dropped)"

GOOD_RLE = segmentation.encode_mask(np.eye(8, 10, dtype=np.uint8))


@pytest.mark.parametrize(
    "bad, kind",
    [
        (None, "annotation entry that is not a json object (dropped)"),
        ([1], "annotation entry that is not a json object (dropped)"),
        (without(annotation(), "image_id"), UNLISTED_IMAGE),
        (annotation(image_id=8), UNLISTED_IMAGE),
        (annotation(image_id="7"), UNLISTED_IMAGE),
        (annotation(image_id=[7]), NO_NUMBER),
        (annotation(category_id=9), UNLISTED_CATEGORY),
        (without(annotation(), "category_id"), UNLISTED_CATEGORY),
        (annotation(category_id={}), NO_NUMBER),
        (annotation(iscrowd="0"), "annotation whose iscrowd is neither 0 nor 1 (dropped)"),
        (annotation(iscrowd=[]), "annotation whose iscrowd is neither 0 nor 1 (dropped)"),
        (without(annotation(), "segmentation"), NO_MASK),
        (annotation(segmentation=None), NO_MASK),
        (annotation(segmentation=[]), NO_MASK),
        (annotation(segmentation="polygon"), "annotation whose segmentation is neither polygons nor RLE (dropped)"),
        (annotation(segmentation=[[]]), POLYGON),
        (annotation(segmentation=[[1, 1, 5, 5]]), POLYGON),  # a line, or a box
        (annotation(segmentation=[SQUARE[:7]]), POLYGON),
        (annotation(segmentation=[[[2, 1], [6, 1], [6, 4]]]), POLYGON),  # points in their own lists
        (annotation(segmentation=[SQUARE[:-1] + ["4"]]), POLYGON),
        (annotation(segmentation=[SQUARE[:-1] + [None]]), POLYGON),
        (annotation(segmentation=[SQUARE[:-1] + [float("nan")]]), POLYGON),
        (annotation(segmentation=[SQUARE[:-1] + [float("inf")]]), POLYGON),
        (annotation(segmentation=[SQUARE[:-1] + [1e300]]), POLYGON),
        (annotation(segmentation=[SQUARE[:-1] + [-(10**400)]]), POLYGON),
        (annotation(segmentation=[[3, 3] * 4]), NO_PIXEL),  # one point
        (annotation(segmentation=[[2, 2, 6, 2, 4, 2]]), NO_PIXEL),  # no area
        (annotation(segmentation=[[v + 20 for v in SQUARE]]), NO_PIXEL),  # outside
        (annotation(segmentation={"size": [10, 8], "counts": [80]}), RLE_SIZE),
        (annotation(segmentation={"counts": [80]}), RLE_SIZE),
        (annotation(segmentation={"size": [8, 10]}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": []}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": [79]}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": [40, 41]}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": [90, -10]}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": [40.0, 40]}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": ["40", 40]}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": [2**32, 80]}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": [80]}), NO_PIXEL),
        (annotation(segmentation={"size": [8, 10], "counts": ""}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": GOOD_RLE["counts"][:-1]}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": GOOD_RLE["counts"] + "o"}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": "oooooooo"}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": "hello, world"}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": "é"}), RLE),
        (annotation(segmentation={"size": [8, 10], "counts": 80}), RLE),
        (annotation(bbox=[20, 20, 4, 3]), NO_BOX),
        (annotation(bbox=[2, 1, 0, 3]), NO_BOX),
        (annotation(bbox=[2, 1, -4, 3]), NO_BOX),
        (annotation(bbox=[1e300, 1, 1e300, 3]), NO_BOX),
    ],
)
def test_a_bad_annotation_is_dropped_and_counted(write, bad, kind):
    dataset, problems, examples = load(write([annotation(1), bad, annotation(3)]))
    assert [a.id for a in dataset.infos[0].annotations] == [1, 3]
    assert problems == {kind: 1} and examples == {kind: "annotations[1]"}


@pytest.mark.parametrize(
    "change, kind",
    [
        ({"bbox": [2, 1, 4]}, "bbox is not four numbers (computed from the mask)"),
        ({"bbox": ["2", "1", "4", "3"]}, "bbox is not four numbers (computed from the mask)"),
        ({"bbox": [2, 1, 4, float("nan")]}, "bbox is not four numbers (computed from the mask)"),
        ({"bbox": {"x": 2}}, "bbox is not four numbers (computed from the mask)"),
        ({"area": None}, "area is not a possible number of pixels (computed from the mask)"),
        ({"area": -1}, "area is not a possible number of pixels (computed from the mask)"),
        ({"area": 1e300}, "area is not a possible number of pixels (computed from the mask)"),
        ({"area": "12"}, "area is not a possible number of pixels (computed from the mask)"),
        ({"segmentation": SQUARE}, "polygon is not in a list of polygons (read as a single polygon)"),
        ({"segmentation": [SQUARE, [1, 1]]}, "broken polygon of an object that has others (ignored)"),
        ({"segmentation": [None, SQUARE]}, "broken polygon of an object that has others (ignored)"),
        ({"id": None}, coco.RENUMBERED),
        ({"id": "uuid"}, coco.RENUMBERED),
        ({"id": -1}, coco.RENUMBERED),
        ({"id": 2**63}, coco.RENUMBERED),
        ({"id": [1]}, coco.RENUMBERED),
    ],
)
def test_what_needs_no_guess_is_fixed_and_counted(write, change, kind):
    dataset, problems, _ = load(write([annotation(**change)]))
    (a,) = dataset.infos[0].annotations
    assert (a.id, a.box, a.area) == (1, (2, 1, 6, 4), 12) and decode_mask(a.rle).sum() == 12
    assert problems == {kind: 1}


def test_no_box_and_no_area_are_no_fault(write):
    dataset, problems, _ = load(write([without(annotation(bbox=None), "area")]))
    assert dataset.infos[0].annotations[0].box == (2, 1, 6, 4) and not problems


def test_box_extends_beyond_the_image(write):
    dataset, problems, _ = load(write([annotation(1, bbox=[-3, -3, 9, 7]), annotation(2, bbox=[-0.4, 0, 10.5, 8])]))
    assert [a.box for a in dataset.infos[0].annotations] == [(0, 0, 6, 4), (0, 0, 10, 8)]
    assert problems == {"box extends beyond the image (clipped)": 1}  # half a pixel is rounding


def test_repeated_annotation_ids(write):
    """An exact copy is dropped; another object keeps its place and gets the lowest free id."""
    other = annotation(4, bbox=[2, 1, 3, 3])
    entries = [annotation(4), annotation(4), other, annotation(1), without(annotation(), "id")]
    dataset, problems, examples = load(write(entries))
    assert [a.id for a in dataset.infos[0].annotations] == [4, 2, 1, 3] and dataset.annotation_order == (4, 2, 1, 3)
    assert problems == {"exact repeat of an annotation (dropped)": 1, coco.RENUMBERED: 2}
    assert examples[coco.RENUMBERED] == "annotations[2]"


def test_images_without_annotations_and_files_listed_twice(write):
    dataset, problems, _ = load(write([annotation()], change=lambda raw: raw["images"].append(IMAGE | {"id": 8})))
    assert len(dataset.infos) == 2 and dataset.infos[1].annotations == ()
    assert problems == {coco.EMPTY: 1, "image file that the json lists twice, with different ids": 1}


def test_mostly_unusable_annotations_stop(write):
    paths = write([annotation(1), annotation(2, category_id=9), annotation(3, category_id=9)])
    with pytest.raises(ValueError, match="more than half of its 3 annotations.*2 x annotation of a category") as error:
        coco.load(*paths)
    assert str(paths[0]) in str(error.value)
    assert load(paths)[1][coco.REFUSED] == 1  # a check continues, and says so
    coco.load(*write([annotation(1), annotation(2, category_id=9)]))


def test_what_was_dropped_is_said_once(write, capsys):
    paths = write([annotation(1), annotation(2), annotation(3, image_id=9), annotation(4, iscrowd=1)])
    coco.load(*paths)
    coco.load(*paths)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{paths[0]}, 4 annotations: 1 x {UNLISTED_IMAGE}, first annotations[2]"
    load(write([annotation(1), annotation(2), annotation(3, image_id=10)]))
    coco.load(*write([annotation(1), annotation(4, iscrowd=1)]))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ("images/a.png", "./images/a.png", "images\\a.png"))
def test_file_names_may_start_with_the_image_folder(write, name):
    paths = write([annotation()], file_name=name)
    Image.new("RGB", (10, 8)).save(paths[1] / "a.png")
    dataset = coco.load(*paths)
    assert dataset.infos[0].file_name == "a.png" and dataset.read(0).shape == (8, 10, 3)
    (paths[1] / "images").mkdir()  # a folder of that name inside has priority
    Image.new("RGB", (10, 8), "white").save(paths[1] / "images" / "a.png")
    assert coco.load(*paths).read(0).min() == 255
