"""Tables and one static HTML page from the files that runs leave: metrics.json, metrics.jsonl, figures/*.png.

Nothing else is read, so a report can be made anywhere. Runs that differ only in seeds become one row: mean
and 95 % confidence interval.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from maskdiff_jax.reporting import html

GROUPS = ("all", "base", "novel")
# runs that differ in nothing else are repeats of one experiment
SEEDS = {("seed",), ("init_from",), ("fewshot", "seed"), ("eval", "noise_seed")}
PHASES = {
    "detector": "detector", "mask": "mask head", "novel": "novel rows", "evaluation": "evaluation",
}  # fmt: skip
NAMED_STRIPS = (
    ("support.png", "The shots", "The support set: all that the model has seen of a novel class (starred), "
     "background removed."),
    ("forward.png", "Forward process", "Gaussian noise is added to a mask step by step (the paper's Eq. 1); "
     "training asks the network to undo it."),
    ("denoising.png", "From noise to a mask", "Reverse sampling on a test object: the noisy mask, and the "
     "network's estimate of the clean one at each step."),
    ("samples.png", "Several samples of one object", "Each sample starts from other noise; where they "
     "differ, the model is unsure."),
)  # fmt: skip


class Run(NamedTuple):
    """What one workdir holds."""

    folder: Path
    document: dict  # metrics.json
    lines: list[dict]  # metrics.jsonl


class Estimate(NamedTuple):
    """A mean over n runs; std and the half width of the 95 % confidence interval are NaN for n = 1."""

    mean: float
    std: float
    half: float
    n: int


def read_metrics(workdir: str | Path) -> dict:
    """The metrics.json of a run.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is no json, or lacks "metrics".
    """
    path = Path(workdir) / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run launch/evaluate.py on this workdir first")
    try:
        document = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no valid json ({error}): run launch/evaluate.py again") from error
    values = document.get("metrics") if isinstance(document, dict) else None
    if not isinstance(values, dict):
        raise ValueError(f"{path} has no 'metrics' object: run launch/evaluate.py again")
    wrong = [k for k, v in values.items() if isinstance(v, bool) or not isinstance(v, int | float)]
    if wrong:
        raise ValueError(f"{path}: metrics['{wrong[0]}'] is no number: run launch/evaluate.py again")
    return document


def read(workdir: str | Path) -> Run:
    """A run with its log; lines of the log that were cut off are left out. Raises as ``read_metrics``."""
    folder = Path(workdir)
    document, lines = read_metrics(folder), []
    log = folder / "metrics.jsonl"
    for text in log.read_text().splitlines() if log.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and {"phase", "step"} <= line.keys():
            lines.append(line)
    return Run(folder, document, lines)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, standard deviation (n - 1) and 95 % confidence interval (Student's t) of independent runs."""
    n = len(values)
    mean = float(np.mean(values))
    if n < 2:
        return Estimate(mean, math.nan, math.nan, n)
    std = float(np.std(values, ddof=1))
    return Estimate(mean, std, float(stdtrit(n - 1, 0.975)) * std / math.sqrt(n), n)


