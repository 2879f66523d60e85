"""The sections of a report's page, from runs as ``runs.read`` gives them; a group of runs differs only in seeds."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maskdiff_jax.reporting import charts, html, statistics
from maskdiff_jax.reporting.runs import Run, config_field

CLASS_GROUPS = ("all", "base", "novel")
CLASS_COLORS = {"all": charts.INK, "base": charts.BLUE, "novel": charts.ORANGE}
COLUMNS = (("bbox", "AP"), ("bbox", "AP50"), ("segm", "AP"), ("segm", "AP50"), ("mask_iou", ""))
COLUMN_TITLES = ("boxes: AP", "boxes: AP50", "masks: AP", "masks: AP50", "mask IoU")
PHASES = {
    "detector": "detector", "novel": "novel-class weights", "mask": "mask head", "refine": "second pass",
    "guidance": "guidance distillation", "evaluation": "evaluation",
}  # fmt: skip
LINE_STYLES = ("-", "--", ":")  # of matplotlib, one per group of runs, from the last group on
# figures/NAME -> title, note
STRIPS = {
    "support.png": (
        "Support set",
        "The K shots of each class, with their background removed. The model has seen nothing else of a novel "
        "class (starred).",
    ),
    "forward.png": (
        "Forward process",
        "Gaussian noise is added to a mask step by step (Eq. 1 of the paper). Training teaches the network to undo it.",
    ),
    "denoising.png": (
        "Sampling a mask",
        "The reverse process on an object of the test images: the noisy mask (top) and the network's estimate "
        "of the clean mask (bottom) over the sampling steps.",
    ),
    "samples.png": (
        "Several samples of one object",
        "Each mask starts from other noise. Where the samples differ, the model is unsure.",
    ),
}


def label(document: dict, *, short: bool = False) -> str:
    """A short description of a run, with its differences from the default; ``short``: for the legend of a chart."""
    stage, shots = document.get("stage") or "run", document.get("shots")
    k_shots = f"{'?' if shots is None else shots} shot{'' if shots == 1 else 's'}"
    names = {  # stage -> in full, short
        "base": ("stage 1: base classes", "stage 1"),
        "fewshot": (f"stage 2: {k_shots}", k_shots),
        "distill": (f"distilled: {k_shots}", f"distilled, {k_shots}"),
    }
    parts = [names.get(stage, (stage, stage))[short]]
    if stage != "base" and config_field(document, "fewshot.classes") == "novel":
        parts.append("novel classes only")
    if config_field(document, "paper"):
        parts.append("paper=true")
    own, evaluated = config_field(document, "data.source"), document.get("dataset")
    if own and own != evaluated:
        parts.append(f"on {evaluated}")
    return ", ".join(parts)


def distinct_labels(documents: Sequence[dict], folders: Sequence[Path]) -> list[str]:
    """The label of each run, with the folder's name where labels are the same."""
    labels = [label(document) for document in documents]
    return [
        f"{text} ({folder.resolve().name})" if labels.count(text) > 1 else text
        for text, folder in zip(labels, folders, strict=True)
    ]


def phase_name(phase: str) -> str:
    """A phase of training in plain words; the rounds of progressive distillation are called "steps16", "steps8" ..."""
    steps = re.fullmatch(r"steps(\d{1,4})", phase)
    return f"distillation to {steps[1]} sampling steps" if steps else PHASES.get(phase, phase)


def is_side_by_side(document: dict) -> bool:
    """Whether detector and mask head were trained at the same time (``train.side_by_side``)."""
    return bool(config_field(document, "train.side_by_side")) and document.get("stage") != "distill"


def total_seconds(document: dict) -> float:
    """Time of a run; of parts that were trained side by side only the longer one counts."""
    seconds = dict(document.get("seconds") or {})
    if not is_side_by_side(document):
        return sum(seconds.values())
    evaluation, mask = seconds.pop("evaluation", 0.0), seconds.pop("mask", 0.0)
    return max(mask, sum(seconds.values())) + evaluation


def metric_name(kind: str, name: str, classes: str) -> str:
    """Key in "metrics": ("segm", "AP50", "novel") -> "segm/novel/AP50"; kind "mask_iou" has no name."""
    if kind == "mask_iou":
        return f"mask_iou/{classes}"
    return f"{kind}/{name}" if classes == "all" else f"{kind}/{classes}/{name}"


def _estimate(runs: Sequence[Run], key: str) -> statistics.Estimate | None:
    """Of a metric over the runs that have it; None: none has."""
    values = [run.document["metrics"][key] for run in runs if key in run.document["metrics"]]
    return statistics.estimate(values) if values else None


def _cell(runs: Sequence[Run], key: str) -> str:
    """A metric as HTML; of several runs mean ± half of the confidence interval."""
    e = _estimate(runs, key)
    if e is None:
        return "–"
    return f"{e.mean:.1f}" if e.n == 1 else f"{e.mean:.1f}<br><small>± {e.half_width:.1f}</small>"


