"""Reads annotated photos in whatever a labeling tool wrote: COCO json, LabelMe, YOLO-seg or mask files."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

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
        return _read_coco({"all": path})
    if path.is_file() and path.suffix.lower() in (".yaml", ".yml"):
        return yolo.read(path.parent)
    if not path.is_dir():
        if path.exists():
            raise ValueError(f"{path} is no annotation file: give {FORMS}")
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


def _splits(files: list[Path], folder: Path) -> dict[str, Path]:
    """Which COCO json is which split, by its name or its folder's."""
    if len(files) == 1:
        return {"all": files[0]}
    found: dict[str, Path] = {}
    for path in files:
        words = [*path.relative_to(folder).parts[:-1], *path.stem.replace("-", "_").split("_")]
        split = next((SPLITS[w.lower()] for w in words if w.lower() in SPLITS), None)
        if split is None or split in found:
            break
        found[split] = path
    if set(found) == {"train", "test"} and len(files) == 2:
        return found
    listed = ", ".join(str(p.relative_to(folder)) for p in files[:4])
    raise ValueError(
        f"{folder} has {len(files)} COCO-format json files ({listed}): give one of them, or keep two, train.json and "
        "test.json"
    )


def _read_coco(files: dict[str, Path]) -> collected.Collected:
    documents, notes, places = {}, Counter(), {}
    for split, path in files.items():
        document = coco_json.parse(path)
        coco_json.categories(document["categories"], path)
        names = [image.file_name for image in coco_json.images(document["images"], path)]
        if not names:
            raise ValueError(f"{path} lists no image")
        places[split] = _image_dir(path, names[0])
        dummies = coco_json.dummies(document)
        for name in dummies:
            notes[f"category '{name}', the empty supercategory that Roboflow adds (dropped)"] += 1
        kept = [c for c in document["categories"] if c["name"] not in dummies]
        documents[split] = {**document, "categories": kept}
    common = Path(os.path.commonpath(list(places.values())))
    for split, document in documents.items():
        prefix = places[split].relative_to(common)
        entries = [{**i, "file_name": (prefix / i["file_name"]).as_posix()} for i in document["images"]]
        documents[split] = {**document, "images": entries}
    return collected.Collected("COCO json", documents, common, notes)


def _image_dir(path: Path, name: str) -> Path:
    """The folder that file names of a json are relative to: near the json, where its first image is."""
    for folder in _near(path.resolve()):
        if (folder / name).is_file():
            return folder
    raise FileNotFoundError(
        f"{path} names the image {name}, which is missing: put the images beside the json, into a folder images beside "
        f"it, or into one called {path.stem}"
    )


def _near(path: Path) -> Iterator[Path]:
    for base in (path.parent, path.parent.parent):
        yield from (base, base / "images", base / path.stem)
        yield from (base / "images" / path.stem, base / path.stem.removeprefix("instances_"))
