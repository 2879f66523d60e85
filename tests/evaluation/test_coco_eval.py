"""Scores that are certain without a model: ground truth scores 100, COCO-All is the mean over its classes."""

import contextlib
import io
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskdiff_jax.data.dataset import Annotation, Category, Dataset, ImageInfo, with_novel
from maskdiff_jax.data.formats import coco
from maskdiff_jax.data.formats.segmentation import encode_mask
from maskdiff_jax.data.synthetic import scenes
from maskdiff_jax.evaluation import coco_eval
from tests.data.small_json import IMAGE, annotation, odd_json

MINI = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_mini"

NOVEL = ["person", "car", "chair", "bottle"]


def dataset(name):
    if name == "shapes":
        return with_novel(scenes.scenes("shapes", "test", 0, 12), ["star", "ring", "arrow", "crescent"])
    if not MINI.is_dir():
        pytest.skip("coco_mini is not in this checkout")
    return coco.load(MINI / "annotations/instances_val.json", MINI / "val", NOVEL)


def truth_as_results(data, score=lambda a: 1.0):
    """The ground truth as COCO results: rounded boxes, masks as RLE, no crowd regions."""
    ids = [c.id for c in data.categories]
    return [
        coco_eval.result_row(info.id, ids[a.class_id], score(a), np.array(a.box), a.rle)
        for info in data.infos
        for a in info.annotations
        if not a.crowd
    ]


@pytest.mark.parametrize("name", ["shapes", "coco_mini"])
def test_truth_scores_100(name):
    data = dataset(name)
    metrics, per_class, curves = coco_eval.score(data, truth_as_results(data), np.arange(len(data.categories)))
    for kind in ("bbox", "segm"):
        for group in ("", "base/", "novel/"):
            for measure in ("AP", "AP50", "AP75"):
                assert metrics[f"{kind}/{group}{measure}"] == pytest.approx(100.0), (kind, group, measure)
        assert list(per_class[kind].values()) == pytest.approx([100.0] * len(per_class[kind]))
        assert curves[f"{kind}/all"] == pytest.approx([100.0] * 10)


@pytest.mark.parametrize("name", ["shapes", "coco_mini"])
def test_all_is_the_mean_of_base_and_novel_classes(name):
    """AP = (b bAP + n nAP) / (b + n) over the classes that occur."""
    data = dataset(name)
    rng = np.random.default_rng(0)
    # a third of the objects missed, a third under another class, random scores
    results = [r for r in truth_as_results(data, lambda a: rng.random()) if rng.random() > 0.33]
    ids = [c.id for c in data.categories]
    for r in results:
        if rng.random() < 0.33:
            r["category_id"] = int(rng.choice(ids))
    metrics, per_class, _ = coco_eval.score(data, results, np.arange(len(ids)))
    present = {a.class_id for i in data.infos for a in i.annotations if not a.crowd}
    novel = sum(data.categories[c].novel for c in present)
    base = len(present) - novel
    for kind in ("bbox", "segm"):
        b, n = metrics[f"{kind}/base/AP"], metrics[f"{kind}/novel/AP"]
        assert 0 < n < 100 and 0 < b < 100
        assert metrics[f"{kind}/AP"] == pytest.approx((base * b + novel * n) / (base + novel))
        assert len(per_class[kind]) == base + novel


def test_classes_that_are_not_scored_do_not_count():
    data = dataset("shapes")
    base = np.array([i for i, c in enumerate(data.categories) if not c.novel])
    ids = [data.categories[i].id for i in base]
    results = [r for r in truth_as_results(data) if r["category_id"] in ids]
    metrics, per_class, _ = coco_eval.score(data, results, base)
    assert metrics["bbox/AP"] == pytest.approx(100.0) and "bbox/novel/AP" not in metrics
    assert len(per_class["segm"]) == len(base)


def test_results_without_masks_count_for_boxes_only():
    data = dataset("shapes")
    results = truth_as_results(data)
    for r in results[::2]:
        del r["segmentation"]
    metrics, _, _ = coco_eval.score(data, results, np.arange(12))
    assert metrics["bbox/AP"] == pytest.approx(100.0) and 0 < metrics["segm/AP"] < 100