def head(runs: Sequence[Run]) -> str:
    """The page's title, what the runs are, and their main metrics in large numbers."""
    document = runs[-1].document
    seed = document.get("seed")
    seeds = f"mean of {len(runs)} seeds" if len(runs) > 1 else f"seed {'?' if seed is None else seed}"
    facts = (document.get("dataset"), label(document), seeds, document.get("device"), document.get("date"))
    line = " · ".join(html.text(x) for x in facts if x)
    tiles = []
    for kind, classes in (("segm", "base"), ("segm", "novel"), ("mask_iou", "all"), ("mask_iou", "novel")):
        e = _estimate(runs, metric_name(kind, "AP50", classes))
        if e is not None:
            what = "mask AP50" if kind == "segm" else "mask IoU in ground-truth boxes"
            unit = "%" if e.n == 1 else f"± {e.half_width:.1f} %"
            tiles.append((f"{e.mean:.1f}", unit, f"{what}, {classes} classes"))
    return f'<h1>MaskDiff: few-shot instance segmentation</h1><p class="muted">{line}</p>' + html.tiles(tiles)


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    return distinct_labels([runs[-1].document for runs in groups], [runs[-1].folder for runs in groups])


def result_note(groups: Sequence[Sequence[Run]]) -> str:
    """The note that explains the result table."""
    splits = dict.fromkeys(str(run.document.get("split") or "test") for runs in groups for run in runs)
    note = (
        f"Percent on the {' or '.join(splits)} split. AP is the mean over IoU thresholds from 0.50 to 0.95, AP50 is AP "
        "at threshold 0.50. Mask IoU compares masks sampled in ground-truth boxes with the ground-truth masks."
    )
    if any(len(runs) > 1 for runs in groups):
        note += " ± is half of the 95 % confidence interval of the mean over n runs that differ only in their seeds."
    return note


def result_table(groups: Sequence[Sequence[Run]]) -> str:
    """AP, AP50 and mask IoU for all, base and novel classes; one row per group."""
    headers = [
        [("", 1), ("n", 1), *((title, len(CLASS_GROUPS)) for title in COLUMN_TITLES)],
        [("", 1), ("", 1), *((classes, 1) for classes in CLASS_GROUPS * len(COLUMNS))],
    ]
    rows = []
    for name, runs in zip(_labels(groups), groups, strict=True):
        keys = [metric_name(kind, metric, classes) for kind, metric in COLUMNS for classes in CLASS_GROUPS]
        rows.append([html.text(name), str(len(runs)), *(_cell(runs, key) for key in keys)])
    return html.table(headers, rows, range(2, len(headers[1]), len(CLASS_GROUPS)))


def time_table(groups: Sequence[Sequence[Run]]) -> str:
    """Seconds of each phase, mean over the runs; one row per group."""
    seconds = [[run.document.get("seconds") or {} for run in runs] for runs in groups]
    totals = [[total_seconds(run.document) for run in runs] for runs in groups]
    known = dict.fromkeys(name for runs in seconds for run in runs for name in run)
    names = [k for k in known if k != "evaluation"] + [k for k in known if k == "evaluation"]
    rows = []
    for row_label, of_runs, of_totals in zip(_labels(groups), seconds, totals, strict=True):
        by_phase = [[s[name] for s in of_runs if name in s] for name in names]
        cells = [f"{np.mean(values):.0f}" if values else "–" for values in by_phase]
        rows.append([html.text(row_label), *cells, f"<b>{np.mean(of_totals):.0f}</b>"])
    return html.table([[("", 1), *((phase_name(n), 1) for n in names), ("total", 1)]], rows)


def picture_sections(figures: dict[str, bytes]) -> list[str]:
    """Test images, support set and strips, as far as there are figures (file name -> PNG) of them."""
    out = []
    scenes = [png for name, png in figures.items() if name.startswith("scenes_")]
    if scenes:
        note = (
            "Left: ground truth; right: predictions with their scores in percent (30 or more; of overlapping boxes "
            "only the best). A star marks a novel class."
        )
        cells = [html.picture(png, f"test image {i}: ground truth and prediction") for i, png in enumerate(scenes)]
        out.append(html.section("Test images", html.grid(cells), note=note))
    for name, (title, note) in STRIPS.items():
        if name in figures:
            out.append(html.section(title, html.picture(figures[name], title, scroll=True), note=note))
    return out


def time_note(groups: Sequence[Sequence[Run]]) -> str:
    """The note that explains the time table."""
    note = "Seconds, compilation included."
    if any(is_side_by_side(run.document) for runs in groups for run in runs):
        note += " Where detector and mask head were trained side by side, only the longer time counts in the total."
    return note