def group(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ only in seeds, together, in the order of their first member."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        d = run.document
        config = _without_seeds(d.get("config"))
        names = ("preset", "stage", "dataset", "split", "shots")
        found.setdefault(json.dumps([config, *(d.get(k) for k in names)], sort_keys=True), []).append(run)
    return list(found.values())


def _without_seeds(config: Any, path: tuple[str, ...] = ()) -> Any:
    """A run's config, nested dicts, without the fields of SEEDS."""
    if not isinstance(config, dict):
        return config
    return {k: _without_seeds(v, (*path, k)) for k, v in config.items() if (*path, k) not in SEEDS}


def label(document: dict) -> str:
    """What a run is, in a few words, and what it was scored on if that is another data set than its own."""
    own, scored = ((document.get("config") or {}).get("data") or {}).get("source"), document.get("dataset")
    end = f", on {scored}" if own and own != scored else ""
    if document.get("stage") == "fewshot":
        return f"stage 2: {document.get('shots', '?')} shots{end}"
    return ("stage 1: base classes" if document.get("stage") == "base" else str(document.get("stage", "run"))) + end


def metric_name(kind: str, name: str, part: str) -> str:
    """Key in "metrics": ("segm", "AP50", "novel") -> "segm/novel/AP50"; kind "mask_iou" has no name."""
    if kind == "mask_iou":
        return f"mask_iou/{part}"
    return f"{kind}/{name}" if part == "all" else f"{kind}/{part}/{name}"


COLUMNS = (("bbox", "AP"), ("bbox", "AP50"), ("segm", "AP"), ("segm", "AP50"), ("mask_iou", ""))


def text_table(documents: Sequence[dict]) -> str:
    """The closing table of a terminal run: AP and AP50 of boxes and masks, mask IoU, seconds per phase."""
    labels = [label(d) for d in documents]
    wide = max([len(x) for x in labels] + [8])
    out = [
        f"{'':{wide}}  {'':5}  {'bbox':^13}  {'segm':^13}  mask IoU in",
        f"{'percent':{wide}}  {'':5}  {'AP':>6} {'AP50':>6}  {'AP':>6} {'AP50':>6}   true boxes",
    ]
    out.append("-" * len(out[1]))
    for name, d in zip(labels, documents, strict=True):
        for part in GROUPS:
            v = [d["metrics"].get(metric_name(kind, metric, part)) for kind, metric in COLUMNS]
            if any(x is not None for x in v):
                s = [f"{x:6.1f}" if x is not None else f"{'-':>6}" for x in v]
                out.append(f"{name:{wide}}  {part:5}  {s[0]} {s[1]}  {s[2]} {s[3]}   {s[4]:>10}")
                name = ""
    out.append("")
    for name, d in zip(labels, documents, strict=True):
        seconds = d.get("seconds") or {}
        if seconds:
            parts = ", ".join(f"{PHASES.get(k, k)} {v:.0f} s" for k, v in seconds.items())
            out.append(f"{name:{wide}}  {parts}; together {sum(seconds.values()):.0f} s")
    return "\n".join(out).rstrip()


def write(workdirs: Sequence[str | Path], path: str | Path) -> Path:
    """Writes the page of these runs; the last one's pictures are the ones shown.

    Args:
      workdirs: of evaluated runs, e.g. stage 1 and stage 2, or one per seed.
      path: the html file; folders are made, an older file is replaced once the new one is whole.

    Raises:
      FileNotFoundError, ValueError: as ``read_metrics``; nothing is written then.
    """
    if not workdirs:
        raise ValueError("no workdir given: name the folders of the runs to report on")
    groups = group([read(w) for w in workdirs])
    last = groups[-1][-1]
    body = [_head(groups[-1])]
    body.append(html.section("Results", _result_table(groups), note=_result_note(groups)))
    body.append(html.section("Time", _time_table(groups), note="Seconds, compilation included."))
    body += _pictures(last.folder / "figures")
    body += _curves(groups)
    body += _per_class(groups[-1])
    body += [html.section("How it was made", *(_made(g[-1].document) for g in groups))]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".partial")
    new.write_text(html.page(f"MaskDiff on {last.document.get('dataset', '?')}", body), encoding="utf-8")
    new.replace(path)
    return path


# ----------------------------------------------------------------------------------------- parts of the page


def _number(runs: Sequence[Run], key: str, gap: str = "<br>") -> str:
    """A cell: the metric, or mean ± confidence interval of several runs."""
    values = [r.document["metrics"][key] for r in runs if key in r.document["metrics"]]
    if not values:
        return "–"
    e = estimate(values)
    return f"{e.mean:.1f}" if e.n == 1 else f"{e.mean:.1f}{gap}<small>± {e.half:.1f}</small>"


