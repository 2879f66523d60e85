"""Sections of the page: names in plain words, means over runs, sections that are there only with their data."""

import math
from pathlib import Path

import pytest

from maskdiff_jax.reporting import charts, sections
from maskdiff_jax.reporting.runs import Run
from tests.reporting.example_runs import document, log_lines, parse_page


def make_run(doc: dict, lines=()) -> Run:
    return Run(Path("run"), doc, list(lines), [])


def text_of(*pieces: str) -> str:
    return parse_page("".join(pieces)).text


def test_labels():
    assert sections.label(document("base")) == "stage 1: base classes"
    assert sections.label(document()) == "stage 2: 5 shots"
    assert sections.label(document() | {"shots": 1}) == "stage 2: 1 shot"
    assert sections.label(document() | {"stage": "distill"}) == "distilled: 5 shots"
    assert sections.label(document() | {"dataset": "voc"}) == "stage 2: 5 shots, on voc"
    literal = document()
    literal["config"] |= {"paper": True, "fewshot": {"classes": "novel"}}
    assert sections.label(literal) == "stage 2: 5 shots, novel classes only, paper=true"
    assert sections.label(literal, short=True) == "5 shots, novel classes only, paper=true"
    assert sections.label(document("base"), short=True) == "stage 1"
    assert sections.label({}) == "run" and sections.label({"stage": "fewshot"}) == "stage 2: ? shots"


def test_equal_labels_get_the_name_of_their_folder():
    documents = [document(), document("base"), document(seed=1)]
    folders = [Path("runs/a"), Path("runs/b"), Path("runs/c/")]
    assert sections.distinct_labels(documents, folders) == [
        "stage 2: 5 shots (a)", "stage 1: base classes", "stage 2: 5 shots (c)",
    ]  # fmt: skip


def test_phases_in_plain_words():
    names = [sections.phase_name(x) for x in ("mask", "novel", "steps8", "guidance", "other")]
    assert names == [
        "mask head", "novel-class weights", "distillation to 8 sampling steps", "guidance distillation", "other",
    ]  # fmt: skip


def test_metric_names():
    assert sections.metric_name("segm", "AP50", "novel") == "segm/novel/AP50"
    assert sections.metric_name("bbox", "AP", "all") == "bbox/AP"
    assert sections.metric_name("mask_iou", "", "all") == "mask_iou/all"


def test_head_shows_the_mean_of_several_runs():
    runs = [make_run(document(seed=s, shift=v)) for s, v in enumerate((-1.0, 0.0, 1.0))]
    got = text_of(sections.head(runs))
    assert "shapes · stage 2: 5 shots · mean of 3 seeds · a CPU · 2026-11-22" in got
    assert "80.0 ± 2.5 %mask IoU in ground-truth boxes, all classes" in got  # 4.303 x 1 / sqrt(3) = 2.48
    assert "5 shots · seed 1 · a CPU" in text_of(sections.head(runs[1:2]))


def test_result_table_and_note():
    groups = [[make_run(document("base"))], [make_run(document(seed=s)) for s in range(2)]]
    got = text_of(sections.result_table(groups))
    assert "stage 1: base classes1" in got and "stage 2: 5 shots2" in got and "–" in got
    assert "over n runs" in sections.result_note(groups) and "over n runs" not in sections.result_note(groups[:1])
    groups[0][0].document["split"] = "val"
    assert "Percent on the val or test split" in sections.result_note(groups)


def test_time_table_is_the_mean_of_runs_and_ends_with_the_evaluation():
    slow = document(seed=1) | {"seconds": {"evaluation": 5.0, "mask": 13.6, "novel": 7.0}}
    got = text_of(sections.time_table([[make_run(document()), make_run(slow)], [make_run({"metrics": {}})]]))
    assert "mask headnovel-class weightsevaluationtotalstage 2: 5 shots137420run" in got


def test_parts_that_were_trained_side_by_side_take_as_long_as_the_longer_one():
    seconds = {"novel": 7.0, "detector": 9.0, "mask": 12.0, "evaluation": 5.0}
    run = document() | {"seconds": seconds}
    assert sections.total_seconds(run) == 33.0
    run["config"]["train"] = {"side_by_side": True}
    assert sections.total_seconds(run) == 16.0 + 5.0
    run["seconds"] = seconds | {"mask": 20.0}
    assert sections.total_seconds(run) == 20.0 + 5.0
    assert sections.total_seconds(run | {"stage": "distill"}) == 41.0  # its phases depend on each other
    assert "side by side" in sections.time_note([[make_run(run)]])
    assert "side by side" not in sections.time_note([[make_run(document())]])
    assert sections.total_seconds({"metrics": {}}) == 0.0


