"""`make results`: its commands are ones that the scripts take; its table is that of the report."""

import threading
import time
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
    for shots in method.shots:
        options = [x.replace("{shots}", str(shots)).replace("{seed}", "3") for x in method.options]
        config, _ = run_config.read_config(f"{method.config}{separator}shots={shots},seed=3", options)
        assert config.stage == "fewshot" and config.method == name.removesuffix("_paper")
        assert config.paper == name.endswith("_paper")
        folders = [f"runs/grid/{folder}" for folder in (*method.needs, *(run.folder for run in method.stage1))]
        assert config.init_from in folders
        if config.detector_from:
            assert "maskdiff" in method.needs  # whose shards train it


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
    assert shapes_grid.by_shots(rows) == {"5": {"mtfa": {"shot_seeds": 3, "segm/novel/AP": {"mean": 41.2346}}}}


def test_methods_without_a_k_that_was_asked_for_are_left_out(monkeypatch, capsys):
    """Ablations have K = 5 alone: without it they are neither trained nor in the reports."""
    for shots, there in (("1", False), ("1,5", True)):
        monkeypatch.setattr("sys.argv", ["shapes_grid.py", "--dry-run", f"--shots={shots}"])
        assert shapes_grid.main() == 0
        printed = capsys.readouterr().out
        assert ("no_shots" in printed) == ("guided" in printed) == there
        assert "runs/shapes_grid/mtfa" in printed


def tasks(**needs):
    return [shapes_grid.Task(name, [name], frozenset(of)) for name, of in needs.items()]


def test_tasks_wait_for_what_they_need(tmp_path):
    """Two run at the same time, none before those that it needs, shards count together."""
    ended, at_once, lock = [], [0], threading.Lock()
    needs = {"a": (), "b": (), "m 1/2": ("a",), "m 2/2": ("a",), "c": ("m",), "d": ("absent",)}

    def run(task, log):
        with lock:
            at_once.append(at_once[-1] + 1)
            for need in task.needs - {"absent"}:
                assert {x for x in needs if x.partition(" ")[0] == need} <= set(ended), task.name
        time.sleep(0.02)
        with lock:
            at_once.append(at_once[-1] - 1)
            ended.append(task.name)
        return True

    assert shapes_grid.work(tasks(**needs), 2, tmp_path, run) == []
    assert sorted(ended) == sorted(needs) and max(at_once) == 2


def test_a_failed_task_stops_those_that_need_it_alone(tmp_path):
    started = []

    def run(task, log):
        started.append(task.name)
        return task.name != "a"

    needs = {"a": (), "m 1/2": ("a",), "c": ("m",), "b": ()}
    assert shapes_grid.work(tasks(**needs), 1, tmp_path, run) == ["a", "m 1/2", "c"]
    assert started == ["a", "b"]


def test_a_command_and_its_log(tmp_path):
    """A real command: whether it succeeded, and what it printed."""
    for script, succeeded in (("print('well')", True), ("raise SystemExit(3)", False)):
        task = shapes_grid.Task("mtfa/base", ["-c", script], frozenset())
        assert shapes_grid.work([task], 1, tmp_path) == ([] if succeeded else ["mtfa/base"])
    log = (tmp_path / "mtfa-base.log").read_text()
    assert "well\nexit code 0" in log and "exit code 3" in log
