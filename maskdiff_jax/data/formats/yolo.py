"""YOLO's segmentation folders (docs.ultralytics.com/datasets/segment): a text file of outlines per image.

A line is the class's number and the outline x y x y ..., as shares of the image as shown (0..1). Names come from
`data.yaml` (`names`, and `train`, `val`, `test`: folders of images) or from `classes.txt`. The text file of
`images/a/b.jpg` is `labels/a/b.txt`, or `b.txt` beside the image.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml  # a requirement of flax and of ml_collections

from maskdiff_jax.data.formats import collected, images

SLACK = 0.01  # share of the image: a coordinate beyond 0..1 by less is rounding
SPLITS = {"train": "train", "val": "test", "valid": "test", "test": "test"}  # folder, or key of data.yaml -> split


def is_yolo(folder: Path) -> bool:
    """Whether a folder holds label files in YOLO's layout, or a data.yaml."""
    return _yaml_file(folder) is not None or next(_label_files(folder), None) is not None


def read(folder: Path) -> collected.Collected:
    """The objects of a YOLO folder.

    Images without a text file have no object. Images of `val` and `test` together are the test set.

    Raises:
      FileNotFoundError: there are no names or no images.
      ValueError: a line is broken; all lines are boxes; there is no object.
    """
    notes: Counter = Counter()
    names, listed = _names_and_images(folder)
    splits = {split: [_read_image(p, names, notes) for p in paths] for split, paths in listed.items()}
    return collected.collect("YOLO-seg", splits, notes, names)


def _names_and_images(folder: Path) -> tuple[list[str], dict[str, list[Path]]]:
    path = _yaml_file(folder)
    if path is None:
        return _names_of_text(folder), _images_of_layout(folder)
    try:
        settings = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML ({' '.join(str(error).split())[:200]}): fix it") from None
    names = settings.get("names") if isinstance(settings, dict) else None
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[k] for k in range(len(names))]
    if not isinstance(names, list) or not names or len({str(n) for n in names}) != len(names):
        raise ValueError(
            f"{path} needs 'names': a list of the classes, each only once, or numbers from 0 on with names"
        )
    splits: dict[str, list[Path]] = {}
    for key in ("train", "val", "test"):
        for place in _as_list(settings.get(key)):
            splits.setdefault(SPLITS[key], []).extend(_images_of(path, settings.get("path"), place))
    splits = {split: sorted(set(paths)) for split, paths in splits.items()} or _images_of_layout(folder)
    if "train" in splits and splits["train"] == splits.get("test"):  # a common trick where there is one set
        splits = {"all": splits["train"]}
    return [str(n) for n in names], splits if len(splits) > 1 else {"all": next(iter(splits.values()))}


def _yaml_file(folder: Path) -> Path | None:
    found = [p for p in sorted(folder.iterdir()) if p.suffix in (".yaml", ".yml")]
    found = [p for p in found if p.stem == "data" or "names:" in p.read_text(errors="replace")]
    if len(found) > 1:
        found = [p for p in found if p.stem == "data"] or found
    if len(found) > 1:
        raise ValueError(f"{folder} has several YAML files ({', '.join(p.name for p in found)}): keep one, data.yaml")
    return found[0] if found else None


def _as_list(value: Any) -> list[str]:
    return [] if not value else [str(v) for v in value] if isinstance(value, list) else [str(value)]


def _images_of(file: Path, root: Any, place: str) -> list[Path]:
    """The images of a folder that data.yaml names; a path of the machine that wrote it is looked for beside it."""
    relative = place.removeprefix("../").removeprefix("./")  # Roboflow writes ../train/images beside train/
    for base in (file.parent / str(root or "."), file.parent):
        for candidate in (base / place, base / relative):
            if candidate.is_dir():
                return [p for f in [candidate, *_folders(candidate)] for p in collected.image_files(f)]
    raise FileNotFoundError(f"{file} names the image folder {place}, which is missing: put it beside {file.name}")


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_dir() and not p.name.startswith("."))


def _names_of_text(folder: Path) -> list[str]:
    for path in (folder / "classes.txt", folder / "labels" / "classes.txt", folder / "obj.names"):
        if path.is_file():
            names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
            if not names or len(set(names)) != len(names):
                raise ValueError(f"{path} must have one class per line, each only once")
            return names
    raise FileNotFoundError(
        f"{folder} has YOLO label files but no class names: add classes.txt with one class per line"
    )


def _images_of_layout(folder: Path) -> dict[str, list[Path]]:
    """All images of a folder, by the folders train, val, valid and test on their path, if there are any."""
    splits: dict[str, list[Path]] = {}
    for path in [p for f in [folder, *_folders(folder)] for p in collected.image_files(f)]:
        parts = path.relative_to(folder).parts[:-1]
        splits.setdefault(next((SPLITS[p] for p in parts if p in SPLITS), "all"), []).append(path)
    if not splits:
        raise FileNotFoundError(f"{folder} has YOLO label files but no images: put them into {folder / 'images'}")
    if {"train", "test"} == set(splits):
        return splits
    return {"all": sorted(p for paths in splits.values() for p in paths)}


def _label_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*.txt")):
        if path.name != "classes.txt" and _numbers(path.read_text(errors="replace").split("\n")[0].split()):
            yield path


def _numbers(words: list[str]) -> list[float]:
    """The numbers of a line; empty if it is none of YOLO's."""
    try:
        numbers = [float(w) for w in words]
        return numbers if len(numbers) >= 5 and numbers[0] == int(numbers[0]) >= 0 else []
    except (ValueError, OverflowError):
        return []


def _read_image(path: Path, names: list[str], notes: Counter) -> collected.Annotated:
    size = images.read_size(path)
    labels = _label_path(path)
    lines = labels.read_text(errors="replace").splitlines() if labels.is_file() else []
    objects = []
    for k, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{labels}, line {k}"
        class_id, *outline = _numbers(line.split()) or [-1]
        if len(outline) == 4:
            notes[f"box without an outline (first: {where})"] += 1
            continue
        if len(outline) < 6 or len(outline) % 2:
            raise ValueError(f"{where} must be the number of the class and x y of at least three points: '{line[:60]}'")
        if class_id >= len(names):
            raise ValueError(f"{where} has the class {class_id:.0f}, but there are {len(names)} names, from 0 on")
        if not all(-SLACK <= v <= 1 + SLACK for v in outline):
            raise ValueError(
                f"{where} has coordinates outside 0..1: YOLO coordinates are fractions of the image size, not pixels"
            )
        polygon = [v * (size.height if i % 2 else size.width) for i, v in enumerate(outline)]
        if collected.is_usable([polygon], size.height, size.width, where, notes):
            objects.append((names[int(class_id)], [polygon]))
    return collected.Annotated(path, size.height, size.width, objects)


def _label_path(image: Path) -> Path:
    """Of an image: the last folder `images` on its path is replaced by `labels`, as Ultralytics does."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        moved = Path(*parts[:last], "labels", *parts[last + 1 :]).with_suffix(".txt")
        if moved.is_file():
            return moved
    sibling = image.parent.parent / "labels" / image.with_suffix(".txt").name
    return sibling if sibling.is_file() and not image.with_suffix(".txt").is_file() else image.with_suffix(".txt")
