"""What is found in an image: choosing objects, pictures, files, COCO results, the fields of supervision."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from maskdiff_jax.data.dataset import Category
from maskdiff_jax.data.formats.segmentation import encode_mask
from maskdiff_jax.inference import results
from maskdiff_jax.inference.results import Detections

HW = 30, 40


def found(n: int = 3, samples: int = 2) -> Detections:
    """Filled boxes, 10 px wide, on gray."""
    boxes = np.array([[5 * i, 4, 5 * i + 10, 24] for i in range(n)], np.float32).reshape(-1, 4)
    masks = np.zeros((n, *HW), np.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int), strict=True):
        mask[y0:y1, x0:x1] = 1
    each = np.full((n, samples, 8, 8), 0.5, np.float32)
    each[:, 0] = 1.0
    return Detections(
        image=np.full((*HW, 3), 128, np.uint8), file="photo.png",
        categories=(Category(3, "cup", False), Category(7, "zebra", True)),
        boxes=boxes, scores=np.linspace(0.9, 0.5, n).astype(np.float32), class_ids=np.arange(n, dtype=np.int32) % 2,
        rles=[encode_mask(m) for m in masks], confidence=np.linspace(0.5, 1.0, n).astype(np.float32), regions=boxes,
        region_soft=each.mean(1), region_samples=each,
    )  # fmt: skip


def test_length_names_and_choice():
    all_of_them = found()
    assert len(all_of_them) == 3 and all_of_them.labels == ["cup", "zebra", "cup"]
    assert all_of_them.names == ("cup", "zebra") and all_of_them.hw == HW
    assert len(all_of_them[1]) == 1 and all_of_them[1].labels == ["zebra"] and all_of_them[-1].scores[0] == 0.5
    good = all_of_them[all_of_them.scores > 0.6]
    assert len(good) == 2 and len(good.rles) == 2 and good.samples.shape == (2, 2, *HW)
    assert [x.labels[0] for x in all_of_them] == all_of_them.labels
    with pytest.raises(IndexError):
        all_of_them[3]
    assert "Detections(3 in 30 x 40 px: cup 0.90, zebra 0.70, cup 0.50)" == repr(all_of_them)
    assert len(all_of_them[:0]) == 0 and repr(all_of_them[:0]) == "Detections(0 in 30 x 40 px)"


def test_uncertainty_is_the_variance_of_the_label():
    """Soft value 3/4: 4 * 3/4 * 1/4."""
    one = found()[0]
    assert one.soft[0, 14, 5] == pytest.approx(0.75) and one.uncertainty[0, 14, 5] == pytest.approx(0.75)
    assert one.uncertainty[0, 0, 0] == 0 and one.uncertainty.shape == (1, *HW)


def test_rescored_is_best_first():
    again = found().rescored()
    np.testing.assert_allclose(again.scores, [0.525, 0.5, 0.45], atol=1e-6)
    np.testing.assert_array_equal(again.boxes[:, 0], [5, 10, 0])


def test_coco(tmp_path):
    rows = found().to_coco(image_id=4)
    assert rows[1] == {
        "image_id": 4, "category_id": 7, "score": 0.7, "bbox": [5.0, 4.0, 10.0, 20.0], "confidence": 0.75,
        "segmentation": found().rles[1], "category_name": "zebra", "file_name": "photo.png",
    }  # fmt: skip
    np.testing.assert_array_equal(rle.decode(rows[1]["segmentation"]).astype(bool), found().masks[1])
    found().save(tmp_path / "new" / "found.json")
    assert json.loads((tmp_path / "new" / "found.json").read_text()) == found().to_coco()


def test_pictures(tmp_path):
    picture = found().plot()
    assert picture.width % HW[1] == 0 and picture.width / HW[1] == picture.height / HW[0]
    assert (np.asarray(picture) != 128).any()
    for name in ("found.png", "found.JPG"):
        saved = Image.open(found().save(tmp_path / name))
        assert saved.size == picture.size
    assert (np.asarray(found()[:0].plot()) == 128).all()
    with pytest.raises(ValueError, match="found.gif: the name must end in .png, .jpg"):
        found().save(tmp_path / "found.gif")
    with pytest.raises(ValueError, match="to an image of 30 x 40 px, but the image has 40 x 30"):
        results.draw(np.zeros((40, 30, 3), np.uint8), found())


@pytest.mark.parametrize("n", [0, 3])
def test_fields_of_supervision(n):
    """Names and shapes as `supervision.Detections` checks them (supervision/validators/__init__.py)."""
    fields = found(n).to_supervision()
    assert fields["xyxy"].shape == (n, 4)
    assert fields["mask"].shape == (n, *HW) and fields["mask"].dtype == bool
    assert fields["confidence"].shape == fields["class_id"].shape == (n,)
    assert fields["class_id"].dtype.kind == "i" and fields["data"]["class_name"].tolist() == found(n).labels
    assert set(fields) == {"xyxy", "mask", "confidence", "class_id", "data"}


def test_the_package_supervision_takes_the_fields():
    """Tried with 0.31; CI does not install it."""
    supervision = pytest.importorskip("supervision", reason="the package supervision is not installed")
    ours = found()
    theirs = supervision.Detections(**ours.to_supervision())
    assert len(theirs) == 3 and theirs.area.tolist() == [200, 200, 200]
    np.testing.assert_array_equal(theirs.box_area, [200, 200, 200])
    best = theirs[theirs.confidence > 0.6]
    assert best["class_name"].tolist() == ["cup", "zebra"] and best.class_id.tolist() == [0, 1]
    image = np.zeros((*HW, 3), np.uint8)
    tinted = supervision.MaskAnnotator(opacity=1.0).annotate(image.copy(), theirs)
    np.testing.assert_array_equal(tinted.any(-1), ours.masks.any(0))
    framed = supervision.BoxAnnotator(thickness=1).annotate(image.copy(), theirs)
    assert framed[4, 0:11].any(-1).all() and not framed[25:].any()
    assert supervision.LabelAnnotator().annotate(image.copy(), theirs).any()
    none = supervision.Detections(**found(0).to_supervision())
    assert len(none) == 0 and len(supervision.Detections.merge([none, theirs])) == 3
