"""The main results of a protocol as tiles and sentences, and the run whose figures are shown."""

import math
from collections.abc import Sequence
from pathlib import Path

from maskdiff_jax.reporting import statistics
from maskdiff_jax.reporting.comparisons import ALPHA, compare, p_text
from maskdiff_jax.reporting.difference_tables import FEW
from maskdiff_jax.reporting.experiments import (
    STAGE_1,
    Evaluation,
    Experiment,
    by_repeat,
    is_oracle,
    method_label,
    shots_from,
)
from maskdiff_jax.reporting.tables import number

METRICS = (("segm/novel/AP", "mask AP on novel classes"), ("segm/AP", "mask AP"))  # the first that is there


def headline(members: Sequence[Experiment]) -> tuple[str, str] | None:
    """The metric that findings are about, with its name; None: the experiments have neither."""
    return next(((m, what) for m, what in METRICS if ranking(members, m)), None)


def ranking(members: Sequence[Experiment], metric: str) -> list[tuple[statistics.Estimate, Experiment]]:
    """Experiments of one K by their mean, the best first, without oracles."""
    compared = [x for x in members if not is_oracle(x)]
    found = [(statistics.estimate(list(v.values())), x) for x in compared if (v := by_repeat(x, metric))]
    return sorted(found, key=lambda pair: -pair[0].mean)


def by_shots(group: Sequence[Experiment]) -> list[list[Experiment]]:
    """The experiments of each K."""
    return [[x for x in group if x.key.shots == k] for k in dict.fromkeys(x.key.shots for x in group)]


def sentences(group: Sequence[Experiment]) -> list[str]:
    """One sentence per K of a table: which method is best, and how far the next is behind."""
    if group[0].key.setting == STAGE_1 or group[0].variant or group[0].key.split != "test":
        return []
    out = []
    for members in by_shots(group):
        about = headline(members)
        if not about:
            continue
        metric, what = about
        (best, first), *rest = ranking(members, metric)
        key = first.key
        setting = f"{key.setting[0].upper()}{key.setting[1:]} ({key.dataset})"
        text = f"{setting}, K = {key.shots}: {method_label(key.method)} has {_pm(best)} {what}"
        text += f", n = {best.n} shot seed{'' if best.n == 1 else 's'}"
        if rest:
            text = text.replace(" has ", " has the best mean, ", 1) + f". {_gap(first, [x for _, x in rest], metric)}"
        out.append(f"{text}.")
    return out


def _gap(first: Experiment, rest: Sequence[Experiment], metric: str) -> str:
    """How far the second method is behind the first, on the shot seeds that both have."""
    second = rest[0]
    # differences are tested against MaskDiff, in the table too, unless it is neither of the two
    own, other = (second, first) if second.key.method == "maskdiff" else (first, second)
    tests = {c.method: c for c in compare([x for x in (first, *rest) if x is not own], own, metric)}
    text = f"Next is {method_label(second.key.method)}"
    test = tests.get(other.key.method)
    if test is None:
        why = "they share no shot seed" if shots_from(first) == shots_from(second) else "their shots are not the same"
        return f"{text}; {why}, so there is no test"
    behind = test.paired.mean if own is second else -test.paired.mean
    text += f", {number(behind)} points behind"
    if test.paired.n < FEW:
        return f"{text}; n = {test.paired.n} is too few to conclude anything"
    verdict = "significant" if test.p_holm < ALPHA else "not significant"
    half_width = number(test.paired.half_width)
    return f"{text} (± {half_width}, {p_text('p', test.p_holm)} after Holm's correction: {verdict})"


def _pm(e: statistics.Estimate) -> str:
    return number(e.mean) + (f" ± {number(e.half_width)}" if e.n > 1 else "")


def tiles(groups: Sequence[Sequence[Experiment]]) -> list[tuple[str, str, str]]:
    """(value, unit, what it is) for the page's head, of each K of the first setting: the best method, and MaskDiff."""
    group = next((g for g in groups if sentences(g)), None)
    out = []
    for members in by_shots(group or []):
        about = headline(members)
        if about:
            out += _tiles_of(ranking(members, about[0]), *about)
    return out


def _tiles_of(
    order: Sequence[tuple[statistics.Estimate, Experiment]], metric: str, what: str
) -> list[tuple[str, str, str]]:
    """The best method, MaskDiff if that is another one, and MaskDiff's difference to the best of the others."""
    out = []
    for rank, (e, x) in enumerate(order, start=1):
        if rank == 1 or x.key.method == "maskdiff":
            place = f"best of {len(order)} methods" if rank == 1 else f"rank {rank} of {len(order)}"
            text = f"{method_label(x.key.method)}, K = {x.key.shots}: {what}, {x.key.setting}"
            out.append((number(e.mean), _unit(e.half_width, "%"), text + (f" ({place})" if len(order) > 1 else "")))
    own = [x for _, x in order if x.key.method == "maskdiff"]
    others = [x for _, x in order if x.key.method != "maskdiff"]
    tests = compare(others[:1], own[0], metric) if own else []
    for test in tests:
        (corrected,) = [c for c in compare(others, own[0], metric) if c.method == test.method]
        enough = test.paired.n >= FEW
        trust = p_text("p", corrected.p_holm) if enough else f"n = {test.paired.n}: too few to conclude anything"
        text = f"MaskDiff minus {method_label(test.method)}, the best other, K = {own[0].key.shots} ({trust})"
        out.append((number(-test.paired.mean, sign=True), _unit(test.paired.half_width, "points"), text))
    return out


def _unit(half_width: float, unit: str) -> str:
    return unit if math.isnan(half_width) else f"± {number(half_width)} {unit}"


def median_case(group: Sequence[Experiment]) -> tuple[Experiment, Evaluation, Path] | None:
    """The evaluation with the median mask AP among those with pictures of test images, MaskDiff's if it has some.

    Returns:
      The experiment, the evaluation, and the folder that holds figures/; None: there are no pictures.
    """
    for experiment in sorted(group, key=lambda x: (x.key.method != "maskdiff", -x.key.shots)):
        about = headline([experiment])
        if about is None or experiment.variant:
            continue
        values = by_repeat(experiment, about[0])
        pictured = {}
        for e in experiment.evaluations:
            folder = figure_folder(e.folder)
            if folder and e.repeat in values:
                pictured.setdefault(e.repeat, (experiment, e, folder))
        if pictured:
            order = sorted(pictured, key=lambda repeat: values[repeat])
            return pictured[order[(len(order) - 1) // 2]]
    return None


def figure_folder(folder: Path) -> Path | None:
    """Where the pictures of an evaluation are: in its folder, or in the run's whose noise seed it is."""
    folder = folder.resolve()
    places = (folder, folder.parent) if folder.name.startswith("noise") else (folder,)
    return next((place for place in places if any((place / "figures").glob("scenes_*.png"))), None)
