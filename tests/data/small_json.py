"""A COCO-format json small enough to write down."""

from collections import Counter

import numpy as np

from maskdiff_jax.data.formats import coco
from maskdiff_jax.data.formats.segmentation import encode_mask

SQUARE = [2, 1, 6, 1, 6, 4, 2, 4]  # 4 x 3 px


def annotation(i=1, **more):
    return {"id": i, "image_id": 7, "category_id": 5, "bbox": [2, 1, 4, 3], "segmentation": [SQUARE], **more}


def load(paths):
    problems, examples = Counter(), {}
    dataset = coco.load(*paths, problems=problems, examples=examples)
    return dataset, +problems, examples


def without(entry, key):
    return {k: v for k, v in entry.items() if k != key}


IMAGE = {"id": 7, "file_name": "a.png", "width": 10, "height": 8}

UNLISTED_CATEGORY = "annotation of a category that is not listed (dropped)"


def odd_json():
    """What the loader drops or fixes and COCOeval reads all the same."""
    square = lambda x, y, n: [[x, y, x + n, y, x + n, y + n, x, y + n]]
    runs = np.zeros((100, 120), bool)
    runs[30:60, 70:90] = True
    of = lambda i, image, box, segmentation, area, **more: {
        "id": i, "image_id": image, "category_id": 1 + i % 2, "bbox": box, "segmentation": segmentation,
        "area": area, "iscrowd": 0,
    } | more  # fmt: skip
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 100, "width": 120} for i in (5, 9)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 4, "name": "unused"}],
        "annotations": [
            of(10, 5, [10, 10, 20, 20], square(10, 10, 20), 400.0),
            of(12, 5, [40, 10, 30, 0], square(40, 10, 10), 100.0),  # no height
            of(11, 5, [50, 50, 0.0, 0.0], square(50, 50, 40), 1600.0),  # no box at all
            of(20, 5, [-15, 80, 40, 30], square(-15, 80, 40), 750.0),  # reaches out
            of(21, 5, [-40, -40, 20, 20], square(-40, -40, 20), 400.0),  # outside
            of(22, 5, [60, 60, 10, 10], square(60, 60, 10), 5000.0),  # area of another class of size
            of(23, 5, [80, 10, 20, 20], square(80, 10, 20), 0),  # no area
            of(24, 5, [80, 40, 20, 20], square(80, 40, 20), -3),
            of(25, 5, [80, 40, 20, 20], square(80, 40, 20), 10**9),
            of(30, 9, [10, 10, 5, 5], [[10, 10, 10, 10, 10, 10]], 25),  # mask without a pixel
            of(32, 9, [0, 60, 120, 40], {"size": [100, 120], "counts": [12000]}, 9),  # likewise
            of(33, 9, [70, 30, 20, 30], encode_mask(runs), 600, iscrowd=1),
            of(34, 9, [10, 60, 0, 20], square(10, 60, 20), 400, iscrowd=1),  # degenerate crowd
            of(36, 9, [20, 20, 30, 30], [*square(20, 20, 30), [1, 1, 5, 5]], 900),  # a line beside a polygon
            of(38, 9, [50, 0, 40, 40], {"size": [50, 60], "counts": encode_mask(runs[:50, :60])["counts"]}, 90),
            of(39, 9, [5, 5, 30, 40], square(5, 5, 35), 1200),
            of(39, 9, [5, 5, 30, 40], square(5, 5, 35), 1200),  # the same again, counted twice
            of(0, 9, [60, 60, 20, 20], square(60, 60, 20), 400),
            of(40, 77, [5, 5, 9, 9], square(5, 5, 9), 81),  # an image that is not listed
        ],
    }  # fmt: skip
