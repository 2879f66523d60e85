"""Training time and speed, never compared across devices in silence."""

import math

import pytest

from maskdiff_jax.reporting import cost_table, grid
from tests.reporting.example_grid import base_document, document, write_document, write_grid


def experiments_of(folder):
    found, _ = grid.read(grid.find([folder]).evaluated)
    return grid.experiments(found)[0]


def test_costs_of_both_stages_and_speed(tmp_path):
    write_grid(tmp_path, methods=("maskdiff",), shots=(1,), seeds=2, noise_seeds=2)
    (cost,) = cost_table.costs(experiments_of(tmp_path))
    assert cost == ("1 x a GPU", "maskdiff", "COCO-All", 1, 10800.0, 300.5, 8.0, 2)
    (table,) = cost_table.cost_table(experiments_of(tmp_path))
    ours, paper = table.blocks
    assert ours.title == "measured on: 1 x a GPU" and [c.value for c in ours.rows[0].cells] == ["3.00", "0.08", "8.00"]
    assert table.headers == [[("stage 1, hours", 1), ("stage 2, hours", 1), ("images/s", 1)]]
    assert "RTX 3090" in paper.title and [c.value for c in paper.rows[-1].cells] == ["32.3", "16.1", "8.27"]
    assert "compare only" not in table.note


def test_several_devices_are_kept_apart_and_named(tmp_path):
    for seed in (0, 1):
        write_document(tmp_path / str(seed), document(shots=5, seed=seed) | {"device": f"device {seed}"})
    write_document(tmp_path / "base", base_document() | {"device": "device 1"})
    first, second = cost_table.costs(experiments_of(tmp_path))
    assert (first.device, second.device, second.stage_1) == ("device 0", "device 1", 10800.0)
    assert math.isnan(first.stage_1) and first.stage_2 == 300.0
    (table,) = cost_table.cost_table(experiments_of(tmp_path))
    assert [b.title for b in table.blocks] == ["measured on: device 0", "measured on: device 1"]
    assert "compare only numbers from the same device" in table.note


def test_stage_1_of_another_method(tmp_path):
    write_document(tmp_path / "base", base_document("mtfa"))
    doc = document("imtfa")
    doc["config"]["base_method"] = "mtfa"
    write_document(tmp_path / "imtfa", doc)
    (cost,) = cost_table.costs(experiments_of(tmp_path))
    assert (cost.method, cost.stage_1) == ("imtfa", 10800.0)


def test_unmeasured_runs_have_no_row_and_short_ones_are_in_seconds(tmp_path):
    write_document(tmp_path / "a", document("mtfa") | {"seconds": None, "images_per_second": None})
    assert cost_table.cost_table(experiments_of(tmp_path)) == []
    write_document(tmp_path / "b", document("imtfa", dataset="shapes") | {"images_per_second": None, "device": None})
    (table,) = cost_table.cost_table(experiments_of(tmp_path))
    assert table.headers[0][1] == ("stage 2, seconds", 1) and table.blocks[0].title == "measured on: unknown device"
    assert [c.value for c in table.blocks[0].rows[0].cells] == ["", "300.0", ""]


def test_parts_that_were_trained_side_by_side():
    doc = base_document()
    assert cost_table.training_seconds(doc) == 10800.0
    doc["config"]["train"]["side_by_side"] = True
    assert cost_table.training_seconds(doc) == pytest.approx(7200.0)
    assert cost_table.training_seconds({"metrics": {}}) == 0.0


def test_a_shared_detector_is_mentioned(tmp_path):
    doc = document()
    write_document(tmp_path / "a", doc)
    assert "share" not in cost_table.cost_table(experiments_of(tmp_path))[0].note
    doc["config"]["detector_from"] = "runs/base"
    write_document(tmp_path / "a", doc)
    (table,) = cost_table.cost_table(experiments_of(tmp_path))
    assert "The time of a detector that several runs share" in table.note
    assert [c.value for c in table.blocks[1].rows[0].cells[:2]] == ["88560", "46080"]  # seconds, as ours
