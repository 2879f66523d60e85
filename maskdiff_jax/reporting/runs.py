"""Reads the files of a run folder for a report, metrics.json, metrics.jsonl and figures/*.png, and checks them.

A metrics.json that cannot be used is an error that names the fix. Optional parts that are damaged (a truncated line of
the log, a figure) are skipped and noted.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from maskdiff_jax import metrics_log

DEEPEST = 20  # levels of a metrics.json; ours have 6
MAX_PHASES = 16  # of a log; ours have at most 6
MAX_STEP = 2**53  # the largest whole number that a chart's float64 axis holds exactly
MAX_VALUE = 1e30  # of a log: far above any loss, and a chart's arithmetic stays finite


class Run(NamedTuple):
    """The contents of a run folder."""

    folder: Path
    document: dict  # metrics.json, see `read_metrics`
    lines: list[dict]  # metrics.jsonl: "phase" (text), "step" (int), and finite floats by name
    notes: list[str]  # what was skipped, as sentences


def read(folder: str | Path) -> Run:
    """Reads a run with its log. Raises as ``read_metrics``."""
    folder = Path(folder)
    document = read_metrics(folder)
    log = folder / "metrics.jsonl"
    if not log.is_file():
        return Run(folder, document, [], [f"{log} is missing: no losses of this run are shown"])
    lines, skipped = read_log(log)
    notes = [f"{log}: skipped {skipped} damaged line{'s' if skipped > 1 else ''}"] if skipped else []
    return Run(folder, document, lines, notes)


def read_metrics(folder: str | Path) -> dict:
    """The metrics.json of a run.

    Returns:
      The document that evaluation wrote. "metrics" (name -> number) is there; every other field that reports use is
      absent, null, or of the type and in the range that ``FIELDS`` states.

    Raises:
      FileNotFoundError: there is no metrics.json.
      ValueError: it is damaged; names the file, the field and the fix.
    """
    path = Path(folder) / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run launch/evaluate.py on this run first")
    fix = "run launch/evaluate.py again"
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        reason = str(error) if error.args and isinstance(error, ValueError) else "nested too deeply"
        raise ValueError(f"{path} is not valid JSON ({reason}): {fix}") from error
    problem = next(_problems(document), None)
    if problem:
        raise ValueError(f"{path}: {problem}: {fix}")
    return document


def config_field(document: Mapping[str, Any], path: str) -> Any:
    """A field of the config in a metrics.json.

    Args:
      document: as ``read_metrics`` gives it; its config may be absent, null, or of an earlier version.
      path: of the field, such as "fewshot.classes".

    Returns:
      The value; None where the field is absent.
    """
    node = document.get("config")
    for name in path.split("."):
        if not isinstance(node, dict):
            return None
        node = node.get(name)
    return node


def read_log(path: Path) -> tuple[list[dict], int]:
    """The lines of a metrics.jsonl that charts can show, and how many others there are.

    Of a line, "phase" and "step" are kept, and the numbers within ± ``MAX_VALUE``. Lines with a step above ``MAX_STEP``
    or of a phase that is not a line of text or comes after the first ``MAX_PHASES`` are dropped.
    """
    log = metrics_log.read(path)
    lines: list[dict] = []
    phases: set[str] = set()
    for line in log.lines:
        phase, step = line["phase"], line["step"]
        if len(phases) < MAX_PHASES and is_text(phase):
            phases.add(phase)
        if phase in phases and step <= MAX_STEP:
            numbers = {k: float(v) for k, v in line.items() if _in_range(v, -MAX_VALUE, MAX_VALUE)}
            lines.append(numbers | {"phase": phase, "step": step})
    return lines, len(log.lines) + len(log.damaged) - len(lines)


def read_figures(folder: Path) -> tuple[dict[str, bytes], list[str]]:
    """The PNG files in FOLDER/figures by name, in order; and notes on those that were skipped."""
    figures, notes = {}, []
    for path in sorted((folder / "figures").glob("*.png")):
        try:
            with Image.open(path, formats=["PNG"]) as image:
                image.verify()  # structure and checksums
            figures[path.name] = path.read_bytes()
        except Exception as error:  # Pillow raises many kinds on damaged files
            notes.append(f"{path} was skipped, because it is not a readable PNG ({type(error).__name__})")
    if not figures:
        notes.append(f"{folder / 'figures'} has no figures: evaluate with --config.eval.figures above 0 to get some")
    return figures, notes


# -------------------------------------------------------------------------------------------- validation


def _in_range(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether a value is a finite number in low..high; a bool is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value) and low <= value <= high
    except OverflowError:  # an int that no float holds
        return False


def _is_percent(value: Any) -> bool:
    return _in_range(value, 0.0, 100.0)


def is_count(value: Any) -> bool:
    """Whether a value is a whole number from 0 on; a bool is not a number."""
    return isinstance(value, int) and _in_range(value, 0)


def is_text(value: Any) -> bool:
    """Whether a value is text that a terminal can print on one line."""
    return isinstance(value, str) and len(value) <= 200 and value.isprintable()


def _is_config(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    sections = [value.get(name) or {} for name in ("data", "fewshot", "train")]
    return all(isinstance(x, dict) for x in sections) and is_text(sections[0].get("source") or "")


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(x, str) for x in value)


def _is_versions(value: Any) -> bool:
    return isinstance(value, dict) and all(is_text(x) for x in value.values())


def _is_seconds(value: Any) -> bool:
    return isinstance(value, dict) and all(_in_range(x, 0.0, 1e12) for x in value.values())


def _is_per_class(value: Any) -> bool:
    tables = [table for table in value.values() if table is not None] if isinstance(value, dict) else [value]
    return all(isinstance(t, dict) and all(x is None or _is_percent(x) for x in t.values()) for t in tables)


def _is_curves(value: Any) -> bool:
    if not isinstance(value, dict) or not all(isinstance(y, list) for y in value.values()):
        return False
    thresholds, others = value.get("iou", []), [y for name, y in value.items() if name != "iou"]
    return all(_in_range(x, 0.0, 1.0) for x in thresholds) and all(
        len(y) == len(thresholds) and all(x is None or _is_percent(x) for x in y) for y in others
    )


# field of metrics.json -> (check, what it must be); each may be absent or null
FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("preset", "stage", "dataset", "split", "device", "date"), (is_text, "a line of text")),
    **dict.fromkeys(("shots", "seed", "noise_seed"), (is_count, "a whole number from 0 on")),
    "config": (_is_config, "an object of config fields"),
    "novel_classes": (_is_names, "a list of class names"),
    "versions": (_is_versions, "an object of versions by package"),
    "images_per_second": (lambda v: _in_range(v, 0.0, 1e9), "a number from 0 on"),
    "seconds": (_is_seconds, "an object of seconds by phase"),
    "per_class": (_is_per_class, "an object of percentages by class"),
    "curves": (_is_curves, "an object with 'iou' (0 to 1) and as many percentages per curve"),
}


def _problems(document: Any) -> Iterator[str]:
    """What is wrong with a metrics.json, as the middle of a sentence."""
    metrics = document.get("metrics") if isinstance(document, dict) else None
    if not isinstance(metrics, dict):
        yield "it has no 'metrics' object"
        return
    level = [document]
    for _ in range(DEEPEST):
        level = [child for node in level for child in _children(node)]
    if level:
        yield f"it is nested more than {DEEPEST} levels deep"
    for name, value in metrics.items():
        percent = {"bbox", "segm", "mask_iou"} & set(name.split("/"))
        if not (_is_percent(value) if percent else _in_range(value)):
            what = "a percentage from 0 to 100" if percent else "a finite number"
            yield f"metrics[{ascii(name)[:80]}] is not {what}, but {_shown(value)}"
    for name, (check, what) in FIELDS.items():
        value = document.get(name)
        if value is not None and not check(value):
            yield f"'{name}' is not {what}, but {_shown(value)}"


def _children(node: Any) -> list:
    return list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []


def _shown(value: Any) -> str:
    """The start of a value as one printable line."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:60] + "..."
