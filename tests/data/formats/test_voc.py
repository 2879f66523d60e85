"""PASCAL VOC as COCO-format dataset: a tiny devkit of both years."""

import json

import numpy as np
import pytest
from PIL import Image

from configs import base
from configs import fewshot as fewshot_config
from maskdiff_jax.data import pipeline
from maskdiff_jax.data.dataset import Category, Dataset
from maskdiff_jax.data.formats import coco, coco_splits, voc
from maskdiff_jax.data.formats.segmentation import decode_mask
from maskdiff_jax.evaluation import coco_eval, evaluate
from maskdiff_jax.reporting import report, runs, sections


def add(root, year, name, objects, classes, size=None):
    """One photo of a year with its two label images; appended to the year's val.txt."""
    home = root / f"VOC{year}"
    for folder in ("JPEGImages", "SegmentationObject", "SegmentationClass", "ImageSets/Segmentation"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    for folder, labels in (("SegmentationObject", objects), ("SegmentationClass", classes)):
        image = Image.fromarray(np.asarray(labels, np.uint8))
        image.putpalette(list(range(256)) * 3)
        image.save(home / folder / f"{name}.png")
    h, w = np.shape(objects)
    Image.new("RGB", size or (w, h), (90, 120, 30)).save(home / "JPEGImages" / f"{name}.jpg")
    with open(home / "ImageSets/Segmentation/val.txt", "a") as file:
        file.write(f"{name}\n")


def scene(*rectangles):
    """Object and class labels [12, 20] of (object, class, y0, x0, y1, x1), later ones in front, with a void rim."""
    objects, classes = np.zeros((2, 12, 20), np.uint8)
    for value, label, y0, x0, y1, x1 in rectangles:
        for labels in (objects, classes):
            labels[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = voc.VOID
        objects[y0:y1, x0:x1], classes[y0:y1, x0:x1] = value, label
    return objects, classes


@pytest.fixture
def devkit(tmp_path):
    root = tmp_path / "VOCdevkit"
    # two people (15) side by side and a sofa (18) far from them; object numbers with gaps
    add(root, "2012", "2008_000001", *scene((1, 15, 2, 2, 8, 5), (2, 15, 2, 7, 9, 11), (7, 18, 3, 14, 10, 19)))
    add(root, "2012", "2007_000033", *scene((1, 1, 1, 1, 6, 9)))
    add(root, "2007", "000033", *scene((1, 20, 1, 1, 6, 9)))  # the same photo, known better since
    add(root, "2007", "000042", *scene((1, 20, 4, 4, 9, 12)))
    return root


def test_both_years_once_each(devkit):
    assert voc.image_list(devkit) == [("2012", "2008_000001"), ("2012", "2007_000033"), ("2007", "000042")]
    raw, problems = voc.convert(devkit, voc.image_list(devkit))
    assert not +problems
    assert [i["id"] for i in raw["images"]] == [2008000001, 2007000033, 2007000042]
    assert raw["images"][2]["file_name"] == "VOC2007/JPEGImages/000042.jpg"
    name_of = {c["id"]: c["name"] for c in raw["categories"]}
    assert name_of == coco_splits.CLASSES and len(name_of) == 80
    found = [(a["image_id"], name_of[a["category_id"]], a["bbox"], a["area"]) for a in raw["annotations"]]
    assert found == [
        (2008000001, "person", [2, 2, 3, 6], 18),
        (2008000001, "person", [7, 2, 4, 7], 28),
        (2008000001, "couch", [14, 3, 5, 7], 35),
        (2007000033, "airplane", [1, 1, 8, 5], 40),
        (2007000042, "tv", [4, 4, 8, 5], 40),
    ]
    mask = decode_mask(raw["annotations"][1]["segmentation"])
    assert mask.sum() == 28 and mask[2:9, 7:11].all()  # the border does not belong to it


def test_names_are_cocos_novel_classes():
    ids = {name: i for i, name in coco_splits.CLASSES.items()}
    assert tuple(sorted(ids[n] for n in voc.NAMES)) == coco_splits.NOVEL_IDS
    assert {coco_splits.CLASSES[i] for i in coco_splits.NOVEL_IDS} == set(base.get_config("coco").data.novel_classes)
    # VOC's order is its own: person 15, sofa 18, tvmonitor 20
    assert (voc.NAMES[0], voc.NAMES[14], voc.NAMES[17], voc.NAMES[19]) == ("airplane", "person", "couch", "tv")


def test_the_source(devkit):
    data = base.get_config("coco").data.copy_and_resolve_references()
    data.source, data.root = "voc", str(devkit)
    dataset = pipeline.open_split(data, "test")
    assert [c.id for c in dataset.categories] == list(coco_splits.CLASSES)
    assert sum(c.novel for c in dataset.categories) == 20
    (first, *_) = dataset.infos
    assert [dataset.categories[a.class_id].name for a in first.annotations] == ["person", "person", "couch"]
    assert dataset.read(2).shape == (12, 20, 3)
    files = list(devkit.glob("*.json"))
    assert len(files) == 1 and pipeline.open_split(data, "test").infos == dataset.infos
    with pytest.raises(ValueError, match="voc has only the split test, not 'support'"):
        pipeline.open_split(data, "support")
    # another list is another file
    add(devkit, "2012", "2009_000007", *scene((3, 7, 1, 1, 6, 9)))
    assert len(pipeline.open_split(data, "test").infos) == 4
    pipeline.prepare_split(data, "test")
    assert pipeline.open_split(data, "test").infos[2].annotations[0].box == (1.0, 1.0, 9.0, 6.0)


def test_doubtful_objects_are_counted(devkit):
    objects, classes = scene((1, 3, 1, 1, 5, 5), (2, 3, 1, 8, 5, 12), (3, 3, 7, 1, 11, 5), (4, 3, 7, 8, 11, 12))
    classes[1:5, 1:5] = 0  # object 1: no class at all
    classes[1:4, 8:12] = voc.VOID  # object 2: void on most of it
    classes[7, 1:5] = 9  # object 3: another class on a quarter of it
    add(devkit, "2012", "2010_000001", objects, classes)
    add(devkit, "2012", "2010_000002", *np.full((2, 12, 20), voc.VOID))  # nothing but void
    raw, problems = voc.convert(devkit, voc.image_list(devkit))
    mine = [a for a in raw["annotations"] if a["image_id"] in (2010000001, 2010000002)]
    assert [a["bbox"][:2] for a in mine] == [[1, 7], [8, 7]] and len(raw["images"]) == 5
    assert dict(+problems) == {
        "object without a class (dropped)": 1,
        "object whose class image disagrees on most of it (dropped)": 1,
        "object whose class image disagrees on some of it": 1,
    }
    assert json.loads(voc.coco_json(devkit).read_text())["info"]["problems"] == dict(+problems)


def test_broken_kits_are_named(devkit):
    def refuses(error, match):
        with pytest.raises(error, match=match):
            voc.coco_json(devkit)
        assert not list(devkit.glob("*.json*"))

    labels = devkit / "VOC2007/SegmentationObject/000042.png"
    good = labels.read_bytes()
    labels.write_bytes(good[:60])
    refuses(ValueError, r"cannot read .*000042\.png")
    Image.new("RGB", (20, 12)).save(labels)
    refuses(ValueError, r"has colors \(RGB\)")
    Image.new("L", (12, 20)).save(labels)
    refuses(ValueError, "is 12 x 20 px")
    labels.unlink()
    refuses(FileNotFoundError, r"1 files of VOC are missing, e\.g\. .*000042\.png")
    labels.write_bytes(good)
    classes = devkit / "VOC2007/SegmentationClass/000042.png"
    Image.fromarray(np.full((12, 20), 33, np.uint8)).save(classes)
    refuses(ValueError, "has class 33")
    classes.write_bytes(good)
    val = devkit / "VOC2007/ImageSets/Segmentation/val.txt"
    val.write_text("000042 1\n")
    refuses(ValueError, "'1' is not a VOC image name")
    val.unlink()
    refuses(FileNotFoundError, r"looked for .*VOC2007.ImageSets.Segmentation.val\.txt; unpack")


def test_a_photo_of_another_size(devkit):
    add(devkit, "2012", "2011_000001", *scene((1, 7, 1, 1, 6, 9)), size=(21, 12))
    data = base.get_config("coco").data.copy_and_resolve_references()
    data.source, data.root = "voc", str(devkit)
    dataset = pipeline.open_split(data, "test")
    with pytest.raises(ValueError, match=r"2011_000001\.jpg is 21 x 12 px"):
        dataset.read(2)


def test_results_on_voc_have_a_folder_of_their_own(devkit, tmp_path):
    config = base.get_config("coco")
    assert evaluate.default_output(config, tmp_path) == tmp_path and evaluate.scored_data(config) is config.data
    config.eval.source, config.eval.root = "voc", str(devkit)
    assert evaluate.default_output(config, tmp_path) == tmp_path / "voc"
    assert len(pipeline.open_split(evaluate.scored_data(config), "test").infos) == 3
    assert config.data.source == "coco"
    document = {"stage": "fewshot", "shots": 1, "config": {"data": {"source": "coco"}}}
    assert sections.label(document | {"dataset": "voc"}) == "stage 2: 1 shot, on voc"
    assert sections.label(document | {"dataset": "coco"}) == "stage 2: 1 shot"


def test_evaluation_on_voc(devkit, tmp_path, monkeypatch):
    """Everything around the model: whose images, which classes, where to, which scores; the truth is predicted."""
    config = fewshot_config.get_config("coco,shots=1").unlock()
    config.fewshot.classes = "novel"
    config.eval.update(source="voc", root=str(devkit), gt_classes_only=True)
    names = base.get_config("coco").data.novel_classes
    categories = tuple(Category(i, n, n in names) for i, n in coco_splits.CLASSES.items())
    support_split = Dataset("coco", "support", categories, [], lambda i: None)
    novel = [k for k, c in enumerate(categories) if c.novel]
    opened = pipeline.open_split

    def predict(config, setup, found):
        assert setup.class_ids.tolist() == novel
        exact = [
            coco_eval.result_row(i.id, categories[a.class_id].id, 0.5, np.array(a.box), a.rle)
            for i in setup.dataset.infos
            for a in i.annotations
        ]
        wrong = [p | {"category_id": 5, "score": 0.9} for p in exact if p["category_id"] != 5]
        return evaluate.Predictions(exact + wrong, 0, None)

    monkeypatch.setattr(
        pipeline, "open_split", lambda data, split: support_split if split == "support" else opened(data, split)
    )
    monkeypatch.setattr(evaluate, "make_support_set", lambda c, support_split: (dict.fromkeys(novel, (7,)), None))
    monkeypatch.setattr(evaluate, "predict", predict)
    monkeypatch.setattr(evaluate, "mask_ious", lambda *_: {})
    for name in ("load_weights", "_segmenter", "find_objects"):
        monkeypatch.setattr(evaluate, name, lambda *_, **__: None)
    monkeypatch.setattr(evaluate.figures, "render", lambda *_: None)
    document = evaluate.run(config, tmp_path / "run")
    assert document == json.loads((tmp_path / "run/voc/metrics.json").read_text())
    assert not (tmp_path / "run/metrics.json").exists() and (tmp_path / "run/voc/predictions.json").is_file()
    assert (document["dataset"], document["metrics"]["images"]) == ("voc", 3)
    assert document["shots_per_class"] == dict.fromkeys((n for n in coco_splits.CLASSES.values() if n in names), 1)
    m = document["metrics"]
    assert m["bbox/AP"] == m["bbox/novel/AP"] < 95 and "bbox/base/AP" not in m
    assert m["gt_classes_only/bbox/novel/AP"] == m["gt_classes_only/segm/AP"] == pytest.approx(100.0)
    report.group([runs.read(tmp_path / "run/voc")])

    other = tuple(c._replace(id=k) for k, c in enumerate(categories))
    support_split = support_split._replace(categories=other)
    with pytest.raises(ValueError, match="eval.source=voc has other classes than coco"):
        evaluate.run(config, tmp_path / "run")


def test_gt_classes_only_keeps_the_classes_of_the_truth(devkit):
    dataset = coco.load(voc.coco_json(devkit), devkit, [coco_splits.CLASSES[i] for i in coco_splits.NOVEL_IDS])
    rank = {c.id: k for k, c in enumerate(dataset.categories)}
    exact = [
        coco_eval.result_row(a.image_id, dataset.categories[a.class_id].id, 0.5, np.array(a.box), a.rle)
        for i in dataset.infos
        for a in i.annotations
    ]
    # better scored detections of classes that other images hold: plain AP suffers, gt_classes_only does not see them
    wrong = [p | {"category_id": c, "score": 0.9} for p in exact for c in (5, 72) if c != p["category_id"]]
    ids = np.array([rank[i] for i in coco_splits.NOVEL_IDS], np.int32)
    plain, _, _ = coco_eval.score(dataset, exact + wrong, ids)
    filtered, _, _ = coco_eval.score(dataset, coco_eval.gt_classes_only(dataset, exact + wrong), ids)
    assert plain["segm/AP"] < 90 and filtered["segm/AP"] == filtered["bbox/AP"] == pytest.approx(100.0)
    assert filtered == coco_eval.score(dataset, exact, ids)[0]
    assert coco_eval.gt_classes_only(dataset, []) == []
