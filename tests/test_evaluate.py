"""Scoring: what is certain without a model. The truth scores 100, COCO-All is the mean of its classes."""

from pathlib import Path

import numpy as np
import pytest

from maskdiff_jax import evaluate
from maskdiff_jax.data import coco, shapes

MINI = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco_mini"
NOVEL = ["person", "car", "chair", "bottle"]


def records(name):
    if name == "shapes":
        return coco.with_novel(shapes.scenes("shapes", "test", 0, 12), ["star", "ring", "arrow", "crescent"])
    if not MINI.is_dir():
        pytest.skip("coco_mini is not in this checkout")
    return coco.load(MINI / "annotations/instances_val.json", MINI / "val", NOVEL)


def truth_as_results(data, score=lambda a: 1.0):
    """The truth, as `evaluate.predict` would put it: rounded boxes, masks as RLE, no crowd regions."""
    ids = [c.id for c in data.categories]
    return [
        evaluate._result(info.id, ids[a.class_id], score(a), np.array(a.box)) | {"segmentation": a.rle}
        for info in data.infos
        for a in info.annotations
        if not a.crowd
    ]


@pytest.mark.parametrize("name", ["shapes", "coco_mini"])
def test_truth_scores_100(name):
    data = records(name)
    metrics, per_class, curves = evaluate.score(data, truth_as_results(data), np.arange(len(data.categories)))
    for kind in ("bbox", "segm"):
        for group in ("", "base/", "novel/"):
            for measure in ("AP", "AP50", "AP75"):
                assert metrics[f"{kind}/{group}{measure}"] == pytest.approx(100.0), (kind, group, measure)
        assert list(per_class[kind].values()) == pytest.approx([100.0] * len(per_class[kind]))
        assert curves[f"{kind}/all"] == pytest.approx([100.0] * 10)


@pytest.mark.parametrize("name", ["shapes", "coco_mini"])
def test_all_is_the_mean_of_base_and_novel_classes(name):
    """AP = (b bAP + n nAP) / (b + n) over the classes that occur [fsis_protocol.md, section 2.8]."""
    data = records(name)
    rng = np.random.default_rng(0)
    # a third of the objects missed, a third under another class, random scores
    results = [r for r in truth_as_results(data, lambda a: rng.random()) if rng.random() > 0.33]
    ids = [c.id for c in data.categories]
    for r in results:
        if rng.random() < 0.33:
            r["category_id"] = int(rng.choice(ids))
    metrics, per_class, _ = evaluate.score(data, results, np.arange(len(ids)))
    present = {a.class_id for i in data.infos for a in i.annotations if not a.crowd}
    novel = sum(data.categories[c].novel for c in present)
    base = len(present) - novel
    for kind in ("bbox", "segm"):
        b, n = metrics[f"{kind}/base/AP"], metrics[f"{kind}/novel/AP"]
        assert 0 < n < 100 and 0 < b < 100
        assert metrics[f"{kind}/AP"] == pytest.approx((base * b + novel * n) / (base + novel))
        assert len(per_class[kind]) == base + novel


def test_classes_that_are_not_scored_do_not_count():
    data = records("shapes")
    base = np.array([i for i, c in enumerate(data.categories) if not c.novel])
    ids = [data.categories[i].id for i in base]
    results = [r for r in truth_as_results(data) if r["category_id"] in ids]
    metrics, per_class, _ = evaluate.score(data, results, base)
    assert metrics["bbox/AP"] == pytest.approx(100.0) and "bbox/novel/AP" not in metrics
    assert len(per_class["segm"]) == len(base)


def test_results_without_masks_count_for_boxes_only():
    data = records("shapes")
    results = truth_as_results(data)
    for r in results[::2]:
        del r["segmentation"]
    metrics, _, _ = evaluate.score(data, results, np.arange(12))
    assert metrics["bbox/AP"] == pytest.approx(100.0) and 0 < metrics["segm/AP"] < 100


def test_no_results_score_nothing():
    data = records("shapes")
    metrics, _, _ = evaluate.score(data, [], np.arange(12))
    assert metrics["bbox/AP"] == metrics["segm/novel/AP"] == 0.0
