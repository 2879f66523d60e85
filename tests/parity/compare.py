"""Comparing with stored reference numbers, and keeping count of how far off they were.

The sets in tests/goldens always run. The others are read from ../shared/goldens, where a checkout has it.
"""

import functools
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

TESTS = Path(__file__).resolve().parents[1]


class Compared(NamedTuple):
    """One comparison; benchmarks/studies/parity.py makes the table of docs/parity.md from them."""

    test: str  # pytest's id
    goldens: tuple[str, ...]  # files that the test has opened so far
    difference: float
    limit: float
    unit: str  # "relative", "px" or "score"


COMPARED: list[Compared] = []
_opened: dict[str, dict[str, None]] = {}


def _test() -> str:
    return os.environ.get("PYTEST_CURRENT_TEST", "").removesuffix(" (call)").removesuffix(" (setup)")


def find(name: str) -> Path:
    """Where a golden lies; skips the test if this checkout lacks it."""
    for folder in (TESTS / "goldens", TESTS.parents[1] / "shared" / "goldens"):
        if (folder / name).exists():
            _opened.setdefault(_test(), {})[name] = None
            return folder / name
    pytest.skip(f"{name} is not in this checkout")


@functools.cache
def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as z:
        return dict(z)


def load(name: str) -> dict[str, np.ndarray]:
    """The arrays of a golden."""
    return _read(find(name))


def within(ours, theirs, limit: float, *, unit: str = "relative") -> None:
    """Asserts the largest difference: over the largest value ("relative"), or in the unit that is named."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    largest = np.abs(theirs).max() if unit == "relative" else 1.0
    difference = float(np.abs(ours - theirs).max() / (largest if largest else 1.0))
    COMPARED.append(Compared(_test(), tuple(_opened.get(_test(), ())), difference, limit, unit))
    assert difference <= limit, f"{unit} difference {difference:.1e} > {limit:.0e}"
