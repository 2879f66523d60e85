"""Cells, columns and rows of the result tables."""

import copy
import math

from maskdiff_jax.reporting import grid, tables
from tests.reporting.example_grid import base_document, document, write_document, write_grid


def groups_of(folder):
    found, _ = grid.read(grid.find([folder]).evaluated)
    return grid.groups(grid.experiments(found)[0])


def rows_of(table):
    return {(block.title, row.label, row.source): row for block in table.blocks for row in block.rows}


def test_all_classes_base_and_novel_in_two_tables(tmp_path):
    group = groups_of(write_grid(tmp_path, seeds=6, noise_seeds=2))[0]
    masks, boxes = tables.result_tables(group, "coco-all", "COCO-All")
    assert (masks.name, boxes.name) == ("coco-all-masks", "coco-all-boxes") and masks.title == "COCO-All, masks"
    assert masks.headers[0] == [("masks: AP", 3), ("masks: AP50", 3), ("mask IoU", 3)]
    assert masks.headers[1] == [(c, 1) for c in ("all", "base", "novel")] * 3
    assert [block.title for block in masks.blocks] == ["K = 1", "K = 5"]
    row = rows_of(masks)["K = 1", "MaskDiff", ""]
    assert row.seeds == "6 × 2" and len(row.cells) == 9
    assert "≈" in masks.note and "Student's t" in masks.note


def test_a_cell_is_mean_interval_and_both_spreads(tmp_path):
    for seed, noise, value in ((0, 0, 10.0), (0, 1, 12.0), (1, 0, 13.0), (1, 1, 15.0)):
        doc = document(seed=seed, noise_seed=noise)
        doc["metrics"] = {"segm/AP": value}
        write_document(tmp_path / f"{seed}{noise}", doc)
    ((x,),) = groups_of(tmp_path)
    # shot seeds 11 and 14: std 2.12, half width 12.706 x 2.12 / sqrt(2); both models have a noise std of sqrt(2)
    assert tables.estimate_cell(x, "segm/AP") == tables.Cell("12.50", "19.06", ("std 2.12", "noise 1.41"))
    assert tables.estimate_cell(x, "bbox/AP") == tables.Cell()
    one = x._replace(evaluations=x.evaluations[:1])
    assert tables.estimate_cell(one, "segm/AP") == tables.Cell("10.00")


def test_best_and_close_values_are_marked(tmp_path):
    group = groups_of(write_grid(tmp_path, seeds=6, noise_seeds=1))[0]
    similar = copy.deepcopy([x for x in group if x.key.method == "maskdiff"])
    for e in (e for x in similar for e in x.evaluations):
        metrics = e.document["metrics"]
        metrics.update({k: v - 0.001 + 0.01 * (-1) ** e.repeat for k, v in metrics.items()})
    similar = [x._replace(key=x.key._replace(method="similar")) for x in similar]
    rows = rows_of(tables.result_tables(group + similar, "n", "t")[0])
    best, close = rows["K = 1", "MaskDiff", ""].cells[0], rows["K = 1", "similar", ""].cells[0]
    assert best.bold and not best.close and close.close and not close.bold
    assert not any(c.bold or c.close for c in rows["K = 1", "MTFA", ""].cells)
    alone = [x for x in group if x.key.method == "mtfa"]
    assert not any(c.bold for c in rows_of(tables.result_tables(alone, "n", "t")[0])["K = 1", "MTFA", ""].cells)


def test_published_rows_stand_beside_evaluations_on_the_papers_test_set_alone(tmp_path):
    (group, _) = groups_of(write_grid(tmp_path / "a", seeds=2, noise_seeds=1))
    masks = rows_of(tables.result_tables(group, "n", "t")[0])
    paper = masks["K = 1", "MaskDiff", "Table 1 of the paper, ± of Table 8"]
    assert paper.cells[0] == tables.Cell("29.42", "0.09") and paper.cells[1].half_width == "0.0093"
    assert paper.cells[6] == tables.Cell()
    assert masks["K = 1", "MRCN+ft-full", "Table 1 of the paper, ± of Table 8"].cells[1].half_width == "0.30"
    part = document()
    part["config"]["eval"]["images"] = 100
    val = document()
    val["config"]["eval"]["split"] = "val"
    other = document()
    other["config"]["data"]["counts"] = ""
    for i, doc in enumerate((part, val, other, document(dataset="shapes"))):
        ((x,),) = groups_of(write_document(tmp_path / str(i), doc))
        assert not tables.is_paper_test_set(x)
        assert not any(row.source for row in rows_of(tables.result_tables([x], "n", "t")[0]).values())


def test_classes_that_repeat_others_have_no_columns(tmp_path):
    novel = document()
    novel["metrics"] = {"segm/AP": 1.0, "segm/novel/AP": 1.0, "mask_iou/all": 2.0, "mask_iou/novel": 2.0}
    write_document(tmp_path / "a", novel)
    ((x,),) = groups_of(tmp_path)
    assert [c.metric for c in tables.columns([x])] == ["segm/novel/AP", "mask_iou/novel"]
    assert tables.split(tables.columns([x]))[0][:2] == ("", "")
    ((base,),) = groups_of(write_document(tmp_path / "b", base_document()))
    assert {c.classes for c in tables.columns([base])} == {"base"}
    (table,) = tables.result_tables([base], "n", "t")
    assert "training seeds" in table.note and table.blocks[0].title == ""


def test_variants_have_their_own_numbers(tmp_path):
    doc = document()
    doc["metrics"] = {"segm/AP": 1.0, "gt_classes_only/segm/AP": 3.0}
    write_document(tmp_path / "a", doc)
    values = [tables.result_tables(g, "n", "t")[0].blocks[0].rows[0].cells[0].value for g in groups_of(tmp_path)]
    assert values == ["1.00", "3.00"]


def test_numbers_and_seeds(tmp_path):
    assert tables.number(-1.234) == "−1.23" and tables.number(0.5, sign=True) == "+0.50"
    assert tables.number(math.nan) == "" and tables.number(3.21, digits=1) == "3.2"
    write_grid(tmp_path, methods=("mtfa",), shots=(1,), seeds=3, noise_seeds=3)
    (tmp_path / "mtfa/fewshot-1shot-seed2/noise1/metrics.json").unlink()
    assert tables.seeds(groups_of(tmp_path)[0][0]) == "3 × 2-3"
