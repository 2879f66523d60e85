"""Flags, run folders and errors of the scripts."""

import os
import re
from pathlib import Path

import pytest

from configs import base, fewshot
from launch import cli, train
from maskdiff_jax import config_fields, workdir

ROOT = Path(__file__).resolve().parents[2]
BASE, FEWSHOT = f"{ROOT}/configs/base.py", f"{ROOT}/configs/fewshot.py"


@pytest.mark.parametrize(
    ("size", "jaxlib", "before", "after"),
    [
        (32, "0.10.2", None, None),
        (128, "0.10.2", None, f"{cli.YNNPACK}="),
        (128, "0.10.2", "--xla_dump_to=x", f"--xla_dump_to=x {cli.YNNPACK}="),
        (128, "0.10.2", f"{cli.YNNPACK}=y", f"{cli.YNNPACK}=y"),
        (128, "0.11.0", None, None),
    ],
)
def test_convolutions_of_full_size_nets(monkeypatch, size, jaxlib, before, after):
    # set first, so that what set_up_jax writes is taken back with it
    monkeypatch.setenv("XLA_FLAGS", before or "")
    if before is None:
        monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(cli, "version", {"jaxlib": jaxlib}.__getitem__)
    cli.set_up_jax(size)
    assert os.environ.get("XLA_FLAGS") == after


def test_stage_1_says_which_k_stage_2_cannot_have(capsys):
    train.tell_stage_2(base.get_config("shapes"))
    train.tell_stage_2(base.get_config("coco,paper=true,shots=1"))
    assert capsys.readouterr().out == ""
    config = base.get_config("coco")
    config.model.mask.slots = 4
    train.tell_stage_2(config)
    out = capsys.readouterr().out
    assert "stage 2 with 5 or 10 shots will not start" in out and "model.mask.slots=4" in out


@pytest.mark.parametrize("old, new", config_fields.RENAMED.items())
def test_a_renamed_field_names_the_new_one(old, new):
    with pytest.raises(ValueError, match=f"config.{old} is now called config.{new}$"):
        cli.read_config(BASE, [f"--config.{old}=1"])
    config = base.get_config()
    *path, last = new.split(".")
    for name in path:
        config = config[name]
    assert last in config


def script(monkeypatch, make, *arguments, **options):
    """Runs a script in this process; returns its exit code and what its main was called with."""
    calls = []
    monkeypatch.setattr("sys.argv", ["script.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        make(lambda *args: calls.append(args), **options)
    return stop.value.code or 0, *(calls[0] if calls else ())


def test_a_script_that_makes_a_run(monkeypatch, capsys):
    code, config, folder = script(
        monkeypatch, cli.run, f"--config={BASE}:shapes", "--config.train.mask.lr=0.5", "--config.train.frozen=('a',)"
    )
    assert (code, folder, config.train.mask.lr, config.train.frozen) == (0, Path("runs/base-shapes"), 0.5, ("a",))
    # a second script in the same process starts from nothing
    code, config, folder, files = script(
        monkeypatch, cli.run, "--config", BASE, "--workdir=w", "x.pkl", takes_files=True
    )
    assert (code, folder, files, config.train.frozen) == (0, Path("w"), ["x.pkl"], ())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "which config?"),
        (["--config=nowhere.py"], "cannot read the config file: .*nowhere.py"),
        ([f"--config={BASE}:shape"], "unknown preset 'shape'"),
        ([f"--config={BASE}", "--config.train.mask.stepz=3"], "no such field or value: .*stepz"),
        ([f"--config={BASE}", "--config.train.mask.steps=many"], "steps.*many|many.*steps"),
        ([f"--config={BASE}", "--config.train.mask.steps", "3"], "has no value: write --config.train.mask.steps=VALUE"),
        ([f"--config={BASE}", "--config.model.mask.size=100000"], "model.mask.size is 100000, but must be"),
        ([f"--config={BASE}", "more"], "unknown argument 'more'"),
        ([f"--config={BASE}", "--wordkir=x"], "wordkir"),
    ],
)
def test_what_cannot_be_is_one_sentence(monkeypatch, capsys, arguments, words):
    assert script(monkeypatch, cli.run, *arguments) == (2,)
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    assert re.search(words, error), error


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """A trained run of stage 1 with a mask head of its own, and the default folder beside it."""
    config = base.get_config("shapes").unlock()
    config.model.mask.unet.width = 8
    config.train.mask.steps = 7
    folder = tmp_path / "runs" / "base-shapes"
    workdir.create(folder, config)
    workdir.weights_folder(folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_run_folder_is_enough(monkeypatch, run_folder):
    for arguments in ([run_folder], [f"--workdir={run_folder}"], ["--config", BASE]):
        code, config, folder = script(monkeypatch, cli.run_trained, *arguments)
        assert code == 0 and folder.resolve() == run_folder and config.model.mask.unet.width == 8
    changes = ["--config.eval.samples=3", "--config.model.mask.diffusion.sampler=ddpm", "--config.data.root=x"]
    code, config, _ = script(monkeypatch, cli.run_trained, run_folder, *changes, "--config.train.mask.steps=7")
    assert (config.eval.samples, config.model.mask.diffusion.sampler, config.data.root) == (3, "ddpm", "x")
    assert workdir.read_config(run_folder).eval.samples == 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "which run? give its folder"),
        (["nowhere"], "no run in nowhere: train first"),
        (["runs/base-shapes", "runs/other"], "one run at a time"),
        (["runs/base-shapes", "--config.eval.sample=3"], "no such field"),
        (["runs/base-shapes", "--config.train.mask.steps=8"], "train.mask.steps: 7 there, 8 here"),
        (["runs/base-shapes", "--config", FEWSHOT], "stage='base', but --config says 'fewshot'"),
    ],
)
def test_what_a_trained_run_does_not_allow(monkeypatch, capsys, run_folder, arguments, words):
    assert script(monkeypatch, cli.run_trained, *arguments) == (2,)
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1, error


