"""Reads annotated photos in whatever a labeling tool wrote: COCO json, LabelMe, YOLO-seg or mask files."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskdiff_jax.data.formats import coco_json, collected, labelme, mask_files, yolo

FORMS = (
    "a COCO-format json, a LabelMe folder (a json per image), a YOLO-seg folder (images/, labels/, data.yaml or "
    "classes.txt), or photos with masks (photo.jpg and photo_CLASS_1.png, or masks/CLASS/photo.png)"
)
SPLITS = {"train": "train", "val": "test", "valid": "test", "validation": "test", "test": "test"}


def read_annotations(path: str | Path) -> collected.Collected:
    """The annotated images of a file or folder, as COCO-style documents.

    Args:
      path: a COCO-format json, YOLO's data.yaml, or a folder in one of the formats `FORMS`.

    Returns:
      One document for "train" and one for "test" where the source has both, else one, "all"; and the folder that
      their `file_name` is relative to.

    Raises:
      FileNotFoundError: there is no such path, or images are missing.
      ValueError: it is in no known format or in several, or something in it is wrong; says what to do.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() == ".json":
        return _read_coco({"all": [path]})
    if path.is_file() and path.suffix.lower() in (".yaml", ".yml"):
        return yolo.read(path.parent)
    if not path.is_dir():
        if path.exists():
            raise ValueError(f"{path} is not an annotation file: give {FORMS}")
        raise FileNotFoundError(f"{path} does not exist: give {FORMS}")
    coco_files, labelme_files = _json_files(path)
    found = {
        "COCO json": bool(coco_files),
        "LabelMe": bool(labelme_files),
        "YOLO-seg": yolo.is_yolo(path),
        "mask files": mask_files.is_mask_files(path),
    }
    names = [name for name, there in found.items() if there]
    if not names:
        raise ValueError(f"{path} has no annotations that can be read: give {FORMS}")
    if len(names) > 1:
        raise ValueError(
            f"{path} has annotations in several formats ({', '.join(names)}): keep one of them in the folder, or give "
            "the json file"
        )
    if coco_files:
        return _read_coco(_splits(coco_files, path))
    if labelme_files:
        return labelme.read(labelme_files)
    return yolo.read(path) if found["YOLO-seg"] else mask_files.read(path)


def _json_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The COCO and the LabelMe json files of a folder and its folders."""
    coco, single = [], []
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
        try:
            document = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            raise ValueError(f"{path} is not valid json: write it again, or remove it") from None
        if coco_json.is_coco(document):
            coco.append(path)
        elif labelme.is_labelme(document):
            single.append(path)
    return coco, single


def _splits(files: list[Path], folder: Path) -> dict[str, list[Path]]:
    """Which COCO json belongs to which split, by its name or its folder's; validation and test are the test set."""
    if len(files) == 1:
        return {"all": files}
    found: dict[str, list[Path]] = {}
    kinds = set()
    for path in files:
        words = [*path.relative_to(folder).parts[:-1], *path.stem.replace("-", "_").split("_")]
        kind = next((w.lower() for w in words if w.lower() in SPLITS), None)
        if kind is None or kind in kinds:
            break
        kinds.add(kind)
        found.setdefault(SPLITS[kind], []).append(path)
    if set(found) == {"train", "test"} and sum(map(len, found.values())) == len(files):
        return found
    listed = ", ".join(str(p.relative_to(folder)) for p in files[:4])
    raise ValueError(
        f"{folder} has {len(files)} COCO-format json files ({listed}): give one of them, or keep only "
        "train.json and test.json"
    )


def _read_coco(files: dict[str, list[Path]]) -> collected.Collected:
    notes: Counter = Counter()
    read = {path: _read_json(path, notes) for paths in files.values() for path in paths}
    common = Path(os.path.commonpath([folder for _, folder in read.values()]))
    for document, folder in read.values():
        prefix = folder.relative_to(common)
        for image in document["images"]:
            image["file_name"] = (prefix / image["file_name"]).as_posix()
    documents = {}
    for split, (first, *others) in files.items():
        documents[split] = read[first][0]
        for path in others:
            documents[split] = _merge(documents[split], read[path][0], path)
    return collected.Collected("COCO json", documents, common, notes)


def _read_json(path: Path, notes: Counter) -> tuple[dict[str, Any], Path]:
    """A COCO-format json without dummy categories, and the folder of its images."""
    document = coco_json.parse(path)
    coco_json.categories(document["categories"], path)
    listed = coco_json.images(document["images"], path)
    if not listed:
        raise ValueError(f"{path} lists no images")
    dummies = coco_json.dummies(document)
    for name in dummies:
        notes[f"category '{name}', the empty supercategory that Roboflow adds (dropped)"] += 1
    kept = [c for c in document["categories"] if c["name"] not in dummies]
    return document | {"categories": kept}, _image_dir(path, listed[0].file_name)


def _merge(first: dict[str, Any], second: dict[str, Any], path: Path) -> dict[str, Any]:
    """One COCO-format document of two; the second's images and annotations get new ids."""
    if sorted((c["id"], c["name"]) for c in first["categories"]) != sorted(
        (c["id"], c["name"]) for c in second["categories"]
    ):
        raise ValueError(f"{path} lists other classes than the json of the other test images: list the same in both")
    shift = 1 + max(i["id"] for i in first["images"])
    listed = [i | {"id": i["id"] + shift} for i in second["images"]]
    annotations = list(first["annotations"])
    free = 1 + max((a["id"] for a in annotations if isinstance(a, dict) and isinstance(a.get("id"), int)), default=0)
    for k, a in enumerate(second["annotations"]):
        if isinstance(a, dict) and isinstance(a.get("image_id"), int):
            annotations.append(a | {"id": free + k, "image_id": a["image_id"] + shift})
    return first | {"images": first["images"] + listed, "annotations": annotations}


def _image_dir(path: Path, name: str) -> Path:
    """The folder that file names of a json are relative to: near the json, where its first image is."""
    for folder in _near(path.resolve()):
        if (folder / name).is_file():
            return folder
    raise FileNotFoundError(
        f"{path} names the image {name}, which is missing: put the images beside the json, into a folder "
        f"'images' beside it, or into a folder '{path.stem}'"
    )


def _near(path: Path) -> Iterator[Path]:
    for base in (path.parent, path.parent.parent):
        yield from (base, base / "images", base / path.stem)
        yield from (base / "images" / path.stem, base / path.stem.removeprefix("instances_"))
