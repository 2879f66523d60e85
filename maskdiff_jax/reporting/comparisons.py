"""Paired comparisons of methods on the shot seeds that both have, with Holm's correction."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from maskdiff_jax.reporting import statistics
from maskdiff_jax.reporting.experiments import STAGE_1, Experiment, by_repeat, is_oracle, shots_from

ALPHA = 0.05  # significance level
SAME = 1e-9  # points: means that differ by less are the same
REFERENCES = ("maskdiff", "maskdiff+paper")  # what others are compared with, the first that is there


class Comparison(NamedTuple):
    """One method against another for one metric."""

    method: str
    metric: str
    paired: statistics.Paired
    p_holm: float
    p_wilcoxon_holm: float


def reference(group: Sequence[Experiment], shots: int) -> Experiment | None:
    """The experiment that others at K = ``shots`` are compared with; None: no MaskDiff, or no pairs as in stage 1."""
    if group[0].key.setting == STAGE_1:  # equal training seeds share nothing between methods
        return None
    members = {x.key.method: x for x in group if x.key.shots == shots}
    return next((members[method] for method in REFERENCES if method in members), None)


def compare(others: Sequence[Experiment], base: Experiment, metric: str) -> list[Comparison]:
    """Each method minus ``base``; methods that share no shots with it are absent: no shot seed, or another sampler.

    Args:
      others: experiments of one table and K: one family of tests.
      base: the experiment that they are compared with.
      metric: as in metrics.json.
    """
    theirs = by_repeat(base, metric)
    found = []
    for experiment in others:
        ours = by_repeat(experiment, metric)
        shared = sorted(ours.keys() & theirs.keys())
        if shared and shots_from(experiment) == shots_from(base):
            paired = statistics.paired([ours[s] for s in shared], [theirs[s] for s in shared])
            found.append((experiment.key.method, paired))
    p = statistics.holm([paired.p for _, paired in found])
    p_wilcoxon = statistics.holm([paired.p_wilcoxon for _, paired in found])
    return [Comparison(m, metric, x, a, b) for (m, x), a, b in zip(found, p, p_wilcoxon, strict=True)]


def mark_best(members: Sequence[Experiment], metric: str) -> tuple[set[str], set[str]]:
    """The method with the best mean, and those that are not significantly worse; oracles are not ranked.

    Args:
      members: experiments of one table and K.
      metric: as in metrics.json.

    Returns:
      The method, and with it those of the same mean, such as methods that share a detector; empty where none has this
      metric. And the methods with at least two shared shot seeds whose difference to it has p >= 0.05 after Holm's
      correction.
    """
    members = [x for x in members if not is_oracle(x)]
    means = {x.key.method: by_repeat(x, metric) for x in members}
    means = {method: statistics.estimate(list(values.values())).mean for method, values in means.items() if values}
    if not means:
        return set(), set()
    best = {method for method, mean in means.items() if mean > max(means.values()) - SAME}
    base, others = _parted(members, lambda x: x.key.method in best)
    if base[0].key.setting == STAGE_1:  # has no pairs
        return best, set()
    return best, {x.method for x in compare(others, base[0], metric) if x.p_holm >= ALPHA}


def _parted(members: Sequence[Experiment], test: Callable[[Experiment], bool]) -> tuple[list, list]:
    return [x for x in members if test(x)], [x for x in members if not test(x)]


def with_reference(group: Sequence[Experiment], metrics: Sequence[str]) -> list[tuple[Experiment, list[Comparison]]]:
    """The reference of each K, and the other methods of that K compared with it."""
    out = []
    for shots in dict.fromkeys(x.key.shots for x in group):
        base = reference(group, shots)
        others = [x for x in group if x.key.shots == shots and x is not base]
        if base and others:
            out.append((base, [c for metric in metrics for c in compare(others, base, metric)]))
    return out


def p_text(name: str, p: float) -> str:
    """A p-value with three digits: "p 0.012", "p < 0.001"."""
    return f"{name} < 0.001" if p < 0.0005 else f"{name} {p:.3f}"