def test_stage_2_inherits_model_and_classes(run_folder, capsys):
    config, given = cli.read_config(FEWSHOT, ["--config.model.mask.diffusion.steps=5"])
    cli.complete(config, given)
    assert config.init_from == "runs/base-shapes" and config.model.mask.unet.width == 8
    assert config.model.mask.diffusion.steps == 5  # may differ, and was asked for
    assert capsys.readouterr().out == "from runs/base-shapes: model.mask.unet.width = 8\n"
    config, given = cli.read_config(FEWSHOT, ["--config.model.mask.unet.width=32"])
    with pytest.raises(ValueError, match="width=32 was given, but the run in runs/base-shapes .* has .*width=8"):
        cli.complete(config, given)


def test_stage_2_of_custom_data_learns_the_novel_classes_of_stage_1(tmp_path, monkeypatch):
    """Without them it would train no novel class at all."""
    monkeypatch.chdir(tmp_path)
    before = base.get_config("custom").unlock()
    before.data.novel_classes, before.model.num_classes = ("ring", "star"), 12
    workdir.create("runs/base-custom", before)
    config = cli.complete(*cli.read_config(f"{FEWSHOT}:custom,shots=5", []))
    assert config.data.novel_classes == ("ring", "star") and config.model.num_classes == 12
    assert config.is_locked


def test_weights_are_of_one_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workdir.create("runs/base-coco", base.get_config("coco,weights=torchvision"))
    config = cli.complete(*cli.read_config(f"{FEWSHOT}:coco", []))
    assert config.weights == "torchvision" and config.model.detector.channel_order == "rgb"
    with pytest.raises(ValueError, match="weights='msra' was given, but the run in runs/base-coco"):
        cli.complete(*cli.read_config(f"{FEWSHOT}:coco,weights=msra", []))


def test_presets_do_not_mix(tmp_path):
    workdir.create(tmp_path, base.get_config("shapes_hard"))
    config = fewshot.get_config("shapes").unlock()
    config.init_from = str(tmp_path)
    with pytest.raises(ValueError, match="trained with preset='shapes_hard', this run has preset='shapes'"):
        cli.complete(config)


def test_ctrl_c_is_one_sentence(monkeypatch, capsys):
    def stop(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["script.py"])
    with pytest.raises(SystemExit) as end:
        cli.guarded(stop)
    assert end.value.code == 1
    assert capsys.readouterr().err == "script.py: stopped: run the same command again to finish\n"
