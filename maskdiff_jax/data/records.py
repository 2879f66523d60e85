"""Prepared data sets: TFDS array_record files of whole images and of instance crops, without TensorFlow.

A prepared set is a folder of its own:

    settings.json    what it was made from; its digest is part of the folder's name
    index.json       every annotation but no pixel, so that opening a set reads no images (and floats
                     stay float64, which TFDS' tf.Example files round)
    dataset_info.json, features.json, *.array_record   the TFDS data set: encoded images, RLE text

The folder is written under another name and renamed when it is whole, so a set that has its name is
never half of one. A set made with other settings has another name: it is left aside, not read.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from maskdiff_jax.data import coco, transforms
from maskdiff_jax.data.coco import Annotation, Category, ImageInfo, Records

VERSION = 1  # of the layout of the files below


class CropInfo(NamedTuple):
    annotation_id: int
    image_id: int
    class_id: int  # 0..C-1
    box: tuple[float, float, float, float]  # xyxy, px of the crop


class Crops(NamedTuple):
    """Objects cut out of their images with a margin."""

    categories: tuple[Category, ...]
    infos: Sequence[CropInfo]
    read: Callable[[int], tuple[np.ndarray, np.ndarray]]  # position -> RGB uint8 [h, w, 3], mask uint8 [h, w]


class SceneImages(tfds.core.GeneratorBasedBuilder):
    """Whole images with their objects."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # tfds would look for checksums of downloads beside this file; nothing is downloaded

    def __init__(self, *, examples: Iterable[dict], **kwargs):
        self._examples = examples
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        f = tfds.features
        features = {
            "image": f.Image(shape=(None, None, 3)),
            "image_id": np.int64,
            "file_name": f.Text(),
            "height": np.int64,
            "width": np.int64,
            "objects": f.Sequence(
                {
                    "id": np.int64,
                    "class_id": np.int64,
                    "box": f.Tensor(shape=(4,), dtype=np.float32),  # xyxy, px
                    "area": np.float32,
                    "crowd": np.bool_,
                    "rle": f.Text(),  # counts; the size is height, width
                }
            ),
        }
        return tfds.core.DatasetInfo(builder=self, features=f.FeaturesDict(features), disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict:
        return {"data": self._generate_examples()}

    def _generate_examples(self) -> Iterable:
        yield from enumerate(self._examples)


class InstanceCrops(SceneImages):
    """One object each, cut out with a margin."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        f = tfds.features
        features = {
            "image": f.Image(shape=(None, None, 3)),
            "annotation_id": np.int64,
            "image_id": np.int64,
            "class_id": np.int64,
            "box": f.Tensor(shape=(4,), dtype=np.float32),  # xyxy, px of the crop
            "height": np.int64,
            "width": np.int64,
            "rle": f.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=f.FeaturesDict(features), disable_shuffling=True)


def folder_of(root: str | Path, name: str, settings: dict[str, Any]) -> Path:
    """Where the set of these settings lies in `root`, prepared or not."""
    return Path(root) / f"{name}-{_digest(settings)}"


def is_prepared(folder: Path) -> bool:
    return (folder / "settings.json").is_file()


def write_images(
    records: Records,
    folder: Path,
    settings: dict[str, Any],
    *,
    progress: Callable[[Sequence], Iterable] = lambda x: x,
) -> None:
    """Prepares the images of `records` in `folder` (from `folder_of`); `progress` wraps what is walked."""
    index = {
        "name": records.name,
        "split": records.split,
        "categories": records.categories,
        "infos": records.infos,
        "annotation_order": records.annotation_order,
    }
    examples = (_image_example(records, i) for i in progress(range(len(records.infos))))
    _write(SceneImages, examples, folder, settings, index)


def open_images(folder: Path) -> Records:
    """The records that `write_images` was given, read from its files; ValueError if they are damaged."""
    index, source = _open(folder)
    infos = [
        ImageInfo(*i[:4], tuple(Annotation(*a[:3], tuple(a[3]), *a[4:]) for a in i[4]))
        for i in index["infos"]
    ]
    _check_count(folder, len(infos), len(source))
    return Records(
        index["name"],
        index["split"],
        tuple(Category(*c) for c in index["categories"]),
        infos,
        read=functools.partial(_read_image, source),
        annotation_order=tuple(index["annotation_order"]),
        encoded=functools.partial(_encoded, source),
    )


def write_crops(
    crops: Crops,
    folder: Path,
    settings: dict[str, Any],
    *,
    progress: Callable[[Sequence], Iterable] = lambda x: x,
) -> None:
    """Prepares crops in `folder` (from `folder_of`); the pixels are kept as PNG, so nothing is lost."""
    index = {"categories": crops.categories, "infos": crops.infos}
    examples = (_crop_example(crops, i) for i in progress(range(len(crops.infos))))
    _write(InstanceCrops, examples, folder, settings, index)


def open_crops(folder: Path) -> Crops:
    """The crops that `write_crops` was given, read from its files; ValueError if they are damaged."""
    index, source = _open(folder)
    infos = [CropInfo(*i[:3], tuple(i[3])) for i in index["infos"]]
    _check_count(folder, len(infos), len(source))
    return Crops(
        tuple(Category(*c) for c in index["categories"]), infos, functools.partial(_read_crop, source)
    )


def crops_from_records(records: Records, data: Any) -> Crops:
    """Cuts the objects of `records` out of their images whenever one is read; equal to prepared crops.

    Crowd regions and ignored objects are left out; small objects are not (`select` does that).

    Args:
      records: any.
      data: config.data; `crop_margin` and `region_long_side` are read.
    """
    infos, positions, windows, masks = [], [], [], []
    for i, info in enumerate(records.infos):
        hw = (info.height, info.width)
        new_hw = transforms.region_hw(*hw, data.region_long_side)
        for a in info.annotations:
            if a.crowd or a.ignore:
                continue
            box = tuple(float(v) for v in transforms.scale_boxes(np.array([a.box]), hw, new_hw)[0])
            x0, y0, x1, y1 = transforms.crop_window(box, data.crop_margin, new_hw)
            inner = (box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0)
            infos.append(CropInfo(a.id, a.image_id, a.class_id, inner))
            positions.append(i)
            windows.append((x0, y0, x1, y1))
            masks.append(a.rle)
    read = functools.partial(_cut_crop, records.read, data.region_long_side, positions, windows, masks)
    return Crops(records.categories, infos, read)


def select(crops: Crops, positions: Sequence[int]) -> Crops:
    """The crops at `positions`."""
    where = np.asarray(positions, np.int64)
    infos = [crops.infos[i] for i in where]
    return crops._replace(infos=infos, read=functools.partial(_at, crops.read, where))


def _at(read: Callable, positions: np.ndarray, i: int) -> Any:
    return read(int(positions[i]))


def _cut_crop(
    read: Callable[[int], np.ndarray],
    long_side: int,
    positions: Sequence[int],
    windows: Sequence[tuple[int, int, int, int]],
    masks: Sequence[dict],
    i: int,
) -> tuple[np.ndarray, np.ndarray]:
    image, mask = read(positions[i]), coco.decode_mask(masks[i])
    hw = transforms.region_hw(*image.shape[:2], long_side)
    if hw != image.shape[:2]:
        image = transforms.resize(image, hw)
        mask = (transforms.resize(mask * np.uint8(255), hw) >= 128).astype(np.uint8)
    x0, y0, x1, y1 = windows[i]
    return np.ascontiguousarray(image[y0:y1, x0:x1]), np.ascontiguousarray(mask[y0:y1, x0:x1])


def _image_example(records: Records, i: int) -> dict[str, Any]:
    info = records.infos[i]
    return {
        "image": coco.encoded_image(records, i),
        "image_id": info.id,
        "file_name": info.file_name,
        "height": info.height,
        "width": info.width,
        "objects": [
            {
                "id": a.id,
                "class_id": a.class_id,
                "box": a.box,
                "area": a.area,
                "crowd": a.crowd,
                "rle": a.rle["counts"],
            }
            for a in info.annotations
        ],
    }


def _crop_example(crops: Crops, i: int) -> dict[str, Any]:
    info, (rgb, mask) = crops.infos[i], crops.read(i)
    return {
        "image": coco.png(rgb),
        "annotation_id": info.annotation_id,
        "image_id": info.image_id,
        "class_id": info.class_id,
        "box": info.box,
        "height": mask.shape[0],
        "width": mask.shape[1],
        "rle": coco.encode_mask(mask)["counts"],
    }


def _read_image(source: Any, i: int) -> np.ndarray:
    example = source[i]
    return coco.decode_image(example["image"], f"{example['file_name'].decode()} (prepared)")


def _encoded(source: Any, i: int) -> bytes:
    return source[i]["image"]


def _read_crop(source: Any, i: int) -> tuple[np.ndarray, np.ndarray]:
    example = source[i]
    rle = {"size": [int(example["height"]), int(example["width"])], "counts": example["rle"].decode()}
    where = f"of annotation {example['annotation_id']} (prepared crop)"
    return coco.decode_image(example["image"], where), coco.decode_mask(rle)


def _write(
    builder: type[SceneImages], examples: Iterable[dict], folder: Path, settings: dict, index: dict
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    tfds.disable_progress_bar()  # ours says what it is about
    # in the same folder as the result: a rename is only atomic inside one file system
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as temporary:
        made = builder(examples=examples, data_dir=temporary, file_format="array_record")
        with contextlib.redirect_stdout(io.StringIO()):  # it speaks of downloads
            made.download_and_prepare()
        whole = Path(made.data_dir)
        (whole / "index.json").write_text(json.dumps(index))
        (whole / "settings.json").write_text(json.dumps({**settings, "records_version": VERSION}, indent=1))
        try:
            os.rename(whole, folder)
        except OSError:
            if not is_prepared(folder):
                raise
            # another process was faster, with the same settings; its set is as good as ours


def _open(folder: Path) -> tuple[dict, Any]:
    try:
        index = json.loads((folder / "index.json").read_text())
        builder = tfds.builder_from_directory(str(folder))
        source = builder.as_data_source("data", decoders={"image": tfds.decode.SkipDecoding()})
    except Exception as error:  # whatever tfds, json or the file system say: the mend is the same
        raise ValueError(f"the prepared set {folder} is damaged ({error}): delete that folder") from error
    return index, source


def _check_count(folder: Path, wanted: int, found: int) -> None:
    if wanted != found:
        raise ValueError(
            f"the prepared set {folder} is damaged ({found} of {wanted} there): delete that folder"
        )


def _digest(settings: dict) -> str:
    text = json.dumps({**settings, "records_version": VERSION}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()
