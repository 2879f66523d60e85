"""Means and confidence intervals by hand and by properties; which runs are repeats."""

import copy
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from maskdiff_jax import config_fields
from maskdiff_jax.reporting import statistics
from tests.reporting.example_runs import document

PERCENT = st.floats(0.0, 100.0)


def test_estimate_by_hand():
    e = statistics.estimate([1.0, 2.0, 3.0, 4.0])
    assert (e.mean, e.n) == (2.5, 4)
    assert e.std == pytest.approx(math.sqrt(5 / 3))
    assert e.half_width == pytest.approx(3.182 * math.sqrt(5 / 3) / 2, rel=1e-3)  # t table: 3 degrees of freedom


def test_no_values_have_no_mean():
    with pytest.raises(ValueError, match="at least one value"):
        statistics.estimate([])


@given(PERCENT)
def test_one_run_is_its_own_mean_and_has_no_interval(value):
    e = statistics.estimate([value])
    assert (e.mean, e.n) == (value, 1) and math.isnan(e.std) and math.isnan(e.half_width)


@given(PERCENT, st.integers(2, 40))
def test_equal_runs_have_their_value_as_mean_and_an_interval_of_zero(value, n):
    e = statistics.estimate([value] * n)
    assert (e.mean, e.std, e.half_width, e.n) == (value, 0.0, 0.0, n)


@settings(max_examples=50)
@given(st.lists(PERCENT, min_size=2, max_size=20), st.randoms(use_true_random=False))
def test_the_interval_is_that_of_scipy_and_needs_no_order(values, random):
    e = statistics.estimate(values)
    assert min(values) <= e.mean <= max(values)
    shuffled = values.copy()
    random.shuffle(shuffled)
    assert statistics.estimate(shuffled) == pytest.approx(e, rel=1e-9, abs=1e-9)
    if e.std > 1e-6:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (e.mean - e.half_width, e.mean + e.half_width) == pytest.approx((low, high), abs=1e-6)


def changed(*path, value):
    out = document()
    node = out
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    return out


@pytest.mark.parametrize("field", [("seed",), ("init_from",), ("fewshot", "seed"), ("eval", "noise_seed")])
def test_runs_that_differ_in_a_seed_are_one_experiment(field):
    runs = [document(), changed("config", *field, value=7)]
    assert statistics.group_by_experiment(runs) == [[0, 1]]
    assert len({statistics.experiment_key(d, with_seeds=True) for d in runs}) == 2


@pytest.mark.parametrize(
    "path", [("config", "fewshot", "shots"), ("shots",), ("dataset",), ("stage",), ("split",), ("preset",)]
)
def test_runs_that_differ_in_anything_else_are_two_experiments(path):
    assert statistics.group_by_experiment([document(), changed(*path, value="other")]) == [[0], [1]]


def test_groups_are_in_the_order_of_their_first_member():
    runs = [document("base"), document(seed=1), document("base", seed=2), document(seed=3)]
    assert statistics.group_by_experiment(runs) == [[0, 2], [1, 3]]


@given(st.permutations(range(4)))
def test_the_key_does_not_depend_on_the_order_of_fields_or_on_results(order):
    one, other = document(), copy.deepcopy(document(shift=3.0))
    fields = list(other["config"].items())
    other["config"] = dict(fields[i] for i in order) | dict(fields[4:])
    assert statistics.experiment_key(one, with_seeds=True) == statistics.experiment_key(other, with_seeds=True)


def test_a_run_of_version_0_1_is_one_of_size_paper():
    assert statistics.ADDED == config_fields.ADDED
    runs = [document(), changed("config", "size", value="paper"), changed("config", "size", value="tiny")]
    assert statistics.group_by_experiment(runs) == [[0, 1], [2]]


def test_documents_without_a_config():
    assert statistics.group_by_experiment([{"metrics": {}}, {"metrics": {}, "stage": "base"}]) == [[0], [1]]


def test_the_spreads_of_the_literature_by_hand():
    e = statistics.estimate([1.0, 2.0, 3.0, 4.0])
    assert e.population_std == pytest.approx(np.std([1, 2, 3, 4]))
    assert e.normal_half_width == pytest.approx(1.96 * math.sqrt(5 / 4) / 2)
    one = statistics.estimate([1.0])
    assert math.isnan(one.population_std) and math.isnan(one.normal_half_width)


def test_paired_by_hand():
    p = statistics.paired([3.0, 5.0, 4.0], [1.0, 2.0, 3.0])  # differences 2, 3, 1: mean 2, std 1
    assert (p.mean, p.n) == (2.0, 3) and p.half_width == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert p.p == pytest.approx(0.0742, abs=1e-4)  # t = 3.464 with 2 degrees of freedom
    assert math.isnan(p.p_wilcoxon)


@settings(max_examples=30)
@given(st.lists(st.tuples(PERCENT, PERCENT), min_size=6, max_size=12))
def test_paired_is_scipys(pairs):
    first, second = zip(*pairs, strict=True)
    ours = statistics.paired(first, second)
    if ours.half_width > 1e-3:
        assert ours.p == pytest.approx(stats.ttest_rel(first, second).pvalue, rel=1e-6, abs=1e-9)
    sizes = [abs(a - b) for a, b in pairs]
    if len(set(sizes)) == len(sizes) and 0 not in sizes:
        expected = stats.wilcoxon([a - b for a, b in pairs], method="exact").pvalue
        assert ours.p_wilcoxon == pytest.approx(expected, abs=1e-9)


def test_paired_needs_the_same_number_and_degenerate_cases_are_whole():
    with pytest.raises(ValueError):
        statistics.paired([1.0], [1.0, 2.0])
    same, shifted = statistics.paired([1.0] * 6, [1.0] * 6), statistics.paired([2.0] * 6, [1.0] * 6)
    assert (same.mean, same.p, same.p_wilcoxon) == (0.0, 1.0, 1.0)
    assert (shifted.mean, shifted.p, shifted.p_wilcoxon) == (1.0, 0.0, 2 / 2**6)
    one = statistics.paired([2.0], [1.0])
    assert one.mean == 1.0 and math.isnan(one.p) and math.isnan(one.half_width)


def test_signed_ranks_with_ties_and_zeros_by_hand():
    """|d| = 1, 1, 2 have midranks 1.5, 1.5, 3; all eight signs: P(W+ >= 6) = 1/8."""
    assert statistics.signed_rank_p([1.0, 1.0, 2.0, 0.0]) == pytest.approx(2 / 8)
    assert statistics.signed_rank_p([1.0, -1.0, 2.0]) == pytest.approx(2 * 3 / 8)  # W+ = 4.5: 4.5, 4.5, 6


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03, math.nan])[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert math.isnan(statistics.holm([0.5, math.nan])[1])
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0] and statistics.holm([]) == []
