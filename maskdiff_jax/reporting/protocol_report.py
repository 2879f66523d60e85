"""The report of a whole protocol: all methods, K, settings and seeds below some folders, as a page and as files.

Reads only metrics.json and figures/*.png.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from maskdiff_jax import atomic
from maskdiff_jax.reporting import findings, formats, grid, html, paper_numbers, sections, tidy
from maskdiff_jax.reporting.cost_table import cost_table
from maskdiff_jax.reporting.curves import curve_figures
from maskdiff_jax.reporting.difference_tables import difference_tables, warnings
from maskdiff_jax.reporting.experiments import Experiment, method_label
from maskdiff_jax.reporting.noise_table import guidance_table
from maskdiff_jax.reporting.runs import read_figures
from maskdiff_jax.reporting.tables import Table, is_paper_test_set, result_tables

TOLERANCE = 0.05  # points, of the identity of AP over 80, 60 and 20 classes
SCENES = 4  # test images of the strip
SPREADS = (
    "Publications mix two spreads: over shot seeds (other shots, another fine-tuning) and over noise seeds "
    "(other noise for the same model). This report shows them separately. tables.csv also has the population "
    "std (n in the denominator) "
    "and 1.96 population stds / sqrt(n), which TFA and iMTFA print as the 95 % interval; for ten seeds it is 18 % "
    "narrower than Student's t."
)


class Section(NamedTuple):
    """One setting: its tables, pictures and remarks."""

    title: str
    tables: list[Table]
    differences: list[Table]
    warnings: list[str]
    figures: dict[str, bytes]  # file name -> PNG
    caveats: Sequence[str]


class Written(NamedTuple):
    """What `write` made."""

    summary: list[str]  # findings, as sentences
    notes: list[str]  # on what was skipped, missing or cannot be compared, as sentences
    files: list[Path]


def write(roots: Sequence[str | Path], output: Callable[[], Path]) -> Written:
    """Writes index.html, tables.csv, tables.md, tables.tex and the figures as PNG into a folder.

    Args:
      roots: folders that are evaluated runs, or hold some at any depth.
      output: gives the folder of the files, which is created; is called after everything was read.

    Raises:
      FileNotFoundError: a folder is missing or holds no metrics.json.
      ValueError: a metrics.json is damaged, or evaluations that would be averaged differ in more than seeds; nothing is
        written then.
      OSError: a file cannot be written.
    """
    found = grid.find(roots)
    evaluations, notes = grid.read(found.evaluated)
    if not evaluations:
        raise ValueError(f"nothing to report on: {'; '.join(notes)}")
    experiments, more = grid.experiments(evaluations)
    groups = grid.groups(experiments)
    notes += more + [note for group in groups for note in grid.missing(group) if not group[0].variant]
    notes += grid.unfinished_note(found.unfinished) + grid.version_notes(experiments) + _identity_notes(experiments)
    parts = [_section(group) for group in groups]
    extra = [
        *(t for group in groups for t in guidance_table(group, _name(group), _title(group))),
        *cost_table(experiments),
    ]
    folder = output()
    atomic.check_writable(folder)
    tables = [table for part in parts for table in (*part.tables, *part.differences)] + extra
    files: dict[str, str | bytes] = {
        "tables.csv": tidy.csv_text(tidy.numbers(experiments, groups)),
        "tables.md": "\n".join(map(formats.markdown, tables)),
        "tables.tex": "\n".join([formats.PREAMBLE, "", *map(formats.latex, tables)]),
        "index.html": _page(experiments, groups, parts, extra, notes),
    }
    for part in parts:
        files |= part.figures
    for name, content in files.items():
        atomic.write(folder / name, content)
    return Written([x for group in groups for x in findings.sentences(group)], notes, [folder / name for name in files])


def _identity_notes(experiments: Sequence[Experiment]) -> list[str]:
    """Evaluations on COCO's 80 classes must satisfy an identity; those that do not were scored in another way."""
    wrong = []
    for x in experiments:
        if x.key.setting == "COCO-All" and is_paper_test_set(x):
            for e in x.evaluations:
                values = [e.document["metrics"].get(f"segm/{classes}AP") for classes in ("", "base/", "novel/")]
                if None not in values and abs(values[0] - paper_numbers.all_ap(*values[1:])) > TOLERANCE:
                    wrong.append(str(e.folder))
    if not wrong:
        return []
    return [
        "mask AP of COCO-All is not (60 base AP + 20 novel AP) / 80, as it must be, in "
        f"{len(wrong)} evaluation{'' if len(wrong) == 1 else 's'}: {', '.join(wrong[:3])}"
    ]


def _name(group: Sequence[Experiment]) -> str:
    """A name for files: "coco-all", "shapes-all-classes-val"."""
    key = group[0].key
    words = [] if key.setting.startswith("COCO") else [key.dataset]
    words += [key.setting, *([] if key.split == "test" else [key.split])]
    return "".join(c if c.isalnum() else "-" for c in "-".join(words).lower()).replace("--", "-")


