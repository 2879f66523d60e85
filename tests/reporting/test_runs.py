"""Reading a run's folder: what is damaged is named with the fix, or skipped and counted."""

import json

import pytest

from maskdiff_jax.reporting import runs
from tests.reporting.example_runs import FIGURES, document, log_lines, write_run


def test_a_whole_run(tmp_path):
    run = runs.read(write_run(tmp_path / "run", document()))
    assert run.document == document() and run.lines == log_lines() and run.notes == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "is missing: run launch/evaluate.py on this run first"),
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        (b"\xff\xfe\xff", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON (nested too deeply)"),
        ("[]", "has no 'metrics' object"),
        ('{"metrics": 3}', "has no 'metrics' object"),
        ('{"metrics": {"segm/AP": "high"}}', "metrics['segm/AP'] is not a percentage from 0 to 100, but 'high'"),
        ('{"metrics": {"segm/AP": true}}', "metrics['segm/AP'] is not a percentage"),
        ('{"metrics": {"segm/AP": NaN}}', "metrics['segm/AP'] is not a percentage from 0 to 100, but nan"),
        ('{"metrics": {"rescored/bbox/novel/AP50": 101}}', "metrics['rescored/bbox/novel/AP50'] is not a percentage"),
        ('{"metrics": {"images": Infinity}}', "metrics['images'] is not a finite number, but inf"),
        (json.dumps({"metrics": {"images": 10**400}}), "metrics['images'] is not a finite number"),
        ('{"metrics": {}, "x": ' + "[" * 30 + "]" * 30 + "}", "nested more than 20 levels deep"),
    ],
)
def test_a_metrics_json_that_cannot_be_used_gives_one_sentence(tmp_path, content, expected):
    if content is not None:
        (tmp_path / "metrics.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((FileNotFoundError, ValueError)) as error:
        runs.read_metrics(tmp_path)
    text = str(error.value)
    assert expected in text and text.startswith(str(tmp_path)) and text.isprintable()
    assert "run launch/evaluate.py" in text


WRONG = {
    "stage": [3, ["base"], "a\nb", "x" * 300],
    "dataset": [{}, "\ud800"],
    "shots": ["5", -1, 2.5, True],
    "seed": [[], -1],
    "config": [[], "text", {"data": 3}, {"data": {"source": 3}}, {"fewshot": [1]}, {"train": 3}],
    "novel_classes": ["star", [1], {"star": 1}],
    "seconds": [3, {"mask": "long"}, {"mask": -1}, {"mask": None}],
    "per_class": [[], {"segm": 3}, {"segm": {"star": "high"}}, {"segm": {"star": 120}}],
    "curves": [
        3, {"iou": 3}, {"iou": [0.5], "segm/all": [1, 2]}, {"segm/all": [1]}, {"iou": [2.0], "segm/all": [1]},
        {"iou": [0.5], "segm/all": ["x"]}, {"iou": [0.5], "segm/all": [-1.0]},
    ],
}  # fmt: skip


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_a_field_of_a_wrong_type_or_range_is_named(tmp_path, field, value):
    (tmp_path / "metrics.json").write_text(json.dumps(document() | {field: value}))
    with pytest.raises(ValueError) as error:
        runs.read_metrics(tmp_path)
    text = str(error.value)
    assert f"metrics.json: '{field}' is not " in text and text.isprintable() and text.endswith("evaluate.py again")
    (tmp_path / "metrics.json").write_text(json.dumps(document() | {field: None}))
    runs.read_metrics(tmp_path)
    assert field in runs.FIELDS


def test_damaged_lines_of_the_log_are_skipped_and_counted(tmp_path):
    folder = write_run(tmp_path / "run", document())
    good = {"phase": "mask", "step": 41, "loss": 1.0}
    lines = [
        json.dumps(good), "[]", "3", '{"phase": "mask"}', '{"phase": 3, "step": 1}', '{"phase": "mask", "step": "1"}',
        '{"phase": "mask", "step": -1}', '{"phase": "mask", "step": 1e9}',
        json.dumps({"phase": "mask", "step": 10**99}),
        "[" * 100_000, '{"phase": "a\\nb", "step": 1}', '{"phase": "jo',
    ]  # fmt: skip
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write("\n".join(lines).encode() + b"\xff")
    run = runs.read(folder)
    assert run.lines == [*log_lines(), good]
    assert run.notes == [f"{folder / 'metrics.jsonl'}: skipped 11 damaged lines"]


def test_values_that_are_no_finite_number_are_dropped_from_a_line(tmp_path):
    (tmp_path / "log").write_text(
        '{"phase": "mask", "step": 1, "loss": NaN, "a": "x", "b": null, "c": 1e300, "d": 2}\n'
    )
    assert runs.read_log(tmp_path / "log") == ([{"phase": "mask", "step": 1, "d": 2.0}], 0)


def test_a_log_of_endless_phases_is_bounded(tmp_path):
    (tmp_path / "log").write_text("".join(f'{{"phase": "p{i}", "step": 1}}\n' for i in range(100)))
    lines, skipped = runs.read_log(tmp_path / "log")
    assert len(lines) == runs.MAX_PHASES and skipped == 100 - runs.MAX_PHASES


def test_a_missing_log_is_noted(tmp_path):
    folder = write_run(tmp_path / "run", document())
    (folder / "metrics.jsonl").unlink()
    run = runs.read(folder)
    assert run.lines == [] and run.notes == [f"{folder / 'metrics.jsonl'} is missing: no losses of this run are shown"]


def test_figures(tmp_path):
    folder = write_run(tmp_path / "run", document(), FIGURES)
    figures, notes = runs.read_figures(folder)
    assert list(figures) == sorted(FIGURES) and notes == []
    assert figures["support.png"] == (folder / "figures/support.png").read_bytes()
    whole = figures["support.png"]
    (folder / "figures/support.png").write_bytes(whole[:-20])
    (folder / "figures/forward.png").write_bytes(whole[:40] + b"x" + whole[41:])
    (folder / "figures/samples.png").write_text("<html>")
    (folder / "figures/folder.png").mkdir()
    figures, notes = runs.read_figures(folder)
    assert list(figures) == ["denoising.png", "scenes_00.png"] and len(notes) == 4
    assert f"{folder / 'figures/support.png'} was skipped, because it is not a readable PNG" in notes[-1]


def test_a_run_without_figures_says_how_to_get_them(tmp_path):
    figures, notes = runs.read_figures(tmp_path)
    assert figures == {} and len(notes) == 1 and "--config.eval.figures above 0" in notes[0]


def test_config_fields():
    doc = {"config": {"a": {"b": 0}, "c": None}}
    assert runs.config_field(doc, "a.b") == 0 and runs.config_field(doc, "c") is None
    assert runs.config_field(doc, "a.b.c") is None and runs.config_field(doc, "x.y") is None
    assert runs.config_field({}, "a") is None and runs.config_field({"config": None}, "a.b") is None
