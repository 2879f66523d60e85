"""Mutated metrics.json, metrics.jsonl and pictures: a whole page, or one sentence that names the file and the fix.

MASKDIFF_FUZZ=1000 tries more than the default.
"""

import copy
import json
import math
import os

import numpy as np
import pytest

from maskdiff_jax.reporting import charts, protocol_report, report, runs
from tests.reporting import example_grid
from tests.reporting.example_grid import write_document
from tests.reporting.example_runs import document, log_lines, read_page, write_run

EXAMPLES = int(os.environ.get("MASKDIFF_FUZZ", 50))
VALUES = (
    None, True, -1, 0, 3, 2.5, 101.0, -0.5, 1e300, 10**400, 2**63, math.nan, -math.inf, "", "base", "fewshot", "7",
    "a\nb", "\ud800", "\0", "$x^{", "<b>", "x" * 5000, [], {}, [None], [1, 2, 3], ["star"], {"iou": [0.5]}, {"": None},
    {"segm": 3}, {"data": []}, [[[[]]]],
)  # fmt: skip


def places(node, path=()):
    """The path of every value inside a JSON value."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def at(node, path):
    for key in path:
        node = node[key]
    return node


def mutate(rng, raw):
    """One change at one place: another value, a value from elsewhere in the file, a place less, a field more."""
    every = list(places(raw))
    *parents, key = every[rng.integers(len(every))]
    node = at(raw, parents)
    how = rng.integers(4)
    if how == 0:
        del node[key]
    elif how == 1:
        node[key] = copy.deepcopy(at(raw, every[rng.integers(len(every))]))
    elif how == 2 and isinstance(node, dict):
        node[str(VALUES[rng.integers(len(VALUES))])[:20]] = node[key]
    else:
        node[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])


def cut(rng, data: bytes) -> bytes:
    """Bytes of a file of which the end is missing, or some are others."""
    data = bytearray(data)
    if rng.random() < 0.5:
        return bytes(data[: rng.integers(len(data))])
    for i in rng.integers(0, len(data), 3):
        data[i] = rng.integers(256)
    return bytes(data)


def mutated_run(rng, folder):
    raw, lines = document(("base", "fewshot")[rng.integers(2)]), log_lines()[:4]
    for _ in range(rng.integers(4)):
        mutate(rng, raw)
    for _ in range(rng.integers(3)):
        mutate(rng, lines)
    write_run(folder, raw, ("scenes_00.png", "support.png"))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("metrics.json", "metrics.jsonl", "figures/support.png"):
        if rng.random() < 0.1:
            (folder / name).write_bytes(cut(rng, (folder / name).read_bytes()))
    return folder


def small_chart(title, x_label, y_label, lines, *, percent=False):
    """What a chart may be given; `test_charts` renders such lines."""
    for line in lines:
        values = np.array([line.x, line.y], float)
        assert values.shape[1] and not np.isinf(values).any() and np.abs(np.nan_to_num(values)).max() <= 1e30
        assert isinstance(line.label, str) and line.style in ("-", "--", ":")
    return b"png"


@pytest.mark.parametrize("first", range(0, EXAMPLES, 50))
def test_mutated_runs(tmp_path, monkeypatch, first):
    monkeypatch.setattr(charts, "line_chart", small_chart)
    good, pages = write_run(tmp_path / "good", document(seed=3)), 0
    for seed in range(first, min(first + 50, EXAMPLES)):
        folder = mutated_run(np.random.default_rng(seed), tmp_path / f"run{seed}")
        path = tmp_path / f"{seed}.html"
        try:
            notes = report.write([good, folder], path)
            table = report.text_table([runs.read_metrics(f) for f in (good, folder)])
        except (ValueError, FileNotFoundError) as error:  # anything else would be a traceback for the user
            text = str(error)
            assert text.startswith(f"{folder / 'metrics.json'}") and text.isprintable() and "launch/evaluate.py" in text
            assert not path.exists()
        else:
            pages += 1
            assert "Results" in read_page(path).text and all(note.isprintable() for note in notes)
            assert all(line.isprintable() for line in table.splitlines())
    assert 10 <= pages < 50  # both outcomes are tried


@pytest.mark.parametrize("first", range(0, EXAMPLES, 50))
def test_mutated_protocols(tmp_path, monkeypatch, first):
    """As above, for the report of a protocol: all files, or one sentence and none."""
    monkeypatch.setattr(charts, "panel_chart", lambda *_: b"png")
    reports = 0
    for seed in range(first, min(first + 50, EXAMPLES)):
        rng, root = np.random.default_rng(seed), tmp_path / f"grid{seed}"
        write_document(root / "good", example_grid.document("mtfa"))
        raw = example_grid.document("maskdiff", 1, int(rng.integers(2)))
        for _ in range(rng.integers(1, 5)):
            mutate(rng, raw)
        write_document(root / "mutated", raw)
        output = tmp_path / f"report{seed}"
        try:
            written = protocol_report.write([root], lambda output=output: output)
        except ValueError as error:
            assert str(error).startswith(f"{root / 'mutated' / 'metrics.json'}") and str(error).isprintable()
            assert "launch/evaluate.py" in str(error) and not output.exists()
        else:
            reports += 1
            assert all(note.isprintable() for note in (*written.notes, *written.summary))
            assert "How to read the spreads" in read_page(output / "index.html").text
    assert 5 <= reports < 50  # both outcomes are tried
