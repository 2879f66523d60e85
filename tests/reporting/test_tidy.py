"""tables.csv: one row per number, read back by csv."""

import csv
import io
import math

import numpy as np
import pytest

from maskdiff_jax.reporting import grid, tidy
from maskdiff_jax.reporting.experiments import by_repeat
from tests.reporting.example_grid import write_grid


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    root = write_grid(tmp_path_factory.mktemp("grid"), shots=(1,), seeds=6, noise_seeds=2)
    return grid.experiments(grid.read(grid.find([root]).evaluated)[0])[0]


@pytest.fixture(scope="module")
def rows(experiments):
    text = tidy.csv_text(tidy.numbers(experiments, grid.groups(experiments)))
    return list(csv.DictReader(io.StringIO(text)))


def value(rows, **wanted):
    (row,) = [row for row in rows if all(row[k] == v for k, v in wanted.items())]
    return float(row["value"]), row["n"]


def test_every_spread_by_its_name(experiments, rows):
    x = next(x for x in experiments if x.key.method == "maskdiff" and x.key.shots == 1)
    values = list(by_repeat(x, "segm/novel/AP").values())
    place = dict(source="this report", method="maskdiff", shots="1", metric="segm/novel/AP")
    std, root = np.std(values), math.sqrt(6)
    assert value(rows, **place, statistic="mean") == (pytest.approx(np.mean(values)), "6")
    assert value(rows, **place, statistic="std_over_shot_seeds")[0] == pytest.approx(np.std(values, ddof=1))
    assert value(rows, **place, statistic="population_std_over_shot_seeds")[0] == pytest.approx(std)
    assert value(rows, **place, statistic="ci95_half_width_1.96_population_std")[0] == pytest.approx(1.96 * std / root)
    t = 2.5706 * np.std(values, ddof=1) / root
    assert value(rows, **place, statistic="ci95_half_width_student_t")[0] == pytest.approx(t, rel=1e-4)
    assert value(rows, **place, statistic="std_over_noise_seeds")[1] == "2"
    assert value(rows, **place, statistic="models_with_repeated_noise_seeds")[0] == 6


def test_differences_published_numbers_and_times(rows):
    one = dict(setting="COCO-All", shots="1")
    assert value(rows, **one, method="mtfa", metric="segm/AP", statistic="difference", reference="maskdiff")[0] < 0
    holm = value(rows, **one, method="mtfa", metric="segm/AP", statistic="p_paired_t_holm")[0]
    assert holm >= value(rows, **one, method="mtfa", metric="segm/AP", statistic="p_paired_t")[0]
    paper = dict(source="Table 1 of the paper, ± of Table 8", method="maskdiff", metric="segm/novel/AP")
    assert value(rows, **paper, statistic="mean")[0] == 4.85
    kind = dict(metric="segm/novel/AP", source="Table 8 of the paper", method="maskdiff")
    assert value(rows, **kind, statistic="plus_minus_of_unknown_kind")[0] == 0.24
    assert value(rows, method="mtfa", metric="stage_1_seconds", shots="1", device="1 x a GPU")[0] == 10800.0


def test_no_row_is_there_twice_and_none_is_nan(rows):
    keys = [tuple(v for k, v in row.items() if k not in ("value", "n")) for row in rows]
    assert len(set(keys)) == len(keys) > 300
    assert not any(math.isnan(float(row["value"])) for row in rows)
