"""Each format is parsed back: nothing is lost, nothing is taken for a command."""

import re
import shutil
import subprocess

import pytest

from maskdiff_jax.reporting import formats
from maskdiff_jax.reporting.tables import Block, Cell, Row, Table
from tests.reporting.example_runs import parse_page

TABLE = Table(
    "a-table", "50 % of A & B_c", [[("AP", 2), ("IoU", 1)], [("base", 1), ("novel", 1), ("all", 1)]],
    [
        Block("K = 1", [
            Row("a_b|c<d>", "3 × 2", [Cell("−1.25", "0.50", ("std 0.4",), True), Cell("2.00", close=True), Cell()]),
            Row("MTFA", "", [Cell("3.00"), Cell(), Cell("4.00", "0.1")], "Table 1"),
        ]),
        Block("", [Row("x", "1", [Cell("1.00", "", ("p < 0.001",)), Cell(), Cell()])]),
    ],
    "± is an interval; *n* = 3 #1", True,
)  # fmt: skip


def test_html():
    page = formats.html_table(TABLE)
    reader = parse_page(page)
    assert "a_b|c<d>" in reader.text and "MTFATable 1" in reader.text and TABLE.note in reader.text
    assert '<td class="group best"><b>−1.25</b> <small>± 0.50</small><br><small>std 0.4</small></td>' in page
    assert '<td class="close">2.00 ≈</td>' in page and "<tr class=published>" in page
    assert page.count("<tr") == 2 + 1 + 3
    widths = [sum(int(n or 1) for n in re.findall(r'<th(?: class="group")?(?: colspan="(\d+)")?>', x))
              for x in page.split("</thead>")[0].split("<tr>")[1:]]  # fmt: skip
    assert widths == [5, 5]


def test_markdown():
    lines = formats.markdown(TABLE).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    cells = [[c.strip() for c in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    assert {len(row) for row in cells} == {5} and cells[0][2:] == ["AP base", "AP novel", "IoU all"]
    assert cells[2] == ["**K = 1**", "", "", "", ""]
    assert cells[3] == [r"a\_b\|c&lt;d>", "3 × 2", "**−1.25** ± 0.50 (std 0.4)", "2.00 ≈", ""]
    assert cells[4][0] == "MTFA (Table 1)" and lines[0] == r"### 50 % of A & B\_c"


def test_latex_is_balanced_and_escaped():
    text = formats.latex(TABLE)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    counts = [1 + len(re.findall(r"(?<!\\)&", row)) for row in rows]
    assert counts == [4, 5, 1, 5, 5, 5]  # the first header row has a cell of two columns
    assert r"a\_b$|$c$<$d$>$ & 3 $\times$ 2 & $\mathbf{-1.25} \pm 0.50$ {\scriptsize std 0.4}" in text
    assert r"$2.00\,^{\approx}$ & -- \\" in text and r"\caption{50 \% of A \& B\_c. $\pm$ is an interval" in text
    assert r"\cmidrule(lr){3-4}\cmidrule(lr){5-5}" in text
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
    assert not re.search(r"(?<!\\)[#%]", text) and text.isascii()
    assert "std 0.4" not in formats.latex(TABLE._replace(small_matters=False))


def test_every_special_character_of_latex():
    assert formats.latex_text(r"\{}$&#%_^~") == (r"\textbackslash{}\{\}\$\&\#\%\_\textasciicircum{}\textasciitilde{}")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX here")
def test_latex_compiles_and_fits_the_page(tmp_path):
    wide = TABLE._replace(
        name="b", blocks=[Block("", [Row("a method with a long name " * 5, "1", [Cell("1.00")] * 3)])]
    )
    (tmp_path / "a.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
        f"{formats.PREAMBLE}\n{formats.latex(TABLE)}{formats.latex(wide)}\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
