"""The clock of benchmarks/timing/first_result.py, on commands that take no time."""

import sys
from pathlib import Path

import pytest

from benchmarks import tables
from benchmarks.timing import first_result

# leaves a file in the compilation cache and says in the scratch folder how many it found there
COUNT = (
    "import os, pathlib, sys\n"
    "cache = pathlib.Path(os.environ['JAX_COMPILATION_CACHE_DIR'])\n"
    "found = len(list(cache.iterdir()))\n"
    "(cache / str(found)).touch()\n"
    "with open(sys.argv[1], 'a') as file: file.write(f'{found} ')\n"
    "assert pathlib.Path(sys.argv[2]).is_dir()"
)
PAGE = (
    "import http.server\n"
    "server = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)\n"
    "print(f'the page is at http://127.0.0.1:{server.server_port} (Ctrl-C stops it)', flush=True)\n"
    "server.serve_forever()"
)


def test_each_round_begins_with_an_empty_cache(tmp_path):
    command = [sys.executable, "-c", COUNT, str(tmp_path / "counts"), "{scratch}"]
    seconds = first_result.medians("", first_result.until_end, command, 2)
    assert (tmp_path / "counts").read_text().split() == ["0", "1", "0", "1"]
    assert set(seconds) == {"empty", "filled"} and all(0 <= s < 60 for s in seconds.values())


def test_a_command_that_fails_is_no_result():
    with pytest.raises(first_result.subprocess.CalledProcessError):
        first_result.medians("", first_result.until_end, [sys.executable, "-c", "raise SystemExit(3)"], 1)
    with pytest.raises(RuntimeError, match="no page: the command ended"):
        first_result.medians("", first_result.until_answer, [sys.executable, "-c", ""], 1)


def test_a_page_is_timed_until_it_answers():
    seconds = first_result.medians("", first_result.until_answer, [sys.executable, "-c", PAGE], 1)
    assert 0 <= seconds["filled"] < 60


def test_what_is_timed_exists():
    found = first_result.commands(sys.executable)
    assert list(found) == list(tables.FIRST_RESULT)
    assert all(Path(part).exists() for _, command in found.values() for part in command if part.endswith(".py"))


def test_the_table(monkeypatch):
    seconds = {name: {"empty": 12.34, "filled": 5.6} for name in tables.FIRST_RESULT}
    document = {"seconds": seconds, "rounds": 3, "load": 0.2, "device": "a processor", "date": "2026-01-01"}
    monkeypatch.setattr(tables, "results", lambda name: {"first_result": document}[name])
    text = tables.first_result()
    assert "| `python launch/sample.py examples/model examples/scene.png` | 12.3 | 5.6 |" in text
    assert text.endswith("Median of 3, at a load average of 0.2. Measured on a processor, 2026-01-01.")
