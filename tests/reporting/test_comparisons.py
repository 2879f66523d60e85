"""Paired comparisons on shared shot seeds."""

import math

import pytest

from maskdiff_jax.reporting import comparisons, difference_tables, findings, grid, statistics, tables
from tests.reporting.example_grid import base_document, document, write_document


def experiments(tmp_path, values):
    """``values``: method -> {shot seed: mask AP}."""
    for method, by_seed in values.items():
        for seed, value in by_seed.items():
            doc = document(method, 1, seed)
            doc["metrics"] = {"segm/AP": value}
            write_document(tmp_path / f"{method}{seed}", doc)
    found, _ = grid.read(grid.find([tmp_path]).evaluated)
    return {x.key.method: x for x in grid.experiments(found)[0]}


def test_only_shared_seeds_are_compared(tmp_path):
    x = experiments(tmp_path, {"maskdiff": {0: 10.0, 1: 12.0, 2: 11.0}, "mtfa": {1: 8.0, 2: 9.0, 7: 50.0}})
    (c,) = comparisons.compare([x["mtfa"]], x["maskdiff"], "segm/AP")
    assert (c.method, c.paired.mean, c.paired.n) == ("mtfa", -3.0, 2)
    assert c.p_holm == c.paired.p == pytest.approx(statistics.paired([8.0, 9.0], [12.0, 11.0]).p)
    assert math.isnan(c.p_wilcoxon_holm)


def test_methods_without_a_shared_seed_are_absent(tmp_path):
    x = experiments(tmp_path, {"maskdiff": {0: 10.0}, "mtfa": {1: 8.0}})
    assert comparisons.compare([x["mtfa"]], x["maskdiff"], "segm/AP") == []


@pytest.mark.parametrize("field, value", [("sampler", "imtfa"), ("shots_from", "datasets/coco/cocosplit")])
def test_equal_seeds_of_other_samplers_are_no_pairs(tmp_path, field, value):
    """Seed 3 of TFA's sampler and seed 3 of another one are different shots."""
    x = experiments(tmp_path, {"maskdiff": {0: 10.0, 1: 11.0}, "mtfa": {0: 8.0, 1: 9.5}, "imtfa": {0: 7.0, 1: 6.0}})
    for e in x["mtfa"].evaluations:
        e.document["config"]["fewshot"][field] = value
    members = list(x.values())
    assert [c.method for c in comparisons.compare([x["mtfa"], x["imtfa"]], x["maskdiff"], "segm/AP")] == ["imtfa"]
    (warning, _) = difference_tables.warnings(members)
    assert warning.startswith(f"MTFA at K = 1 has other shots ({value}, ") and "no test" in warning
    assert "Next is MTFA; their shots are not the same, so there is no test" in findings.sentences(members)[0]
    assert comparisons.mark_best(members, "segm/AP")[0] == {"maskdiff"}


def test_p_values_are_corrected_over_the_methods(tmp_path):
    noise = (0.1, -0.2, 0.15, 0.0, -0.1, 0.3)
    x = experiments(tmp_path, {
        "maskdiff": dict(enumerate([10.0] * 6)),
        "mtfa": dict(enumerate(9.0 + e for e in noise)),
        "imtfa": dict(enumerate(9.9 + e for e in noise)),
    })  # fmt: skip
    far, near = comparisons.compare([x["mtfa"], x["imtfa"]], x["maskdiff"], "segm/AP")
    assert far.p_holm == 2 * far.paired.p and near.p_holm == near.paired.p
    assert far.p_wilcoxon_holm == pytest.approx(2 * 2 / 2**6)


def test_best_and_not_significantly_worse(tmp_path):
    noise = (0.1, -0.2, 0.15, 0.0, -0.1, 0.3)
    x = experiments(tmp_path, {
        "maskdiff": dict(enumerate([10.0] * 6)),
        "mtfa": dict(enumerate(7.0 + e for e in noise)),
        "imtfa": dict(enumerate(9.9 + e for e in noise)),
        "one_seed": {0: 9.99},
    })  # fmt: skip
    assert comparisons.mark_best(list(x.values()), "segm/AP") == ({"maskdiff"}, {"imtfa"})
    assert comparisons.mark_best(list(x.values()), "bbox/AP") == (set(), set())


def test_the_reference_is_maskdiff_or_the_one_of_the_paper(tmp_path):
    x = list(experiments(tmp_path, {"maskdiff": {0: 10.0}, "mtfa": {0: 8.0}}).values())
    assert comparisons.reference(x, 1).key.method == "maskdiff"
    assert comparisons.reference(x, 5) is None
    ((base, found),) = comparisons.with_reference(x, ["segm/AP", "bbox/AP"])
    assert base.key.method == "maskdiff" and [c.method for c in found] == ["mtfa"]
    assert comparisons.with_reference(x[:1], ["segm/AP"]) == []
    paper = [e._replace(key=e.key._replace(method=e.key.method + "+paper")) for e in x]
    assert comparisons.reference(paper, 1).key.method == "maskdiff+paper"


def test_p_text():
    assert comparisons.p_text("p", 0.0004) == "p < 0.001" and comparisons.p_text("W", 0.0316) == "W 0.032"


def test_equal_training_seeds_of_stage_1_are_no_pairs(tmp_path):
    for method, quality in (("maskdiff", 9.0), ("mtfa", 8.9)):
        for seed in range(3):
            doc = base_document(method)
            doc["config"]["seed"], doc["metrics"] = seed, {"segm/AP": quality + seed}
            write_document(tmp_path / f"{method}{seed}", doc)
    group, _ = grid.experiments(grid.read(grid.find([tmp_path]).evaluated)[0])
    assert comparisons.mark_best(group, "segm/AP") == ({"maskdiff"}, set())
    assert comparisons.with_reference(group, ["segm/AP"]) == []


def test_oracles_do_not_compete(tmp_path):
    x = experiments(tmp_path, {"maskdiff": {0: 10.0, 1: 11.0}, "gt_boxes": {0: 90.0, 1: 91.0}})
    for e in x["gt_boxes"].evaluations:
        e.document["config"]["eval"]["oracle"] = "boxes"
    members = list(x.values())
    assert comparisons.mark_best(members, "segm/AP") == ({"maskdiff"}, set())
    assert findings.sentences(members) == [
        "COCO-All (coco), K = 1: MaskDiff has 10.50 ± 6.35 mask AP, n = 2 shot seeds."
    ]
    (table,) = tables.result_tables(members, "n", "t")
    assert [row.label for row in table.blocks[0].rows if not row.source] == [
        "MaskDiff, ground-truth boxes (oracle)",
        "MaskDiff",
    ]
    assert "oracle" in table.note


def test_equal_means_are_all_best(tmp_path):
    """Methods that share a detector have the same boxes."""
    x = experiments(tmp_path, {m: {0: 10.0, 1: 11.0} for m in ("maskdiff", "plain_unet")} | {"mtfa": {0: 9.0, 1: 9.5}})
    assert comparisons.mark_best(list(x.values()), "segm/AP") == ({"maskdiff", "plain_unet"}, {"mtfa"})
