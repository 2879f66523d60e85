"""Prepares stage 2 for an exported model: a dataset of its stored shots and the user's photos, and a run folder with
the model's weights, resized to the new number of classes.
"""

import difflib
import hashlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskdiff_jax import atomic, checkpoint, config_fields, workdir
from maskdiff_jax.data.dataset import Category, Dataset, ImageInfo, encoded_image, large_enough
from maskdiff_jax.data.formats import coco, recognize
from maskdiff_jax.inference import classes
from maskdiff_jax.inference.export import TrainedModel

DATA, START = "data", "start"  # folders that `write` makes
JSON, IMAGES, OWN = "train.json", "images", "own"  # in data/; photos of the user are in images/own
HELD_OUT, HELD_OUT_JSON = "held_out", "held_out.json"  # likewise, of those that are not trained on
HELD_OUT_PHOTOS = 100  # at most: each is segmented by two models


def read_photos(annotations: str | Path, images: str | Path | None) -> Dataset:
    """The user's annotated photos, without those of a validation or test split; see `read_splits`."""
    return read_splits(annotations, images)[0]


def read_splits(annotations: str | Path, images: str | Path | None) -> tuple[Dataset, Dataset | None]:
    """The user's annotated photos, and those of a validation or test split if there is one.

    Args:
      annotations: a COCO-format json, or a folder in another of the formats `recognize.FORMS`.
      images: the folder that the json's file names are relative to; None: where `recognize` finds them.

    Raises:
      FileNotFoundError: a file or an image is missing.
      ValueError: the format cannot be read; or an object has no usable mask; names it.
    """
    path = Path(annotations)
    if images is not None and path.is_file():
        return _checked(annotations, path, images), None
    source = recognize.read_annotations(path)
    documents = [source.documents[k] for k in ("all", "train", "test") if k in source.documents]
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for document in documents:
            atomic.write_json(Path(scratch) / JSON, document)
            found.append(_checked(annotations, Path(scratch) / JSON, source.image_dir))
    return found[0], found[1] if len(found) > 1 else None


def _checked(annotations: str | Path, path: Path, folder: str | Path) -> Dataset:
    """The dataset of a COCO-format json; `annotations` is what messages name."""
    problems: Counter = Counter()
    examples: dict[str, str] = {}
    dataset = coco.load(path, folder, name="photos", problems=problems, examples=examples)
    for kind, count in problems.items():
        if count and coco.DROPPED in kind:
            text = kind.replace(coco.DROPPED, "").strip()
            raise ValueError(
                f"{annotations}: {count} x {text} (first: {examples.get(kind, '')}): give every object an outline "
                "inside its photo, or remove it"
            )
    for i, info in enumerate(dataset.infos):
        if dataset.read(i).shape[:2] != (info.height, info.width):
            raise ValueError(f"{info.file_name} has another size than {annotations} says")
        if any(a.area >= info.height * info.width for a in info.annotations if a.is_target):
            raise ValueError(f"{info.file_name}: a mask covers the whole photo: outline only the object")
    return dataset


def fingerprint(*datasets: Dataset | None) -> str:
    """A hash of the annotations and images."""
    digest = hashlib.blake2b(digest_size=16)
    for photos in filter(None, datasets):
        digest.update(repr((photos.categories, list(photos.infos))).encode())
        for i in range(len(photos.infos)):
            digest.update(encoded_image(photos, i))
    return digest.hexdigest()


def check_can_adapt(trained: TrainedModel) -> None:
    """Whether stage 2 can add classes to an export.

    Raises:
      ValueError: it has no photos of its classes, or its mask head was distilled.
    """
    if trained.config.stage == "distill":
        raise ValueError(
            "the mask head of this export is distilled, and stage 2 would undo that: export the run that was "
            "distilled instead, with launch/export.py RUN --base_shots"
        )
    if trained.base_shots is None:
        raise ValueError(
            "the export keeps no photos of the classes it knows, which stage 2 needs: export the run again with "
            "launch/export.py RUN --base_shots"
        )


