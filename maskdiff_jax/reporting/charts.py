"""Line charts as PNG files in memory (matplotlib, imported on first use)."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

INK, MUTED, GRID = "#1c2128", "#6b7480", "#e3e6ea"
BLUE, ORANGE, GREEN = "#2f6fd6", "#e07b2e", "#2a9d6f"
COLORS = (BLUE, ORANGE, GREEN, "#8a63d2", "#d1495b", "#3aa7b8", "#a3882b", MUTED)


class Line(NamedTuple):
    """One line of a chart."""

    x: Sequence[float]
    y: Sequence[float]  # as long as x; NaN leaves a gap
    label: str = ""  # in the legend; "": not in it
    color: str = INK
    style: str = "-"  # of matplotlib: "-", "--", ":"
    noisy: bool = False  # show the values faintly, with their running mean on top
    band: Sequence[float] = ()  # half the height of a shaded band around y, as long as y; NaN leaves a gap


def line_chart(title: str, x_label: str, y_label: str, lines: Sequence[Line], *, percent: bool = False) -> bytes:
    """Renders a chart of 5.2 x 3.1 inches at 170 dots per inch; ``percent``: the y axis runs from 0 to 100.

    Returns:
      The bytes of a PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.1), dpi=170, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    low, high = 0.0, -np.inf  # of noisy lines, whose first values may be far above all others
    for line in lines:
        y = np.asarray(line.y, float)
        label = printable(line.label) or None
        if line.noisy:
            axes.plot(line.x, y, color=line.color, alpha=0.25, linewidth=0.8)
            y = running_mean(y, max(1, len(y) // 25))
            if np.isfinite(y).any():
                high = max(high, 1.25 * float(np.nanpercentile(y, 97)))
                low = min(low, float(np.nanmin(y)))
        axes.plot(line.x, y, line.style, color=line.color, label=label, linewidth=1.8)
    _decorate(axes, title, x_label, y_label)
    if percent:
        axes.set_ylim(0, 100)
    elif high > low:
        axes.set_ylim(low, high)
    if axes.get_legend_handles_labels()[1]:
        legend = axes.legend(fontsize=8.5, frameon=False, labelcolor=INK)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return _png(figure)


def panel_chart(x_label: str, y_label: str, panels: Sequence[tuple[str, Sequence[Line]]]) -> bytes:
    """Renders charts side by side, two in a row, with one legend below for all.

    Args:
      x_label: of every chart.
      y_label: of every chart.
      panels: titles and lines; lines of the same label have the same color and style in all.

    Returns:
      The bytes of a PNG file.
    """
    from matplotlib.figure import Figure

    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(8.6, 2.9 * rows + 0.5), dpi=170, layout="constrained", facecolor="white")
    handles = {}
    for i, (title, lines) in enumerate(panels):
        axes = figure.add_subplot(rows, min(2, len(panels)), i + 1)
        for line in lines:
            y = np.asarray(line.y, float)
            (handle,) = axes.plot(line.x, y, line.style, color=line.color, linewidth=1.7, marker="o", markersize=2.6)
            handles.setdefault(printable(line.label), handle)
            if len(line.band):
                band = np.asarray(line.band, float)
                low, high = np.clip(y - band, 0, None), y + band
                axes.fill_between(line.x, low, high, color=line.color, alpha=0.15, linewidth=0)
        _decorate(axes, title, x_label if i // 2 == rows - 1 else "", "" if i % 2 else y_label)
        axes.set_ylim(0, None)
    columns = min(len(handles), 4)
    legend = figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=columns, fontsize=9, frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return _png(figure)


def _decorate(axes: Any, title: str, x_label: str, y_label: str) -> None:
    """Title, labels and grid of one chart."""
    axes.set_title(printable(title), loc="left", fontsize=11, color=INK, fontweight="bold", parse_math=False)
    axes.set_xlabel(x_label, fontsize=9, color=INK)
    axes.set_ylabel(y_label, fontsize=9, color=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5, colors=MUTED, length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean of the last ``width`` values at each place of [n] (fewer at the start); NaN are not counted."""
    known = np.isfinite(values)
    total = np.cumsum(np.concatenate([[0.0], np.where(known, values, 0.0)]))
    count = np.cumsum(np.concatenate([[0], known]))
    last = np.arange(len(values)) + 1
    first = np.maximum(last - width, 0)
    n = count[last] - count[first]
    return np.where(n > 0, (total[last] - total[first]) / np.maximum(n, 1), np.nan)


def printable(text: str) -> str:
    """Text that every font can show on one line."""
    return "".join(c if c.isprintable() else "?" for c in text[:80])