def test_boxes_around_the_masks():
    mask = np.zeros((20, 30), bool)
    mask[4, 6] = mask[9, 11] = True  # rows 4..9, columns 6..11
    loose = coco_eval.result_row(1, 5, 0.5, np.array([2.0, 3.0, 25.0, 18.0]), encode_mask(mask), 0.9)
    empty = loose | {"segmentation": encode_mask(np.zeros((20, 30), bool))}
    no_mask = {k: v for k, v in loose.items() if k != "segmentation"}
    assert coco_eval.tightened([loose, empty, no_mask]) == [loose | {"bbox": [6, 4, 6, 6]}, empty, no_mask]
    data = dataset("shapes")
    moved = [r | {"bbox": [0, 0, 9, 9]} for r in truth_as_results(data)]
    assert coco_eval.score(data, moved, np.arange(12)).metrics["bbox/AP"] < 1
    metrics = coco_eval.score(data, coco_eval.tightened(moved), np.arange(12)).metrics
    assert metrics["bbox/AP"] == pytest.approx(100.0) == metrics["segm/AP"]


@pytest.mark.parametrize("name", ["shapes", "coco_mini"])
def test_the_other_scorer_gives_the_same_numbers(name):
    """Boxes and masks that are off by some pixels, some under another class, one image without results."""
    pytest.importorskip("faster_coco_eval")
    data, rng = dataset(name), np.random.default_rng(0)
    ids = [c.id for c in data.categories]
    results = [r for r in truth_as_results(data, lambda a: rng.random()) if r["image_id"] != data.infos[0].id] * 2
    for i, r in enumerate(results):
        x, y, w, h = r["bbox"]
        results[i] = r | {"bbox": [x + rng.normal(0, w / 8), y, w, h * rng.uniform(0.8, 1.2)]}
        if rng.random() < 0.2:
            results[i]["category_id"] = int(rng.choice(ids))
        if rng.random() < 0.5:
            mask = np.roll(mask_utils.decode(r["segmentation"]), 1 + i % 3, axis=i % 2)
            results[i]["segmentation"] = encode_mask(mask)
    official = coco_eval.score(data, results, np.arange(len(ids)))
    other = coco_eval.score(data, results, np.arange(len(ids)), "faster_coco_eval")
    assert 5 < official.metrics["segm/AP"] < 95 and 5 < official.metrics["bbox/novel/AP"] < 95
    # pycocotools adds 2e-16 to denominators
    assert other.metrics == pytest.approx(official.metrics, abs=1e-9)
    assert other.per_class["segm"] == pytest.approx(official.per_class["segm"], abs=1e-9)
    assert other.curves.keys() == official.curves.keys()
    for group, values in official.curves.items():
        assert other.curves[group] == pytest.approx(values, abs=1e-9)
    nothing = coco_eval.score(data, [], np.arange(len(ids)), "faster_coco_eval")
    assert nothing == coco_eval.score(data, [], np.arange(len(ids)))


def test_a_scorer_that_is_not_there(monkeypatch):
    coco_eval.check_scorer("pycocotools")
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ValueError, match="not installed: pip install faster-coco-eval, or set eval.scorer=pycocotools"):
        coco_eval.check_scorer("faster_coco_eval")
    with pytest.raises(ValueError, match="eval.scorer is 'cocoapi', must be pycocotools or faster_coco_eval"):
        coco_eval.check_scorer("cocoapi")


def test_no_results_score_nothing():
    data = dataset("shapes")
    metrics, _, _ = coco_eval.score(data, [], np.arange(12))
    assert metrics["bbox/AP"] == metrics["segm/novel/AP"] == 0.0


