"""launch/protocol.py: the grid of shots, shot seeds and noise seeds, from the command line."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

from launch import run_config
from maskdiff_jax import checkpoint, lock, workdir
from maskdiff_jax.evaluation import evaluate, protocol
from maskdiff_jax.model import build
from maskdiff_jax.training import run as train
from tests import launched
from tests.end_to_end.test_end_to_end import TINY

CONFIGS = launched.ROOT / "configs"
NAMES = ["fewshot-2shot-seed0", "fewshot-2shot-seed1"]
COMPILED = "/jax/core/compile/backend_compile_duration"
SMALL = {k: v for k, v in TINY.items() if not k.startswith(("data.", "model.mask.", "model.detector."))}


def first_stage(folder):
    """A run of stage 1 with random weights; its dataset will be beside it."""
    fields = [f"--config.{k}={v}" for k, v in TINY.items()]
    config = run_config.read_config(f"{CONFIGS}/base.py", [*fields, f"--config.data.root={folder.parent / 'data'}"])[0]
    workdir.create(folder, config)
    params = jax.jit(build(config.model).init)(jax.random.key(0))
    checkpoint.save_params(workdir.weights_folder(folder), params)


def launch(folder, *flags, run=launched.run, shots="2", **changes):
    """Runs a grid in a folder."""
    fields = [f"--config.{k}={v}" for k, v in (SMALL | {"init_from": folder / "base"} | changes).items()]
    config = f"--config={CONFIGS}/fewshot.py:shapes"
    return run("protocol", config, f"--shots={shots}", "--output=grid", *flags, *fields, cwd=folder)


def metrics(folder):
    """Folder of the noise seed below a grid -> metrics.json."""
    return {str(p.parent.relative_to(folder)): json.loads(p.read_text()) for p in sorted(folder.rglob("metrics.json"))}


@pytest.fixture(scope="module")
def compiled():
    """Names of the functions that were compiled; who counts clears the list."""
    seen = []

    def listen(event, seconds, **more):
        if event == COMPILED:
            seen.append(more.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    return seen


class Grid(NamedTuple):
    folder: Path
    done: launched.Output
    compiled: list[list[str]]  # functions compiled before the first model, before the second, and after it


@pytest.fixture(scope="module")
def grid(tmp_path_factory, compiled):
    """A grid of two shot seeds and two noise seeds."""
    folder, counts = tmp_path_factory.mktemp("protocol"), []
    first_stage(folder / "base")
    run = train.run

    def counted(*arguments):
        counts.append(list(compiled))
        return run(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "run", counted)
        done = launch(folder, "--shot_seeds=0:2", "--noise_seeds=0:2")
    assert done.code == 0, done.err
    return Grid(folder, done, [*counts, list(compiled)])


def test_a_grid_is_trained_and_scored(grid):
    folder, done, _ = grid
    found = metrics(folder / "grid")
    assert set(found) == {f"{name}/noise{n}" for name in NAMES for n in (0, 1)}
    for name, document in found.items():
        fields = document["config"]
        assert f"seed{fields['fewshot']['seed']}/noise{fields['eval']['noise_seed']}" in name
        assert set(document["seconds"]) == {"novel", "detector", "mask", "evaluation"}
    lines = done.out.splitlines()
    assert lines[-3].startswith(f"[1/2] {NAMES[0]}: segm AP base ") and lines[-3].endswith(" left")
    assert lines[-2].startswith(f"[2/2] {NAMES[1]}: ") and lines[-2].endswith("; none left")
    assert lines[-1] == "finished: 2 models, 0 of them in earlier calls" and done.err == ""
    files = {str(p.relative_to(folder / "grid" / NAMES[1])) for p in (folder / "grid" / NAMES[1]).rglob("*.*")}
    assert "noise0/figures/scenes_00.png" in files and not any(x.startswith("noise1/figures") for x in files)
    assert not any("predictions.json" in x for x in files)
    assert "detecting, sampling masks" in (folder / "grid" / NAMES[0] / "log.txt").read_text()


def test_noise_changes_masks_and_no_boxes(grid):
    found = metrics(grid.folder / "grid")
    first, second = (found[f"fewshot-2shot-seed1/noise{n}"]["metrics"] for n in (0, 1))
    boxes = {k for k in first if k.startswith("bbox/")}
    assert boxes and all(first[k] == second[k] for k in boxes)
    assert any(first[k] != second[k] for k in first)


@pytest.mark.parametrize("noise_seed", [pytest.param(0, marks=pytest.mark.slow), 1])  # 1: from what was kept
def test_metrics_are_those_of_evaluate(grid, tmp_path, noise_seed):
    run = grid.folder / "grid" / NAMES[1]
    done = launched.run("evaluate", run, f"--config.eval.noise_seed={noise_seed}", f"--output={tmp_path}")
    assert done.code == 0, done.err
    ours, theirs = (json.loads((f / "metrics.json").read_text()) for f in (run / f"noise{noise_seed}", tmp_path))
    for part in ("metrics", "per_class", "curves", "shots_per_class", "config"):
        assert ours[part] == theirs[part]


def test_a_finished_grid_is_not_computed_again(grid, monkeypatch, compiled):
    folder = grid.folder
    before = {p: p.stat().st_mtime_ns for p in (folder / "grid").rglob("*")}
    monkeypatch.setattr(evaluate, "open_run", lambda *_: pytest.fail("evaluated again"))
    compiled.clear()
    done = launch(folder, "--shot_seeds=0:2", "--noise_seeds=0:2")
    assert done.code == 0 and done.out.splitlines()[-1] == "finished: 2 models, 2 of them in earlier calls"
    assert compiled == []
    assert {p: p.stat().st_mtime_ns for p in (folder / "grid").rglob("*")} == before


def test_a_failed_model_does_not_stop_the_others_and_only_what_is_missing_is_computed(grid, tmp_path):
    shutil.copytree(grid.folder / "grid", tmp_path / "grid")
    run = tmp_path / "grid" / NAMES[0]
    before = json.loads((run / "noise1" / "metrics.json").read_text())
    kept = (run / "noise0" / "metrics.json").stat().st_mtime_ns
    (run / "noise1" / "metrics.json").unlink()
    done = launch(tmp_path, "--shot_seeds=0", "--noise_seeds=0:2", shots="50,2", init_from=grid.folder / "base")
    assert done.code == 1 and done.err.startswith(
        "1 of 2 models failed:\n  fewshot-50shot-seed0: stage 2 cannot start "
    )
    assert "fewshot.shots=50, but its mask head has model.mask.slots=" in done.err and done.err.count("\n") == 2
    assert "Traceback" in (tmp_path / "grid" / "fewshot-50shot-seed0" / "log.txt").read_text()
    lines = done.out.splitlines()
    assert lines[-2].startswith("[1/2] fewshot-50shot-seed0 FAILED: ")
    assert lines[-1].startswith("[2/2] fewshot-2shot-seed0: segm AP ")
    assert json.loads((run / "noise1" / "metrics.json").read_text())["metrics"] == before["metrics"]
    assert (run / "noise0" / "metrics.json").stat().st_mtime_ns == kept


def test_other_options_are_not_mixed(grid):
    done = launch(grid.folder, "--shot_seeds=0:2", "--noise_seeds=0:2", **{"eval.samples": 2})
    assert done.code == 1 and "2 of 2 models failed" in done.err
    assert "noise0/metrics.json is of another config (eval.samples: 1 there, 2 here): delete it" in done.err


def test_the_second_model_compiles_nothing(grid):
    """Not for training, detection, masks or figures: all programs are those of the first model."""
    _, _, (_, before, after) = grid
    assert {"jit(step)", "jit(detect)", "jit(crop)", "jit(sample)"} <= set(before)
    assert after[len(before) :] == []


def test_a_model_that_another_process_works_on_is_left_to_it(grid, tmp_path):
    shutil.copytree(grid.folder / "grid" / NAMES[0], tmp_path / "grid" / NAMES[0])
    (tmp_path / "grid" / NAMES[0] / "noise1" / "metrics.json").unlink()
    with lock.owned(tmp_path / "grid" / NAMES[0], protocol.LOCK):
        done = launch(tmp_path, "--shot_seeds=0", "--noise_seeds=0:2", init_from=grid.folder / "base")
    assert done.code == 1 and f"{NAMES[0]}: grid/{NAMES[0]} is in use by process {os.getpid()}" in done.err
    assert not (tmp_path / "grid" / NAMES[0] / "noise1" / "metrics.json").exists()


@pytest.mark.slow
def test_two_processes_share_a_grid(grid, tmp_path):
    """Each does its shard; what both leave is what one process leaves."""
    with ThreadPoolExecutor(2) as pool:
        flags = "--shot_seeds=0:2", "--noise_seeds=0"
        futures = [
            pool.submit(launch, tmp_path, *flags, f"--shard={i}/2", run=launched.start, init_from=grid.folder / "base")
            for i in (1, 2)
        ]
        done = [f.result() for f in futures]
    for shard, name in zip(done, NAMES, strict=True):
        assert shard.code == 0 and f"[1/1] {name}: " in shard.out and "finished: 1 models" in shard.out, shard.err
    assert set(metrics(tmp_path / "grid")) == {f"{name}/noise0" for name in NAMES}


def test_missing_runs_of_stage_1_are_all_listed_first(tmp_path):
    config = f"--config={CONFIGS}/fewshot.py:coco,paper=true"
    done = launched.run("protocol", config, "--shots=1,5", "--config.data.root=photos", cwd=tmp_path)
    assert done.code == 2 and "2 of the 2 runs that this grid starts from are missing" in done.err
    for shots in (1, 5):
        assert (
            f"  python launch/train.py --config {CONFIGS}/base.py:coco,paper=true,shots={shots} "
            f"--workdir=runs/base-coco-paper-{shots}shot --config.data.root=photos\n"
        ) in done.err
    pattern = "--config.init_from=mine/{shots}"
    done = launched.run("protocol", config, "--shots=1,5", pattern, "--settings=all,novel", cwd=tmp_path)
    assert "--workdir=mine/1\n" in done.err and "--workdir=mine/5\n" in done.err
    baseline = f"--config={CONFIGS}/baselines/mrcn_ft_full.py:shapes"
    done = launched.run("protocol", baseline, cwd=tmp_path)
    assert f"--config {CONFIGS}/baselines/mtfa.py:shapes,stage=base --workdir=runs/base-shapes-mtfa\n" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--config={}/fewshot.py:shapes,shots=5"], "are for one model: use --shots and --shot_seeds"),
        (["--config={}/base.py"], "is a config of stage 'base': the grid needs one of stage 2"),
        (["--config={}/fewshot.py", "--settings=all,base"], "choose from all, novel, voc"),
        (["--config={}/fewshot.py", "--shots=one"], "--shots=one: give numbers"),
        (["--config={}/fewshot.py", "--shot_seeds=3:3"], "--shot_seeds=3:3 is empty"),
        (["--config={}/fewshot.py", "--workdir=x"], "give the folder of the grid with --output"),
        ([], "no config given"),
    ],
)
def test_mistakes_are_one_sentence(flags, words, tmp_path):
    done = launched.run("protocol", *(x.format(CONFIGS) for x in flags), cwd=tmp_path)
    assert done.code == 2 and words in done.err and done.err.strip().count("\n") == 0, done
    assert list(tmp_path.iterdir()) == []


def test_numbers_and_shards():
    script = launched.load("protocol")
    assert script["numbers"]("x", "0:3,7,1") == [0, 1, 2, 7]
    shards = [script["shard"](list(range(10)), f"{i}/3") for i in (1, 2, 3)]
    assert shards[0] == [0, 3, 6, 9] and sorted(sum(shards, [])) == list(range(10))
    for text, words in {
        "0/2": "i from 1 to n",
        "3/2": "i from 1 to n",
        "x": "give i/n",
        "11/20": "only 10 models",
    }.items():
        with pytest.raises(ValueError, match=words):
            script["shard"](list(range(10)), text)