def _head(runs: Sequence[Run]) -> str:
    d = runs[-1].document
    facts = [d.get("dataset"), label(d), d.get("device"), d.get("date")]
    seeds = f"mean of {len(runs)} seeds" if len(runs) > 1 else f"seed {d.get('seed', '?')}"
    line = " · ".join(html.text(x) for x in (*facts[:2], seeds, *facts[2:]) if x)
    tiles = []
    for kind, part in (("segm", "base"), ("segm", "novel"), ("mask_iou", "all"), ("mask_iou", "novel")):
        name = "AP50" if kind == "segm" else ""
        value = _number(runs, metric_name(kind, name, part), " ")
        if value != "–":
            what = f"segm {name}, {part} classes" if name else f"mask IoU in true boxes, {part} classes"
            tiles.append((value, "%", what))
    return f'<h1>MaskDiff: few-shot instance segmentation</h1><p class="muted">{line}</p>' + html.tiles(tiles)


def _result_note(groups: Sequence[Sequence[Run]]) -> str:
    text = "Percent on the test split. AP is the mean over IoU thresholds 0.50 to 0.95, AP50 the one at 0.5; "
    text += "mask IoU compares masks drawn in the true boxes with the visible objects."
    if any(len(g) > 1 for g in groups):
        text += " ± is half the 95 % confidence interval over n runs that differ only in their seeds."
    return text


def _result_table(groups: Sequence[Sequence[Run]]) -> str:
    names = ["boxes: AP", "boxes: AP50", "masks: AP", "masks: AP50", "mask IoU"]
    heads = [[("", 1), ("n", 1), *((x, 3) for x in names)], [("", 1), ("", 1), *((g, 1) for g in GROUPS * 5)]]
    rows = []
    for runs in groups:
        cells = [_number(runs, metric_name(kind, name, part)) for kind, name in COLUMNS for part in GROUPS]
        rows.append([html.text(label(runs[-1].document)), str(len(runs)), *cells])
    return html.table(heads, rows, starts=range(2, 17, 3))


def _time_table(groups: Sequence[Sequence[Run]]) -> str:
    known = dict.fromkeys(k for g in groups for k in (g[-1].document.get("seconds") or {}))
    names = [k for k in PHASES if k in known] + [k for k in known if k not in PHASES]
    rows = []
    for runs in groups:
        seconds: list[dict[str, float]] = [r.document.get("seconds") or {} for r in runs]
        cells = []
        for name in names:
            values = [s[name] for s in seconds if name in s]
            cells.append(f"{np.mean(values):.0f}" if values else "–")
        total = f"{np.mean([sum(s.values()) for s in seconds]):.0f}"
        rows.append([html.text(label(runs[-1].document)), *cells, f"<b>{total}</b>"])
    return html.table([[("", 1), *((PHASES.get(n, n), 1) for n in names), ("together", 1)]], rows, starts=())


def _pictures(folder: Path) -> list[str]:
    out = []
    scenes = sorted(folder.glob("scenes_*.png"))
    if scenes:
        cells = [html.picture(p, f"test image {i}, truth beside prediction") for i, p in enumerate(scenes)]
        note = (
            "Left the truth, right the prediction with its score in percent (from 30 on; of boxes on one "
            "object the best); a star marks a novel class."
        )
        out.append(html.section("Test images", html.grid(cells), note=note))
    for name, title, note in NAMED_STRIPS:
        if (folder / name).is_file():
            out.append(html.section(title, html.picture(folder / name, title, scroll=True), note=note))
    return out


