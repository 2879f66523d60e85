"""Published numbers, each with its table: the MaskDiff paper's Tables 1 to 8, and iMTFA's own results.

The paper: "MaskDiff: Modeling Mask Distribution with Diffusion Probabilistic Model for Few-Shot Instance Segmentation",
AAAI 2024, arXiv 2303.05105. iMTFA's results: repository danganea/iMTFA, folder paper_results_and_supp. All in percent
on TFA's 5,000 test images of COCO, except COCO2VOC. Methods are named as in ``config.method``.
"""

from typing import NamedTuple

PAPER, IMTFA = "the paper", "iMTFA"
IMTFA_RESULTS = "iMTFA's published results, ten seeds"


class Published(NamedTuple):
    """One published number."""

    value: float  # percent
    spread: float | None = None  # what is printed behind ±, percent
    spread_is: str = ""  # "std", "ci95" (half the width of the interval), or "unknown"
    spread_from: str = ""  # the table it is from


class Row(NamedTuple):
    """The published numbers of one method at one K."""

    method: str
    source: str  # "Table 1 of the paper"
    values: dict[str, Published]  # by metric, named as in metrics.json


_ORDER = tuple(
    f"{kind}/{classes}{name}"
    for kind in ("bbox", "segm")
    for classes in ("", "base/", "novel/")
    for name in ("AP", "AP50")
)
# (K, method) -> AP and AP50 of boxes for all, base and novel classes, then of masks
TABLE_1 = {
    (1, "mrcn_ft_full"): (10.21, 21.58, 17.63, 26.32, 0.74, 2.33, 9.88, 19.25, 15.57, 24.18, 0.64, 2.14),
    (1, "mtfa"): (24.32, 39.64, 31.73, 51.49, 2.10, 4.07, 22.98, 37.48, 29.85, 48.64, 2.34, 3.99),
    (1, "imtfa"): (21.67, 31.55, 27.81, 40.11, 3.23, 5.89, 20.13, 30.64, 25.90, 39.28, 2.81, 4.72),
    (1, "ifs_rcnn"): (31.19, 52.83, 40.08, 71.14, 4.54, 10.29, 28.45, 46.72, 36.35, 63.11, 3.95, 7.89),
    (1, "maskdiff"): (32.59, 54.61, 41.23, 72.85, 5.26, 11.35, 29.42, 48.37, 37.59, 64.26, 4.85, 8.73),
    (5, "mrcn_ft_full"): (12.31, 23.69, 19.43, 28.12, 1.15, 2.09, 11.28, 22.36, 17.89, 26.78, 1.17, 2.58),
    (5, "mtfa"): (26.39, 41.52, 33.11, 51.49, 6.22, 11.63, 25.07, 39.95, 31.29, 49.55, 6.38, 11.14),
    (5, "imtfa"): (19.62, 28.06, 24.13, 33.69, 6.07, 11.15, 18.22, 27.10, 22.56, 33.25, 5.19, 8.65),
    (5, "ifs_rcnn"): (32.52, 54.30, 40.06, 71.19, 9.91, 19.24, 29.89, 48.22, 36.33, 62.81, 8.80, 15.73),
    (5, "maskdiff"): (33.45, 56.19, 41.51, 72.28, 10.49, 21.07, 30.48, 50.35, 38.12, 64.36, 9.43, 17.12),
    (10, "mrcn_ft_full"): (12.44, 24.39, 20.57, 29.72, 2.33, 5.64, 12.15, 23.29, 18.08, 27.53, 1.86, 4.25),
    (10, "mtfa"): (27.44, 42.84, 33.83, 52.04, 8.28, 15.25, 25.97, 41.28, 31.84, 50.17, 8.36, 14.58),
    (10, "imtfa"): (19.26, 27.49, 23.36, 32.41, 6.97, 12.72, 17.87, 26.46, 21.87, 32.01, 5.88, 9.81),
    (10, "ifs_rcnn"): (33.02, 56.15, 40.05, 69.84, 12.55, 25.97, 30.41, 49.54, 36.32, 63.29, 10.06, 19.72),
    (10, "maskdiff"): (35.21, 59.80, 42.17, 72.36, 14.04, 28.33, 31.89, 52.15, 38.55, 66.48, 11.84, 21.27),
}
# COCO-Novel, K = 10: AP and AP50 of boxes, then of masks
TABLE_2 = {
    "mrcn_ft_full": (2.52, 5.78, 1.93, 4.68),
    "meta_rcnn": (5.60, 14.20, 4.40, 10.60),
    "mtfa": (8.52, 15.53, 8.40, 14.62),
    "imtfa": (7.14, 12.91, 5.94, 9.96),
    "ifs_rcnn": (11.27, 22.15, 10.22, 20.61),
    "maskdiff": (12.18, 23.61, 11.01, 21.58),
}
# COCO2VOC, K = 1: as Table 2; None: not given
TABLE_3: dict[str, tuple[float | None, ...]] = {
    "fgn": (None, 30.80, None, 16.20),
    "mtfa": (9.99, 21.68, 9.51, 19.28),
    "imtfa": (11.47, 22.41, 8.57, 16.32),
    "maskdiff": (24.15, 38.57, 22.73, 37.59),
}
# K = 1: hours of base training, hours of fine-tuning, images per second
TABLE_4 = {
    "mrcn_ft_full": (24.6, 12.8, 10.38),
    "mtfa": (24.8, 12.7, 10.32),
    "imtfa": (24.2, 12.4, 11.75),
    "ifs_rcnn": (28.5, 15.6, 10.28),
    "maskdiff": (32.3, 16.1, 8.27),
}
TABLE_4_DEVICE = "1 x NVIDIA GeForce RTX 3090 (the paper)"
# COCO-Novel, K = 10: (guidance, two-stage training) -> AP and AP50 of boxes, then of masks
TABLE_5 = {
    (False, False): (10.59, 20.96, 9.68, 18.83),
    (True, False): (10.86, 21.55, 10.02, 19.48),
    (False, True): (12.05, 23.32, 10.76, 20.63),
    (True, True): (12.18, 23.61, 11.01, 21.58),
}
# masks, K = 1, ten noise seeds: guidance -> (AP, ±), (AP50, ±)
TABLE_6 = {False: ((6.04, 0.09), (12.29, 0.12)), True: ((6.23, 0.07), (12.47, 0.08))}
# COCO-All, K = 1, masks: (AP, ±) for all, base and novel classes
TABLE_7 = {
    "plain_unet": ((24.16, 0.22), (31.49, 0.33), (3.32, 0.35)),
    "maskdiff": ((29.42, 0.09), (37.59, 0.0093), (4.85, 0.24)),
}
TABLE_8 = {
    "mrcn_ft_full": ((9.88, 0.31), (15.57, 0.30), (0.64, 0.26)),
    "mtfa": ((22.98, 0.24), (29.85, 0.35), (2.34, 0.31)),
    "imtfa": ((20.13, 0.28), (25.90, 0.32), (2.81, 0.37)),
    "ifs_rcnn": ((28.45, 0.12), (36.35, 0.01), (3.95, 0.48)),
    "maskdiff": ((29.42, 0.09), (37.59, 0.0093), (4.85, 0.24)),
}
# COCO-All, ten seeds: (K, method) -> (mean, std, half of the 95 % interval) of AP for all, base and novel classes of
# boxes, then of masks. The interval is 1.96 std / sqrt(10) with the std of ddof 0
IMTFA_ALL = {
    (1, "mtfa"): (
        (24.32, 0.43, 0.27), (31.73, 0.61, 0.38), (2.10, 0.39, 0.24),
        (22.98, 0.39, 0.24), (29.85, 0.57, 0.35), (2.34, 0.50, 0.31),
    ),
    (5, "mtfa"): (
        (26.39, 0.38, 0.23), (33.11, 0.36, 0.22), (6.22, 0.96, 0.59),
        (25.07, 0.28, 0.17), (31.29, 0.24, 0.15), (6.38, 1.01, 0.63),
    ),
    (10, "mtfa"): (
        (27.44, 0.33, 0.21), (33.83, 0.27, 0.16), (8.28, 0.76, 0.47),
        (25.97, 0.26, 0.16), (31.84, 0.19, 0.12), (8.36, 0.79, 0.49),
    ),
    (1, "imtfa"): (
        (21.67, 0.44, 0.27), (27.81, 0.54, 0.33), (3.23, 0.59, 0.37),
        (20.13, 0.45, 0.28), (25.90, 0.52, 0.32), (2.81, 0.59, 0.37),
    ),
    (5, "imtfa"): (
        (19.62, 0.69, 0.43), (24.13, 0.81, 0.50), (6.07, 0.82, 0.51),
        (18.22, 0.66, 0.41), (22.56, 0.77, 0.47), (5.19, 0.72, 0.44),
    ),
    (10, "imtfa"): (
        (19.26, 0.48, 0.30), (23.36, 0.64, 0.39), (6.97, 0.79, 0.49),
        (17.87, 0.45, 0.28), (21.87, 0.55, 0.34), (5.88, 0.73, 0.45),
    ),
}  # fmt: skip
# COCO-Novel: AP and AP50 of boxes, then of masks
IMTFA_NOVEL = {
    (1, "mtfa"): (2.47, 4.85, 2.66, 4.56),
    (5, "mtfa"): (6.61, 12.32, 6.62, 11.58),
    (10, "mtfa"): (8.52, 15.53, 8.39, 14.64),
    (1, "imtfa"): (3.28, 6.01, 2.83, 4.75),
    (5, "imtfa"): (6.22, 11.28, 5.24, 8.73),
    (10, "imtfa"): (7.14, 12.91, 5.94, 9.96),
}
AP = tuple(f"{kind}/{classes}AP" for kind in ("bbox", "segm") for classes in ("", "base/", "novel/"))
SEGM_AP = AP[3:]
NOVEL = tuple(f"{kind}/novel/{name}" for kind in ("bbox", "segm") for name in ("AP", "AP50"))
TABLE_4_CAVEAT = (
    "Table 4's hours of fine-tuning fit ten runs of MTFA's recipe better than one, and its 8.27 images/s leave about "
    "15 network evaluations per image: not the 1,000 sampling steps of the paper's text."
)
TABLE_6_CAVEAT = (
    "Table 6 does not say which classes it is for, and no other table has its values; it is shown in the columns of "
    "novel classes, which are closest."
)
# setting -> what to know before one compares with the published numbers
CAVEATS = {
    "COCO-All": (
        "AP over 80 classes must be (60 base AP + 20 novel AP) / 80. MTFA and iMTFA satisfy this within 0.01. "
        "The paper's AP50 of MaskDiff and iFS-RCNN violate it by 1.5 to 4 points, those of MRCN+ft-full by 0.6 "
        "to 2.1 (and its AP by 1.9 to 3.6): these columns cannot all be correct. Compare AP rather than AP50.",
        "The paper calls the ± of Table 8 a standard deviation. For MTFA and iMTFA it is half of iMTFA's 95 % "
        "confidence interval; for the others it is not known which of the two it is.",
        "The paper's base AP of boxes (41 to 42 after fine-tuning) is above TFA's base model with ResNet-101 (39.2) "
        "and above MTFA with the same backbone (31.7 to 33.8); the text does not explain it.",
    ),
    "COCO-Novel": (
        "In the paper, MaskDiff and iFS-RCNN have a lower AP in COCO-Novel (Table 2) than for novel classes in "
        "COCO-All (Table 1) at K = 10; MTFA and iMTFA have a higher one.",
    ),
    "COCO2VOC": (
        "The paper's Table 3 is shown beside the scores with gt_classes_only, because its rows for MTFA and "
        "iMTFA were computed that way.",
    ),
    "COCO2VOC, gt_classes_only": (
        "MTFA's and iMTFA's rows of Table 3 were evaluated with scores of 0 for all classes that are not in an image's "
        "ground truth (gt_classes_only), which raises AP. The paper does not say how MaskDiff's row was computed.",
    ),
}  # fmt: skip


