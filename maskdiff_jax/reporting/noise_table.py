"""Spread over noise seeds with and without guidance: Table 6 of the paper."""

import math
from collections.abc import Sequence

from maskdiff_jax.reporting import paper_numbers, statistics
from maskdiff_jax.reporting.experiments import Experiment, method_label, nested_values, noise_std
from maskdiff_jax.reporting.runs import config_field
from maskdiff_jax.reporting.tables import Block, Cell, Column, Row, Table, columns, headers, is_paper_test_set, number


def guidance_table(group: Sequence[Experiment], name: str, title: str) -> list[Table]:
    """Spread over noise seeds with and without guidance (Table 6 of the paper); [] without repeated noise seeds.

    Args:
      group: experiments of one dataset, split and setting.
      name: of the table's file.
      title: of the table.
    """
    shown = [c for c in columns(group) if not c.metric.startswith("bbox")]
    repeated = [x for x in group if any(noise_std(x, column.metric)[1] for column in shown)]
    if not repeated:
        return []
    blocks, caveat = [], ""
    for shots in dict.fromkeys(x.key.shots for x in repeated):
        members = [x for x in repeated if x.key.shots == shots]
        rows = [_guidance_row(x, shown) for x in members]
        if shots == 1 and any(is_paper_test_set(x) for x in members):
            rows += [_published_guidance(guided, shown) for guided in paper_numbers.TABLE_6]
            caveat = f" {paper_numbers.TABLE_6_CAVEAT}"
        blocks.append(Block(f"K = {shots}" if shots else "", rows))
    note = (
        "Percent: mean, and in small print the std over the noise seeds of one model (n - 1), averaged over models. "
        "Guidance w: 1 is none. seeds: models × noise seeds."
    )
    return [Table(f"{name}-noise", title, headers(shown), blocks, note + caveat, True)]


def _guidance_row(experiment: Experiment, shown: Sequence[Column]) -> Row:
    document = experiment.evaluations[0].document
    w = config_field(document, "model.mask.diffusion.guidance")
    diffusion = config_field(document, "model.mask.head") in (None, "diffusion")
    guidance = f", w = {w:g}" if diffusion and isinstance(w, int | float) else ", no diffusion"
    cells, counts = [], (0, 0)
    for column in shown:
        std, *known = noise_std(experiment, column.metric)
        counts = max(counts, tuple(known))
        values = [v for m in nested_values(experiment, column.metric).values() for n in m.values() for v in n.values()]
        mean = statistics.estimate(values).mean if values else math.nan
        cells.append(Cell(number(mean), "", (f"std {number(std, digits=3)}",) if known[0] else ()))
    return Row(f"{method_label(experiment.key.method)}{guidance}", f"{counts[0]} × {counts[1]}", cells)


def _published_guidance(guided: bool, shown: Sequence[Column]) -> Row:
    """A row of Table 6, see ``paper_numbers.TABLE_6_CAVEAT``."""
    numbers = dict(zip(("segm/novel/AP", "segm/novel/AP50"), paper_numbers.TABLE_6[guided], strict=True))
    cells = []
    for column in shown:
        mean, std = numbers.get(column.metric, (math.nan, math.nan))
        cells.append(Cell(number(mean), "", () if math.isnan(std) else (f"std {std}",)))
    return Row(f"MaskDiff, {'with' if guided else 'without'} guidance", "1 × 10", cells, "Table 6 of the paper")
