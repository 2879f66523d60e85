"""Tables of benchmarks/results/shapes_grid.json, which `make results` leaves: filled by tables.py."""

from collections.abc import Mapping
from typing import Any

from maskdiff_jax.reporting.experiments import method_label

Metrics = Mapping[str, Any]  # metric -> statistic -> value, and "shot_seeds"

METHODS = ("maskdiff", "maskdiff+paper", "plain_unet", "mtfa", "mrcn_ft_full", "imtfa", "ifs_rcnn")  # of the main table
ABLATIONS = ("guided", "no_shots", "no_class", "one_stage")
GROUPS = ("base", "novel")
MINUS = "\N{MINUS SIGN}"


def main(document: Mapping[str, Any], kind: str) -> tuple[list[str], list[list[str]]]:
    """AP by method and K, with half of the 95 % interval; ranges of seeds as in the json.

    Args:
      document: the json.
      kind: "segm" or "bbox".

    Returns:
      The header and the rows of a table.
    """
    shots = list(document["shots"])
    header = ["", *(f"K = {k}, {group}" for k in shots for group in GROUPS)]
    rows = []
    for method in METHODS:
        found = [document["shots"][k].get(method) for k in shots]
        if any(found):
            cells = [_with_interval(m, f"{kind}/{group}/AP") if m else "" for m in found for group in GROUPS]
            rows.append([method_label(method), *cells])
    return header, rows


def differences(document: Mapping[str, Any], shots: str) -> tuple[list[str], list[list[str]]]:
    """Mask AP of one K minus MaskDiff's on the same seeds, and the spread over noise seeds.

    Args:
      document: the json.
      shots: K, as a key of the json.
    """
    header = ["", "seeds"]
    for group in GROUPS:
        header += [f"{group}: difference of mask AP", "p", "std over noise"]
    rows = []
    for method in (*METHODS, *ABLATIONS):
        metrics = document["shots"][shots].get(method)
        if metrics:
            row = [method_label(method), str(metrics["shot_seeds"])]
            for group in GROUPS:
                row += _difference(metrics[f"segm/{group}/AP"])
            rows.append(row)
    return header, rows


def by_iou(document: Mapping[str, Any], shots: str, group: str) -> tuple[list[str], list[list[str]]]:
    """Mask AP of one K at two IoU thresholds, the average over all ten, and mask IoU in ground-truth boxes."""
    columns = {"AP50": f"segm/{group}/AP50", "AP75": f"segm/{group}/AP75", "AP": f"segm/{group}/AP"}
    columns["mask IoU"] = f"mask_iou/{group}"
    rows = [
        [method_label(method), *(f"{metrics[key]['mean']:.1f}" for key in columns.values())]
        for method in (*METHODS, *ABLATIONS)
        if (metrics := document["shots"][shots].get(method))
    ]
    return ["", *columns], rows


def seeds(document: Mapping[str, Any]) -> str:
    """How many shot seeds the means of the main table are of; where not all have the same number, which."""
    counts = {
        (method, k): metrics["shot_seeds"]
        for k, found in document["shots"].items()
        for method, metrics in found.items()
        if method in METHODS
    }
    most = max(counts.values())
    fewer = [f"{method_label(m)} at K = {k}: {n}" for (m, k), n in counts.items() if n < most]
    return f"{most} shot seeds" + (f" ({'; '.join(fewer)})" if fewer else "")


def _with_interval(metrics: Metrics, name: str) -> str:
    found = metrics[name]
    half = found.get("ci95_half_width_student_t")
    return f"{found['mean']:.1f}" + (f" ± {half:.1f}" if half is not None else "")


def _difference(found: Mapping[str, float]) -> list[str]:
    noise = found.get("std_over_noise_seeds")
    spread = f"{noise:.2f}" if noise is not None else ""
    if "difference" not in found:
        return ["", "", spread]
    value = f"{found['difference']:+.1f}".replace("-", MINUS)
    half, p = found.get("difference_ci95_half_width_student_t"), found.get("p_paired_t_holm")
    p_text = "" if p is None else "< 0.001" if p < 0.0005 else f"{p:.3f}"
    return [value + (f" ± {half:.1f}" if half is not None else ""), p_text, spread]