def new_classes(trained: TrainedModel, photos: Dataset) -> tuple[dict[str, int], list[str]]:
    """Objects of each class of the photos that the model does not know, and notes about names.

    Args:
      trained: the export, see `check_can_adapt`.
      photos: see `read_photos`.

    Raises:
      ValueError: there is no new class, an object is too small, or there is no photo of a class that the model knows.
    """
    known = [c.name for c in classes.active_only(trained).categories]
    counts = Counter(photos.categories[a.class_id].name for i in photos.infos for a in i.annotations if a.is_target)
    new = {c.name: counts[c.name] for c in photos.categories if counts[c.name] and c.name not in known}
    if not new:
        raise ValueError(
            f"no new class: the photos show {', '.join(sorted(counts)) or 'no object'}, and the model knows "
            f"{', '.join(known)}; give the class of your objects another name"
        )
    data = trained.config.data
    small = [
        f"{i.file_name} ('{photos.categories[a.class_id].name}')"
        for i in photos.infos
        for a in i.annotations
        if a.is_target and not large_enough(a, data.min_box_side, data.min_mask_area)
    ]
    if small:
        raise ValueError(
            f"{len(small)} objects are too small for this mask head, the first in {small[0]}: they need sides "
            f"of at least {data.min_box_side} px; remove them, or crop the photos to larger views of the "
            "objects"
        )
    _check_known(trained, counts)
    notes = []
    for name in new:
        near = [k for k in known if k.casefold() == name.casefold()] or difflib.get_close_matches(name, known, 1, 0.75)
        if near:
            notes.append(
                f"'{name}' becomes a new class; the model has '{near[0]}': rename your class if you mean the same"
            )
    return new, notes


def _check_known(trained: TrainedModel, counts: Counter) -> None:
    """Whether each class that the model has shots of is in the stored photos or in the user's.

    Raises:
      ValueError: stage 2 would forget a class; names it.
    """
    stored = trained.base_shots
    assert stored is not None, "check_can_adapt says so before"
    kept = {stored.categories[a.class_id].name for i in stored.infos for a in i.annotations if a.is_target}
    active = classes.active_only(trained)
    missing = [
        c.name
        for c, count in zip(active.categories, active.support.count, strict=True)
        if count and c.name not in kept and not counts[c.name]
    ]
    if missing:
        raise ValueError(
            f"stage 2 would forget {', '.join(missing)}: the model knows the class, but neither the export nor your "
            "annotations have an object of it (classes added in Python are stored without their photos); "
            "annotate objects of this class too, or remove it with remove_class"
        )


def choose_shots(new: dict[str, int], asked: int, slots: int, least: int) -> int:
    """K: what was asked for, or the number of objects of the rarest new class, at most `slots`.

    Args:
      new: objects of each new class.
      asked: K; 0: choose.
      slots, least: the most and the fewest shots that the mask head was trained with.

    Raises:
      ValueError: more than there are objects, or more or fewer than the mask head was trained with.
    """
    rarest = min(new, key=lambda name: new[name])
    shots = asked or min(new[rarest], slots)
    if shots > new[rarest]:
        raise ValueError(
            f"--shots={shots}, but there are only {new[rarest]} objects of '{rarest}': outline more objects, or "
            "give a smaller --shots"
        )
    if not max(1, least) <= shots <= slots:
        raise ValueError(
            f"{shots} shots, but this mask head was trained with {max(1, least)} to {slots} shots of a class"
        )
    return shots