def test_a_mask_is_as_large_as_its_pixels_not_as_its_box(tmp_path):
    """A false mask of 400 px in a box of 150 x 150 px lowers APs, not APl."""
    side = 200
    ring = np.zeros((side, side), bool)
    ring[10:160, 10] = ring[159, 10:160] = ring[10, 10:112] = True
    small, large = np.zeros((side, side), bool), np.zeros((side, side), bool)
    small[170:190, 10:30], large[60:160, 60:160] = True, True
    assert ring.sum() == 400 == small.sum() and large.sum() > 96**2
    annotations = [
        Annotation(k + 1, 1, 0, box, encode_mask(m), float(m.sum()), False)
        for k, (m, box) in enumerate([(small, (10, 170, 30, 190)), (large, (60, 60, 160, 160))])
    ]
    info = ImageInfo(1, "1.png", side, side, tuple(annotations))
    data = Dataset("two", "test", (Category(1, "thing", False),), [info], lambda i: None)
    results = truth_as_results(data, lambda a: 0.5)
    wrong = coco_eval.result_row(1, 1, 0.9, np.array([10, 10, 160, 160])) | {"segmentation": encode_mask(ring)}
    metrics, _, _ = coco_eval.score(data, [*results, wrong], np.array([0]))
    assert metrics["segm/APs"] == pytest.approx(50.0) and metrics["segm/APl"] == pytest.approx(100.0)
    assert metrics["bbox/APl"] == pytest.approx(50.0) and metrics["bbox/APs"] == pytest.approx(100.0)


@pytest.mark.parametrize("first", [0, 1])
def test_annotation_ids_may_begin_at_zero(tmp_path, first):
    """As in many custom files: COCOeval takes a match with object 0 for none, here it counts."""
    annotations = [annotation(first), annotation(first + 1, bbox=[0, 4, 2, 3], segmentation=[[0, 4, 2, 4, 2, 7, 0, 7]])]
    raw = {"images": [IMAGE], "categories": [{"id": 5, "name": "dog"}], "annotations": annotations}
    path = tmp_path / "true.json"
    path.write_text(json.dumps(raw))
    data = coco.load(path, tmp_path, problems=Counter())
    metrics, _, _ = coco_eval.score(data, truth_as_results(data, lambda a: 0.5), np.arange(1))
    assert metrics["bbox/AP"] == metrics["segm/AP"] == pytest.approx(100)


def test_scores_are_those_of_the_official_tool_on_the_file(tmp_path):
    path, numbered, raw = tmp_path / "odd.json", tmp_path / "numbered.json", odd_json()
    path.write_text(json.dumps(raw))
    data = coco.load(path, tmp_path, problems=Counter())
    for a in raw["annotations"]:
        a["id"] = a["id"] or 1  # the official tool counts a detection of object 0 as false
    numbered.write_text(json.dumps(raw))
    rng = np.random.default_rng(0)
    results = []
    for a in [a for a in raw["annotations"] if a["image_id"] != 77] * 3:
        mask, (x, y, w, h) = np.zeros((100, 120), bool), np.array(a["bbox"]) + rng.uniform(-4, 4, 4)
        mask[int(max(y, 0)) : int(max(y + h, 0)) + 1, int(max(x, 0)) : int(max(x + w, 0)) + 1] = True
        one = {"image_id": a["image_id"], "category_id": a["category_id"], "score": float(rng.random())}
        results.append(one | {"bbox": [x, y, max(w, 0), max(h, 0)], "segmentation": encode_mask(mask)})
    metrics, _, _ = coco_eval.score(data, results, np.arange(3))
    for kind in ("bbox", "segm"):
        with contextlib.redirect_stdout(io.StringIO()):
            ground_truth = COCO(str(numbered))
            mine = [{k: v for k, v in r.items() if k != "bbox" or kind == "bbox"} for r in results]
            official = COCOeval(ground_truth, ground_truth.loadRes(mine), kind)
            official.evaluate()
            official.accumulate()
            official.summarize()
        for name, value in zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), official.stats[:6], strict=True):
            assert 0 <= value < 1 or (value == -1 and f"{kind}/{name}" not in metrics)
            if value >= 0:
                assert metrics[f"{kind}/{name}"] == pytest.approx(100 * value), (kind, name)
        assert sum(v > 0 for v in official.stats[:6]) >= 4
