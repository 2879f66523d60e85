"""AP against the IoU threshold for all methods of one K: Figure 6 of the paper."""

import math
from collections.abc import Sequence

from maskdiff_jax.reporting import charts, statistics
from maskdiff_jax.reporting.experiments import Experiment, method_label

PANELS = tuple(
    (f"{kind}/{classes}", f"{name}, {classes} classes")
    for kind, name in (("segm", "masks"), ("bbox", "boxes"))
    for classes in ("base", "novel")
)
STYLES = ("-", "--", "-.", ":")  # of matplotlib
OWN_COLOR = charts.ORANGE  # of MaskDiff, solid
OTHER_COLORS = tuple(color for color in charts.COLORS if color != OWN_COLOR)


def curve_figures(group: Sequence[Experiment], name: str) -> dict[str, bytes]:
    """One figure per K: masks and boxes, base and novel classes.

    Args:
      group: experiments of one table.
      name: start of the files' names.

    Returns:
      File name -> PNG; without curves none.
    """
    out, looks = {}, _looks(group)
    for shots in dict.fromkeys(x.key.shots for x in group):
        members = [x for x in group if x.key.shots == shots]
        panels = [(title, lines) for key, title in PANELS if (lines := _lines(members, key, looks))]
        if panels:
            k = f"-{shots}shot" if shots else ""
            png = charts.panel_chart("IoU threshold", "AP in percent", panels)
            out[f"curves-{name}{k}.png"] = png
    return out


def _looks(group: Sequence[Experiment]) -> dict[str, tuple[str, str]]:
    """Color and style of each method, the same for every K."""
    others = [m for m in dict.fromkeys(x.key.method for x in group) if m != "maskdiff"]
    looks = {m: (OTHER_COLORS[i % len(OTHER_COLORS)], STYLES[(i + 1) % len(STYLES)]) for i, m in enumerate(others)}
    return looks | {"maskdiff": (OWN_COLOR, "-")}


def _lines(members: Sequence[Experiment], key: str, looks: dict[str, tuple[str, str]]) -> list[charts.Line]:
    """One line per method, with its confidence interval; methods without this curve have none."""
    lines = []
    for experiment in members:
        curve = mean_curve(experiment, key)
        if curve:
            thresholds, estimates = curve
            y, band = [e.mean for e in estimates], [e.half_width for e in estimates]
            method = experiment.key.method
            lines.append(charts.Line(thresholds, y, method_label(method), *looks[method], band=band))
    return lines


def mean_curve(experiment: Experiment, key: str) -> tuple[list[float], list[statistics.Estimate]] | None:
    """A curve over shot seeds, each the mean over its models and noise seeds.

    Args:
      experiment: its evaluations may lack the curve; then they do not count.
      key: in "curves" of metrics.json, such as "segm/novel".

    Returns:
      IoU thresholds, and the estimate of AP in percent at each of them; None: no evaluation has the curve.
    """
    thresholds: list[float] = []
    repeats: dict[int, dict[tuple, list[list[float]]]] = {}
    for e in experiment.evaluations:
        curves = e.document.get("curves") or {}
        y = curves.get(key)
        if not y or None in y or (thresholds and curves["iou"] != thresholds):
            continue
        thresholds = curves["iou"]
        repeats.setdefault(e.repeat, {}).setdefault(e.model, []).append(y)
    if not repeats:
        return None
    means = [_mean([_mean(noise) for noise in models.values()]) for models in repeats.values()]
    estimates = [statistics.estimate(column) for column in zip(*means, strict=True)]
    return thresholds, [e if not math.isnan(e.half_width) else e._replace(half_width=0.0) for e in estimates]


def _mean(curves: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.estimate(column).mean for column in zip(*curves, strict=True)]
