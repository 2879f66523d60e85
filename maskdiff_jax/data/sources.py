"""Where datasets come from: each source turns config.data and a split into a `Dataset`.

Splits: "train" (what stage 1 learns from), "support" (what the K shots are sampled from), "test". The generated scenes
also have "val", on which hyperparameters are chosen. VOC has "test" only.
"""

import functools
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from maskdiff_jax.data.crops import crops_from_dataset
from maskdiff_jax.data.dataset import Dataset, with_novel
from maskdiff_jax.data.formats import coco, coco_splits, ground_truth, voc
from maskdiff_jax.data.formats.coco_splits import Table
from maskdiff_jax.data.prepared import records as prepared
from maskdiff_jax.data.synthetic import scenes

SPLITS = ("train", "support", "val", "test")
CROPS_LAYOUT = 2  # of the examples of prepared crops: 1 was PNG and RLE, 2 is differences of rows, see `crops.encode`


def open_shapes(data: Any, split: str, *, level: str) -> Dataset:
    """The generated scenes of a level, rendered and written below data.root on first use."""
    folder, settings = _prepared(data, split, "images")
    if not prepared.is_prepared(folder):
        progress = functools.partial(progress_line, what=f"rendering the {split} scenes of {level} (only once)")
        rendered = scenes.scenes(level, split, data.shapes_seed, settings["count"], progress=progress)
        progress = functools.partial(progress_line, what=f"writing them to {folder}")
        prepared.write_images(rendered, folder, settings, progress=progress)
    return with_novel(prepared.open_images(folder), data.novel_classes)


def open_coco(data: Any, split: str) -> Dataset:
    """COCO-format json and images as config.data names them; prepared images where they exist."""
    json_path, image_dir = files(data, split)
    if not json_path.is_file() or not (image_dir.is_dir() or data.more_images):
        key, missing = _key(split), "image folder" if json_path.is_file() else "annotation file"
        raise FileNotFoundError(
            f"the {missing} of {data.source} is missing: looked for the {key} annotations in {json_path} and "
            f"the images in {image_dir}; put them there, or set data.root, data.{key}_json, data.{key}_images"
            + (
                " (docs/paper_recipe.md says where TFA's split files are; coco,split=minival is COCO's own split)"
                if data.counts
                else ""
            )
        )
    return _prepared_or_load(data, split)


def open_voc(data: Any, split: str) -> Dataset:
    """The validation images of PASCAL VOC 2007 and 2012 below data.root with COCO's 80 classes, see `voc`."""
    return _prepared_or_load(data, split)


def load(data: Any, split: str, *, problems: Counter | None = None, examples: dict[str, str] | None = None) -> Dataset:
    """The json and image files of a source that has them, prepared or not.

    Args:
      data: config.data; where `counts` is set the json must have the contents of the published one.
      split: one of SPLITS.
      problems, examples: as for `coco.load`.

    Raises:
      FileNotFoundError, ValueError: as `coco.load`, `coco_splits.check_counts` and `coco_splits.locate`.
    """
    json_path, image_dir = files(data, split)
    options = {"name": data.source, "split": split, "problems": problems, "examples": examples}
    if data.source == "voc":
        return coco.load(json_path, image_dir, data.novel_classes, **options)
    if data.counts:
        coco_splits.check_counts(json_path, data.counts, _key(split))
    if not data.more_images:
        return coco.load(json_path, image_dir, data.novel_classes, **options)
    found = coco.load(json_path, data.root, data.novel_classes, **options)
    own = data.train_images if _key(split) == "train" else data.test_images
    return coco_splits.locate(found, data.root, (own, *data.more_images))


def annotation_table(data: Any, split: str) -> Table | None:
    """Every annotation of the json of a split, as TFA's sampler needs them; None for generated scenes."""
    return None if data.source in scenes.LEVELS else coco_splits.read_table(files(data, split)[0])


def crops_folder(data: Any, split: str) -> tuple[Path, dict[str, Any]]:
    """The folder for the prepared instance crops of a split, and their settings."""
    return _prepared(data, split, "crops")


def shots_folder(data: Any, split: str, size: int) -> tuple[Path, dict[str, Any]]:
    """The folder for the prepared shots of `size` px of a split, and their settings."""
    return _prepared(data, split, "shots", size=size, context=data.context)


def tell_outdated(folder: Path, settings: dict[str, Any]) -> None:
    """Says on stderr, once, that a set like that of `folder` was prepared in an older layout, which is not read."""
    if old := prepared.outdated(folder, settings):
        _print_once(
            f"{old} was written by an older version and is not read: delete that folder and run "
            "launch/prepare_data.py again"
        )


@functools.cache
def _print_once(text: str) -> None:
    print(text, file=sys.stderr)


