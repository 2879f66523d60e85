"""Prepared datasets: whole images with their objects, and instance crops.

`shards` defines the files of a set. Its index.json has every annotation but no pixel, so that opening a set reads no
images (and floats stay float64, which TFDS' tf.Example files round). It is written by columns, which are read several
times faster than objects.
"""

import contextlib
import functools
import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskdiff_jax.data import crops as instance_crops
from maskdiff_jax.data import transforms
from maskdiff_jax.data.crops import CropInfos, Crops, select
from maskdiff_jax.data.dataset import Annotation, Category, Dataset, ImageInfo, encoded_image, subset
from maskdiff_jax.data.formats.images import decode_image
from maskdiff_jax.data.prepared import shards
from maskdiff_jax.data.prepared.shards import Plan, Shards, bytes_of, int_of
from maskdiff_jax.data.prepared.tfds_builders import InstanceCrops, InstanceShots, SceneImages

# a process holds a shard in memory before it is written: about 160 MB of COCO images, 200 MB of crops, 130 MB of shots
IMAGES_PER_SHARD = 1000
CROPS_PER_SHARD = 2000

folder_of = shards.folder_of
is_prepared = shards.is_prepared
outdated = shards.outdated


def write_images(
    dataset: Dataset,
    folder: Path,
    settings: dict[str, Any],
    *,
    workers: int = 0,
    progress: Callable[[Sequence], Iterable] = lambda x: x,
    per_shard: int = IMAGES_PER_SHARD,
) -> None:
    """Writes the images of `dataset` to `folder` (from `folder_of`), or what is missing of them.

    Every image is decoded once, so that a broken one is found now and not in training.

    Args:
      dataset: any; picklable with several workers.
      folder, settings, workers, progress: see `shards.write`.
      per_shard: images of a shard.

    Raises:
      ValueError, FileNotFoundError: an image cannot be read; names it.
      OSError: the disk is full, or a process died.
    """
    plan = Plan(SceneImages, len(dataset.infos), per_shard, functools.partial(_images_of, dataset))
    index = functools.partial(_image_index, dataset)
    shards.write(folder, settings, plan, index, workers=workers, progress=progress)


def open_images(folder: Path) -> Dataset:
    """The dataset that `write_images` wrote; ValueError if its files are damaged."""
    index, source = shards.open_shards(folder)
    with shards.named_damage(folder), _no_collection():
        infos = _infos(index["images"], index["annotations"])
        _check_count(len(infos), source)
        return Dataset(
            index["name"], index["split"], tuple(Category(*c) for c in index["categories"]), infos,
            read=functools.partial(_read_image, source), annotation_order=tuple(index["annotation_order"]),
            encoded=functools.partial(_encoded, source),
        )  # fmt: skip


def write_crops(
    crops: Crops,
    folder: Path,
    settings: dict[str, Any],
    *,
    workers: int = 0,
    progress: Callable[[Sequence], Iterable] = lambda x: x,
    per_shard: int = CROPS_PER_SHARD,
) -> None:
    """Writes crops to `folder`, as `write_images`; their pixels are stored without loss."""
    crops = crops._replace(infos=CropInfos.of(crops.infos))
    plan = Plan(InstanceCrops, len(crops.infos), per_shard, functools.partial(_crops_of, crops))
    index = functools.partial(_crop_index, crops)
    shards.write(folder, settings, plan, index, workers=workers, progress=progress)


def open_crops(folder: Path) -> Crops:
    """The crops that `write_crops` wrote; ValueError if its files are damaged."""
    index, source = shards.open_shards(folder)
    with shards.named_damage(folder):
        boxes = np.array(index["box"], np.float64).T
        infos = CropInfos(index["annotation_id"], index["image_id"], index["class_id"], boxes)
        _check_count(len(infos), source)
        categories = tuple(Category(*c) for c in index["categories"])
        return Crops(categories, infos, functools.partial(_read_crop, source))


def write_shots(
    crops: Crops,
    folder: Path,
    settings: dict[str, Any],
    *,
    size: int,
    context: float,
    workers: int = 0,
    progress: Callable[[Sequence], Iterable] = lambda x: x,
    per_shard: int = CROPS_PER_SHARD,
) -> None:
    """Writes crops as shots of `size` px to `folder`, as `write_images`: the result of `transforms.crop_shot` for each.

    Args:
      crops: any; picklable with several workers.
      folder, settings, workers, progress: see `shards.write`.
      size: M, px.
      context: margin on each side, as a share of the box's side (config.data.context).
      per_shard: shots of a shard.
    """
    infos = CropInfos.of(crops.infos)
    example = functools.partial(_shots_of, crops._replace(infos=infos), size, context)
    plan = Plan(InstanceShots, len(infos), per_shard, example)
    index = lambda: {"size": size, "context": context, "annotation_id": infos.annotation_ids.tolist()}
    shards.write(folder, settings, plan, index, workers=workers, progress=progress)


