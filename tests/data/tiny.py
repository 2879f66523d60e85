"""A dataset small enough to write down."""

import numpy as np

from maskdiff_jax.data.dataset import Annotation, Category, Dataset, ImageInfo
from maskdiff_jax.data.formats.segmentation import encode_mask


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
    return Dataset("squares", "support", categories, infos, _picture, order)


def _picture(i):
    return np.random.default_rng(i).integers(0, 256, (40, 60, 3), np.uint8)
