"""Photos with mask files beside them, in one of two layouts.

One mask per object: `photo.jpg` and `photo_CLASS_1.png`, `photo_CLASS_2.png` ... in the same folder; the object is
where the mask is brighter than half of its largest value.

One folder per class: photos in the folder or in its `images`, masks in `masks/CLASS`, named `photo.png` or
`photo_1.png`, `photo_2.png` ... A mask of two values is one object. One of more values is an instance mask: 0 is
background, each other value is one object.

A mask has the size of its photo, as shown or as stored before the rotation that EXIF asks for.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from maskdiff_jax.data.formats import collected, images, segmentation

MAX_INSTANCES = 100  # of an instance mask; more values than that are a blurred edge

Masks = dict[Path, list[tuple[str, Path]]]  # photo -> class and file of each mask


def is_mask_files(folder: Path) -> bool:
    """Whether a folder has one of the two layouts."""
    return (folder / "masks").is_dir() or any(_pairs(folder).values())


def read(folder: Path) -> collected.Collected:
    """The objects of a folder of photos and masks.

    A photo without a mask has no object.

    Raises:
      ValueError: a mask is no image, has another size than its photo, belongs to no photo, or has too many values;
        there is no object.
    """
    notes: Counter = Counter()
    per_class = (folder / "masks").is_dir()
    found = [
        _read_image(photo, masks, per_class, notes)
        for photo, masks in (_class_folders(folder) if per_class else _pairs(folder)).items()
    ]
    return collected.collect("mask files", {"all": found}, notes)


def _pairs(folder: Path) -> Masks:
    """The photos of a folder; a PNG called PHOTO_CLASS_NUMBER.png is a mask of that photo."""
    files = collected.image_files(folder)
    stems = {p.stem for p in files}
    masks: dict[str, list[tuple[str, Path]]] = {}
    taken = set()
    for path in files:
        match = re.fullmatch(r"(.+)_\d+", path.stem)
        if path.suffix.lower() != ".png" or not match:
            continue
        cuts = [m.start() for m in re.finditer("_", match[1])]
        photo = next((match[1][:c] for c in reversed(cuts) if match[1][:c] in stems and match[1][c + 1 :]), None)
        if photo is not None:
            masks.setdefault(photo, []).append((match[1][len(photo) + 1 :], path))
            taken.add(path)
    return {p: masks.get(p.stem, []) for p in files if p not in taken}


def _class_folders(folder: Path) -> Masks:
    photos = collected.image_files(folder / "images" if (folder / "images").is_dir() else folder)
    found: Masks = {p: [] for p in photos}
    of_stem = {p.stem: p for p in photos}
    for class_folder in sorted(p for p in (folder / "masks").iterdir() if p.is_dir()):
        for path in collected.image_files(class_folder):
            photo = of_stem.get(path.stem) or of_stem.get(re.sub(r"_\d+$", "", path.stem))
            if photo is None:
                raise ValueError(
                    f"{path} belongs to no photo: give it the name of its photo, with _1, _2 ... at the end for "
                    "several objects"
                )
            found[photo].append((class_folder.name, path))
    if not any(found.values()):
        raise ValueError(f"{folder / 'masks'} needs a folder for each class, e.g. masks/cup/photo.png")
    return found


def _read_image(photo: Path, masks: list[tuple[str, Path]], per_class: bool, notes: Counter) -> collected.Annotated:
    size = images.read_size(photo)
    objects: list[tuple[str, Any]] = []
    for name, path in masks:
        values = _values(path, photo, size)
        distinct = np.unique(values)
        ids = distinct[distinct > 0]
        if per_class and len(distinct) > 2:
            if len(ids) > MAX_INSTANCES:
                raise ValueError(
                    f"{path} has {len(ids)} values: an instance mask has one value for each object, a mask of "
                    "one object has two; save it without smoothing, as PNG"
                )
            shapes = [segmentation.encode_mask(values == i) for i in ids]
        else:
            shapes = [segmentation.encode_mask(2 * values.astype(np.int64) > int(values.max()))]
        for shape in shapes:
            if collected.is_usable(shape, size.height, size.width, path.name, notes):
                objects.append((name, shape))
    return collected.Annotated(photo, size.height, size.width, objects)


def _values(path: Path, photo: Path, size: images.Size) -> np.ndarray:
    """The values of a mask file, [h, w], upright; of a mask in colors their largest channel."""
    image = collected.open_mask(path)
    values = np.asarray(image.convert("RGB") if image.mode in ("RGBA", "CMYK", "YCbCr") else image)
    if values.ndim == 3:
        values = values.max(-1) if image.mode != "LA" else values[..., 0]
    if values.shape == (size.height, size.width):
        return values
    if values.shape != size.stored:
        raise ValueError(
            f"{path} is {values.shape[1]} x {values.shape[0]} px, its photo {photo.name} {size.width} x "
            f"{size.height}: a mask must have the size of its photo"
        )
    return np.asarray(images.turned(values, size.orientation))
