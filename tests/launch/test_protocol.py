"""launch/protocol.py: the grid of shots, shot seeds and noise seeds, from the command line."""

import io
import json
import shutil

import jax
import pytest

from launch import run_config
from maskdiff_jax import checkpoint, workdir
from maskdiff_jax.evaluation import evaluate, protocol
from maskdiff_jax.evaluation.progress import Progress
from maskdiff_jax.model import build
from maskdiff_jax.training import run as train
from tests import launched
from tests.end_to_end.test_end_to_end import TINY

CONFIGS = launched.ROOT / "configs"
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
def events():
    """Names of what jax reports, while the list is cleared by who counts."""
    seen = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, _, **more: seen.append(name))
    return seen


@pytest.fixture(scope="module")
def grid(tmp_path_factory, events):
    """A grid of two shot seeds and two noise seeds; the second shot seed in a process that knows the first."""
    folder = tmp_path_factory.mktemp("protocol")
    first_stage(folder / "base")
    done = launch(folder, "--shot_seeds=0:2", "--noise_seeds=0:2")
    assert done.code == 0, done.err
    return folder, done


def test_a_grid_is_trained_and_scored(grid):
    folder, done = grid
    found = metrics(folder / "grid")
    names = [f"fewshot-2shot-seed{s}" for s in (0, 1)]
    assert set(found) == {f"{name}/noise{n}" for name in names for n in (0, 1)}
    for name, document in found.items():
        fields = document["config"]
        assert f"seed{fields['fewshot']['seed']}/noise{fields['eval']['noise_seed']}" in name
        assert set(document["seconds"]) == {"novel", "detector", "mask", "evaluation"}
    lines = done.out.splitlines()
    assert lines[-3].startswith("[1/2] fewshot-2shot-seed0: segm AP base ") and lines[-3].endswith(" left")
    assert lines[-2].startswith("[2/2] fewshot-2shot-seed1: ") and lines[-2].endswith("; none left")
    assert lines[-1] == "finished: 2 models, 0 of them before" and done.err == ""
    files = {str(p.relative_to(folder / "grid" / names[1])) for p in (folder / "grid" / names[1]).rglob("*.*")}
    assert "noise0/figures/scenes_00.png" in files and not any(x.startswith("noise1/figures") for x in files)
    assert not any("predictions.json" in x for x in files)
    assert "detecting, sampling masks" in (folder / "grid" / names[0] / "log.txt").read_text()


def test_noise_changes_masks_and_no_boxes(grid):
    found = metrics(grid[0] / "grid")
    first, second = (found[f"fewshot-2shot-seed1/noise{n}"]["metrics"] for n in (0, 1))
    boxes = {k for k in first if k.startswith("bbox/")}
    assert boxes and all(first[k] == second[k] for k in boxes)
    assert any(first[k] != second[k] for k in first)


def test_metrics_are_those_of_evaluate(grid, tmp_path):
    for noise_seed in (0, 1):
        run = grid[0] / "grid" / "fewshot-2shot-seed1"
        done = launched.run("evaluate", run, f"--config.eval.noise_seed={noise_seed}", f"--output={tmp_path}")
        assert done.code == 0, done.err
        ours, theirs = (json.loads((f / "metrics.json").read_text()) for f in (run / f"noise{noise_seed}", tmp_path))
        for part in ("metrics", "per_class", "curves", "shots_per_class", "config"):
            assert ours[part] == theirs[part]


def test_a_finished_grid_is_not_computed_again(grid, monkeypatch, events):
    folder, _ = grid
    before = {p: p.stat().st_mtime_ns for p in (folder / "grid").rglob("*")}
    monkeypatch.setattr(evaluate, "open_run", lambda *_: pytest.fail("evaluated again"))
    events.clear()
    done = launch(folder, "--shot_seeds=0:2", "--noise_seeds=0:2")
    assert done.code == 0 and done.out.splitlines()[-1] == "finished: 2 models, 2 of them before"
    assert COMPILED not in events
    assert {p: p.stat().st_mtime_ns for p in (folder / "grid").rglob("*")} == before


def test_a_failed_model_does_not_stop_the_others_and_only_what_is_missing_is_computed(grid, tmp_path):
    shutil.copytree(grid[0] / "grid", tmp_path / "grid")
    run = tmp_path / "grid" / "fewshot-2shot-seed0"
    before = json.loads((run / "noise1" / "metrics.json").read_text())
    kept = (run / "noise0" / "metrics.json").stat().st_mtime_ns
    (run / "noise1" / "metrics.json").unlink()
    done = launch(tmp_path, "--shot_seeds=0", "--noise_seeds=0:2", shots="50,2", init_from=grid[0] / "base")
    assert done.code == 1 and done.err == (
        f"1 of 2 models failed:\n  fewshot-50shot-seed0: stage 2 cannot start from {grid[0] / 'base'}: "
        "fewshot.shots=50, but its mask head has model.mask.slots=10: lower shots, or train stage 1 with more slots\n"
    )  # fmt: skip
    assert "Traceback" in (tmp_path / "grid" / "fewshot-50shot-seed0" / "log.txt").read_text()
    lines = done.out.splitlines()
    assert lines[-2].startswith("[1/2] fewshot-50shot-seed0 FAILED: ")
    assert lines[-1].startswith("[2/2] fewshot-2shot-seed0: segm AP ")
    assert json.loads((run / "noise1" / "metrics.json").read_text())["metrics"] == before["metrics"]
    assert (run / "noise0" / "metrics.json").stat().st_mtime_ns == kept


def test_other_options_are_not_mixed(grid):
    done = launch(grid[0], "--shot_seeds=0:2", "--noise_seeds=0:2", **{"eval.samples": 2})
    assert done.code == 1 and "2 of 2 models failed" in done.err
    assert "noise0/metrics.json is of another config (eval.samples: 1 there, 2 here): delete it" in done.err


def test_the_second_model_compiles_nothing(grid, events):
    """With the programs of the first one, whatever the shots; detection and training too."""
    folder, models, counts = grid[0] / "compile", [], []
    overrides = [f"--config.{k}={v}" for k, v in (SMALL | {"init_from": grid[0] / "base"}).items()]
    for seed in (3, 4):
        config = run_config.complete(
            *run_config.read_config(f"{CONFIGS}/fewshot.py:shapes,shots=2,seed={seed}", overrides)
        )
        models.append(protocol.make_model(folder, config, ["all"]))

    def counted(config, workdir, shared):
        counts.append(events.count(COMPILED))
        return train.run(config, workdir, shared)

    assert protocol.run(models, [0, 1], train=counted, progress=Progress([2, 2], io.StringIO())) == {}
    counts.append(events.count(COMPILED))
    assert counts[1] - counts[0] > 5  # training steps, detection, crops, masks: new functions
    assert counts[2] == counts[1]


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
        (["--config={}/fewshot.py:shapes,shots=5"], "names one model: give --shots and --shot_seeds"),
        (["--config={}/base.py"], "is of stage 'base': a grid is of stage 2"),
        (["--config={}/fewshot.py", "--settings=all,base"], "choose among all, novel, voc"),
        (["--config={}/fewshot.py", "--shots=one"], "--shots=one: give numbers"),
        (["--config={}/fewshot.py", "--shot_seeds=3:3"], "--shot_seeds=3:3 is empty"),
        (["--config={}/fewshot.py", "--workdir=x"], "give the folder of the grid with --output"),
        ([], "which config?"),
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