def all_ap(base: float, novel: float) -> float:
    """AP over COCO's 80 classes from that over the 60 base and over the 20 novel ones."""
    return (60 * base + 20 * novel) / 80


def rows(setting: str, shots: int) -> list[Row]:
    """The published rows of a table, in the order of the paper.

    Args:
      setting: as in ``experiments.Key``.
      shots: K.
    """
    if setting == "COCO-All":
        return _coco_all(shots)
    if setting == "COCO-Novel":
        return _coco_novel(shots)
    if setting == "COCO2VOC, gt_classes_only" and shots == 1:
        return [Row(method, "Table 3 of the paper", _plain(NOVEL, values)) for method, values in TABLE_3.items()]
    return []


def _plain(names: tuple[str, ...], values: tuple[float | None, ...]) -> dict[str, Published]:
    return {name: Published(value) for name, value in zip(names, values, strict=True) if value is not None}


def _coco_all(shots: int) -> list[Row]:
    out = []
    for (k, method), numbers in TABLE_1.items():
        if k != shots:
            continue
        values, source = _plain(_ORDER, numbers), "Table 1 of the paper"
        if (k, method) in IMTFA_ALL:
            spreads = IMTFA_ALL[k, method]
            for name, (_, _, half_width) in zip(AP, spreads, strict=True):
                values[name] = values[name]._replace(spread=half_width, spread_is="ci95", spread_from=IMTFA_RESULTS)
            source += f", ± of {IMTFA}"
        elif k == 1:
            for name, (_, spread) in zip(SEGM_AP, TABLE_8[method], strict=True):
                values[name] = values[name]._replace(
                    spread=spread, spread_is="unknown", spread_from="Table 8 of the paper"
                )
            source += ", ± of Table 8"
        out.append(Row(method, source, values))
    if shots == 1:
        plain = {
            name: Published(value, spread, "unknown", "Table 7 of the paper")
            for name, (value, spread) in zip(SEGM_AP, TABLE_7["plain_unet"], strict=True)
        }
        out.insert(-1, Row("plain_unet", "Table 7 of the paper", plain))
    return out


def _coco_novel(shots: int) -> list[Row]:
    out = []
    if shots == 10:
        out += [Row(method, "Table 2 of the paper", _plain(NOVEL, values)) for method, values in TABLE_2.items()]
        out += [
            Row(_ablation(guidance, two_stage), "Table 5 of the paper", _plain(NOVEL, values))
            for (guidance, two_stage), values in TABLE_5.items()
            if not (guidance and two_stage)  # Table 2 has it
        ]
    out += [
        Row(method, IMTFA_RESULTS, _plain(NOVEL, values)) for (k, method), values in IMTFA_NOVEL.items() if k == shots
    ]
    return out


def _ablation(guidance: bool, two_stage: bool) -> str:
    absent = [name for name, there in (("guidance", guidance), ("two-stage training", two_stage)) if not there]
    return f"MaskDiff without {' and '.join(absent)}"
