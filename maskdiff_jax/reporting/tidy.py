"""All numbers of a report as one long table, one row per number: tables.csv."""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from maskdiff_jax.reporting import paper_numbers, statistics
from maskdiff_jax.reporting.comparisons import with_reference
from maskdiff_jax.reporting.cost_table import costs
from maskdiff_jax.reporting.experiments import Experiment, by_repeat, method_label, noise_std
from maskdiff_jax.reporting.tables import columns, is_paper_test_set

OURS = "this report"


class Number(NamedTuple):
    """One row of the file."""

    source: str  # "this report", or the table where it was published
    dataset: str
    split: str
    setting: str
    shots: int  # K; 0: stage 1
    method: str
    label: str
    metric: str  # as in metrics.json; "stage_1_seconds", "stage_2_seconds", "images_per_second"
    statistic: str
    value: float
    n: int | str  # values that it is made of
    reference: str = ""  # of differences: the method that is subtracted
    device: str = ""  # of times


def numbers(experiments: Sequence[Experiment], groups: Sequence[Sequence[Experiment]]) -> list[Number]:
    """All numbers of a report, and more: all metrics, every spread, published numbers, tests, times.

    Args:
      experiments: all of them.
      groups: the same, by table.
    """
    out = [number for x in experiments for number in _of_experiment(x)]
    for group in groups:
        out += _of_differences(group)
        out += _published(group)
    for c in costs(experiments):
        dataset, split = next((x.key.dataset, x.key.split) for x in experiments if x.key.method == c.method)
        values = {
            "stage_1_seconds": c.stage_1, "stage_2_seconds": c.stage_2, "images_per_second": c.images_per_second,
        }  # fmt: skip
        out += [
            Number(
                OURS,
                dataset,
                split,
                c.setting,
                c.shots,
                c.method,
                method_label(c.method),
                metric,
                "mean",
                value,
                c.n,
                "",
                c.device,
            )
            for metric, value in values.items()
        ]
    return [x for x in out if not math.isnan(x.value)]


def _of_experiment(x: Experiment) -> Iterator[Number]:
    place = (OURS, *x.key[:4], x.key.method, method_label(x.key.method))
    prefix = f"{x.variant}/" if x.variant else ""
    names = dict.fromkeys(
        k.removeprefix(prefix) for e in x.evaluations for k in e.document["metrics"] if k.startswith(prefix)
    )
    for metric in names:
        if not re.fullmatch(r"(bbox|segm|mask_iou)(/[\w.]{1,64}){1,2}", metric, re.ASCII):
            continue
        values = list(by_repeat(x, metric).values())
        e = statistics.estimate(values)
        noise, models, least = noise_std(x, metric)
        yield Number(*place, metric, "mean", e.mean, e.n)
        yield Number(*place, metric, "std_over_shot_seeds", e.std, e.n)
        yield Number(*place, metric, "ci95_half_width_student_t", e.half_width, e.n)
        yield Number(*place, metric, "population_std_over_shot_seeds", e.population_std, e.n)
        yield Number(*place, metric, "ci95_half_width_1.96_population_std", e.normal_half_width, e.n)
        yield Number(*place, metric, "std_over_noise_seeds", noise, least)
        yield Number(*place, metric, "models_with_repeated_noise_seeds", models or math.nan, models)


def _of_differences(group: Sequence[Experiment]) -> Iterator[Number]:
    for base, comparisons in with_reference(group, [column.metric for column in columns(group)]):
        for c in comparisons:
            place = (OURS, *base.key[:4], c.method, method_label(c.method), c.metric)
            values = {
                "difference": c.paired.mean, "difference_ci95_half_width_student_t": c.paired.half_width,
                "p_paired_t": c.paired.p, "p_paired_t_holm": c.p_holm,
                "p_wilcoxon": c.paired.p_wilcoxon, "p_wilcoxon_holm": c.p_wilcoxon_holm,
            }  # fmt: skip
            for statistic, value in values.items():
                yield Number(*place, statistic, value, c.paired.n, base.key.method)


def _published(group: Sequence[Experiment]) -> Iterator[Number]:
    for shots in dict.fromkeys(x.key.shots for x in group if is_paper_test_set(x)):
        key = group[0].key
        for row in paper_numbers.rows(key.setting, shots):
            place = (key.dataset, key.split, key.setting, shots, row.method, method_label(row.method))
            for metric, p in row.values.items():
                yield Number(row.source, *place, metric, "mean", p.value, "")
                if p.spread is not None:
                    kind = {"ci95": "ci95_half_width_1.96_population_std"}.get(
                        p.spread_is, "plus_minus_of_unknown_kind"
                    )
                    yield Number(p.spread_from, *place, metric, kind, p.spread, "")


def csv_text(rows: Sequence[Number]) -> str:
    """The rows as CSV with a header; numbers in full precision."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Number._fields)
    writer.writerows(
        [[repr(float(v)) if name == "value" else v for name, v in zip(row._fields, row, strict=True)] for row in rows]
    )
    return out.getvalue()
