"""The tables of the shapes grid: every number stands where its method, K and classes say."""

from benchmarks import grid_tables


def measured(mean, *, half=None, noise=None, difference=None, p=None):
    out = {"mean": mean}
    if half is not None:
        out["ci95_half_width_student_t"] = half
    if noise is not None:
        out["std_over_noise_seeds"] = noise
    if difference is not None:
        out["difference"], out["difference_ci95_half_width_student_t"] = difference, 0.5
        out["p_paired_t_holm"] = p
    return out


def metrics(mean, n=5, **options):
    names = [f"{kind}/{group}{ap}" for kind in ("bbox", "segm") for group in ("", "base/", "novel/")
             for ap in ("AP", "AP50", "AP75")]  # fmt: skip
    names += [f"mask_iou/{group}" for group in ("all", "base", "novel")]
    return {"shot_seeds": n} | {name: measured(mean + i / 10, **options) for i, name in enumerate(names)}


DOCUMENT = {
    "shots": {
        "1": {"maskdiff": metrics(40.0, half=2.0)},
        "5": {
            "maskdiff": metrics(50.0, half=1.0, noise=0.25),
            "mtfa": metrics(30.0, half=0.0, n=4, difference=-20.0, p=0.0001),
            "guided": metrics(48.0, difference=-2.0, p=0.04, noise=0.11),
        },
    }
}


def test_the_main_table():
    header, rows = grid_tables.main(DOCUMENT, "segm")
    assert header == ["", "K = 1, base", "K = 1, novel", "K = 5, base", "K = 5, novel"]
    assert rows == [  # ablations have their own table
        ["MaskDiff", "41.2 ± 2.0", "41.5 ± 2.0", "51.2 ± 1.0", "51.5 ± 1.0"],
        ["MTFA", "", "", "31.2 ± 0.0", "31.5 ± 0.0"],
    ]
    assert grid_tables.main(DOCUMENT, "bbox")[1][0][1] == "40.3 ± 2.0"


def test_differences():
    header, rows = grid_tables.differences(DOCUMENT, "5")
    assert len(header) == 8
    assert rows == [
        ["MaskDiff", "5", "", "", "0.25", "", "", "0.25"],
        ["MTFA", "4", "\N{MINUS SIGN}20.0 ± 0.5", "< 0.001", "", "\N{MINUS SIGN}20.0 ± 0.5", "< 0.001", ""],
        ["MaskDiff, w = 5", "5", *["\N{MINUS SIGN}2.0 ± 0.5", "0.040", "0.11"] * 2],
    ]


def test_masks_by_iou():
    header, rows = grid_tables.by_iou(DOCUMENT, "5", "novel")
    assert header == ["", "AP50", "AP75", "AP", "mask IoU"]
    assert rows[0] == ["MaskDiff", "51.6", "51.7", "51.5", "52.0"]


def test_fewer_seeds_are_named():
    assert grid_tables.seeds(DOCUMENT) == "5 shot seeds (MTFA at K = 5: 4)"
    assert grid_tables.seeds({"shots": {"1": DOCUMENT["shots"]["1"]}}) == "5 shot seeds"
