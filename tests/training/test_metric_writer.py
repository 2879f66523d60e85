"""The numbers of a run on disk: what is kept when it resumes, and what a full disk does."""

import contextlib
import errno
import json

import pytest

from maskdiff_jax.training import metric_writer
from maskdiff_jax.training.metric_writer import MetricWriter


def write(folder, steps, first=0, phase="mask"):
    with MetricWriter(folder, phase, 10, first) as writer:
        for step in steps:
            writer.write(step, {"loss": step / 3, "error": 1.0})
            writer.advance()


def steps(folder):
    return [(x["phase"], x["step"]) for x in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())]


def test_lines_and_tensorboard(tmp_path):
    write(tmp_path, [1, 2])
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0].keys() == {"phase", "step", "time", "loss", "error"} and lines[1]["loss"] == 0.666667
    (events,) = (tmp_path / "tensorboard").iterdir()
    data = events.read_bytes()
    assert b"brain.Event:2" in data and data.count(b"mask/loss") == 2


def test_steps_that_are_done_again_are_dropped(tmp_path):
    write(tmp_path, [1, 2], phase="detector")
    write(tmp_path, [1, 2, 3, 4])
    write(tmp_path, [3], first=2)
    assert steps(tmp_path) == [("detector", 1), ("detector", 2), ("mask", 1), ("mask", 2), ("mask", 3)]


def test_a_line_that_a_crash_cut_off_is_dropped_in_silence(tmp_path, capsys):
    write(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    write(tmp_path, [2], first=2)
    assert steps(tmp_path) == [("mask", 1), ("mask", 2)]
    assert "damaged" not in capsys.readouterr().err


def test_a_line_that_was_damaged_later_is_named(tmp_path, capsys):
    write(tmp_path, [1, 2, 3])
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().replace('"step": 2', '"step" 2'))
    write(tmp_path, [4], first=3)
    assert steps(tmp_path) == [("mask", 1), ("mask", 3), ("mask", 4)]
    assert "metrics.jsonl: dropped damaged lines 2" in capsys.readouterr().err


def test_a_loss_that_is_not_finite(tmp_path):
    with MetricWriter(tmp_path, "mask", 10, 0) as writer:
        with pytest.raises(
            FloatingPointError, match="the loss of phase 'mask' is nan at step 3: check the data .* another --workdir"
        ):
            writer.write(3, {"loss": float("nan")})
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("method", ["write_event", "flush"])
def test_a_full_disk_is_one_sentence_and_does_not_hang(tmp_path, monkeypatch, method):
    from tensorboardX.event_file_writer import EventsWriter

    write(tmp_path, [1])

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(
        OSError, match="the disk is full: free some space, then run the command again. Not written: .*jsonl"
    ):
        with MetricWriter(tmp_path, "mask", 10, 1) as writer:
            monkeypatch.setattr(EventsWriter, method, full)
            writer.write(2, {"loss": 1.0})
    assert steps(tmp_path)[0] == ("mask", 1)


def test_other_processes_of_a_distributed_run_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(metric_writer.jax, "process_index", lambda: 1)
    write(tmp_path, [1, 2])
    assert not list(tmp_path.iterdir())


def test_a_told_line_is_in_the_log_that_stdout_goes_to(tmp_path):
    """As the protocol writes log.txt."""
    with (tmp_path / "log.txt").open("w") as log, contextlib.redirect_stdout(log):
        with MetricWriter(tmp_path, "mask", 10, 0) as writer:
            writer.tell("mask: 10 steps at 2 s, less than a minute")
    assert (tmp_path / "log.txt").read_text() == "mask: 10 steps at 2 s, less than a minute\n"
