"""Flags, run folders and errors of the scripts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from configs import base
from launch import cli
from maskdiff_jax import workdir

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
        ([], "no config given"),
        (["--config=nowhere.py"], "cannot read the config file .*nowhere.py: there is no such file$"),
        ([f"--config={BASE}:shape"], "unknown preset 'shape'"),
        ([f"--config={BASE}", "--config.train.mask.stepz=3"], "no such field or value: stepz: did you mean steps[?]$"),
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
    """A trained run of stage 1 with its own mask head, and the default folder beside it."""
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
        ([], "no run given: name its folder"),
        (["nowhere"], "no run in nowhere: train first"),
        (["runs/base-shapes", "runs/other"], "2 run folders given, but one is needed"),
        (["runs/base-shapes", "--config.eval.sample=3"], "no such field"),
        (
            ["runs/base-shapes", "--config.train.mask.steps=8"],
            "7 there, 8 here): trained weights depend on these fields",
        ),
        (["runs/base-shapes", "--config", FEWSHOT], "(stage: 'base' there, 'fewshot' here): omit --config"),
    ],
)
def test_what_a_trained_run_does_not_allow(monkeypatch, capsys, run_folder, arguments, words):
    assert script(monkeypatch, cli.run_trained, *arguments) == (2,)
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1, error


def test_help_is_no_failure(monkeypatch, capsys):
    assert script(monkeypatch, cli.run, "--help") == (0,)
    assert "--workdir" in capsys.readouterr().out


def test_notices_of_libraries_stay_off_the_screen(tmp_path):
    """Of every script: Matplotlib, for one, tells at its first use that it looked for fonts."""
    file = tmp_path / "script.py"
    file.write_text(
        "import logging, sys\nfrom launch import cli\n"
        "cli.guarded(lambda argv: logging.getLogger('matplotlib').info('generated new fontManager'))\n"
    )
    done = subprocess.run(
        [sys.executable, file], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, ""), done


def test_ctrl_c_is_one_sentence(monkeypatch, capsys):
    def stop(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["script.py"])
    with pytest.raises(SystemExit) as end:
        cli.guarded(stop)
    assert end.value.code == 1
    assert capsys.readouterr().err == "script.py: stopped: run the same command again to resume\n"


@pytest.mark.parametrize(
    "error", [RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."), MemoryError()]
)
def test_too_little_memory_is_one_sentence(monkeypatch, capsys, error):
    def start(argv):
        raise error

    monkeypatch.setattr("sys.argv", ["script.py"])
    with pytest.raises(SystemExit) as end:
        cli.guarded(start)
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith("script.py: out of memory: lower the batch")


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    def start(argv):
        raise RuntimeError("a bug")

    monkeypatch.setattr("sys.argv", ["script.py"])
    with pytest.raises(RuntimeError, match="a bug"):
        cli.guarded(start)
