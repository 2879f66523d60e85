"""Pieces of one static HTML page: text, tables, pictures. Everything is inside the file; nothing is fetched."""

import base64
import html
from collections.abc import Sequence

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
.tile b { display:block; font-size:1.6rem; line-height:1.2; font-variant-numeric:tabular-nums }
.tile span { display:block; color:var(--muted); font-size:.82rem; line-height:1.35 }
.tile small { font-size:.6em; color:var(--muted); white-space:nowrap }
.wide { overflow-x:auto; margin:10px 0 4px; border:1px solid var(--line); border-radius:10px }
table { border-collapse:collapse; width:100%; font-size:.88rem; font-variant-numeric:tabular-nums }
th,td { padding:7px; text-align:right; white-space:nowrap; border-top:1px solid var(--line) }
thead th { font-weight:600; color:var(--muted); background:var(--soft); border-top:0 }
thead tr:first-child:not(:last-child) th { text-align:center }
thead tr + tr th { padding-top:0; font-weight:400 }
th:first-child,td:first-child { text-align:left; position:sticky; left:0; background:#fff; font-weight:600;
  padding-left:12px }
th:last-child,td:last-child { padding-right:12px }
thead th:first-child { background:var(--soft) }
.group { border-left:1px solid var(--line) } td small { color:var(--muted) }
figure { margin:12px 0; } figure img { max-width:100%; height:auto; display:block; border-radius:6px }
.grid { display:grid; grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr)); gap:20px }
.grid figure { margin:0 }
.scroll { overflow-x:auto } .scroll img { max-width:none }
@media (min-width:900px) { .scroll img { max-width:100% } }
.bar { display:inline-block; height:8px; border-radius:4px; background:var(--accent); vertical-align:.08em }
.track { display:inline-block; width:64px; margin-left:10px; text-align:left }
.bar.novel { background:var(--novel) }
main.broad { max-width:1260px } .results td,.results th { padding:6px }
.results small { font-size:.82em } .results td { line-height:1.3; vertical-align:top }
.results tr.block td { font-weight:600; text-align:left; background:var(--soft); color:var(--ink) }
.results tr.published td { color:var(--muted) } .results tr.published td:first-child { font-weight:400 }
.results td.best { background:#e9f1fd } .results td.close { background:#f4f8fe } .note { font-size:.84rem }
.warning { background:#fdf3e7; border-left:4px solid var(--novel); padding:8px 12px; border-radius:6px }
.strip { display:grid; grid-auto-flow:column; grid-auto-columns:minmax(300px,1fr); gap:14px; overflow-x:auto }
.strip figure { margin:0 }
h3 { font-size:1rem; margin:22px 0 4px }
details { border:1px solid var(--line); border-radius:10px; padding:10px 14px; margin:10px 0 }
summary { cursor:pointer; font-weight:600 }
pre { overflow-x:auto; font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace; margin:10px 0 0 }
"""


def text(value: object) -> str:
    """A value as HTML text; what UTF-8 cannot hold becomes "?"."""
    return html.escape(str(value).encode("utf-8", "replace").decode())


def page(title: str, body: Sequence[str], *, broad: bool = False) -> str:
    """The whole document from pieces of HTML; ``broad``: for tables of many columns."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{text(title)}</title><style>{CSS}</style></head><body><main{' class=broad' if broad else ''}>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def section(title: str, *parts: str, note: str = "") -> str:
    """A heading, a note (text) under it, then pieces of HTML."""
    return f"<h2>{text(title)}</h2>" + (f'<p class="muted">{text(note)}</p>' if note else "") + "".join(parts)


def tiles(values: Sequence[tuple[str, str, str]]) -> str:
    """Large numbers: (value, unit, what it is)."""
    cells = [
        f'<div class="tile"><b>{text(value)} <small>{text(unit)}</small></b><span>{text(what)}</span></div>'
        for value, unit, what in values
    ]
    return f'<div class="tiles">{"".join(cells)}</div>'


def header_cells(header: Sequence[tuple[str, int]], group_starts: Sequence[int]) -> str:
    """The cells of one header row, see `table`."""
    column, cells = 0, []
    for name, span in header:
        mark = ' class="group"' if column in group_starts else ""
        cells.append(f'<th{mark} colspan="{span}">{text(name)}</th>')
        column += span
    return "".join(cells)


def table(
    headers: Sequence[Sequence[tuple[str, int]]], rows: Sequence[Sequence[str]], group_starts: Sequence[int] = ()
) -> str:
    """A table that scrolls sideways on small screens while its first column stays.

    Args:
      headers: header rows of (text, number of columns it spans).
      rows: cells as HTML.
      group_starts: columns with a line on their left, where a group of columns begins.
    """
    out = ['<div class="wide"><table><thead>']
    out += [f"<tr>{header_cells(header, group_starts)}</tr>" for header in headers]
    out.append("</thead><tbody>")
    for row in rows:
        tags = ['<td class="group">' if i in group_starts else "<td>" for i in range(len(row))]
        out.append("<tr>" + "".join(f"{tag}{cell}</td>" for tag, cell in zip(tags, row, strict=True)) + "</tr>")
    return "".join(out) + "</tbody></table></div>"


def picture(png: bytes, alt: str, *, scroll: bool = False) -> str:
    """A PNG inside the page; ``scroll``: a wide one keeps its size on a phone and scrolls."""
    image = f'<img alt="{text(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    return ('<figure class="scroll">' if scroll else "<figure>") + image + "</figure>"


def details(title: str, content: str) -> str:
    """HTML that is shown on a click on its title."""
    return f"<details><summary>{text(title)}</summary>{content}</details>"


def bar(percent: float, *, novel: bool) -> str:
    """A percentage as a bar of up to 64 px."""
    width = max(1, round(0.64 * percent))
    kind = "bar novel" if novel else "bar"
    return f'<span class="track"><span class="{kind}" style="width:{width}px"></span></span>'


def bullets(lines: Sequence[str]) -> str:
    """A list of lines of text."""
    return f"<ul>{''.join(f'<li>{text(line)}</li>' for line in lines)}</ul>"


def grid(pictures: Sequence[str]) -> str:
    """Pictures in two columns; on a phone in one."""
    return f'<div class="grid">{"".join(pictures)}</div>'
