"""Means and confidence intervals of repeated runs, paired tests, and which runs are repeats of one experiment."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

# fields that a metrics.json of version 0.1 lacks, with their value: config_fields.ADDED (it needs ml_collections)
ADDED = {"size": "paper"}
# config fields in which repeats of one experiment may differ; a run of stage 2 starts from one of several stage-1 runs
SEED_FIELDS = {("seed",), ("init_from",), ("detector_from",), ("fewshot", "seed"), ("eval", "noise_seed")}
WILCOXON_FROM = 6  # repeats: with five the smallest two-sided p is 0.06
_DESCRIPTION = ("preset", "stage", "dataset", "split", "shots")  # fields of metrics.json that name the experiment


class Estimate(NamedTuple):
    """A mean over n runs."""

    mean: float
    std: float  # with n - 1 in the denominator; NaN for n = 1
    half_width: float  # of the 95 % confidence interval of the mean; NaN for n = 1
    n: int

    @property
    def population_std(self) -> float:
        """With n in the denominator (numpy's ddof 0), as TFA and iMTFA print it; NaN for n = 1."""
        return self.std * math.sqrt((self.n - 1) / self.n)

    @property
    def normal_half_width(self) -> float:
        """1.96 population stds / sqrt(n), which TFA and iMTFA call the 95 % interval; too narrow for few runs."""
        return 1.96 * self.population_std / math.sqrt(self.n)


class Paired(NamedTuple):
    """The difference of two methods over n repeats that both have."""

    mean: float  # first minus second
    half_width: float  # of its 95 % confidence interval; NaN for n = 1
    p: float  # of the paired t-test, two-sided; NaN for n = 1
    p_wilcoxon: float  # of Wilcoxon's signed-rank test, two-sided; NaN for n below WILCOXON_FROM
    n: int


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, standard deviation and 95 % confidence interval (Student's t with n - 1 degrees of freedom).

    Args:
      values: one number per independent run, at least one.

    Raises:
      ValueError: there are no values.
    """
    n = len(values)
    if not n:
        raise ValueError("a mean needs at least one value")
    # the rounded mean of equal numbers may lie beside them
    mean = float(np.clip(np.mean(values), np.min(values), np.max(values)))
    if n == 1:
        return Estimate(mean, math.nan, math.nan, n)
    std = math.sqrt(sum((x - mean) ** 2 for x in values) / (n - 1))
    return Estimate(mean, std, float(stdtrit(n - 1, 0.975)) * std / math.sqrt(n), n)


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Compares two methods on the same repeats (shot seeds).

    Args:
      first, second: one value per repeat, in the same order.

    Raises:
      ValueError: there are no values, or not as many in both.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean, std, half_width, n = estimate(differences)
    p, p_wilcoxon = math.nan, math.nan
    if n > 1 and std == 0:
        p = 1.0 if mean == 0 else 0.0
    elif n > 1:
        p = float(2 * stdtr(n - 1, -abs(mean) / (std / math.sqrt(n))))
    if n >= WILCOXON_FROM:
        p_wilcoxon = signed_rank_p(differences)
    return Paired(mean, half_width, p, p_wilcoxon, n)


def signed_rank_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test, exact, also with ties (midranks); zeros are dropped."""
    nonzero = np.array([d for d in differences if d != 0])
    if not len(nonzero):
        return 1.0
    size = np.abs(nonzero)
    # twice the midranks, which are whole numbers
    ranks = [int((size < x).sum() + (size <= x).sum() + 1) for x in size]
    ways = np.ones(1)  # probability of each sum of the ranks with a positive sign
    for rank in ranks:
        ways = 0.5 * (np.pad(ways, (0, rank)) + np.pad(ways, (rank, 0)))
    positive = sum(rank for rank, d in zip(ranks, nonzero, strict=True) if d > 0)
    return float(min(1.0, 2 * min(ways[: positive + 1].sum(), ways[positive:].sum())))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction of p-values of one family of tests; NaN stay NaN and do not count."""
    out = [math.nan] * len(p_values)
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        out[i] = largest
    return out


def group_by_experiment(documents: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Positions of documents that differ only in seeds, together; groups are in the order of their first member.

    Args:
      documents: what metrics.json holds, one per run.
    """
    groups: dict[str, list[int]] = {}
    for i, document in enumerate(documents):
        groups.setdefault(experiment_key(document), []).append(i)
    return list(groups.values())


def experiment_key(document: Mapping[str, Any], *, with_seeds: bool = False) -> str:
    """The same text for runs that differ only in seeds; ``with_seeds``: for runs that do not differ at all."""
    config = document.get("config")
    if isinstance(config, dict):
        config = ADDED | config
    if not with_seeds:
        config = _without_seeds(config)
    return json.dumps([config, *(document.get(name) for name in _DESCRIPTION)], sort_keys=True)


def _without_seeds(config: Any, path: tuple[str, ...] = ()) -> Any:
    """A config (nested dicts) without ``SEED_FIELDS``."""
    if not isinstance(config, dict):
        return config
    return {k: _without_seeds(v, (*path, k)) for k, v in config.items() if (*path, k) not in SEED_FIELDS}
