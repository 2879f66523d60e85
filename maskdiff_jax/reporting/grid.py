"""Evaluations of many methods, K and seeds: found in folders, checked, and grouped into experiments.

An evaluation is one metrics.json. Its config says what was evaluated: the method, K (``fewshot.shots``), the shot seed
(``fewshot.seed``), the noise seed (``eval.noise_seed``), the classes, the dataset and the split. An experiment is a
group of evaluations that differ only in seeds and are averaged.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maskdiff_jax.reporting import statistics
from maskdiff_jax.reporting.experiments import (
    DISTILLED,
    METHODS,
    PAPER,
    SETTINGS,
    STAGE_1,
    VARIANTS,
    Evaluation,
    Experiment,
    Key,
    describe,
    seed_name,
)
from maskdiff_jax.reporting.runs import config_field, is_count, read_metrics

SKIPPED = ("checkpoints", "tensorboard", "figures", "report")  # folders without evaluations
# config fields that change no number of a table, or none but by rounding: where and how fast it ran, what is kept
MACHINE_FIELDS = {
    "data.root", "data.workers", "data.cache_mb", "eval.root", "eval.batch", "eval.mask_batch", "eval.figures",
    "train.devices", "train.side_by_side", "train.log_every", "train.save_every", "train.keep",
    "eval.gt_classes_only", "eval.rescore", "eval.tighten_boxes",  # add metrics to the others
    "eval.scorer",  # another program for the same AP
}  # fmt: skip
SEED_FIELDS = {".".join(path) for path in statistics.SEED_FIELDS}
NAMED = 5  # fields or folders that a message names


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch("[a-z0-9_-]{1,64}", value))


FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "method": (_is_word, "a word made of a-z, 0-9, _ and -"),
    "stage": (_is_word, "a word made of a-z, 0-9, _ and -"),
    "data.source": (_is_word, "a word made of a-z, 0-9, _ and -"),
    "eval.source": (lambda v: v == "" or _is_word(v), "a word made of a-z, 0-9, _ and -, or empty"),
    "eval.split": (_is_word, "a word made of a-z, 0-9, _ and -"),
    "eval.noise_seed": (is_count, "a whole number from 0 on"),
    "seed": (is_count, "a whole number from 0 on"),
    "fewshot.shots": (is_count, "a whole number from 0 on"),
    "fewshot.seed": (is_count, "a whole number from 0 on"),
    "fewshot.classes": (_is_word, "a word made of a-z, 0-9, _ and -"),
}


class Found(NamedTuple):
    """What a walk through folders finds."""

    evaluated: list[Path]  # folders with a metrics.json
    unfinished: list[Path]  # runs and noise seeds without one


def find(roots: Sequence[str | Path]) -> Found:
    """All evaluations in and below folders, in natural order ("seed10" after "seed9").

    Raises:
      FileNotFoundError: a folder is missing, or has no metrics.json in or below it.
    """
    evaluated: dict[Path, Path] = {}  # resolved -> as given
    candidates: dict[Path, Path] = {}
    for root in map(Path, roots):
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root}")
        empty = True
        for folder, names in _walk(root):
            if "metrics.json" in names:
                empty = False
                evaluated.setdefault(folder.resolve(), folder)
            elif "config.json" in names or re.fullmatch(r"noise\d+", folder.name):
                candidates.setdefault(folder.resolve(), folder)
        if empty:
            raise FileNotFoundError(f"no metrics.json in or below {root}: run launch/evaluate.py on its runs first")
    parents = {parent for path in evaluated for parent in path.parents}
    return Found(list(evaluated.values()), [given for path, given in candidates.items() if path not in parents])


def _walk(root: Path) -> Iterator[tuple[Path, set[str]]]:
    """Folders in and below ``root``, each with the names of its files."""
    for folder, folders, names in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in map(os.path.realpath, Path(folder).parents):  # a link to a folder above
            folders.clear()
        folders[:] = sorted((x for x in folders if x not in SKIPPED and x[0] != "."), key=natural)
        yield Path(folder), set(names)


def natural(text: str) -> list[tuple[int, str]]:
    """A sort key under which "seed10" comes after "seed9"."""
    return [(int(x), "") if x.isdecimal() else (-1, x) for x in re.split(r"([0-9]{1,18})", text)]


def read(folders: Sequence[Path]) -> tuple[list[tuple[Key, Evaluation]], list[str]]:
    """Reads evaluations, and notes on those that were skipped because they name no method.

    Raises:
      ValueError: a metrics.json is damaged or lacks a config field; names the file and the fix.
    """
    found, nameless = [], []
    for folder in folders:
        document = read_metrics(folder)
        if config_field(document, "method") is None:
            nameless.append(folder)
            continue
        for path, (check, what) in FIELDS.items():
            if not check(config_field(document, path)):
                raise ValueError(
                    f"{folder / 'metrics.json'}: config.{path} is not {what}: run launch/evaluate.py again"
                )
        found.append((_key(document), _evaluation(folder, document)))
    notes = []
    if nameless:
        notes.append(
            f"{_count(nameless, 'evaluation')} without config.method, made by an earlier version, "
            f"{'was' if len(nameless) == 1 else 'were'} skipped: {_names(nameless)}"
        )
    return found, notes


def _key(document: dict) -> Key:
    method, stage = config_field(document, "method"), config_field(document, "stage")
    method += (PAPER if config_field(document, "paper") is True else "") + (DISTILLED if stage == "distill" else "")
    dataset = config_field(document, "eval.source") or config_field(document, "data.source")
    # one stage 1 serves every K, but not with paper=true
    shots = config_field(document, "fewshot.shots") if stage != "base" or PAPER in method else 0
    return Key(dataset, config_field(document, "eval.split"), _setting(document, dataset), shots, method)


def _setting(document: dict, dataset: str) -> str:
    """The name of a setting in the paper's words; on other datasets than COCO in plain ones."""
    novel_only = config_field(document, "fewshot.classes") == "novel"
    trained_on = config_field(document, "data.source")
    if config_field(document, "stage") == "base":
        return STAGE_1
    if trained_on == "coco" and dataset == "voc":
        return "COCO2VOC" if novel_only else "COCO2VOC, model of all classes"
    if trained_on == dataset == "coco":
        return "COCO-Novel" if novel_only else "COCO-All"
    name = "novel classes only" if novel_only else "all classes"
    return name if trained_on == dataset else f"{name}, trained on {trained_on}"


