"""How far our numbers are from the original PyTorch code's: runs the parity tests, writes what they measured.

    python benchmarks/studies/parity.py      # -> docs/parity.md and benchmarks/results/parity.json

All goldens but those of tests/goldens are read from ../shared/goldens; tests that lack theirs are listed as skipped.
"""

import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pytest

from benchmarks import measure

FILES = ("test_parity_detector", "test_parity_mask", "test_parity_mask_rcnn")
INTRO = """# Parity with the original code

What `python benchmarks/studies/parity.py` measured on {date} ({device}, jax {jax}, float32). The goldens were computed
once with the original PyTorch code: detectron2 0.6 (backbone, FPN, RPN, RoI heads, mask head, matching,
losses), TFA (cosine classifier) and guided-diffusion (UNet, diffusion), with weights that follow from their names. Each
row is one test of `tests/FILE.py`: the comparison that came closest to its limit. *Relative* is the largest
difference over the largest value of the array; limits are some ten times the noise of float32 itself.
Proposals and detections are compared by pairing boxes; the tests also require that none is missing or extra.
"""


class Watch:
    """A pytest plugin: which tests passed, which were skipped."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome


def main() -> int:
    """Runs the tests; their exit code."""
    watch = Watch()
    code = pytest.main(["-q", "-m", "", *(str(measure.ROOT / f"tests/{f}.py") for f in FILES)], plugins=[watch])
    from tests.parity.compare import COMPARED

    if code:
        return int(code)
    by_test = defaultdict(list)
    for c in COMPARED:
        by_test[c.test].append(c)
    rows = []
    for test, outcome in watch.outcomes.items():
        file, _, name = test.rpartition("/")[2].partition(".py::")
        row = {"file": file, "test": name, "outcome": outcome, "comparisons": len(by_test[test])}
        if by_test[test]:
            worst = max(by_test[test], key=lambda c: c.difference / c.limit)
            row |= {"difference": worst.difference, "limit": worst.limit, "unit": worst.unit}
            row["goldens"] = by_test[test][-1].goldens
        rows.append(row)
    machine = measure.machine()
    (measure.ROOT / "docs/parity.md").write_text(page(rows, machine))
    measure.write("parity", {"rows": rows} | machine)
    return 0


def page(rows: list[dict], machine: dict) -> str:
    """The markdown."""
    lines = [INTRO.format(date=machine["date"], device=machine["device"], jax=machine["versions"]["jax"])]
    for file in FILES:
        mine = [r for r in rows if r["file"] == file]
        lines += [f"\n## {file}\n", "| test | golden | comparisons | difference | limit |", "|---|---|---|---|---|"]
        for r in mine:
            name = r["test"].removeprefix("test_parity_").removeprefix("test_")
            if r["outcome"] == "skipped":
                lines.append(f"| {name} | not in this checkout | | skipped | |")
                continue
            if "difference" in r:
                unit = "" if r["unit"] == "relative" else f" {r['unit']}"
                numbers = f"{r['difference']:.1e}{unit} | {r['limit']:.0e}{unit}"
            else:
                numbers = "equal | "
            lines.append(f"| {name} | {', '.join(r.get('goldens', ()))} | {r['comparisons'] or ''} | {numbers} |")
    passed = sum(r["outcome"] == "passed" for r in rows)
    lines.append(f"\n{passed} tests passed, {sum(r['outcome'] == 'skipped' for r in rows)} skipped.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
