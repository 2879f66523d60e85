"""Tables of differences from MaskDiff."""

from maskdiff_jax.reporting import difference_tables
from tests.reporting.example_grid import write_grid
from tests.reporting.test_tables import groups_of


def test_differences_with_their_p_values(tmp_path):
    group = groups_of(write_grid(tmp_path, shots=(1,), seeds=6, noise_seeds=1))[0]
    masks, boxes = difference_tables.difference_tables(group, "coco-all", "COCO-All")
    assert (masks.name, boxes.name) == ("coco-all-masks-differences", "coco-all-boxes-differences")
    (block,) = masks.blocks
    assert block.title == "K = 1: differences from MaskDiff" and [row.label for row in block.rows] == ["MTFA", "iMTFA"]
    cell = block.rows[0].cells[2]  # novel AP, about 2 below
    assert cell.value.startswith("−2.") or cell.value.startswith("−1.")
    assert cell.bold and cell.half_width and [text[0] for text in cell.small] == ["p", "W"]
    assert block.rows[0].seeds == "6" and "Holm" in masks.note and masks.small_matters
    assert difference_tables.warnings(group) == []


def test_few_seeds_are_warned_about_in_words(tmp_path):
    group = groups_of(write_grid(tmp_path, shots=(1, 5), seeds=4, noise_seeds=1))[0]
    (warning,) = difference_tables.warnings(group)
    assert warning.startswith("Only 4 shot seeds shared with MaskDiff for MTFA at K = 1, iMTFA at K = 1, MTFA at K = 5")
    assert "do not draw conclusions" in warning
    cell = difference_tables.difference_tables(group, "n", "t")[0].blocks[0].rows[0].cells[0]
    assert len(cell.small) == 1  # no Wilcoxon test
    one = groups_of(write_grid(tmp_path / "one", shots=(1,), seeds=1, noise_seeds=1))[0]
    assert difference_tables.warnings(one)[0].startswith("Only 1 shot seed shared")
    cell = difference_tables.difference_tables(one, "n", "t")[0].blocks[0].rows[0].cells[0]
    assert cell.value and not cell.half_width and not cell.small and not cell.bold


def test_without_maskdiff_or_without_others_there_is_no_table(tmp_path):
    group = groups_of(write_grid(tmp_path, methods=("mtfa", "imtfa"), shots=(1,), seeds=2, noise_seeds=1))[0]
    assert difference_tables.difference_tables(group, "n", "t") == [] == difference_tables.warnings(group)
