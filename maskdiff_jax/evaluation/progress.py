"""Progress of a grid of models: one line per finished model, and on a terminal one about the current model."""

import sys
from collections import Counter
from collections.abc import Iterable
from typing import TextIO


class Progress:
    """Counts the models of a grid, and estimates the time left from that of finished ones of the same K."""

    def __init__(self, shots: Iterable[int], out: TextIO | None = None):
        """Starts counting.

        Args:
          shots: K of each model.
          out: where lines go; None: standard output.
        """
        self._left = Counter(shots)
        self._total, self._out = self._left.total(), out or sys.stdout
        self._seconds: dict[int, list[float]] = {}  # K -> times of models
        self.skipped = 0  # models that were finished before

    def start(self, name: str) -> None:
        """A model starts."""
        if self._out.isatty():
            number = self._total - self._left.total() + 1
            self._out.write(f"\r\033[K[{number}/{self._total}] {name} ...; {self._time_left()}")
            self._out.flush()

    def skip(self, shots: int) -> None:
        """A model was already finished."""
        self.skipped += 1
        self._left[shots] -= 1

    def finish(self, name: str, shots: int, summary: str, seconds: float) -> None:
        """A model is finished, which took this long."""
        self._seconds.setdefault(shots, []).append(seconds)
        self._left[shots] -= 1
        self._line(f"{name}: {summary}; {duration(seconds)}; {self._time_left()}")

    def fail(self, name: str, shots: int, why: str) -> None:
        """A model failed."""
        self._left[shots] -= 1
        self._line(f"{name} FAILED: {why}")

    def _time_left(self) -> str:
        if not self._left.total():
            return "none left"
        if not self._seconds:
            return "remaining time unknown"
        every = [s for times in self._seconds.values() for s in times]
        times = {k: self._seconds.get(k, every) for k in self._left}
        return f"about {duration(sum(n * sum(times[k]) / len(times[k]) for k, n in self._left.items()))} left"

    def _line(self, text: str) -> None:
        clear = "\r\033[K" if self._out.isatty() else ""
        print(f"{clear}[{self._total - self._left.total()}/{self._total}] {text}", file=self._out, flush=True)


def duration(seconds: float) -> str:
    """Seconds in readable form: "48 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
