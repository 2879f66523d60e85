"""Tables of results as plain text cells, whatever format they are written in later."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from maskdiff_jax.reporting import paper_numbers, statistics
from maskdiff_jax.reporting.comparisons import mark_best
from maskdiff_jax.reporting.experiments import STAGE_1, Experiment, by_repeat, is_oracle, method_label, noise_std
from maskdiff_jax.reporting.runs import config_field
from maskdiff_jax.reporting.sections import CLASS_GROUPS, metric_name

KINDS = (("bbox", "AP"), ("bbox", "AP50"), ("segm", "AP"), ("segm", "AP50"), ("mask_iou", ""))
KIND_TITLES = {"bbox": "boxes: AP", "segm": "masks: AP", "mask_iou": "mask IoU"}
MOST_COLUMNS = 9  # of one table; more become one table of boxes and one of masks
MINUS = "\N{MINUS SIGN}"


class Cell(NamedTuple):
    """A number with the text around it."""

    value: str = ""  # "": nothing is known
    half_width: str = ""  # behind ±
    small: tuple[str, ...] = ()  # more lines, in small print
    bold: bool = False
    close: bool = False  # not significantly worse than the best


class Row(NamedTuple):
    """One method."""

    label: str
    seeds: str
    cells: list[Cell]
    source: str = ""  # of published numbers; "": ours


class Block(NamedTuple):
    """Rows that belong together, such as those of one K."""

    title: str
    rows: list[Row]


class Table(NamedTuple):
    """A table with its headers, without those of the columns for the method and its seeds."""

    name: str  # of its files and labels: a-z, 0-9 and -
    title: str
    headers: list[list[tuple[str, int]]]  # rows of (text, number of columns it spans)
    blocks: list[Block]
    note: str = ""
    small_matters: bool = False  # LaTeX shows the small print of cells too


class Column(NamedTuple):
    """One metric."""

    metric: str  # as in metrics.json
    title: str
    classes: str


def columns(group: Sequence[Experiment]) -> list[Column]:
    """The metrics that the experiments have. Where base or novel classes are all there is, "all" is not repeated."""
    there = {k for x in group for e in x.evaluations for k in e.document["metrics"]}
    prefix = f"{group[0].variant}/" if group[0].variant else ""
    found = [
        Column(metric, KIND_TITLES[kind] + name[2:], classes)
        for kind, name in KINDS
        for classes in CLASS_GROUPS
        if prefix + (metric := metric_name(kind, name, classes)) in there
    ]
    known = {column.classes for column in found}
    if known < set(CLASS_GROUPS) and len(known) == 2:
        found = [column for column in found if column.classes != "all"]
    return found


def split(found: Sequence[Column]) -> list[tuple[str, str, list[Column]]]:
    """Columns as (suffix of the name, of the title, columns) of one table, or of two where there are many."""
    if len(found) <= MOST_COLUMNS:
        return [("", "", list(found))] if found else []
    boxes = [column for column in found if column.metric.startswith("bbox")]
    masks = [column for column in found if not column.metric.startswith("bbox")]
    return [("-masks", ", masks", masks), ("-boxes", ", boxes", boxes)]


def headers(shown: Sequence[Column]) -> list[list[tuple[str, int]]]:
    """Two header rows: the metrics, then the classes."""
    titles: dict[str, int] = {}
    for column in shown:
        titles[column.title] = titles.get(column.title, 0) + 1
    return [list(titles.items()), [(column.classes, 1) for column in shown]]


def number(value: float, *, digits: int = 2, sign: bool = False) -> str:
    """A number with a fixed count of digits and a real minus sign; "" for NaN."""
    if math.isnan(value):
        return ""
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text.replace("-", MINUS)


def is_paper_test_set(experiment: Experiment) -> bool:
    """Whether it was evaluated on the paper's test set: all of TFA's test images of COCO, or all of VOC."""
    config = experiment.evaluations[0].document
    of_tfa = config_field(config, "data.source") == "coco" and config_field(config, "data.counts") == "tfa"
    return of_tfa and config_field(config, "eval.images") == 0 and experiment.key.split == "test"


def result_tables(group: Sequence[Experiment], name: str, title: str) -> list[Table]:
    """Mean and spreads of all methods and K, with published numbers where the test set is the same.

    Args:
      group: experiments of one dataset, split and setting.
      name: of the tables' files.
      title: of the tables.
      mark_best: experiments of one K, metric -> the method with the best mean, those not significantly worse.
    """
    out = []
    for suffix, kinds, shown in split(columns(group)):
        blocks = [
            _block([x for x in group if x.key.shots == shots], shown)
            for shots in dict.fromkeys(x.key.shots for x in group)
        ]
        out.append(Table(f"{name}{suffix}", f"{title}{kinds}", headers(shown), blocks, result_note(group)))
    return out


def _block(members: Sequence[Experiment], shown: Sequence[Column]) -> Block:
    """The rows of one K: ours, then published ones."""
    key = members[0].key
    marks = {column.metric: mark_best(members, column.metric) for column in shown}
    rows = []
    for experiment in members:
        cells = []
        for column in shown:
            best, close = marks[column.metric]
            method, compared = experiment.key.method, len(members) > 1
            cell = estimate_cell(experiment, column.metric)
            cells.append(cell._replace(bold=compared and method in best, close=method in close))
        label = method_label(experiment.key.method) + (" (oracle)" if is_oracle(experiment) else "")
        rows.append(Row(label, seeds(experiment), cells))
    if any(is_paper_test_set(x) for x in members):
        rows += [published_row(row, shown) for row in paper_numbers.rows(key.setting, key.shots)]
    return Block(f"K = {key.shots}" if key.shots else "", rows)


def estimate_cell(experiment: Experiment, metric: str) -> Cell:
    """Mean ± half of the 95 % interval over shot seeds; in small print the std over shot seeds and over noise seeds."""
    values = by_repeat(experiment, metric)
    if not values:
        return Cell()
    e = statistics.estimate(list(values.values()))
    noise, _, _ = noise_std(experiment, metric)
    small = [f"{name} {number(value)}" for name, value in (("std", e.std), ("noise", noise)) if not math.isnan(value)]
    return Cell(number(e.mean), number(e.half_width), tuple(small))


def published_row(row: paper_numbers.Row, shown: Sequence[Column]) -> Row:
    """A published row in the columns of a table."""
    cells = []
    for column in shown:
        p = row.values.get(column.metric)
        cells.append(Cell(number(p.value), "" if p.spread is None else _as_printed(p.spread)) if p else Cell())
    return Row(method_label(row.method), "", cells, row.source)


def _as_printed(spread: float) -> str:
    """Two digits, and more where the source gives more."""
    return f"{spread:.2f}" if round(spread, 2) == spread else f"{spread:g}"


def seeds(experiment: Experiment) -> str:
    """Numbers of shot seeds and of noise seeds per model: "10 × 1", "3 × 1-10"."""
    models: dict[tuple, set[int]] = {}
    for e in experiment.evaluations:
        models.setdefault(e.model, set()).add(e.noise_seed)
    counts = sorted({len(noise) for noise in models.values()})
    noise = "-".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"{len({e.repeat for e in experiment.evaluations})} × {noise}"


def result_note(group: Sequence[Experiment]) -> str:
    """The note that explains the table."""
    of = "training seeds" if group[0].key.setting == STAGE_1 else "shot seeds"
    note = (
        f"Percent: mean over {of} ± half of its 95 % confidence interval (Student's t), each seed is the mean "
        f"over its noise seeds. std: over {of} (n - 1). noise: std over the noise seeds of one model, averaged "
        "over models. "
        f"seeds: {of} × noise seeds."
    )
    if len({x.key.method for x in group}) > 1:
        note += (
            " Bold: the best mean of a K. ≈: not significantly worse (paired t-test on shared seeds, p of at least "
            "0.05 after Holm's correction over the methods)."
        )
    if any(is_oracle(x) for x in group):
        note += " oracle: uses boxes or classes of the ground truth, so it is not ranked."
    return note
