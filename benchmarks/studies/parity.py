"""Runs the parity tests, which compare our numbers with the original PyTorch code's, and writes the differences.

    python benchmarks/studies/parity.py      # -> docs/parity.md and benchmarks/results/parity.json

The reference outputs ("goldens") in tests/goldens are part of the repository. The others are read from
../shared/goldens, beside the checkout; where they are missing their tests are skipped and listed as such.
"""

import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pytest

from benchmarks import measure

FOLDER = measure.ROOT / "tests" / "parity"
FILES = ("test_parity_detector", "test_parity_mask", "test_parity_mask_rcnn")
GOLDENS = measure.ROOT / "tests" / "goldens"
INTRO = """# Parity with the original code

{passed} tests compare our numbers with those of the original PyTorch code; all of them passed on {date} ({device},
jax {jax}, float32). **{public} of them run in every checkout**, because their reference outputs are in
`tests/goldens` ({megabytes:.0f} MB). The other {private}, marked with * below, test the same code on more image sizes
and settings; their files are too large for the repository, and the tests are skipped without them.

The reference outputs were computed once, on a CPU in float32, with PyTorch 2.13 and this code:

| part | code | version |
|---|---|---|
| UNet, diffusion | guided-diffusion (openai/guided-diffusion) | commit 22e0df8 |
| detector, mask head, matching, losses | detectron2 (facebookresearch/detectron2) | 0.6, commit 02b5c4e |
| cosine classifier, base config of the detector | TFA (ucbdrive/few-shot-object-detection) | commit 148a039 |

No weights are stored: `tests/parity/weight_recipe.py` computes every tensor of a model from its name and shape, for the
original code and for ours. To compute the missing outputs again, give the original models these weights and run them on
the inputs that the tests name.

Each row is one test of `tests/parity/FILE.py` and shows the comparison that came closest to its limit. The difference
is the largest difference divided by the largest value of the array, except where a unit is named; limits are about
ten times the rounding noise of float32. Proposals and detections are compared by pairing boxes; the tests also
require that none is missing or extra. `python benchmarks/studies/parity.py` writes this page.
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
    code = pytest.main(["-q", "-m", "", *(str(FOLDER / f"{f}.py") for f in FILES)], plugins=[watch])
    from tests.parity import compare

    if code:
        return int(code)
    by_test = defaultdict(list)
    for c in compare.COMPARED:
        by_test[c.test].append(c)
    rows = []
    for test, outcome in watch.outcomes.items():
        file, _, name = test.rpartition("/")[2].partition(".py::")
        row = {"file": file, "test": name, "outcome": outcome, "comparisons": len(by_test[test])}
        row["goldens"] = list(compare.opened(test))
        if by_test[test]:
            worst = max(by_test[test], key=lambda c: c.difference / c.limit)
            row |= {"difference": worst.difference, "limit": worst.limit, "unit": worst.unit}
        rows.append(row)
    machine = measure.machine()
    (measure.ROOT / "docs/parity.md").write_text(page(rows, machine))
    measure.write("parity", {"rows": rows} | machine)
    return 0


def page(rows: list[dict], machine: dict) -> str:
    """The markdown."""
    passed = [r for r in rows if r["outcome"] == "passed"]
    private = sum(not public(r) for r in passed)
    facts = {"passed": len(passed), "public": len(passed) - private, "private": private}
    megabytes = sum(f.stat().st_size for f in GOLDENS.iterdir()) / 1e6
    head = INTRO.format(
        date=machine["date"], device=machine["device"], jax=machine["versions"]["jax"], megabytes=megabytes, **facts
    )
    lines = [head]
    for file in FILES:
        mine = [r for r in rows if r["file"] == file]
        lines += [f"\n## {file}\n", "| test | reference | comparisons | difference | limit |", "|---|---|---|---|---|"]
        lines += [line(r) for r in mine]
    skipped = sum(r["outcome"] == "skipped" for r in rows)
    lines.append(f"\n{len(passed)} tests passed, {skipped} skipped.")
    return "\n".join(lines) + "\n"


def public(row: dict) -> bool:
    """Whether all reference outputs that a test read are part of the repository."""
    return all((GOLDENS / name).exists() for name in row["goldens"])


def line(row: dict) -> str:
    """A row of the table."""
    name = row["test"].removeprefix("test_parity_").removeprefix("test_")
    if row["outcome"] == "skipped":
        return f"| {name} | not in this checkout | | skipped | |"
    numbers = "equal | "
    if "difference" in row:
        unit = "" if row["unit"] == "relative" else f" {row['unit']}"
        numbers = f"{row['difference']:.1e}{unit} | {row['limit']:.0e}{unit}"
    mark = "" if public(row) else " *"
    return f"| {name}{mark} | {', '.join(row['goldens'])} | {row['comparisons'] or ''} | {numbers} |"


if __name__ == "__main__":
    sys.exit(main())