def _curves(groups: Sequence[Sequence[Run]]) -> list[str]:
    out = []
    thresholds = []
    for kind, title in (("segm", "masks"), ("bbox", "boxes")):
        lines = []
        for style, runs in zip(("-", "--", ":"), reversed(groups), strict=False):
            curves = runs[-1].document.get("curves") or {}
            for part, color in zip(GROUPS, (html.INK, html.ACCENT, html.NOVEL), strict=True):
                y = curves.get(f"{kind}/{part}") or ()
                known = any(v is not None for v in y)
                # on base classes alone, "all" repeats "base"
                if known and curves.get("iou") and not (part == "all" and y == curves.get(f"{kind}/base")):
                    name = f"{part}, {_stage(runs)}"
                    lines.append((curves["iou"], [math.nan if v is None else v for v in y], name, color, style))
        if lines:
            drawn = html.chart(title, "IoU threshold", "AP in percent", lines, percent=True)
            thresholds.append(html.picture(drawn, f"AP of {title} against IoU threshold"))
    if thresholds:
        note = "Rough masks lose their AP early; where the line stays up, outlines are exact."
        out.append(html.section("AP against IoU threshold", html.grid(thresholds), note=note))
    losses = []
    for runs in groups:
        phases = dict.fromkeys(line["phase"] for r in runs for line in r.lines)
        for phase in phases:
            lines = _loss_lines(runs, phase)
            if lines:
                title = f"{_stage(runs)}: {PHASES.get(phase, phase)}"
                losses.append(html.picture(html.chart(title, "step", "loss", lines), f"losses of {title}"))
    if losses:
        note = "Faint: as logged; strong: running mean."
        out.append(html.section("Losses", html.grid(losses), note=note))
    return out


def _stage(runs: Sequence[Run]) -> str:
    return label(runs[-1].document).split(":")[0]


def _loss_lines(runs: Sequence[Run], phase: str) -> list[tuple]:
    """The loss of each run; of a single run its parts too."""
    out: list[tuple] = []
    for i, run in enumerate(runs):
        mine = [x for x in run.lines if x["phase"] == phase and isinstance(x.get("loss"), int | float)]
        if not mine:
            continue
        steps = [x["step"] for x in mine]
        name = f"seed {run.document.get('seed', i)}" if len(runs) > 1 else "loss"
        out.append((steps, [x["loss"] for x in mine], name, html.COLORS[i % len(html.COLORS)], "raw"))
        if len(runs) == 1:
            parts = [k for k in mine[0] if "loss" in k and k != "loss"]
            for n, k in enumerate(parts if len(parts) > 1 else ()):
                y = [x.get(k, math.nan) for x in mine]
                out.append((steps, y, k, html.COLORS[(n + 1) % len(html.COLORS)], "raw"))
    return out


def _per_class(runs: Sequence[Run]) -> list[str]:
    documents = [r.document for r in runs]
    kinds = [k for k in ("bbox", "segm", "mask_iou") if any((d.get("per_class") or {}).get(k) for d in documents)]
    names = list(dict.fromkeys(n for k in kinds for d in documents for n in (d["per_class"].get(k) or {})))
    if not names:
        return []
    novel = set(documents[-1].get("novel_classes") or ())
    rows = []
    for name in sorted(names, key=lambda n: n in novel):
        cells = [f'<span class="novel">★ {html.text(name)}</span>' if name in novel else html.text(name)]
        for kind in kinds:
            values = [v for d in documents if (v := (d["per_class"].get(kind) or {}).get(name)) is not None]
            mean = float(np.mean(values)) if values else math.nan
            cells.append(f"{mean:.1f}{html.bar(mean, name in novel)}" if values else "–")
        rows.append(cells)
    titles = {"bbox": "boxes: AP", "segm": "masks: AP", "mask_iou": "mask IoU"}
    part = html.table([[("class", 1), *((titles[k], 1) for k in kinds)]], rows, starts=())
    return [html.section("Classes", part, note=f"{label(documents[-1])}; percent; novel classes are starred.")]


def _made(document: dict) -> str:
    rest = {k: v for k, v in document.items() if k not in ("metrics", "per_class", "curves", "seconds", "config")}
    content = json.dumps(rest | {"config": document.get("config")}, indent=1)
    return html.details(f"{label(document)}: versions and config", f"<pre>{html.text(content)}</pre>")
