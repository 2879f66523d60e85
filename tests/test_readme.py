"""README says what was measured."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_quickstart_table_is_the_benchmarks():
    r = json.loads((ROOT / "benchmarks/results/quickstart.json").read_text())
    m, first = r["metrics"], r["metrics_stage_1"]
    rows = {
        "stage 1, base": [first[f"{k}/base/{a}"] for k in ("bbox", "segm") for a in ("AP", "AP50")]
        + [first["mask_iou/base"]],
        "stage 2, all": [m[f"{k}/{a}"] for k in ("bbox", "segm") for a in ("AP", "AP50")] + [m["mask_iou/all"]],
        **{
            f"stage 2, {g}": [m[f"{k}/{g}/{a}"] for k in ("bbox", "segm") for a in ("AP", "AP50")] + [m[f"mask_iou/{g}"]]
            for g in ("base", "novel")
        },
    }
    readme = (ROOT / "README.md").read_text()
    for name, values in rows.items():
        assert f"| {name} | " + " | ".join(f"{v:.1f}" for v in values) + " |" in readme
    assert f"{r['seconds']['all'] / 60:.1f} minutes" in readme
    assert f"{r['peak_memory_gb']:.1f} GB" in readme
