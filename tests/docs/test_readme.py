"""README says what was measured."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_quickstart_table_is_the_benchmarks():
    r = json.loads((ROOT / "benchmarks/results/quickstart.json").read_text())
    m, first = r["metrics"], r["metrics_stage_1"]

    def values(metrics, group=""):
        return [metrics[f"{k}/{group}{a}"] for k in ("bbox", "segm") for a in ("AP", "AP50")] + [
            metrics[f"mask_iou/{group.strip('/') or 'all'}"]
        ]

    rows = {"stage 1, base": values(first, "base/"), "stage 2, all": values(m)}
    longer = json.loads((ROOT / "benchmarks/results/quickstart_3x.json").read_text())["metrics"]
    for group in ("base", "novel"):
        rows[f"stage 2, {group}"] = values(m, f"{group}/")
        rows[f"three times the steps: stage 2, {group}"] = values(longer, f"{group}/")
    readme = (ROOT / "README.md").read_text()
    for name, row in rows.items():
        assert f"| {name} | " + " | ".join(f"{v:.1f}" for v in row) + " |" in readme
    assert f"{r['seconds']['all'] / 60:.1f} minutes" in readme
    assert f"{r['peak_memory_gb']:.1f} GB" in readme


def test_what_pasting_costs_is_the_benchmark():
    r = json.loads((ROOT / "benchmarks/results/paste.json").read_text())
    readme = " ".join((ROOT / "README.md").read_text().split())
    share = 100 * r["pasting"]["paste_over_decode"]
    assert f"ten masks of a 24-megapixel photo cost {share:.0f} % of the time of decoding it" in readme
    large = r["prediction"]["large"]
    assert r["objects"] == large["objects"] == 10 and r["height"] * r["width"] == 24_000_000
    assert large["gb_above_model"] < 1 and share < 100