def _evaluation(folder: Path, document: dict) -> Evaluation:
    seed, shot_seed = config_field(document, "seed"), config_field(document, "fewshot.seed")
    repeat = seed if config_field(document, "stage") == "base" else shot_seed
    sources = (str(config_field(document, name)) for name in ("init_from", "detector_from"))
    model = (seed, *sources, shot_seed)
    return Evaluation(folder, document, repeat, model, config_field(document, "eval.noise_seed"))


def experiments(found: Sequence[tuple[Key, Evaluation]]) -> tuple[list[Experiment], list[str]]:
    """Groups evaluations into experiments, in the order of tables and rows.

    Returns:
      The experiments, each variant of the metrics as a separate one; and notes on duplicate evaluations.

    Raises:
      ValueError: evaluations of one key differ in more than seeds; names the fields, values and folders.
    """
    groups: dict[Key, list[Evaluation]] = {}
    for key, evaluation in found:
        groups.setdefault(key, []).append(evaluation)
    out, notes = [], []
    for key in sorted(groups, key=_order):
        check_same_config(key, groups[key])
        kept, more = _distinct(groups[key])
        notes += more
        out.append(Experiment(key, kept))
        for variant in VARIANTS:
            of_variant = [e for e in kept if any(k.startswith(f"{variant}/") for k in e.document["metrics"])]
            if of_variant:
                setting = f"{key.setting}, {variant}"
                out.append(Experiment(key._replace(setting=setting), of_variant, variant))
    return sorted(out, key=lambda x: _order(x.key)), notes


def _order(key: Key) -> tuple:
    setting = key.setting.partition(",")[0]
    rank = SETTINGS.index(setting) if setting in SETTINGS else len(SETTINGS)
    method = key.method.partition("+")[0]
    row = list(METHODS).index(method) if method in METHODS else len(METHODS) - 1.5  # ablations before MaskDiff
    return (key.split != "test", key.split, rank, key.setting, key.dataset, key.shots, row, key.method)


def check_same_config(key: Key, evaluations: Sequence[Evaluation]) -> None:
    """Checks that evaluations to be averaged differ only in seeds and in fields that depend on the machine.

    Raises:
      ValueError: names the fields, both values, the folders, and what to do.
    """
    first = evaluations[0]
    reference = _flat(first.document["config"])
    for other in evaluations[1:]:
        config = _flat(other.document["config"])
        one_sided = reference.keys() ^ config.keys()
        changed = {k for k in reference.keys() & config.keys() if reference[k] != config[k]}
        differ = sorted(k for k in one_sided | changed if k not in MACHINE_FIELDS and k not in SEED_FIELDS)
        if differ:
            fields = ", ".join(f"{k} is {_shown(reference, k)} and {_shown(config, k)}" for k in differ[:NAMED])
            more = f", and {len(differ) - NAMED} more" if len(differ) > NAMED else ""
            raise ValueError(
                f"evaluations of {describe(key)} differ in more than seeds, so they are not averaged: {fields}{more} "
                f"(in {first.folder} and in {other.folder}). Give one of them another config.method, or run "
                "report.py once for each"
            )