def prepare(data: Any, split: str, source: Any, shot_size: int | None) -> tuple[Path, ...]:
    """Writes the images, the instance crops and these as shots, unless they exist; returns their folders.

    Args:
      data: config.data.
      split: one of SPLITS.
      source: the source's function, (data, split) -> Dataset.
      shot_size: M of the shots, px; None: no shots.
    """
    opened: Dataset = source(data, split)
    images, settings = _prepared(data, split, "images")
    if not prepared.is_prepared(images):
        progress = functools.partial(progress_line, what=f"writing the {split} images")
        prepared.write_images(opened, images, settings, workers=data.workers, progress=progress)
    crops, settings = crops_folder(data, split)
    if not prepared.is_prepared(crops):
        cropped = crops_from_dataset(opened, data)
        progress = functools.partial(progress_line, what=f"cropping the {split} objects")
        prepared.write_crops(cropped, crops, settings, workers=data.workers, progress=progress)
    if shot_size is None:
        return images, crops
    shots, settings = shots_folder(data, split, shot_size)
    if not prepared.is_prepared(shots):
        progress = functools.partial(progress_line, what=f"resizing the {split} objects to shots")
        options = {"size": shot_size, "context": data.context, "workers": data.workers, "progress": progress}
        prepared.write_shots(prepared.open_crops(crops), shots, settings, **options)
    return images, crops, shots


def _prepared_or_load(data: Any, split: str) -> Dataset:
    folder, settings = _prepared(data, split, "images")
    if prepared.is_prepared(folder):
        opened = prepared.open_images(folder)._replace(
            truth=functools.partial(ground_truth.load, files(data, split)[0])
        )
        return with_novel(opened, data.novel_classes)
    tell_outdated(folder, settings)
    found = load(data, split)
    if data.source != "voc" and not data.more_images:  # else loading has checked each image
        _check_images(found, files(data, split)[1])
    return found


def _check_images(found: Dataset, folder: Path) -> None:
    """FileNotFoundError if images are missing: now, and not when training comes to the first of them."""
    wanted = [Path(i.file_name) for i in found.infos]
    folders = {w.parent for w in wanted}
    existing = {f: set(os.listdir(folder / f)) if (folder / f).is_dir() else set() for f in folders}
    missing = [str(w) for w in wanted if w.name not in existing[w.parent]]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(wanted)} images of {found.name} {found.split} are missing in {folder}, among them "
            f"{', '.join(missing[:3])}: put them there, or remove them from the json"
        )


def _prepared(data: Any, split: str, what: str, **more: Any) -> tuple[Path, dict[str, Any]]:
    settings: dict[str, Any] = {"source": data.source, "what": what, **more}
    if data.source in scenes.LEVELS:
        count = {"train": data.shapes_train, "support": data.shapes_support}.get(split, data.shapes_test)
        settings.update(split=split, seed=data.shapes_seed, count=count, shapes_version=scenes.VERSION)
    else:
        json_path, _ = files(data, split)
        split = _key(split)
        settings.update(split=split, json=json_path.name, json_digest=_file_digest(str(json_path)))
        if data.counts:  # a set that was prepared without the check must not be read with it
            settings["counts"] = data.counts
    if what != "images":
        settings.update(crop_margin=data.crop_margin, region_long_side=data.region_long_side, layout=CROPS_LAYOUT)
    return prepared.folder_of(data.root, f"{split}-{what}", settings), settings


def _key(split: str) -> str:
    """The split that is read: coco and custom sample shots from the training images."""
    read = {"train": "train", "support": "train", "test": "test"}
    if split not in read:
        raise ValueError(f"unknown split '{split}' of a COCO json: choose {', '.join(read)}")
    return read[split]


def files(data: Any, split: str) -> tuple[Path, Path]:
    """The json and the image folder of a split of a source that reads them; VOC's json is made on first use."""
    if data.source == "voc":
        if split != "test":
            raise ValueError(f"data.source=voc has only the split test, not '{split}': train on another data.source")
        progress = functools.partial(progress_line, what="reading the masks of VOC (only once)")
        return voc.coco_json(data.root, progress=progress), Path(data.root)
    names = {"train": (data.train_json, data.train_images), "test": (data.test_json, data.test_images)}
    json_name, folder = names[_key(split)]
    return Path(data.root) / json_name, Path(data.root) / folder


@functools.lru_cache(maxsize=8)
def _digest_of(path: str, size: int, changed: int) -> str:
    del size, changed  # arguments only so that a changed file is read again
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def _file_digest(path: str) -> str:
    state = Path(path).stat()
    return _digest_of(path, state.st_size, state.st_mtime_ns)


def progress_line(items: Sequence, what: str) -> Iterable:
    """Wraps a loop's items in a progress line on stderr."""
    return tqdm(items, desc=what, file=sys.stderr, mininterval=1.0)


SOURCES = {
    "shapes": functools.partial(open_shapes, level="shapes"),
    "shapes_hard": functools.partial(open_shapes, level="shapes_hard"),
    "coco": open_coco,
    "custom": open_coco,
    "voc": open_voc,
}
