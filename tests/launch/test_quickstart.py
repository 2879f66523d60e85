"""launch/quickstart.py: the commands that it ends with work as printed; how it uses the cores of a CPU."""

import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskdiff_jax import lock, workdir
from tests import launched, tiny


def test_the_printed_commands_segment_an_image(tmp_path, capsys):
    """A trained run, tiny: the export and the masks are where the commands say, for the image that was saved."""
    run = tiny.write_run(tmp_path / "fewshot")
    launched.load("quickstart")["print_usage"](tmp_path, workdir.read_config(run), run)
    title, *commands = capsys.readouterr().out.strip().splitlines()
    assert title == "segment an image with this model:" and len(commands) == 2
    for command in commands:
        python, script, *arguments = shlex.split(command)
        assert Path(python).name.startswith("python") and Path(script).is_file()
        done = launched.run(Path(script).stem, *arguments)
        assert done.code == 0, done
    assert np.asarray(Image.open(tmp_path / "example.png")).shape == (128, 128, 3)
    assert (tmp_path / "samples" / "example.png").is_file()
    results = json.loads((tmp_path / "samples" / "results.json").read_text())
    assert all(r["file_name"] == str(tmp_path / "example.png") for r in results)


def written(folder):
    for name in ("base/lock", "fewshot/checkpoints/final/d", "report/index.html", "example.png", "thesis.tex"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return folder


def test_fresh_deletes_its_own_results_alone(tmp_path):
    launched.load("quickstart")["forget"](written(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", [".", "base"])
def test_fresh_does_not_delete_what_another_process_trains(tmp_path, monkeypatch, name):
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))  # the script changes it
    with lock.owned(written(tmp_path) / name):
        done = launched.run("quickstart", "--fresh", f"--workdir={tmp_path}")
    assert done.code == 1 and "is in use by process" in done.err and done.err.count("\n") == 1
    assert (tmp_path / "base" / "lock").exists() and (tmp_path / "report" / "index.html").exists()


TWO = "--xla_force_host_platform_device_count=2"
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"


@pytest.mark.parametrize(
    ("cores", "before", "after"),
    [
        (1, "", ""),
        (2, "", f"{TWO} {ONE_THREAD}"),
        (2, "--xla_dump_to=x", f"--xla_dump_to=x {TWO} {ONE_THREAD}"),
        (8, "", TWO),
        (8, "--xla_force_host_platform_device_count=4", "--xla_force_host_platform_device_count=4"),
    ],
)
def test_the_cpu_becomes_two_devices(monkeypatch, cores, before, after):
    monkeypatch.setenv("XLA_FLAGS", before)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    launched.load("quickstart")["_use_two_cores"]()
    assert os.environ["XLA_FLAGS"] == after
