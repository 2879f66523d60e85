"""Spread over noise seeds, with and without guidance."""

from maskdiff_jax.reporting import noise_table
from tests.reporting.example_grid import document, write_document, write_grid
from tests.reporting.test_tables import groups_of


def test_noise_spread_with_and_without_guidance(tmp_path):
    for noise, value in ((0, 10.0), (1, 12.0), (2, 14.0)):
        for method, w, shift in (("maskdiff", 1.0, 0.0), ("guidance_5", 5.0, 1.0)):
            doc = document(method, noise_seed=noise)
            doc["config"]["model"]["mask"]["diffusion"]["guidance"] = w
            doc["metrics"] = {"segm/novel/AP": value + shift, "bbox/novel/AP": 3.0}
            write_document(tmp_path / f"{method}{noise}", doc)
    (table,) = noise_table.guidance_table(groups_of(tmp_path)[0], "coco-all", "COCO-All")
    assert table.name == "coco-all-noise" and table.headers[1] == [("novel", 1)]
    ours, published = table.blocks[0].rows[:2], table.blocks[0].rows[2:]
    assert [row.label for row in ours] == ["guidance_5, w = 5", "MaskDiff, w = 1"]
    assert ours[1].cells[0].value == "12.00" and ours[1].cells[0].small == ("std 2.000",) and ours[1].seeds == "1 × 3"
    assert [(row.label, row.cells[0].value, row.cells[0].small) for row in published] == [
        ("MaskDiff, without guidance", "6.04", ("std 0.09",)),
        ("MaskDiff, with guidance", "6.23", ("std 0.07",)),
    ]
    assert all(row.source == "Table 6 of the paper" for row in published)


def test_heads_without_noise_and_grids_without_repeats(tmp_path):
    one = groups_of(write_grid(tmp_path / "a", methods=("mtfa",), shots=(5,), seeds=2, noise_seeds=1))[0]
    assert noise_table.guidance_table(one, "n", "t") == []
    for noise in (0, 1):
        doc = document("mtfa", 5, noise_seed=noise)
        doc["config"]["model"]["mask"]["head"] = "cnn"
        write_document(tmp_path / "b" / str(noise), doc)
    (table,) = noise_table.guidance_table(groups_of(tmp_path / "b")[0], "n", "t")
    assert [row.label for row in table.blocks[0].rows] == ["MTFA, no diffusion"]  # and no published rows at K = 5