def _title(group: Sequence[Experiment]) -> str:
    key = group[0].key
    where = "" if key.setting.startswith("COCO") else f"{key.dataset}, "
    return f"{where}{key.setting}" + ("" if key.split == "test" else f", {key.split} split (for choosing settings)")


def _section(group: Sequence[Experiment]) -> Section:
    name, title = _name(group), _title(group)
    caveats = paper_numbers.CAVEATS.get(group[0].key.setting, ()) if is_paper_test_set(group[0]) else ()
    if group[0].key.setting.startswith("COCO") and not is_paper_test_set(group[0]):
        caveats = (
            "The paper's numbers are not shown: these runs were not evaluated on all of TFA's 5,000 test images.",
        )
    return Section(
        title,
        result_tables(group, name, title),
        difference_tables(group, name, title),
        warnings(group),
        {} if group[0].variant else curve_figures(group, name),
        caveats,
    )


def _page(
    experiments: Sequence[Experiment], groups: Sequence[Sequence[Experiment]], parts: Sequence[Section],
    extra: Sequence[Table], notes: Sequence[str],
) -> str:  # fmt: skip
    body = [_head(experiments, groups)]
    for part in parts:
        content = [formats.html_table(table) for table in part.tables]
        if part.differences:
            content.append("<h3>Differences from MaskDiff</h3>")
            content += [f'<p class="warning">{html.text(warning)}</p>' for warning in part.warnings]
            content += [formats.html_table(table) for table in part.differences]
        if part.figures:
            content.append("<h3>AP against the IoU threshold</h3>")
            content.append('<p class="muted">Mean over shot seeds; shaded: its 95 % confidence interval.</p>')
            content += [html.picture(png, name) for name, png in part.figures.items()]
        if part.caveats:
            content.append(f"<h3>Before you compare with published numbers</h3>{html.bullets(part.caveats)}")
        body.append(html.section(part.title, *content))
    for table in extra:
        title = "Spread over noise seeds" if table.name.endswith("-noise") else table.title
        title += f": {table.title}" if table.name.endswith("-noise") else ""
        body.append(html.section(title, formats.html_table(table)))
    body += _cases(groups)
    body.append(html.section("How to read the spreads", f"<p>{html.text(SPREADS)}</p>"))
    body.append(html.section("How it was made", *_details(experiments)))
    if notes:
        body.append(html.section("Notes", html.bullets(notes)))
    return html.page("MaskDiff: protocol report", body, broad=True)


def _head(experiments: Sequence[Experiment], groups: Sequence[Sequence[Experiment]]) -> str:
    documents = [e.document for x in experiments for e in x.evaluations if not x.variant]
    methods = dict.fromkeys(method_label(x.key.method) for x in experiments)
    dates = sorted({d["date"] for d in documents if d.get("date")})
    facts = (
        ", ".join(dict.fromkeys(x.key.dataset for x in experiments)),
        f"{len(documents)} evaluations",
        f"{len(methods)} method{'' if len(methods) == 1 else 's'}: {'; '.join(methods)}",
        ", ".join(dict.fromkeys(d["device"] for d in documents if d.get("device"))),
        " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "",
    )
    line = " · ".join(html.text(fact) for fact in facts if fact)
    found = [x for group in groups for x in findings.sentences(group)]
    return (
        f'<h1>MaskDiff: few-shot instance segmentation</h1><p class="muted">{line}</p>'
        + html.tiles(findings.tiles(groups))
        + (html.bullets(found) if found else "")
    )


def _cases(groups: Sequence[Sequence[Experiment]]) -> list[str]:
    """Test images of the run with the median mask AP; [] where no run has figures."""
    for group in groups:
        case = findings.median_case(group)
        if case:
            experiment, evaluation, folder = case
            figures, _ = read_figures(folder)
            scenes = [png for name, png in figures.items() if name.startswith("scenes_")][:SCENES]
            pictures = [html.picture(png, f"test image {i}") for i, png in enumerate(scenes)]
            note = (
                f"{grid.describe(experiment.key)}, shot seed {evaluation.repeat}: the one with the median mask AP "
                "on novel classes, among the shot seeds that have figures. Left: ground truth; right: predictions. "
                "A star marks a novel class."
            )
            return [html.section("A median case", f'<div class="strip">{"".join(pictures)}</div>', note=note)]
    return []


def _details(experiments: Sequence[Experiment]) -> list[str]:
    """Versions and config of one evaluation of each experiment."""
    out = []
    for x in experiments:
        if not x.variant:
            e = x.evaluations[0]
            out.append(sections.details(e.document, f"{grid.describe(x.key)}, of {e.folder}"))
    return out