def write(
    folder: Path, final: Path, trained: TrainedModel, photos: Dataset, new: Sequence[str],
    held_out: Dataset | None = None,
) -> None:  # fmt: skip
    """Writes `DATA`, a COCO-format dataset, and `START`, a run of stage 1 with the model's weights.

    Every class that the model knows is a base class there, also those that were novel before.

    Args:
      folder: where to write.
      final: where the folder will be; the config points there.
      trained: the export.
      photos: see `read_photos`; objects of known classes become more objects of these.
      new: names of the new classes, in the order of their ids.
      held_out: more photos, with the classes to check on; none of them is trained on.
    """
    trained = classes.active_only(trained)
    known = list(trained.categories)
    ids = itertools.count(max(c.id for c in known) + 1)
    categories = tuple(c._replace(novel=False) for c in known) + tuple(Category(next(ids), n, True) for n in new)
    assert trained.base_shots is not None, "check_can_adapt says so before"
    parts = (trained.base_shots, "stored"), (photos, OWN)
    coco.save(_merged(parts, categories), folder / DATA / JSON, folder / DATA / IMAGES)
    if held_out is not None:
        checked = _merged([(_some(held_out, HELD_OUT_PHOTOS), HELD_OUT)], categories)
        if checked.infos:
            coco.save(checked, folder / DATA / HELD_OUT_JSON, folder / DATA / IMAGES)
    grown = classes.resized(trained, np.append(np.arange(len(known)), [classes.NEW] * len(new)))
    config = config_fields.from_json(_start_config(grown.config, final / DATA, new))
    workdir.create(folder / START, config)
    checkpoint.save_params(workdir.weights_folder(folder / START), grown.params)


def _start_config(config: Any, data: Path, new: Sequence[str]) -> dict[str, Any]:
    document = workdir.as_json(config)
    document.update(stage="base", init_from="", detector_from="", base_method="", method="maskdiff")
    document["train"]["reset"] = []
    document["data"].update(
        source="custom", root=str(data.absolute()), train_json=JSON, train_images=IMAGES, test_json="",
        test_images=IMAGES, more_images=[], counts="", novel_classes=list(new),
    )  # fmt: skip
    return document


def _merged(parts: Iterable[tuple[Dataset, str]], categories: Sequence[Category]) -> Dataset:
    """The photos of several datasets that show one of the classes, each in its own folder."""
    position = {c.name: k for k, c in enumerate(categories)}
    annotation_ids, infos, sources = itertools.count(1), [], []
    for dataset, prefix in parts:
        for i, info in enumerate(dataset.infos):
            image_id, names = len(infos) + 1, [dataset.categories[a.class_id].name for a in info.annotations]
            kept = tuple(
                a._replace(id=next(annotation_ids), image_id=image_id, class_id=position[name])
                for a, name in zip(info.annotations, names, strict=True)
                if name in position
            )
            if kept:
                name = f"{prefix}/{i + 1:04}{Path(info.file_name).suffix}"
                infos.append(ImageInfo(image_id, name, info.height, info.width, kept))
                sources.append((dataset, i))
    return Dataset(
        "adapt", "train", tuple(categories), infos,
        read=lambda i: sources[i][0].read(sources[i][1]),
        encoded=lambda i: encoded_image(*sources[i]),
    )  # fmt: skip


def _some(photos: Dataset, most: int) -> Dataset:
    """At most so many of the photos, evenly spaced."""
    chosen = np.linspace(0, len(photos.infos) - 1, min(most, len(photos.infos))).round().astype(int).tolist()
    return photos._replace(
        infos=[photos.infos[i] for i in chosen],
        read=lambda i: photos.read(chosen[i]),
        encoded=lambda i: encoded_image(photos, chosen[i]),
    )


def open_data(folder: Path) -> Dataset:
    """The dataset that `write` made."""
    return coco.load(folder / DATA / JSON, folder / DATA / IMAGES)


def open_held_out(folder: Path) -> Dataset | None:
    """The photos that `write` kept for the check; None: there are none."""
    path = folder / DATA / HELD_OUT_JSON
    return coco.load(path, folder / DATA / IMAGES) if path.is_file() else None


def is_own(info: ImageInfo) -> bool:
    """Whether an image of `open_data` is one of the user's photos."""
    return info.file_name.startswith(f"{OWN}/")
