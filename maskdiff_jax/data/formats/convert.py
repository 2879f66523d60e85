"""Writes annotated photos of any format as the COCO-format dataset that the preset `custom` trains on."""

import hashlib
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from maskdiff_jax import atomic
from maskdiff_jax.data.formats.collected import Collected

TEST_SHARE = 0.2  # of the images that become the test set where there is only one set


def split(document: dict[str, Any], share: float = TEST_SHARE) -> dict[str, dict[str, Any]]:
    """Splits one set into "train" and "test", the same way each time.

    The order is that of a hash of the file names, so that a photo added later moves few others. An image is not moved
    to the test set if a class would lose its last training image.

    Args:
      document: COCO-style.
      share: of the images for the test set, 0..1; at least one image if it is more than 0 and there are two or more.

    Returns:
      "train" and "test"; only "train" if no image can be spared.
    """
    entries = document["images"]
    classes: dict[int, set] = {i["id"]: set() for i in entries}
    for a in document["annotations"]:
        if isinstance(a, dict) and a.get("image_id") in classes:
            classes[a["image_id"]].add(a.get("category_id"))
    left = Counter(c for found in classes.values() for c in found)
    wanted = max(1, round(share * len(entries))) if share > 0 else 0
    test: set[int] = set()
    for entry in sorted(entries, key=lambda i: hashlib.blake2b(i["file_name"].encode()).digest()):
        own = classes[entry["id"]]
        if len(test) < wanted and own and all(left[c] > 1 for c in own):
            test.add(entry["id"])
            left.subtract(own)
    if not test:
        return {"train": document}
    return {"train": _part(document, set(classes) - test), "test": _part(document, test)}


def write(source: Collected, output: str | Path, share: float = TEST_SHARE) -> str:
    """Writes train.json, train/, test.json and test/; one set is split.

    Args:
      source: from `recognize.read_annotations`.
      output: the folder, new or empty; it is there only when all is written.
      share: as for `split`.

    Returns:
      What was written, as a text of several lines.

    Raises:
      FileExistsError: the folder holds something.
      FileNotFoundError: an image is missing.
      ValueError: `share` is not between 0 and 1.
      OSError: the disk is full or the folder cannot be written to.
    """
    output = Path(output)
    if not 0 <= share < 1:
        raise ValueError(f"the share of test images is {share}: give a number from 0 to less than 1")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} exists and is not empty: give another --output, or remove it")
    documents = split(source.documents["all"], share) if "all" in source.documents else source.documents
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        for name, document in documents.items():
            _write_split(document, source.image_dir, temporary, name)
        if output.is_dir():
            output.rmdir()
        temporary.chmod(0o755)
        os.rename(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return "\n".join(_describe(source, documents, output))


def _part(document: dict[str, Any], ids: set[int]) -> dict[str, Any]:
    return document | {
        "images": [i for i in document["images"] if i["id"] in ids],
        "annotations": [a for a in document["annotations"] if isinstance(a, dict) and a.get("image_id") in ids],
    }


def _write_split(document: dict[str, Any], image_dir: Path, folder: Path, name: str) -> None:
    names = [i["file_name"] for i in document["images"]]
    short = [Path(n).name for n in names]
    targets = short if len(set(short)) == len(short) else names  # without folders where that is unique
    for source, target in zip(names, targets, strict=True):
        if not (image_dir / source).is_file():
            raise FileNotFoundError(f"no image {image_dir / source}: put it there, or remove it from the json")
        (folder / name / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image_dir / source, folder / name / target)
    entries = [i | {"file_name": t} for i, t in zip(document["images"], targets, strict=True)]
    atomic.write_json(folder / f"{name}.json", document | {"images": entries}, indent=None)


def _describe(source: Collected, documents: dict[str, dict[str, Any]], output: Path) -> list[str]:
    lines = [f"read: {source.format}"]
    lines += [f"  not used: {count} x {kind}" for kind, count in source.notes.items()]
    for name, document in sorted(documents.items(), reverse=True):  # "train" first
        size = f"{len(document['images'])} images, {len(document['annotations'])} objects"
        lines.append(f"wrote {output / name}.json and {output / name}/: {size}")
    if "all" in source.documents and "test" in documents:
        chosen = ", ".join(Path(i["file_name"]).name for i in documents["test"]["images"])
        lines.append(f"the source has a single set; chosen as test images: {chosen}")
    elif "test" not in documents:
        lines.append(
            'no test set (every class needs at least one training image): train with --config.data.test_json=""'
        )
    lines.append("classes: " + ", ".join(c["name"] for c in documents["train"]["categories"]))
    return lines
