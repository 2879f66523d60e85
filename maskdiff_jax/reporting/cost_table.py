"""Cost of training and evaluation by device: Table 4 of the paper."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from maskdiff_jax.reporting import paper_numbers, statistics
from maskdiff_jax.reporting.experiments import PAPER, STAGE_1, Experiment, method_label
from maskdiff_jax.reporting.runs import config_field
from maskdiff_jax.reporting.sections import is_side_by_side, total_seconds
from maskdiff_jax.reporting.tables import Block, Cell, Row, Table, is_paper_test_set, number

UNKNOWN = "unknown device"


class Cost(NamedTuple):
    """What one method at one K took on one device; NaN: not measured there."""

    device: str
    method: str
    setting: str
    shots: int
    stage_1: float  # seconds of training, without evaluation
    stage_2: float  # likewise
    images_per_second: float  # of evaluation: detection, sampling of masks, RLE
    n: int  # models


def costs(experiments: Sequence[Experiment]) -> list[Cost]:
    """One row per method, K, setting and device; stage 1 counts where it was trained on the same device."""
    stage_1: dict[tuple, list[float]] = {}
    for x in experiments:
        if x.key.setting == STAGE_1:
            for document in _one_per_model(x):
                place = (x.key.method, x.key.dataset, x.key.shots, _device(document))
                stage_1.setdefault(place, []).append(training_seconds(document))
    out = []
    for x in experiments:
        if x.variant or x.key.setting == STAGE_1 or x.key.dataset != config_field(_first(x), "data.source"):
            continue
        base, base_shots = _base(x), x.key.shots if PAPER in x.key.method else 0
        documents = _one_per_model(x)
        for device in dict.fromkeys(map(_device, documents)):
            here = [d for d in documents if _device(d) == device]
            rates = [e.document.get("images_per_second") for e in x.evaluations if _device(e.document) == device]
            key = (device, x.key.method, x.key.setting, x.key.shots)
            first = _mean(stage_1.get((base, x.key.dataset, base_shots, device), []))
            second = _mean([training_seconds(d) for d in here if d.get("seconds")])
            out.append(Cost(*key, first, second, _mean([r for r in rates if r is not None]), len(here)))
    return [c for c in out if not all(map(math.isnan, (c.stage_1, c.stage_2, c.images_per_second)))]


def training_seconds(document: dict) -> float:
    """Seconds of a run's own training, without evaluation; of what was trained side by side the longer part."""
    seconds = {k: v for k, v in (document.get("seconds") or {}).items() if k != "evaluation"}
    return total_seconds(document | {"seconds": seconds})


def _base(x: Experiment) -> str:
    """The method whose stage 1 an experiment starts from, marked as ``experiments.Key`` marks it."""
    base = config_field(_first(x), "base_method") or config_field(_first(x), "method")
    return base + (PAPER if PAPER in x.key.method else "")


def _first(x: Experiment) -> dict:
    return x.evaluations[0].document


def _one_per_model(x: Experiment) -> list[dict]:
    """Its documents without repeats for noise seeds, which hold the same training."""
    return list({e.model: e.document for e in reversed(x.evaluations)}.values())[::-1]


def _device(document: dict) -> str:
    return document.get("device") or UNKNOWN


def _mean(values: Sequence[float]) -> float:
    return statistics.estimate(values).mean if values else math.nan


def cost_table(experiments: Sequence[Experiment]) -> list[Table]:
    """Training time and images per second, one block per device; [] where nothing was measured."""
    measured = costs(experiments)
    if not measured:
        return []
    unit, divisor = _unit(measured)
    blocks = [
        Block(f"measured on: {device}", [_row(c, divisor) for c in measured if c.device == device])
        for device in dict.fromkeys(c.device for c in measured)
    ]
    note = (
        f"Training time in {unit}, compilation included, mean over models; images per second of the evaluation, from "
        "loading to masks as RLE, without compilation. seeds: models."
    )
    if len(blocks) > 1:
        note += " These runs come from several devices: compare only numbers from the same device."
    documents = [e.document for x in experiments for e in x.evaluations]
    if any(is_side_by_side(d) for d in documents):
        note += " Where detector and mask head were trained side by side, only the longer time counts."
    if any(config_field(d, "detector_from") for d in documents):
        note += " The time of a detector that several runs share counts only for the run that trained it."
    if any(x.key.shots == 1 and is_paper_test_set(x) for x in experiments):
        rows = [_published_row(method, divisor) for method in paper_numbers.TABLE_4]
        blocks.append(Block(f"measured on: {paper_numbers.TABLE_4_DEVICE}", rows))
        note += f" {paper_numbers.TABLE_4_CAVEAT}"
    headers = [[(f"stage 1, {unit}", 1), (f"stage 2, {unit}", 1), ("images/s", 1)]]
    return [Table("cost", "Training time and speed", headers, blocks, note)]


def _unit(measured: Sequence[Cost]) -> tuple[str, float]:
    known = [t for c in measured for t in (c.stage_1, c.stage_2) if not math.isnan(t)]
    return ("hours", 3600.0) if max(known, default=0.0) >= 3600 else ("seconds", 1.0)


def _row(c: Cost, divisor: float) -> Row:
    cells = [_time(c.stage_1, divisor), _time(c.stage_2, divisor), _rate(c.images_per_second)]
    return Row(f"{method_label(c.method)}, K = {c.shots}, {c.setting}", str(c.n), cells)


def _published_row(method: str, divisor: float) -> Row:
    base, tuned, rate = paper_numbers.TABLE_4[method]
    digits = 1 if divisor == 3600 else 0  # as printed, in hours
    times = [Cell(number(hours * 3600 / divisor, digits=digits)) for hours in (base, tuned)]
    return Row(f"{method_label(method)}, K = 1", "", [*times, _rate(rate)], "Table 4 of the paper")


def _time(seconds: float, divisor: float) -> Cell:
    return Cell(number(seconds / divisor, digits=1 if divisor == 1 else 2))


def _rate(images_per_second: float) -> Cell:
    return Cell(number(images_per_second))
