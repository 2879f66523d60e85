"""The log of a run, whole and damaged."""

import json

import pytest

from maskdiff_jax import metrics_log

LINE = {"phase": "mask", "step": 5, "time": 1.5, "loss": 0.25}


def test_a_log_comes_back(tmp_path):
    lines = [LINE | {"step": i} for i in range(3)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(x) + "\n" for x in lines))
    assert metrics_log.read(path) == (lines, [])
    path.write_text("")
    assert metrics_log.read(path) == ([], [])


@pytest.mark.parametrize(
    "text", ['{"phase": "mask", "st', "\x00\x00\x00", "7", "[]", '{"step": 1}', '{"phase": "mask", "step": true}',
             '{"phase": "mask", "step": -1}', '{"phase": 3, "step": 1}', "[" * 100_000, "\ud83d"],
)  # fmt: skip
def test_a_damaged_line_does_not_hide_the_others(tmp_path, text):
    path, good = tmp_path / "metrics.jsonl", json.dumps(LINE).encode()
    path.write_bytes(b"\n".join([good, text.encode(errors="surrogatepass"), b"", good, good[:9]]))
    assert metrics_log.read(path) == ([LINE, LINE], [2, 5])
