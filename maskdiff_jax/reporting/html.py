"""One static HTML page from pieces: tables, pictures and charts, all inside the file; nothing is fetched."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

CSS = """
:root { --ink:#1c2128; --muted:#6b7480; --line:#e3e6ea; --soft:#f5f7f9; --accent:#2f6fd6; --novel:#c2571a; }
* { box-sizing:border-box }
body { margin:0; color:var(--ink); background:#fff; -webkit-text-size-adjust:100%;
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif }
main { max-width:1080px; margin:0 auto; padding:28px 18px 64px }
h1 { font-size:1.7rem; line-height:1.2; margin:0 0 4px; letter-spacing:-.01em }
h2 { font-size:1.15rem; margin:44px 0 6px; padding-top:14px; border-top:1px solid var(--line) }
p { margin:6px 0 12px; max-width:46em } .muted { color:var(--muted) } .novel { color:var(--novel) }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(148px,1fr)); gap:10px; margin:22px 0 6px }
.tile { background:var(--soft); border-radius:10px; padding:12px 14px }
.tile b { display:block; font-size:1.6rem; line-height:1.2; white-space:nowrap;
  font-variant-numeric:tabular-nums }
.tile span { display:block; color:var(--muted); font-size:.82rem; line-height:1.35 }
.tile small { font-size:.6em; color:var(--muted) }
.wide { overflow-x:auto; margin:10px 0 4px; border:1px solid var(--line); border-radius:10px }
table { border-collapse:collapse; width:100%; font-size:.88rem; font-variant-numeric:tabular-nums }
th,td { padding:7px; text-align:right; white-space:nowrap; border-top:1px solid var(--line) }
thead th { font-weight:600; color:var(--muted); background:var(--soft); border-top:0 }
thead tr + tr th { padding-top:0; font-weight:400 }
th:first-child,td:first-child { text-align:left; position:sticky; left:0; background:#fff; font-weight:600;
  padding-left:12px }
th:last-child,td:last-child { padding-right:12px }
thead th:first-child { background:var(--soft) }
.part { border-left:1px solid var(--line) } td small { color:var(--muted) }
figure { margin:12px 0; } figure img { max-width:100%; height:auto; display:block; border-radius:6px }
.grid { display:grid; grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr)); gap:20px }
.grid figure { margin:0 }
.scroll { overflow-x:auto } .scroll img { max-width:none }
@media (min-width:900px) { .scroll img { max-width:100% } }
.bar { display:inline-block; height:8px; border-radius:4px; background:var(--accent); vertical-align:.08em }
.track { display:inline-block; width:64px; margin-left:10px; text-align:left }
.bar.new { background:var(--novel) }
details { border:1px solid var(--line); border-radius:10px; padding:10px 14px; margin:10px 0 }
summary { cursor:pointer; font-weight:600 }
pre { overflow-x:auto; font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace; margin:10px 0 0 }
"""
INK, GRID, ACCENT, NOVEL, GREEN = "#1c2128", "#e3e6ea", "#2f6fd6", "#e07b2e", "#2a9d6f"
COLORS = (ACCENT, NOVEL, GREEN, "#8a63d2", "#d1495b", "#3aa7b8", "#a3882b", "#6b7480")


def text(value: object) -> str:
    """A value as HTML text."""
    return html.escape(str(value))


def page(title: str, body: Sequence[str]) -> str:
    """The whole document; ``body`` holds pieces of HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{text(title)}</title><style>{CSS}</style></head><body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def section(title: str, *parts: str, note: str = "") -> str:
    """A heading, an explaining line, then the parts."""
    return f"<h2>{text(title)}</h2>" + (f'<p class="muted">{text(note)}</p>' if note else "") + "".join(parts)


def tiles(values: Sequence[tuple[str, str, str]]) -> str:
    """Large numbers: (value, unit, what it is)."""
    cells = [
        f'<div class="tile"><b>{v}<small> {text(unit)}</small></b><span>{text(what)}</span></div>'
        for v, unit, what in values
    ]
    return f'<div class="tiles">{"".join(cells)}</div>'


