"""A run folder has one owner at a time."""

import errno
import os

import pytest

from maskdiff_jax import lock


def test_a_folder_is_owned_by_one_at_a_time(tmp_path):
    with lock.owned(tmp_path / "run"):
        with pytest.raises(BlockingIOError, match=f"run is in use by process {os.getpid()} on "):
            with lock.owned(tmp_path / "run"):
                pytest.fail("owned twice")
    with lock.owned(tmp_path / "run"):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    def unknown(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", unknown)
    with lock.owned(tmp_path):
        assert "does not support locks: make sure that only one process" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write .*file/run/lock"):
        with lock.owned(tmp_path / "file" / "run"):
            pytest.fail("owned")
