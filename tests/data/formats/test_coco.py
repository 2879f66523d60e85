import contextlib
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskdiff_jax.data.dataset import Category
from maskdiff_jax.data.formats import coco
from maskdiff_jax.data.formats.segmentation import decode_mask

MINI = Path(__file__).resolve().parents[4] / "shared" / "data" / "coco_mini"


def write(folder: Path, annotations: list[dict], size=(10, 8)) -> tuple[Path, Path]:
    """One image of 10 x 8 px and two categories, whose ids are not in order."""
    (folder / "images").mkdir(exist_ok=True)
    Image.new("RGB", size, (9, 8, 7)).save(folder / "images" / "a.png")
    raw = {
        "images": [{"id": 7, "file_name": "a.png", "width": 10, "height": 8}],
        "annotations": annotations,
        "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}],
    }
    (folder / "a.json").write_text(json.dumps(raw))
    return folder / "a.json", folder / "images"


def box_annotation(i=1, bbox=(2, 1, 4, 3), **more):
    x, y, w, h = bbox
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {
        "id": i,
        "image_id": 7,
        "category_id": 5,
        "bbox": bbox,
        "segmentation": [polygon],
        "iscrowd": 0,
        **more,
    }


def test_load(tmp_path):
    dataset = coco.load(*write(tmp_path, [box_annotation(area=11.5)]), ["dog"])
    assert dataset.categories == (Category(2, "cat", False), Category(5, "dog", True))
    (info,) = dataset.infos
    (a,) = info.annotations
    assert (a.id, a.image_id, a.class_id, a.box, a.area, a.crowd) == (1, 7, 1, (2, 1, 6, 4), 11.5, False)
    expected = np.zeros((8, 10), np.uint8)
    expected[1:4, 2:6] = 1
    np.testing.assert_array_equal(decode_mask(a.rle), expected)
    assert dataset.read(0).shape == (8, 10, 3) and dataset.annotation_order == (1,)
    json.dumps(coco.ground_truth(dataset))


def test_bad_annotations_are_fixed_or_dropped_and_counted(tmp_path):
    crowd = {"size": [8, 10], "counts": [10, 6, 64]}  # uncompressed, column by column
    annotations = [
        box_annotation(1, (8, 5, 6, 6)),  # extends beyond the image
        box_annotation(2, segmentation=[]),
        box_annotation(3, segmentation=[[1, 1, 2, 2]]),  # a line
        box_annotation(4, segmentation=crowd, iscrowd=1, bbox=[1, 2, 1, 6]),
        box_annotation(5, bbox=(3, 3, 0, 2), segmentation=[[3, 3, 6, 3, 6, 6]]),
        box_annotation(6, segmentation={"size": [9, 9], "counts": "0"}),
    ]
    problems = Counter()
    dataset = coco.load(*write(tmp_path, annotations), problems=problems)
    assert [a.id for a in dataset.infos[0].annotations] == [1, 4]
    assert dataset.infos[0].annotations[0].box == (8, 5, 10, 8)
    assert dataset.infos[0].annotations[1].crowd
    assert problems["annotation without a mask (dropped)"] == 1
    assert problems["annotation with a broken polygon (dropped)"] == 1
    assert problems["annotation whose RLE is of another size than its image (dropped)"] == 1
    assert problems["annotation without a box inside the image (dropped)"] == 1
    assert problems["box extends beyond the image (clipped)"] == 1
    assert problems["crowd region (not used as a target)"] == 1


def test_missing_and_broken_files_are_named(tmp_path):
    path, images = write(tmp_path, [])
    with pytest.raises(FileNotFoundError, match="nothing.json"):
        coco.load(tmp_path / "nothing.json", images)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        coco.load(path, tmp_path / "nowhere")
    dataset = coco.load(path, images)
    (images / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.png"):
        dataset.read(0)
    Image.new("RGB", (9, 8)).save(images / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is 9 x 8 px, its json says 10 x 8"):
        dataset.read(0)
    (images / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        dataset.read(0)
    path.write_text("{")
    with pytest.raises(ValueError, match="not valid json"):
        coco.load(path, images)
    path.write_text("[]")
    with pytest.raises(ValueError, match="needs the lists"):
        coco.load(path, images)


def test_bad_ids(tmp_path):
    path, images = write(tmp_path, [])
    for bad in (2**31, "7", -1, 1.5):
        raw = json.loads(path.read_text())
        raw["images"][0]["id"] = bad
        path.write_text(json.dumps(raw))
        with pytest.raises(ValueError, match="image id"):
            coco.load(path, images)
    path, images = write(tmp_path, [box_annotation(900100259190)])  # official crowd regions have such ids
    assert coco.load(path, images).infos[0].annotations[0].id == 900100259190
    with pytest.raises(ValueError, match="horse"):
        coco.load(path, images, ["horse"])


def test_exif_rotation_and_gray_images(tmp_path):
    path, images = write(tmp_path, [])
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    Image.new("L", (8, 10), 50).save(images / "a.png", exif=exif)
    assert coco.load(path, images).read(0).shape == (8, 10, 3)


def evaluate(dataset, kind):
    """AP of the ground truth fed as detections."""
    truth = coco.ground_truth(dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO()
        api.dataset = truth
        api.createIndex()
        results = [
            {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0,
             "segmentation": a["segmentation"]}
            for a in truth["annotations"] if not a["iscrowd"]
        ]  # fmt: skip
        run = COCOeval(api, api.loadRes(results), kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats[0]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_ground_truth_scores_itself_perfectly(test_split, kind):
    assert evaluate(test_split, kind) == pytest.approx(1.0)


@pytest.mark.skipif(not MINI.is_dir(), reason="shared data not here")
def test_coco_mini():
    problems = Counter()
    dataset = coco.load(MINI / "annotations/instances_val.json", MINI / "val", ["person"], problems=problems)
    assert len(dataset.infos) == 126 and len(dataset.categories) == 80
    assert sum(not a.crowd for i in dataset.infos for a in i.annotations) == 1006
    assert problems["crowd region (not used as a target)"] == 8
    assert [c.id for c in dataset.categories if c.novel] == [1]
    assert dataset.read(3).shape == (dataset.infos[3].height, dataset.infos[3].width, 3)
    assert evaluate(dataset, "segm") == pytest.approx(1.0)