def table(heads: Sequence[Sequence[tuple[str, int]]], rows: Sequence[Sequence[str]], starts: Sequence[int]) -> str:
    """A table that scrolls sideways on small screens, its first column staying.

    Args:
      heads: header rows of (text, columns spanned).
      rows: cells as HTML.
      starts: columns that open a group and get a line on their left.
    """
    out = ['<div class="wide"><table><thead>']
    for head in heads:
        at, cells = 0, []
        for name, span in head:
            part = ' class="part"' if at in starts else ""
            cells.append(f'<th{part} colspan="{span}">{text(name)}</th>')
            at += span
        out.append(f"<tr>{''.join(cells)}</tr>")
    out.append("</thead><tbody>")
    for row in rows:
        parts = ['<td class="part">' if i in starts else "<td>" for i in range(len(row))]
        out.append("<tr>" + "".join(f"{p}{cell}</td>" for p, cell in zip(parts, row, strict=True)) + "</tr>")
    return "".join(out) + "</tbody></table></div>"


def picture(source: Path | bytes, alt: str, *, scroll: bool = False, width: int | None = None) -> str:
    """A PNG inside the page; ``scroll`` lets a wide one keep its size on a phone; ``width`` in CSS px."""
    data = source if isinstance(source, bytes) else source.read_bytes()
    size = f' style="width:{width}px"' if width else ""
    image = f'<img alt="{text(alt)}"{size} src="data:image/png;base64,{base64.b64encode(data).decode()}">'
    return ('<figure class="scroll">' if scroll else "<figure>") + image + "</figure>"


def details(title: str, content: str, *, is_open: bool = False) -> str:
    """A part that opens on a click."""
    return f"<details{' open' if is_open else ''}><summary>{text(title)}</summary>{content}</details>"


def bar(value: float, new: bool) -> str:
    """A percentage as a short bar."""
    width = max(1, round(0.64 * value))
    return f'<span class="track"><span class="bar{" new" if new else ""}" style="width:{width}px"></span></span>'


def grid(parts: Sequence[str]) -> str:
    """Figures in two columns, on a phone in one."""
    return f'<div class="grid">{"".join(parts)}</div>'


def chart(title: str, x_label: str, y_label: str, lines: Sequence[tuple], *, percent: bool = False) -> bytes:
    """A line chart as a PNG.

    Args:
      title: above the chart.
      x_label, y_label: of the axes.
      lines: (x, y, label, color, style); y may hold NaN; style is "-", "--", ":" or "raw", which draws the
        values faintly with their running mean on top.
      percent: the y axis runs from 0 to 100.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.1), dpi=170, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    low, high = 0.0, -np.inf
    for x, y, label, color, style in lines:
        y = np.asarray(y, float)
        if style == "raw":
            axes.plot(x, y, color=color, alpha=0.25, linewidth=0.8)
            y = running_mean(y, max(1, len(y) // 25))
            style = "-"
            if np.isfinite(y).any():  # the first steps' losses may be far above all others
                high = max(high, 1.25 * float(np.nanpercentile(y, 97)))
                low = min(low, float(np.nanmin(y)))
        axes.plot(x, y, style, color=color, label=label or None, linewidth=1.8)
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
    axes.set_xlabel(x_label, fontsize=9, color=INK)
    axes.set_ylabel(y_label, fontsize=9, color=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5, colors="#6b7480", length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    if percent:
        axes.set_ylim(0, 100)
    elif high > low:
        axes.set_ylim(low, high)
    if any(label for _, _, label, *_ in lines):
        axes.legend(fontsize=8.5, frameon=False, labelcolor=INK)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean of the last `width` values at each place (fewer at the start)."""
    total = np.cumsum(np.concatenate([[0.0], np.nan_to_num(values)]))
    first = np.maximum(np.arange(len(values)) + 1 - width, 0)
    last = np.arange(len(values)) + 1
    return (total[last] - total[first]) / (last - first)
