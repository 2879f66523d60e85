"""Datasets and crops small enough to write down, and comparisons."""

import json

import numpy as np

from maskdiff_jax.data import pipeline
from maskdiff_jax.data.crops import CropInfo, Crops
from maskdiff_jax.data.dataset import Annotation, Category, Dataset, ImageInfo
from maskdiff_jax.data.formats.segmentation import encode_mask
from maskdiff_jax.data.prepared import shards


def squares(*images, classes=3, order=()):
    """Dataset of images given as lists of (annotation id, class id); each object is a square of 10 px."""
    infos = []
    for i, objects in enumerate(images):
        annotations = []
        for k, (annotation_id, class_id) in enumerate(objects):
            mask = np.zeros((40, 60), np.uint8)
            mask[5:15, 10 * k : 10 * k + 10] = 1
            box = (10.0 * k, 5.0, 10.0 * k + 10, 15.0)
            rle = encode_mask(mask)
            annotations.append(Annotation(annotation_id, i + 1, class_id, box, rle, 100.0, False))
        infos.append(ImageInfo(i + 1, f"{i}.png", 40, 60, tuple(annotations)))
    categories = tuple(Category(10 * (c + 1), "abcdefgh"[c], c == 2) for c in range(classes))
    return Dataset("squares", "support", categories, infos, _pixels, order)


def _pixels(i):
    return np.random.default_rng(i).integers(0, 256, (40, 60, 3), np.uint8)


def mask_loader(crops, data, seed=0, **options):
    options = {"slots": 5, "min_shots": 1, "size": 16, "batch": 8} | options
    return pipeline.mask_loader(crops, data, seed=seed, **options)


def photos(sizes, crowd=False):
    """Dataset of images of one color and of (height, width), each with one object in its left half."""
    infos = []
    for i, (h, w) in enumerate(sizes):
        mask = np.zeros((h, w), np.uint8)
        mask[: h // 2, : w // 2] = 1
        box = (0.0, 0.0, float(w // 2), float(h // 2))
        annotation = Annotation(i + 1, i + 1, 0, box, encode_mask(mask), float(mask.sum()), crowd)
        infos.append(ImageInfo(i + 1, "", h, w, (annotation,)))
    return Dataset(
        "photos", "train", (Category(1, "thing", False),), infos,
        read=lambda i: np.full((*sizes[i], 3), i + 1, np.uint8),
    )  # fmt: skip


def plain_crops(classes, side=20):
    """Crops of one color each, so that a batch tells which they are; the object fills the middle."""

    def read(i):
        mask = np.zeros((side, side), np.uint8)
        mask[5:15, 5:12] = 1
        mask[5:10, 12:15] = 1  # no symmetry
        return np.full((side, side, 3), 3 * i + 1, np.uint8), mask

    infos = [CropInfo(i, i, c, (5.0, 5.0, 15.0, 15.0)) for i, c in enumerate(classes)]
    return Crops((), infos, read)


def assert_same(first: Dataset, second: Dataset):
    assert list(first.infos) == list(second.infos)
    assert first.categories == second.categories
    assert tuple(first.annotation_order) == tuple(second.annotation_order)
    for i in range(len(first.infos)):
        np.testing.assert_array_equal(first.read(i), second.read(i))


def rewrite_index(folder, index):
    """Another index with the right checksum, as an earlier program with a bug could have written it."""
    text = json.dumps(index).encode()
    (folder / "index.json").write_bytes(text)
    settings = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps(settings | {"index_digest": shards._digest(text)}))
