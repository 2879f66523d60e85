"""`make results`: its commands are ones that the scripts take; its table is that of the report."""

from pathlib import Path

import pytest

from benchmarks.studies import shapes_grid
from launch import run_config

METHODS = shapes_grid.methods(Path("runs/grid"), 50)


@pytest.mark.parametrize("name", METHODS)
def test_the_configs_of_a_method(name):
    """Each exists, takes its options, and stage 2 is of the method whose row it is."""
    method = METHODS[name]
    for run in method.stage1:
        config, _ = run_config.read_config(run.config, list(run.options))
        assert config.stage == "base" and config.preset == "shapes"
    separator = "," if ":" in method.config else ":"
    for shots in shapes_grid.SHOTS:
        options = [x.replace("{shots}", str(shots)).replace("{seed}", "3") for x in method.options]
        config, _ = run_config.read_config(f"{method.config}{separator}shots={shots},seed=3", options)
        assert config.stage == "fewshot" and config.method == name.removesuffix("_paper")
        assert config.paper == name.endswith("_paper")
        folders = [f"runs/grid/{run.folder}" for run in method.stage1]
        assert config.init_from in folders


def test_all_detectors_have_as_many_steps():
    for name, method in METHODS.items():
        own = [run for run in method.stage1 if not any("detector_from" in x for x in run.options)]
        trains = [run_config.read_config(run.config, [])[0].train for run in own]
        if trains:
            assert sum(t.detector.steps + t.refine.steps for t in trains) == 3000, name


def test_the_report_becomes_a_table():
    row = {"setting": "all classes", "shots": "5", "method": "mtfa", "metric": "segm/novel/AP", "n": "3"}
    rows = [row | {"statistic": "mean", "value": "41.23456"}, row | {"statistic": "p_wilcoxon", "value": "0.5"}]
    rows.append(row | {"setting": "novel classes only", "statistic": "mean", "value": "1"})
    assert shapes_grid.by_shots(rows) == {"5": {"mtfa": {"segm/novel/AP": {"mean": [41.2346, 3]}}}}
