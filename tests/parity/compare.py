"""Compares with stored reference outputs and records how far off ours were.

The files in tests/goldens are part of the repository. The others are read from ../shared/goldens, where there is one.
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
    difference: float
    limit: float
    unit: str  # "relative", "px" or "score"


COMPARED: list[Compared] = []
_opened: dict[str, dict[str, None]] = {}


def opened(test: str) -> tuple[str, ...]:
    """The reference files that a test (pytest's id) has read."""
    return tuple(_opened.get(test, ()))


def _test() -> str:
    return os.environ.get("PYTEST_CURRENT_TEST", "").removesuffix(" (call)").removesuffix(" (setup)")


def find(name: str) -> Path:
    """The path of a reference file; skips the test if this checkout lacks it."""
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
    """The arrays of a reference file."""
    return _read(find(name))


def within(ours, theirs, limit: float, *, unit: str = "relative") -> None:
    """Asserts that the largest difference is within `limit`: relative to the largest value, or in `unit`."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    largest = np.abs(theirs).max() if unit == "relative" else 1.0
    difference = float(np.abs(ours - theirs).max() / (largest if largest else 1.0))
    COMPARED.append(Compared(_test(), difference, limit, unit))
    assert difference <= limit, f"{unit} difference {difference:.1e} > {limit:.0e}"
