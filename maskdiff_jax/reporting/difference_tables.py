"""Tables of the paired differences between each method and MaskDiff, and warnings about those that say little."""

import math
from collections.abc import Sequence

from maskdiff_jax.reporting.comparisons import ALPHA, Comparison, p_text, reference, with_reference
from maskdiff_jax.reporting.experiments import Experiment, method_label, shots_from
from maskdiff_jax.reporting.tables import Block, Cell, Column, Row, Table, columns, headers, number, split

FEW = 5  # shot seeds: below, tests and intervals say little
NOTE = (
    "Method minus MaskDiff, in points: a method with a negative number is below MaskDiff. ± is half of the 95 % "
    "confidence interval of the difference over the shot seeds that both have, each the mean over its noise seeds. "
    "p: paired t-test, two-sided, corrected by Holm over the methods of one K and metric. W: Wilcoxon's signed-rank "
    "test, from 6 shot seeds on, corrected likewise. Bold: p below 0.05. seeds: the shot seeds that both have."
)


def difference_tables(group: Sequence[Experiment], name: str, title: str) -> list[Table]:
    """The differences of all methods to MaskDiff; [] where there is nothing to compare.

    Args:
      group: experiments of one table.
      name: of the tables' files.
      title: of the tables.
    """
    compared = with_reference(group, [column.metric for column in columns(group)])
    if not compared:
        return []
    out = []
    for suffix, kinds, shown in split(columns(group)):
        blocks = []
        for base, comparisons in compared:
            rows = [
                _row(method, [c for c in comparisons if c.method == method], shown)
                for method in dict.fromkeys(c.method for c in comparisons)
            ]
            k = f"K = {base.key.shots}: " if base.key.shots else ""
            blocks.append(Block(f"{k}differences from {method_label(base.key.method)}", rows))
        out.append(
            Table(
                f"{name}{suffix}-differences",
                f"{title}{kinds}: differences from MaskDiff",
                headers(shown),
                blocks,
                NOTE,
                True,
            )
        )
    return out


def _row(method: str, comparisons: Sequence[Comparison], shown: Sequence[Column]) -> Row:
    by_metric = {c.metric: c for c in comparisons}
    cells = [_cell(by_metric[column.metric]) if column.metric in by_metric else Cell() for column in shown]
    pairs = sorted({c.paired.n for c in comparisons})
    return Row(method_label(method), "-".join(map(str, dict.fromkeys((pairs[0], pairs[-1])))), cells)


def _cell(c: Comparison) -> Cell:
    small = [p_text("p", p) for p in (c.p_holm,) if not math.isnan(p)]
    small += [p_text("W", p) for p in (c.p_wilcoxon_holm,) if not math.isnan(p)]
    return Cell(number(c.paired.mean, sign=True), number(c.paired.half_width), tuple(small), c.p_holm < ALPHA)


def warnings(group: Sequence[Experiment]) -> list[str]:
    """Warnings about differences that cannot be trusted, as sentences."""
    few: dict[str, list[str]] = {}
    for base, comparisons in with_reference(group, [column.metric for column in columns(group)]):
        for method in dict.fromkeys(c.method for c in comparisons):
            n = max(c.paired.n for c in comparisons if c.method == method)
            if n < FEW:
                k = f" at K = {base.key.shots}" if base.key.shots else ""
                few.setdefault(f"{n} shot seed{'' if n == 1 else 's'}", []).append(f"{method_label(method)}{k}")
    return _other_shots(group) + [
        f"Only {n} shared with MaskDiff for {', '.join(names)}: do not draw conclusions from these differences. "
        "Their intervals assume normally distributed seeds, which cannot be checked with so few."
        for n, names in few.items()
    ]


def _other_shots(group: Sequence[Experiment]) -> list[str]:
    """A warning for each method whose shots were not sampled as MaskDiff's, so that no difference is shown."""
    out = []
    for x in group:
        base = reference(group, x.key.shots)
        if base is not None and shots_from(x) != shots_from(base):
            k = f" at K = {x.key.shots}" if x.key.shots else ""
            theirs, ours = (", ".join(shots_from(y)) for y in (x, base))
            out.append(
                f"{method_label(x.key.method)}{k} has other shots ({theirs}) than {method_label(base.key.method)} "
                f"({ours}), so the same shot seeds are no pairs, and there is no test: train all methods with the same "
                "fewshot.sampler and fewshot.shots_from."
            )
    return out
