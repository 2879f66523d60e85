"""The table and the HTML page of evaluated runs, made only from the files in their folders.

Runs that differ only in seeds become one row: mean and 95 % confidence interval.
"""

import errno
from collections.abc import Sequence
from pathlib import Path

from maskdiff_jax import atomic
from maskdiff_jax.reporting import html, sections, statistics
from maskdiff_jax.reporting.runs import Run, read, read_figures


def write(folders: Sequence[str | Path], path: str | Path) -> list[str]:
    """Writes the page of these runs. The last run's pictures are the ones shown.

    Args:
      folders: of evaluated runs, e.g. stage 1 and stage 2, or one per seed.
      path: of the HTML file; its folder is created, an older file is replaced.

    Returns:
      Notes on what was skipped, as sentences; the page holds them too.

    Raises:
      FileNotFoundError, ValueError: as ``runs.read_metrics``; nothing is written then.
      OSError: the file cannot be written.
    """
    if not folders:
        raise ValueError("give the folders of the runs to report on")
    runs, notes = _distinct([read(folder) for folder in folders])
    groups = group(runs)
    last = runs[-1]
    shown = next(members for members in groups if any(run is last for run in members))
    figures, figure_notes = read_figures(last.folder)
    notes += [note for run in runs for note in run.notes] + figure_notes
    body = [
        sections.head(shown),
        html.section("Results", sections.result_table(groups), note=sections.result_note(groups)),
        html.section("Time", sections.time_table(groups), note=sections.time_note(groups)),
        *sections.picture_sections(figures),
        *sections.threshold_section(groups),
        *sections.loss_section(groups),
        *sections.class_section(shown),
        html.section("How it was made", *(sections.details(members[-1].document) for members in groups)),
    ]
    if notes:
        body.append(html.section("Notes on the files", html.bullets(notes)))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, html.page(f"MaskDiff on {last.document.get('dataset') or 'a dataset'}", body))
    return notes


def output_folder(run: str | Path) -> Path:
    """The default output folder: RUN/report, or ./report-NAME if the run folder is read-only."""
    folder = Path(run) / "report"
    try:
        atomic.check_writable(folder)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return Path(f"report-{Path(run).resolve().name}")
    return folder


def group(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ only in seeds, together, in the order of their first member."""
    return [[runs[i] for i in members] for members in statistics.group_by_experiment([r.document for r in runs])]


def _distinct(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs without repeats of the same seeds, which are not independent: the last of each; and notes on the rest.

    A document without a config is never treated as a repeat of another one.
    """
    kept: dict[str, Run] = {}
    notes = []
    for run in runs:
        has_config = run.document.get("config") is not None
        key = statistics.experiment_key(run.document, with_seeds=True) if has_config else str(run.folder.resolve())
        if earlier := kept.pop(key, None):
            notes.append(f"{earlier.folder} was skipped: {run.folder} has the same config and the same seeds")
        kept[key] = run
    return list(kept.values()), notes


def text_table(documents: Sequence[dict], folders: Sequence[Path] = ()) -> str:
    """AP and AP50 of boxes and masks, mask IoU, and the seconds of each phase, for a terminal.

    Args:
      documents: what the metrics.json of each run holds.
      folders: of the runs; tells runs apart that would have the same label.
    """
    labels = sections.distinct_labels(documents, folders) if folders else [sections.label(x) for x in documents]
    width = max([len(x) for x in labels] + [8])
    out = [
        f"{'':{width}}  {'':5}  {'boxes':^13}  {'masks':^13}  mask IoU in",
        f"{'percent':{width}}  {'':5}  {'AP':>6} {'AP50':>6}  {'AP':>6} {'AP50':>6}     gt boxes",
    ]
    out.append("-" * len(out[1]))
    for name, document in zip(labels, documents, strict=True):
        for classes in sections.CLASS_GROUPS:
            values = [
                document["metrics"].get(sections.metric_name(kind, metric, classes))
                for kind, metric in sections.COLUMNS
            ]
            if any(x is not None for x in values):
                cells = [f"{'-':>6}" if x is None else f"{x:6.1f}" for x in values]
                boxes, masks = " ".join(cells[:2]), " ".join(cells[2:4])
                out.append(f"{name:{width}}  {classes:5}  {boxes}  {masks}  {cells[4]:>11}")
                name = ""
    out.append("")
    for name, document in zip(labels, documents, strict=True):
        seconds = document.get("seconds") or {}
        if seconds:
            parts = ", ".join(f"{sections.phase_name(k)} {v:.0f} s" for k, v in seconds.items())
            out.append(f"{name:{width}}  {parts}; total {sections.total_seconds(document):.0f} s")
    return "\n".join(out).rstrip()
