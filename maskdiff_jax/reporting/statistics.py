"""Means and confidence intervals of repeated runs, and which runs are repeats of one experiment."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

# config fields in which repeats of one experiment may differ; a run of stage 2 starts from one of several stage-1 runs
SEED_FIELDS = {("seed",), ("init_from",), ("detector_from",), ("fewshot", "seed"), ("eval", "noise_seed")}
_DESCRIPTION = ("preset", "stage", "dataset", "split", "shots")  # fields of metrics.json that name the experiment


class Estimate(NamedTuple):
    """A mean over n runs."""

    mean: float
    std: float  # with n - 1 in the denominator; NaN for n = 1
    half_width: float  # of the 95 % confidence interval of the mean; NaN for n = 1
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
    if not with_seeds:
        config = _without_seeds(config)
    return json.dumps([config, *(document.get(name) for name in _DESCRIPTION)], sort_keys=True)


def _without_seeds(config: Any, path: tuple[str, ...] = ()) -> Any:
    """A config (nested dicts) without ``SEED_FIELDS``."""
    if not isinstance(config, dict):
        return config
    return {k: _without_seeds(v, (*path, k)) for k, v in config.items() if (*path, k) not in SEED_FIELDS}
