"""A ``tables.Table`` as HTML, Markdown and LaTeX."""

from collections.abc import Sequence

from maskdiff_jax.reporting import html
from maskdiff_jax.reporting.tables import MINUS, Cell, Row, Table

LATEX = {  # what LaTeX reads as commands, and what its fonts lack
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    MINUS: "$-$", "±": r"$\pm$", "×": r"$\times$", "≈": r"$\approx$", "–": "--",
}  # fmt: skip
PREAMBLE = r"% \usepackage{booktabs,graphicx} in the preamble; \input this file."
FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{"  # a table that is too wide shrinks


def html_table(table: Table) -> str:
    """The table as HTML, its note below."""
    wide = sum(span for _, span in table.headers[-1])
    starts = group_starts(table)
    out = ['<div class="wide"><table class="results"><thead>']
    for i, header in enumerate(table.headers):
        last = i == len(table.headers) - 1
        own = f"<th>{'method' if last else ''}</th><th>{'seeds' if last else ''}</th>"
        out.append(f"<tr>{own}{html.header_cells(header, starts)}</tr>")
    out.append("</thead><tbody>")
    for block in table.blocks:
        if block.title:
            out.append(f'<tr class="block"><td colspan="{wide + 2}">{html.text(block.title)}</td></tr>')
        out += [_html_row(row, starts) for row in block.rows]
    note = f'<p class="muted note">{html.text(table.note)}</p>' if table.note else ""
    return "".join(out) + f"</tbody></table></div>{note}"


def group_starts(table: Table) -> set[int]:
    """The value columns at which a group of the first header row begins."""
    starts, column = set(), 0
    for _, span in table.headers[0]:
        starts.add(column)
        column += span
    return starts


def _html_row(row: Row, starts: set[int]) -> str:
    source = f"<br><small>{html.text(row.source)}</small>" if row.source else ""
    out = [f"<td>{html.text(row.label)}{source}</td><td>{html.text(row.seeds)}</td>"]
    for i, cell in enumerate(row.cells):
        names = " ".join(
            x for x, there in (("group", i in starts), ("best", cell.bold), ("close", cell.close)) if there
        )
        out.append(f'<td class="{names}">{_html_cell(cell)}</td>' if names else f"<td>{_html_cell(cell)}</td>")
    return f"<tr{' class=published' if row.source else ''}>{''.join(out)}</tr>"


def _html_cell(cell: Cell) -> str:
    if not cell.value:
        return "–"
    value = f"<b>{cell.value}</b>" if cell.bold else cell.value + (" ≈" if cell.close else "")
    half_width = f" <small>± {cell.half_width}</small>" if cell.half_width else ""
    return value + half_width + "".join(f"<br><small>{html.text(line)}</small>" for line in cell.small)


def markdown(table: Table) -> str:
    """The table as GitHub's Markdown, below its title and above its note."""
    titles = [" ".join(x for x in names if x) for names in zip(*map(_spread, table.headers), strict=True)]
    names = ["method", "seeds", *titles]
    out = [f"### {markdown_text(table.title)}", "", _line(map(markdown_text, names))]
    out.append(_line(["---", "---", *("---:" for _ in titles)]))
    for block in table.blocks:
        if block.title:
            out.append(_line([f"**{markdown_text(block.title)}**", *("" for _ in names[1:])]))
        for row in block.rows:
            label = f"{row.label} ({row.source})" if row.source else row.label
            out.append(_line([markdown_text(label), markdown_text(row.seeds), *map(_markdown_cell, row.cells)]))
    return "\n".join([*out, "", markdown_text(table.note), ""])


def _spread(header: Sequence[tuple[str, int]]) -> list[str]:
    """One text per column."""
    return [name for name, span in header for _ in range(span)]


def _line(cells) -> str:
    return f"| {' | '.join(cells)} |"


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, in a table too."""
    text = "".join(f"\\{c}" if c in "\\`*_[]|#" else c for c in text)
    return text.replace("<", "&lt;").replace("\n", " ")


def _markdown_cell(cell: Cell) -> str:
    if not cell.value:
        return ""
    value = f"**{cell.value}**" if cell.bold else cell.value + (" ≈" if cell.close else "")
    half_width = f" ± {cell.half_width}" if cell.half_width else ""
    return value + half_width + (f" ({markdown_text(', '.join(cell.small))})" if cell.small else "")


def latex(table: Table) -> str:
    """The table as LaTeX, as wide as the page at most: mean ± half of the interval; spreads only where they matter.

    It needs the packages booktabs and graphicx.
    """
    wide = sum(span for _, span in table.headers[-1])
    out = [
        r"\begin{table*}[t]", r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{latex_text(table.title)}. {latex_text(table.note)}}}", rf"\label{{tab:{table.name}}}",
        rf"{FIT}\begin{{tabular}}{{lr{'r' * wide}}}", r"\toprule",
    ]  # fmt: skip
    for i, header in enumerate(table.headers):
        last = i == len(table.headers) - 1
        cells = ["method" if last else "", "seeds" if last else ""]
        cells += [
            rf"\multicolumn{{{n}}}{{c}}{{{latex_text(name)}}}" if n > 1 else latex_text(name) for name, n in header
        ]
        out.append(" & ".join(cells) + r" \\")
        if not last:
            out.append(_rules(header))
    for block in table.blocks:
        out.append(r"\midrule")
        if block.title:
            out.append(rf"\multicolumn{{{wide + 2}}}{{l}}{{\emph{{{latex_text(block.title)}}}}} \\")
        for row in block.rows:
            label = f"{row.label} ({row.source})" if row.source else row.label
            cells = [latex_text(label), latex_text(row.seeds)]
            cells += [_latex_cell(cell, table.small_matters) for cell in row.cells]
            out.append(" & ".join(cells) + r" \\")
    return "\n".join([*out, r"\bottomrule", r"\end{tabular}}", r"\end{table*}", ""])


def _rules(header: Sequence[tuple[str, int]]) -> str:
    """A line under each group of columns."""
    rules, column = [], 3
    for _, span in header:
        rules.append(rf"\cmidrule(lr){{{column}-{column + span - 1}}}")
        column += span
    return "".join(rules)


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(LATEX.get(c, c) for c in text)


def _latex_cell(cell: Cell, small_matters: bool) -> str:
    if not cell.value:
        return "--"
    value = cell.value.replace(MINUS, "-")
    out = rf"\mathbf{{{value}}}" if cell.bold else value
    if cell.half_width:
        out += rf" \pm {cell.half_width}"
    if cell.close:
        out += r"\,^{\approx}"
    small = rf" {{\scriptsize {latex_text(', '.join(cell.small))}}}" if small_matters and cell.small else ""
    return f"${out}${small}"
