"""metrics.jsonl, the log of a run: one json object per line, "phase" (text), "step" (int) and numbers by name.

Its one reader, for training, which resumes the log, and for reports, which show it.
"""

import json
from pathlib import Path
from typing import NamedTuple


class Log(NamedTuple):
    """What a metrics.jsonl holds."""

    lines: list[dict]  # each with "phase" and "step"
    damaged: list[int]  # numbers, from 1, of the lines that cannot be read


def read(path: str | Path) -> Log:
    """Reads a log; a line that a crash cut off, or that was damaged since, does not hide the others.

    Raises:
      OSError: the file is missing or cannot be read.
    """
    lines, damaged = [], []
    for number, text in enumerate(Path(path).read_bytes().split(b"\n"), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if _is_line(line):
            lines.append(line)
        else:
            damaged.append(number)
    return Log(lines, damaged)


def _is_line(line: object) -> bool:
    if not isinstance(line, dict) or not isinstance(line.get("phase"), str):
        return False
    step = line.get("step")
    return isinstance(step, int) and not isinstance(step, bool) and step >= 0
