"""Published numbers: typed in without mistakes, as far as they constrain each other."""

import pytest

from maskdiff_jax.reporting import paper_numbers as published


@pytest.mark.parametrize("key", [k for k in published.TABLE_1 if k[1] in ("mtfa", "imtfa")])
def test_ap_of_all_classes_is_that_of_base_and_novel_ones(key):
    row = published.TABLE_1[key]
    for kind in (row[:6], row[6:]):
        for all_, base, novel in (kind[0::2], kind[1::2]):
            assert all_ == pytest.approx((60 * base + 20 * novel) / 80, abs=0.0101)


@pytest.mark.parametrize("key", published.IMTFA_ALL)
def test_imtfas_results_are_those_that_the_paper_quotes(key):
    rows = published.IMTFA_ALL[key]
    assert [mean for mean, _, _ in rows] == list(published.TABLE_1[key][0::2])
    for _, std, half_width in rows:
        assert half_width == pytest.approx(1.96 * std / 10**0.5, abs=0.0082)  # both are rounded
    for mean, base, novel in (rows[:3], rows[3:]):
        assert mean[0] == pytest.approx((60 * base[0] + 20 * novel[0]) / 80, abs=0.0101)


def test_tables_quote_each_other():
    for method, row in published.TABLE_8.items():
        assert tuple(mean for mean, _ in row) == published.TABLE_1[1, method][6::2]
        if (1, method) in published.IMTFA_ALL:  # the paper's "standard deviation" is iMTFA's interval
            assert tuple(s for _, s in row) == tuple(h for _, _, h in published.IMTFA_ALL[1, method][3:])
    assert published.TABLE_7["maskdiff"] == published.TABLE_8["maskdiff"]
    assert published.TABLE_5[True, True] == published.TABLE_2["maskdiff"]
    for method in ("mtfa", "imtfa"):
        assert published.TABLE_2[method] == pytest.approx(published.IMTFA_NOVEL[10, method], abs=0.0201)


def test_every_table_is_complete():
    assert {k for k, _ in published.TABLE_1} == {1, 5, 10} and len(published.TABLE_1) == 15
    assert all(len(row) == 12 for row in published.TABLE_1.values())
    assert published.TABLE_4.keys() == published.TABLE_8.keys() == {m for _, m in published.TABLE_1}
    for row in published.TABLE_1.values():  # AP50 is at least AP
        assert all(ap <= ap50 for ap, ap50 in zip(row[0::2], row[1::2], strict=True))


def test_rows_of_coco_all_carry_spreads_and_their_source():
    rows = {row.method: row for row in published.rows("COCO-All", 1)}
    assert list(rows)[-2:] == ["plain_unet", "maskdiff"]
    assert rows["maskdiff"].values["segm/novel/AP"] == (4.85, 0.24, "unknown", "Table 8 of the paper")
    assert rows["mtfa"].values["segm/novel/AP"][:3] == (2.34, 0.31, "ci95")
    assert rows["mtfa"].values["bbox/AP50"] == (39.64, None, "", "")
    assert rows["plain_unet"].values.keys() == {"segm/AP", "segm/base/AP", "segm/novel/AP"}
    five = {row.method: row for row in published.rows("COCO-All", 5)}
    assert five["maskdiff"].values["segm/AP"].spread is None and five["imtfa"].values["segm/AP"].spread == 0.41


def test_rows_of_other_settings():
    ten = published.rows("COCO-Novel", 10)
    assert [row.method for row in ten][-3:] == ["MaskDiff without guidance", "mtfa", "imtfa"]
    assert [row.source for row in published.rows("COCO-Novel", 1)] == [published.IMTFA_RESULTS] * 2
    voc = {row.method: row for row in published.rows("COCO2VOC, gt_classes_only", 1)}
    assert voc["fgn"].values == {"bbox/novel/AP50": (30.80, None, "", ""), "segm/novel/AP50": (16.20, None, "", "")}
    assert published.rows("COCO2VOC", 1) == [] and published.rows("all classes", 1) == []
    assert published.rows("COCO-All", 3) == []