def open_shots(folder: Path, crops: Crops) -> Callable[[int], np.ndarray]:
    """Reads the object at a position of `crops` as a shot, uint8 [M, M, 4].

    Args:
      folder: of `write_shots`.
      crops: those that `write_shots` wrote.

    Raises:
      ValueError: the files are damaged, or of other crops.
    """
    index, source = shards.open_shards(folder)
    ids = CropInfos.of(crops.infos).annotation_ids
    with shards.named_damage(folder):
        if not np.array_equal(index["annotation_id"], ids):
            raise ValueError("its objects differ from those of the crops in the same folder")
        _check_count(len(ids), source)
        return functools.partial(_read_shot, source)


def _images_of(dataset: Dataset, start: int, stop: int) -> Callable[[int], dict]:
    """Makes the examples of a shard; what is pickled for it holds no more of the dataset than that."""
    members = subset(dataset, range(start, stop), dataset.infos[start:stop])
    return functools.partial(_image_example, members._replace(annotation_order=()))


def _crops_of(crops: Crops, start: int, stop: int) -> Callable[[int], dict]:
    return functools.partial(_crop_example, select(crops, range(start, stop)))


def _shots_of(crops: Crops, size: int, context: float, start: int, stop: int) -> Callable[[int], dict]:
    return functools.partial(_shot_example, select(crops, range(start, stop)), size, context)


def _image_example(dataset: Dataset, i: int) -> dict[str, Any]:
    info = dataset.infos[i]
    if dataset.encoded is not None:
        dataset.read(i)  # raises if the file is no image, or of another size than the annotations say
    return {
        "image": encoded_image(dataset, i),
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
        "pixels": instance_crops.encode(np.concatenate([rgb, mask[..., None]], -1)),
        "annotation_id": info.annotation_id,
        "image_id": info.image_id,
        "class_id": info.class_id,
        "box": info.box,
        "height": mask.shape[0],
        "width": mask.shape[1],
    }


def _shot_example(crops: Crops, size: int, context: float, i: int) -> dict[str, Any]:
    info, packed = crops.infos[i], transforms.pack(*crops.read(i))
    shot = transforms.crop_shot(packed, np.array(info.box), size, context)
    return {"pixels": instance_crops.encode(shot), "annotation_id": info.annotation_id, "size": size}


def _image_index(dataset: Dataset) -> dict[str, Any]:
    images, everything = dataset.infos, [a for info in dataset.infos for a in info.annotations]
    return {
        "name": dataset.name,
        "split": dataset.split,
        "categories": dataset.categories,
        "annotation_order": list(dataset.annotation_order),
        "images": {
            "id": [i.id for i in images],
            "file_name": [i.file_name for i in images],
            "height": [i.height for i in images],
            "width": [i.width for i in images],
            "annotations": [len(i.annotations) for i in images],
        },
        "annotations": {
            "id": [a.id for a in everything],
            "class_id": [a.class_id for a in everything],
            "box": [[a.box[k] for a in everything] for k in range(4)],
            "rle": [a.rle["counts"] for a in everything],  # of the image's size
            "area": [a.area for a in everything],
            "crowd": [a.crowd for a in everything],
            "ignore": [a.ignore for a in everything],
        },
    }


def _infos(images: dict[str, list], objects: dict[str, list]) -> list[ImageInfo]:
    columns = (objects[k] for k in ("id", "class_id", "rle", "area", "crowd", "ignore"))
    rows = zip(*columns, zip(*objects["box"], strict=True), strict=True)
    infos = []
    for image_id, name, height, width, count in zip(*images.values(), strict=True):
        size = [height, width]  # shared by the masks of an image: no copy is ever changed
        annotations = tuple(
            Annotation(i, image_id, class_id, box, {"size": size, "counts": counts}, area, crowd, ignore)
            for _, (i, class_id, counts, area, crowd, ignore, box) in zip(range(count), rows, strict=False)
        )
        infos.append(ImageInfo(image_id, name, height, width, annotations))
    return infos


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Pauses the garbage collector, which millions of new tuples would start again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _crop_index(crops: Crops) -> dict[str, Any]:
    infos = CropInfos.of(crops.infos)
    return {
        "categories": crops.categories,
        "annotation_id": infos.annotation_ids.tolist(),
        "image_id": infos.image_ids.tolist(),
        "class_id": infos.class_ids.tolist(),
        "box": infos.boxes.T.tolist(),
    }


def _read_image(source: Shards, i: int) -> np.ndarray:
    example = source[i]
    return decode_image(bytes_of(example, "image"), f"{bytes_of(example, 'file_name').decode()} (prepared)")


def _encoded(source: Shards, i: int) -> bytes:
    return bytes_of(source[i], "image")


def _read_crop(source: Shards, i: int) -> tuple[np.ndarray, np.ndarray]:
    example = source[i]
    pixels = instance_crops.decode(bytes_of(example, "pixels"), (int_of(example, "height"), int_of(example, "width")))
    return pixels[..., :3], pixels[..., 3]


def _read_shot(source: Shards, i: int) -> np.ndarray:
    example = source[i]
    size = int_of(example, "size")
    return instance_crops.decode(bytes_of(example, "pixels"), (size, size))


def _check_count(wanted: int, source: Shards) -> None:
    if wanted != len(source):
        raise ValueError(f"it has {len(source)} examples instead of {wanted}")