def _mean_curve(runs: Sequence[Run], name: str) -> tuple[list[float], list[float]] | None:
    """IoU thresholds and the mean over the runs of AP at each of them (NaN: unknown); None if there are none."""
    curves = [run.document.get("curves") or {} for run in runs]
    thresholds = curves[-1].get("iou") or []
    found = [c[name] for c in curves if name in c and c.get("iou") == thresholds]
    columns = [[v for v in column if v is not None] for column in zip(*found, strict=True)]
    if not any(columns):
        return None
    return thresholds, [float(np.mean(column)) if column else math.nan for column in columns]


def threshold_section(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Charts of AP against the IoU threshold, for masks and for boxes; [] without curves."""
    pictures = []
    for kind, title in (("segm", "masks"), ("bbox", "boxes")):
        lines = []
        for style, runs in zip(LINE_STYLES, reversed(groups), strict=False):
            by_classes = {classes: _mean_curve(runs, f"{kind}/{classes}") for classes in CLASS_GROUPS}
            if by_classes["all"] == by_classes["base"]:  # where only base classes are evaluated
                by_classes["all"] = None
            name = label(runs[-1].document, short=True)
            for classes, curve in by_classes.items():
                if curve:
                    lines.append(charts.Line(*curve, f"{classes}, {name}", CLASS_COLORS[classes], style))
        if lines:
            png = charts.line_chart(title, "IoU threshold", "AP in percent", lines, percent=True)
            pictures.append(html.picture(png, f"AP of {title} against the IoU threshold"))
    note = "A higher threshold requires a more exact outline."
    if len(groups) > len(LINE_STYLES):
        note += f" Only the last {len(LINE_STYLES)} rows above are shown."
    return [html.section("AP against the IoU threshold", html.grid(pictures), note=note)] if pictures else []


def loss_section(groups: Sequence[Sequence[Run]]) -> list[str]:
    """A chart of the losses of each phase of each group; [] without logs."""
    pictures = []
    for runs in groups:
        for phase in dict.fromkeys(line["phase"] for run in runs for line in run.lines):
            lines = _loss_lines(runs, phase)
            if lines:
                title = f"{label(runs[-1].document)}, {phase_name(phase)}"
                pictures.append(html.picture(charts.line_chart(title, "step", "loss", lines), f"losses of {title}"))
    note = "Faint: logged values. Strong: running mean."
    return [html.section("Losses", html.grid(pictures), note=note)] if pictures else []


def _loss_lines(runs: Sequence[Run], phase: str) -> list[charts.Line]:
    """The loss of each run; of a single run the terms of the loss too."""
    out = []
    for i, run in enumerate(runs):
        logged = [line for line in run.lines if line["phase"] == phase and "loss" in line]
        if not logged:
            continue
        terms = [k for k in logged[0] if "loss" in k and k != "loss"] if len(runs) == 1 else []
        for n, key in enumerate(["loss", *(terms if len(terms) > 1 else ())]):
            name = key if len(runs) == 1 else f"seed {run.document.get('seed', i)}"
            color = charts.COLORS[(i + n) % len(charts.COLORS)]
            values = [line.get(key, math.nan) for line in logged]
            out.append(charts.Line([line["step"] for line in logged], values, name, color, noisy=True))
    return out


def class_section(runs: Sequence[Run]) -> list[str]:
    """The metrics of each class, mean over the runs, base classes first."""
    titles = {"bbox": "boxes: AP", "segm": "masks: AP", "mask_iou": "mask IoU"}
    documents = [run.document for run in runs]
    tables = {kind: [(d.get("per_class") or {}).get(kind) or {} for d in documents] for kind in titles}
    kinds = [kind for kind in titles if any(tables[kind])]
    names = dict.fromkeys(name for kind in kinds for table in tables[kind] for name in table)
    novel = set(documents[-1].get("novel_classes") or ())
    rows = []
    for name in sorted(names, key=lambda n: n in novel):
        cells = [f'<span class="novel">★ {html.text(name)}</span>' if name in novel else html.text(name)]
        for kind in kinds:
            values = [table[name] for table in tables[kind] if table.get(name) is not None]
            mean = float(np.mean(values)) if values else math.nan
            cells.append(f"{mean:.1f}{html.bar(mean, novel=name in novel)}" if values else "–")
        rows.append(cells)
    if not rows:
        return []
    table = html.table([[("class", 1), *((titles[kind], 1) for kind in kinds)]], rows)
    return [html.section("Classes", table, note=f"{label(documents[-1])}; percent; a star marks a novel class.")]


def details(document: dict, name: str = "") -> str:
    """The config and the versions of a run, shown on a click on its name (default: what it is)."""
    left = {k: v for k, v in document.items() if k not in ("metrics", "per_class", "curves", "seconds", "config")}
    content = json.dumps(left | {"config": document.get("config")}, indent=1)
    return html.details(f"{name or label(document)}: versions and config", f"<pre>{html.text(content)}</pre>")