def _flat(config: Any, path: str = "") -> dict[str, Any]:
    """Nested dicts as {"a.b": value}."""
    if not isinstance(config, dict):
        return {path: config}
    out: dict[str, Any] = {}
    for name, value in config.items():
        out |= _flat(value, f"{path}.{name}" if path else str(name))
    return out


def _shown(config: dict[str, Any], name: str) -> str:
    text = ascii(config[name]) if name in config else "absent"
    return text if len(text) <= 60 else text[:60] + "..."


def _distinct(evaluations: Sequence[Evaluation]) -> tuple[list[Evaluation], list[str]]:
    """One evaluation per model and noise seed, the last of each: repeats are not independent. Notes on the rest."""
    kept: dict[tuple, Evaluation] = {}
    same, other = [], []
    for evaluation in evaluations:
        identity = (evaluation.model, evaluation.noise_seed)
        if earlier := kept.pop(identity, None):
            equal = earlier.document["metrics"] == evaluation.document["metrics"]
            (same if equal else other).append((earlier.folder, evaluation.folder))
        kept[identity] = evaluation
    notes = []
    if same:
        repeat = "repeats" if len(same) == 1 else "repeat"
        folders = _names([x for x, _ in same])
        notes.append(f"{_count(same, 'evaluation')} {repeat} others with the same seeds and are not counted: {folders}")
    for skipped, used in other:
        notes.append(f"{skipped} was skipped: {used} has the same config and seeds, but other metrics")
    return list(kept.values()), notes


def groups(found: Sequence[Experiment]) -> list[list[Experiment]]:
    """Experiments of one dataset, split and setting together: those of one table."""
    out: dict[tuple, list[Experiment]] = {}
    for x in found:
        out.setdefault((x.key.dataset, x.key.split, x.key.setting), []).append(x)
    return list(out.values())


def version_notes(found: Sequence[Experiment]) -> list[str]:
    """A note where evaluations were made with several versions of a library."""
    versions: dict[str, set[str]] = {}
    for x in found:
        for e in x.evaluations:
            for name, version in (e.document.get("versions") or {}).items():
                versions.setdefault(name, set()).add(str(version))
    several = [f"{name} {', '.join(sorted(v))}" for name, v in versions.items() if len(v) > 1]
    return [f"evaluations were made with several versions: {'; '.join(several)}"] if several else []


def missing(group: Sequence[Experiment]) -> list[str]:
    """What experiments lack that others of the same table and K have, as sentences.

    Noise seeds are compared only within each experiment, because a mask head without noise needs only one.

    Args:
      group: experiments of one table.
    """
    notes = []
    for shots in dict.fromkeys(x.key.shots for x in group):
        members = [x for x in group if x.key.shots == shots]
        everywhere = {e.repeat for x in members for e in x.evaluations}
        for x in members:
            noise: dict[int, set[int]] = {}
            for e in x.evaluations:
                noise.setdefault(e.repeat, set()).add(e.noise_seed)
            absent = everywhere - noise.keys()
            if absent:
                plural = "s" if len(absent) > 1 else ""
                notes.append(f"{describe(x.key)} lacks {seed_name(x.key)}{plural} {_ranges(absent)}, which others have")
            repeats: dict[str, set[int]] = {}
            for repeat, seeds in noise.items():
                repeats.setdefault(_ranges(seeds), set()).add(repeat)
            if len(repeats) > 1:
                parts = "; ".join([f"{seeds} for {_ranges(of)}" for seeds, of in repeats.items()][:NAMED])
                every = f"every {seed_name(x.key)}"
                notes.append(f"{describe(x.key)} does not have the same noise seeds for {every}: {parts}")
    return notes


def _count(things: Sequence, noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _names(folders: Sequence[Path]) -> str:
    more = f" and {len(folders) - NAMED} more" if len(folders) > NAMED else ""
    return ", ".join(map(str, folders[:NAMED])) + more


def unfinished_note(unfinished: Sequence[Path]) -> list[str]:
    """One note on all runs without metrics; [] where there are none."""
    if not unfinished:
        return []
    are = "is" if len(unfinished) == 1 else "are"
    return [f"{_count(unfinished, 'run')} without metrics.json {are} not counted yet: {_names(unfinished)}"]


def _ranges(numbers: set[int]) -> str:
    """{0, 1, 2, 5} -> "0-2, 5"."""
    out: list[list[int]] = []
    for n in sorted(numbers):
        if out and n == out[-1][-1] + 1:
            out[-1][1:] = [n]
        else:
            out.append([n])
    return ", ".join("-".join(map(str, x)) for x in out)
