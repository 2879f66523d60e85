"""Files are complete or absent."""

import errno
import os

import pytest

from maskdiff_jax import atomic


def test_text_bytes_and_functions(tmp_path):
    path = tmp_path / "a"
    for content in ("é", "é".encode(), lambda f: f.write("é".encode())):
        atomic.write(path, content)
        assert path.read_bytes() == "é".encode()
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "number, says", [(errno.ENOSPC, "the disk is full.*a.json"), (errno.EIO, "cannot write .*a.json")]
)
def test_a_failed_write_keeps_the_old_file_and_names_it(tmp_path, number, says):
    path = tmp_path / "a.json"
    atomic.write(path, "old")

    def fail(file):
        file.write(b"half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=says) as caught:
        atomic.write(path, fail)
    assert caught.value.errno == number
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


def test_json_refuses_nan(tmp_path):
    atomic.write_json(tmp_path / "a.json", {"x": [1, 2.5]})
    assert (tmp_path / "a.json").read_text() == '{\n "x": [\n  1,\n  2.5\n ]\n}'
    with pytest.raises(ValueError):
        atomic.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert "2.5" in (tmp_path / "a.json").read_text()