def test_curves_are_means_over_runs():
    other = document(seed=1)
    other["curves"] = {"iou": [0.5, 0.75, 0.95], "segm/all": [70.0, None, 5.0]}
    runs = [make_run(document()), make_run(other)]
    assert sections._mean_curve(runs, "segm/all") == ([0.5, 0.75, 0.95], [60.0, 30.0, 5.0])
    assert sections._mean_curve(runs, "segm/novel") is None and sections._mean_curve(runs, "bbox/all") is None
    other["curves"]["iou"] = [0.5, 0.75, 0.9]  # not the same thresholds: the last run's alone
    thresholds, mean = sections._mean_curve(runs, "segm/all")
    assert thresholds == [0.5, 0.75, 0.9] and math.isnan(mean[1]) and mean[::2] == [70.0, 5.0]
    assert sections._mean_curve([make_run({"metrics": {}})], "segm/all") is None


def test_all_classes_have_no_line_of_their_own_where_only_base_classes_are_evaluated(monkeypatch):
    rendered = []
    monkeypatch.setattr(charts, "line_chart", lambda *args, **_: rendered.append(args) or b"")
    doc = document("base")
    doc["curves"]["segm/base"] = doc["curves"]["segm/all"]
    assert len(sections.threshold_section([[make_run(doc)]])) == 1
    assert [[line.label for line in lines] for *_, lines in rendered] == [["base, stage 1"]]
    assert sections.threshold_section([[make_run({"metrics": {}})]]) == []


def test_curves_of_the_last_three_groups(monkeypatch):
    made = []
    monkeypatch.setattr(charts, "line_chart", lambda *args, **_: made.append(args) or b"")
    groups = [[make_run(document() | {"shots": k})] for k in (1, 2, 5, 10)]
    (section,) = sections.threshold_section(groups)
    labels = [(line.label, line.style) for line in made[0][3]]
    assert labels == [("all, 10 shots", "-"), ("all, 5 shots", "--"), ("all, 2 shots", ":")]
    assert "Only the last 3 rows" in section and "Only the last" not in sections.threshold_section(groups[:3])[0]


def test_losses_of_one_run_with_their_terms_and_of_several_by_seed(monkeypatch):
    rendered = []
    monkeypatch.setattr(charts, "line_chart", lambda *args, **_: rendered.append(args) or b"")
    one = make_run(document(), log_lines())
    sections.loss_section([[one]])
    title, x_label, y_label, lines = rendered.pop()
    assert (title, x_label, y_label) == ("stage 2: 5 shots, mask head", "step", "loss")
    assert [line.label for line in lines] == ["loss", "loss_cls", "loss_box"]
    assert lines[1].y[0] == 0.5 and math.isnan(lines[1].y[1])
    sections.loss_section([[one, make_run(document(seed=1), log_lines()), make_run(document(seed=2))]])
    assert [line.label for line in rendered.pop()[3]] == ["seed 0", "seed 1"]
    assert sections.loss_section([[make_run(document())]]) == [] and not rendered


def test_classes_with_the_novel_ones_last():
    without = {k: v for k, v in document(seed=1).items() if k != "per_class"}
    two = document(seed=2)
    two["per_class"] = {"segm": {"star": 20.0, "circle": None}}
    (section,) = sections.class_section([make_run(d) for d in (document(), without, two)])
    got = text_of(section)
    assert "classmasks: APmask IoUcircle40.081.0★ star15.0–" in got
    assert sections.class_section([make_run(without)]) == []


@pytest.mark.parametrize("names", [(), ("support.png",), ("scenes_00.png", "scenes_01.png", "samples.png")])
def test_pictures_have_sections_where_they_exist(names):
    got = "".join(sections.picture_sections(dict.fromkeys(names, b"")))
    assert got.count("<img") == len(names)
    assert got.count("<h2>") == len({n.split("_")[0] for n in names})
