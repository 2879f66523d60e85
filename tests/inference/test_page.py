"""What the web page reads and shows: uploads, painted masks, pictures, tables, downloads."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.data.dataset import Category
from maskdiff_jax.data.formats.segmentation import encode_mask
from maskdiff_jax.inference import export, page
from maskdiff_jax.inference.inputs import Photo
from maskdiff_jax.inference.results import Detections
from tests import tiny

CATEGORIES = (Category(1, "cup", False), Category(2, "<b>dog</b>", True))


def found_in(height, width, scores=(0.9, 0.4)):
    """One object in the left half, one in the lower right quarter of an image."""
    n = len(scores)
    boxes = np.float32([[0, 0, width / 2, height], [width / 2, height / 2, width, height]])[:n]
    masks = np.zeros((2, height, width), bool)
    masks[0, :, : width // 2] = masks[1, height // 2 :, width // 2 :] = True
    soft = np.ones((n, 8, 8), np.float32)
    soft[:1, :, 4:] = 0.75
    return Detections(
        image=np.full((height, width, 3), 90, np.uint8), file="a.jpg", categories=CATEGORIES, boxes=boxes,
        scores=np.float32(scores), class_ids=np.arange(n, dtype=np.int32), rles=[encode_mask(m) for m in masks[:n]],
        confidence=np.float32([0.875, 1.0])[:n], regions=boxes, region_soft=soft, region_samples=None,
    )  # fmt: skip


def save(path, array):
    Image.fromarray(array).save(path)
    return path


def test_photos(tmp_path):
    photo = page.read_photo(save(tmp_path / "a.png", np.full((3, 5), 7, np.uint8)))
    assert photo.file == "a.png" and photo.pixels.shape == (3, 5, 3) and (photo.pixels == 7).all()


@pytest.mark.parametrize("read", [page.read_photo, page.read_mask])
def test_what_is_no_image_is_one_sentence_without_the_folder(read, tmp_path, monkeypatch):
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    image = save(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8))
    (tmp_path / "part.png").write_bytes(image.read_bytes()[:3000])
    for name, words in (("text.jpg", "not an image"), ("empty.png", "it is empty"), ("part.png", "part.png")):
        with pytest.raises(ValueError, match=words) as caught:
            read(tmp_path / name)
        assert str(tmp_path) not in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize("side", [8_000, 20_000])  # within Pillow's own limit, and beyond it
@pytest.mark.parametrize("read", [page.read_photo, page.read_mask])
def test_huge_images_are_refused_before_they_are_decoded(read, side, tmp_path, monkeypatch):
    Image.new("1", (side, side)).save(tmp_path / "huge.png")
    monkeypatch.setattr(page, "decode_image", lambda data, where: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="huge.png has more than 50 million pixels.*make it smaller, for example"):
        read(tmp_path / "huge.png")


def test_masks(tmp_path):
    expected = np.zeros((4, 6), bool)
    expected[1:3, 2:5] = True
    white = np.where(expected, 255, 0).astype(np.uint8)
    clear = np.dstack([np.full((4, 6, 3), 200, np.uint8), white])
    opaque = np.dstack([white, white, white, np.full_like(white, 255)])
    for name, array in (
        ("white.png", white), ("ones.png", expected.astype(np.uint8)), ("noise.png", np.maximum(white, 3)),
        ("rgb.png", np.dstack([white, 0 * white, 0 * white])), ("clear.png", clear), ("opaque.png", opaque),
    ):  # fmt: skip
        np.testing.assert_array_equal(page.read_mask(save(tmp_path / name, array)), expected, name)
    assert not page.read_mask(save(tmp_path / "black.png", 0 * white)).any()


def test_painted_masks_have_the_size_of_the_photo():
    layer = np.zeros((10, 20, 4), np.uint8)
    layer[:5, :10, 3] = 153  # of a brush that is seen through
    mask = page.painted_mask([np.zeros((10, 20, 4), np.uint8), layer], (100, 200))
    assert mask.shape == (100, 200) and mask[:45, :90].all() and not mask[55:].any() and not mask[:, 110:].any()
    for nothing in ([], [np.zeros((10, 20, 4), np.uint8)]):
        with pytest.raises(ValueError, match="nothing is painted: paint over the object"):
            page.painted_mask(nothing, (100, 200))


def test_masks_that_show_no_object():
    photo = Photo(np.zeros((4, 6, 3), np.uint8), "a.jpg")
    for mask, words in (
        (np.zeros((4, 6), bool), "the mask for a.jpg is empty"),
        (np.ones((4, 6), bool), "the mask for a.jpg covers the whole image"),
        (np.ones((6, 4), bool), "the mask for a.jpg is 6 x 4 px, but the image is 4 x 6 px"),
    ):
        with pytest.raises(ValueError, match=words):
            page.make_shot(photo, mask)
    assert page.make_shot(photo, np.eye(4, 6, dtype=bool)).photo is photo


@pytest.mark.parametrize(
    "photos, masks, expected",
    [
        (["a.jpg"], ["x.png", "y.png"], [[0, 1]]),
        (["a.jpg", "b.jpg"], ["b.png", "a.png"], [[1], [0]]),
        (["a.jpg", "b.jpg"], ["b_1.png", "b_2.png"], [[], [0, 1]]),
        (["cup.jpg", "cup2.jpg"], ["cup2.png", "cup_mask.png"], [[1], [0]]),
        (["a.jpg", "b.jpg"], ["x.png", "y.png"], [[0], [1]]),
        (["a.jpg", "a.jpg"], ["a.png", "a.png"], [[0], [1]]),
    ],
)
def test_masks_find_their_photos(photos, masks, expected):
    assert page.masks_by_photo(photos, masks) == expected


def test_masks_without_a_photo():
    with pytest.raises(ValueError, match="2 photos, but 3 masks: name each mask as its photo \\(a.png\\)"):
        page.masks_by_photo(["a.jpg", "b.jpg"], ["a.png", "b.png", "x.png"])


def test_only_high_scores():
    found = found_in(20, 30)
    assert page.visible(found, 0.5, None).labels == ["cup"] and len(page.visible(found, 0.95, None)) == 0
    text = page.nothing_found(found, 0.95)
    assert "above score 0.95" in text and "'cup' with 0.90" in text and "Lower the minimum score" in text
    assert "best" not in page.nothing_found(found[:0], 0.3)


def test_each_object_once():
    found = found_in(20, 30)
    found = dataclasses.replace(found, boxes=np.float32([[0, 0, 10, 10], [0, 0, 10, 8]]))  # IoU 0.8
    assert page.visible(found, 0.3, 0.5).labels == ["cup"] and page.visible(found, 0.3, 0.9).labels == found.labels
    assert page.visible(found, 0.3, None).labels == found.labels


def test_messages_are_text():
    assert page.notice("<script>") == '<div class="notice info" role="status">&lt;script&gt;</div>'
    assert 'role="alert"' in page.notice("no", "error")


def test_small_pictures_show_the_same_masks():
    found = found_in(400, 1000)
    small = page.shrunk(found, 0.5, 250)
    assert small.hw == (100, 250) and small.scores is found.scores
    np.testing.assert_allclose(small.boxes, found.boxes / 4)
    assert np.mean(small.masks != found.masks[:, ::4, ::4]) < 0.02  # the border of the image
    assert page.shrunk(found, 0.5, 1000) is found
    assert page.shrunk(found, 0.8, 250).mask(0).sum() < small.mask(0).sum()  # where the samples disagree
    assert page.shown(found.image, 250).shape == (100, 250, 3) and page.shown(np.zeros((1, 9000, 3), np.uint8)).size
    assert page.preview(np.zeros((64, 64, 3), np.uint8)).shape == (384, 384, 3)


def test_uncertain_pixels_are_orange():
    picture = np.asarray(page.uncertainty_picture(found_in(400, 400))).astype(int)
    assert picture.shape == (400, 400, 3)
    sure, unsure = picture[200, 20], picture[200, 150]  # soft 1 and 0.75
    assert np.ptp(sure) == 0 and unsure[0] > unsure[1] > unsure[2] and unsure[0] > sure[0] + 50
    assert page.uncertainty_picture(found_in(20, 40)[:0]).size == (400, 200)


def test_thumbnails():
    mask = np.zeros((300, 500), bool)
    mask[100:200, 300:340] = True
    shot = page.Shot(Photo(np.zeros((300, 500, 3), np.uint8), "a.jpg"), mask)
    picture = page.thumbnail(shot)
    assert picture.shape[0] == page.THUMBNAIL and picture.dtype == np.uint8
    center = picture[picture.shape[0] // 2, picture.shape[1] // 2]
    assert center[0] > center[2] and not picture[0].any()


def test_tables_escape_names():
    text = page.table(found_in(20, 30))
    assert "&lt;b&gt;dog&lt;/b&gt; ★" in text and "<b>" not in text and "<td>90 %</td><td>88 %</td>" in text


def test_captions_compare_with_the_first():
    found = found_in(20, 30)
    other = page.shrunk(found_in(20, 30), 0.5)
    assert "overlap" not in page.caption(found, found, 8) and "2 objects, 8 network eval" in page.caption(
        found, found, 8
    )
    assert "IoU with the masks of A: 100 %" in page.caption(other, found, 8)
    half = encode_mask(found.mask(0) & (np.arange(20) < 10)[:, None])
    assert page.overlap(dataclasses.replace(found, rles=[half, found.rles[1]]), found) == pytest.approx(0.75)
    assert page.overlap(found[:0], found[:0]) == 1.0 and "confidence" not in page.caption(found[:0], found[:0], 8)


def test_downloads(tmp_path):
    path = page.write_results(found_in(20, 30), tmp_path)
    rows = json.loads(path.read_text())
    assert path.name == "a.json" and [r["category_name"] for r in rows] == ["cup", "<b>dog</b>"]
    with zipfile.ZipFile(page.write_zip(tiny.calibrated(), tmp_path)) as archive:
        archive.extractall(tmp_path / "out")
    assert export.read(tmp_path / "out" / "model").categories == tiny.calibrated().categories
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "model.zip", "out"]


def test_examples(tmp_path):
    assert page.examples(tmp_path / "nowhere") == [] and page.examples(tmp_path) == []
    for name in ("b.png", "a.jpg"):
        save(tmp_path / name, np.zeros((2, 2, 3), np.uint8))
    (tmp_path / "notes.txt").write_text("")
    assert [p.name for p in page.examples(tmp_path)] == ["a.jpg", "b.png"]
