import json

import pytest
from PIL import Image

from configs import base
from maskdiff_jax.data import pipeline
from maskdiff_jax.data.formats import coco_splits


def split_files(root):
    """TFA's layout with two photos per split: in 2014's and 2017's folders and under both kinds of name."""
    names = {
        "trainvalno5k": ["COCO_train2014_000000000009.jpg", "COCO_val2014_000000000042.jpg"],
        "5k": ["COCO_val2014_000000000073.jpg", "COCO_val2014_000000000074.jpg"],
    }
    (root / "cocosplit/datasplit").mkdir(parents=True)
    for stem, listed in names.items():
        images = [{"id": int(n[-16:-4]), "file_name": n, "height": 8, "width": 10} for n in listed]
        annotations = [
            {"id": i["id"], "image_id": i["id"], "category_id": c, "bbox": [1, 1, 4, 4], "iscrowd": 0,
             "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]]}
            for i, c in zip(images, (1, 80), strict=True)
        ]  # fmt: skip
        raw = {"images": images, "annotations": annotations}
        raw["categories"] = [{"id": i, "name": n} for i, n in coco_splits.CLASSES.items()]
        (root / f"cocosplit/datasplit/{stem}.json").write_text(json.dumps(raw))
    where = ["train2014/COCO_train2014_000000000009.jpg", "val2014/COCO_val2014_000000000042.jpg"]
    where += ["val2017/000000000073.jpg", "train2017/000000000074.jpg"]
    for k, name in enumerate(where):
        (root / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (10, 8), (60 * k, 0, 0)).save(root / name)
    return where


def tfa_data(root):
    data = base.get_config("coco").data.copy_and_resolve_references()
    data.root = str(root)
    return data


def test_photos_are_found_in_both_editions(tmp_path):
    where = split_files(tmp_path)
    data = tfa_data(tmp_path)
    data.counts = ""
    train, test = pipeline.open_split(data, "train"), pipeline.open_split(data, "test")
    assert [i.file_name for i in (*train.infos, *test.infos)] == where
    assert [int(r.read(i)[0, 0, 0]) // 50 for r in (train, test) for i in (0, 1)] == [0, 1, 2, 3]
    assert train.encoded(1) == (tmp_path / where[1]).read_bytes()
    (tmp_path / where[3]).unlink()
    with pytest.raises(FileNotFoundError) as error:
        pipeline.open_split(data, "test")
    text = str(error.value)
    assert text.startswith("1 of 2 images of coco test are missing, among them COCO_val2014_000000000074.jpg")
    assert f"{tmp_path / 'val2014'}, " in text and f"{tmp_path / 'trainval2014'} (does not exist)" in text


def test_counts_of_the_published_files(tmp_path):
    split_files(tmp_path)
    data = tfa_data(tmp_path)
    with pytest.raises(ValueError, match=r"5k\.json is .* images 2, not 5,000 \(-4,998\); annotations 2, not 35,"):
        pipeline.open_split(data, "test")
    with pytest.raises(ValueError, match=r"base objects 1, not 364,950 .* toaster 1, not 223 \(-222\).*data.counts=''"):
        pipeline.open_split(data, "support")
    data.counts = "voc"
    with pytest.raises(ValueError, match="choose tfa"):
        pipeline.open_split(data, "test")


def test_a_file_with_the_published_counts_passes(tmp_path, monkeypatch):
    split_files(tmp_path)
    known = {"train": {"images": 2, "base objects": 1, "images with base objects": 1, "toaster": 1, "truck": 0}}
    monkeypatch.setitem(coco_splits.KNOWN, "tfa", known | {"test": {"images": 2, "annotations": 2}})
    data = tfa_data(tmp_path)
    assert len(pipeline.open_split(data, "train").infos) == 2
    # a set that is prepared unchecked is not taken for a checked one
    data.counts = ""
    pipeline.prepare_split(data, "test")
    data.counts = "tfa"
    monkeypatch.setitem(coco_splits.KNOWN["tfa"], "test", {"images": 3})
    with pytest.raises(ValueError, match="images 2, not 3"):
        pipeline.open_split(data, "test")


def test_crowd_regions_are_no_base_objects(tmp_path):
    split_files(tmp_path)
    path = tmp_path / "cocosplit/datasplit/trainvalno5k.json"
    raw = json.loads(path.read_text())
    raw["annotations"][1]["iscrowd"] = 1
    path.write_text(json.dumps(raw))
    found = coco_splits.count(coco_splits.read_table(path))
    assert (found["annotations"], found["base objects"], found["images with base objects"]) == (2, 0, 0)
    raw["annotations"][1]["id"] = raw["annotations"][0]["id"]
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match="occurs more than once"):
        coco_splits.read_table(path)


def test_splits_are_a_choice_of_coco_alone():
    tfa, minival = base.get_config("coco").data, base.get_config("coco,split=minival").data
    assert (tfa.counts, tfa.test_json) == ("tfa", "cocosplit/datasplit/5k.json")
    assert (minival.counts, minival.more_images, minival.test_images) == ("", (), "val2017")
    assert base.get_config("coco,split=tfa").data == tfa
    for wrong in ("coco,split=val", "custom,split=tfa"):
        with pytest.raises(ValueError, match="tfa, minival"):
            base.get_config(wrong)
