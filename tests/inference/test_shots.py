"""Shots as users have them: each form gives the same objects, and what is wrong is one clear sentence."""

import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.data.dataset import Category
from maskdiff_jax.data.formats.segmentation import decode_mask, encode_mask
from maskdiff_jax.inference import shots

HW = 20, 30
IMAGE = np.full((*HW, 3), 90, np.uint8)
MASK = np.zeros(HW, bool)
MASK[5:15, 8:24] = True
OTHER = np.zeros(HW, bool)
OTHER[1:4, 2:7] = True
POLYGON = [8, 5, 24, 5, 24, 15, 8, 15]
CUP = Category(0, "cup", True)


def read(images, masks, boxes=None):
    return shots.read(images, masks, boxes, CUP, 0)


def objects(dataset):
    return [(info.id, decode_mask(a.rle).astype(bool), a.box) for info in dataset.infos for a in info.annotations]


@pytest.mark.parametrize(
    "mask", [MASK, MASK.astype(np.uint8) * 255, MASK[None], [MASK], [POLYGON], [[POLYGON]], encode_mask(MASK)]
)
def test_forms_of_one_mask(mask):
    (found,) = objects(read(IMAGE, mask))
    np.testing.assert_array_equal(found[1], MASK)
    assert found[2] == (8, 5, 24, 15)


@pytest.mark.parametrize(
    "masks", [[MASK, OTHER], np.stack([MASK, OTHER]), [[POLYGON], OTHER], [MASK, encode_mask(OTHER)]]
)
def test_several_objects_of_one_image(masks):
    dataset = read(IMAGE, masks)
    assert [x[2] for x in objects(dataset)] == [(8, 5, 24, 15), (2, 1, 7, 4)]
    assert len({a.id for info in dataset.infos for a in info.annotations}) == 2


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_masks_as_pictures(tmp_path, mode):
    """Of a picture with transparency the alpha channel counts, whatever its colors are."""
    picture = Image.fromarray(MASK.astype(np.uint8) * 255).convert("L" if mode == "P" else mode)
    if mode == "P":
        picture.putpalette(list(range(256)) * 3)
    if mode == "RGBA":
        picture = Image.new("RGBA", HW[::-1], (9, 9, 9, 255))
        picture.putalpha(Image.fromarray(MASK.astype(np.uint8) * 255))
    assert picture.mode == mode
    picture.save(tmp_path / "mask.png")
    for mask in (picture, tmp_path / "mask.png", [str(tmp_path / "mask.png")]):
        np.testing.assert_array_equal(objects(read(IMAGE, mask))[0][1], MASK)


def test_mask_files_that_are_none(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match="cannot read the mask .*notes.txt .*: give an image of the object's outline"):
        read(IMAGE, tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError, match="there is no mask .*gone.png: check the name"):
        read(IMAGE, [MASK, str(tmp_path / "gone.png")])


def test_several_images_and_files(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    dataset = read([tmp_path / "a.png", IMAGE], [[MASK, OTHER], OTHER])
    assert [x[0] for x in objects(dataset)] == [0, 0, 1] and dataset.infos[0].file_name == str(tmp_path / "a.png")
    np.testing.assert_array_equal(dataset.read(1), IMAGE)
    assert len({a.id for info in dataset.infos for a in info.annotations}) == 3


def test_boxes():
    assert objects(read(IMAGE, MASK, [7, 4, 99, 16]))[0][2] == (7, 4, 30, 16)
    assert objects(read([IMAGE], [[MASK, OTHER]], [[[7, 4, 26, 16], [1, 1, 8, 8]]]))[1][2] == (1, 1, 8, 8)
    for boxes, message in (
        ([25, 16, 29, 19], r"image 1, mask 1: its box \[25.0, 16.0, 29.0, 19.0\] does not enclose it"),
        ([[7, 4, 26, 16], [1, 1, 8, 8]], "image 1: 1 masks, but 2 boxes"),
        ([7, 4, 26], "image 1: boxes must be x0, y0, x1, y1 in pixels, four numbers for each mask"),
        (["left"], "image 1: boxes must be x0, y0, x1, y1 in pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            read(IMAGE, MASK, boxes)


@pytest.mark.parametrize(
    "mask, message",
    [
        (np.zeros(HW, bool), "image 1, mask 1 is empty: it must be nonzero on the object"),
        (np.ones(HW, bool), "image 1, mask 1 covers the whole image: outline only the object"),
        ([[-9, -9, 99, -9, 99, 99, -9, 99]], "covers the whole image"),
        (MASK.T, "mask 1 is 30 x 20 px, but the image is 20 x 30 px: give the mask in the image's size"),
        ([[50, 50, 60, 50, 60, 60]], "mask 1 lies outside the image of 20 x 30 px"),
        ([[8, 5, 24]], "mask 1: a broken polygon; the image is 20 x 30 px"),
        ({"size": [30, 20], "counts": [0, 600]}, "RLE is of another size"),
        (
            MASK.astype(float),
            r"must be a bool array \[h, w\], an image of one, poly.* not float64 \[20, 30\]: give mask > 0.5",
        ),
        ([MASK, 5], "image 1, mask 2 must be a bool array"),
        (None, "no masks: give an outline"),
    ],
)
def test_what_is_no_mask(mask, message):
    with pytest.raises(ValueError, match=message):
        read(IMAGE, mask)


def test_numbers_that_differ():
    with pytest.raises(ValueError, match="2 images, but masks of 1: give one entry for each image"):
        read([IMAGE, IMAGE], [MASK])
    with pytest.raises(ValueError, match="no masks: give an outline of each object"):
        read([IMAGE], None)
    with pytest.raises(FileNotFoundError, match="gone.png"):
        read("gone.png", MASK)
