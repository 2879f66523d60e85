"""A small COCO in the layout of TFA's split: photos, trainvalno5k.json, 5k.json; also COCO 2017's own split.

What is odd about COCO is here too: category ids with gaps, photos of val2014 among the training images, crowds in
uncompressed RLE with ids beyond 32 bits, gray photos, photos without objects, objects of a few pixels, a box of no
height.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from maskdiff_jax.data.formats import coco_splits
from tests.rehearsal import scenes

# height, width in px: the most frequent ones, a square, a panorama
SIZES = (
    (480, 640), (640, 480), (427, 640), (375, 500), (640, 427), (480, 640), (500, 375), (333, 500), (426, 640),
    (640, 640), (240, 640), (480, 640), (425, 640), (640, 480),
)  # fmt: skip
CATEGORY_IDS = list(coco_splits.CLASSES)
EACH = 12  # training photos that hold a class: TFA's sampler needs ten for K = 10, and a choice
PER_PHOTO = 6  # objects, in training
GRAY, TINY, TWICE, CROWD, EMPTY = 11, 3, 5, 9, 37  # every so many-th photo is or has one


def write(root: Path, *, test: int = 16, seed: int = 0) -> None:
    """Writes the photos and the jsons below ``root`` (datasets/coco).

    Args:
      root: need not be there.
      test: photos in 5k.json and in COCO 2017's val.
      seed: of everything.
    """
    rng = np.random.default_rng(seed)
    ids = iter(np.sort(rng.choice(581_929, 1000, replace=False) + 1).tolist())
    train = _Split(root, rng, ids)
    for k, classes in enumerate(_training_classes(rng)):
        train.add("train2014" if k % 3 else "val2014", classes)
    held_out = _Split(root, rng, ids)
    for _ in range(test):
        held_out.add("val2014", rng.integers(scenes.CLASSES, size=rng.integers(1, 9)).tolist())
    held_out.add_flat()
    _save(root / "cocosplit/datasplit/trainvalno5k.json", train.document())
    _save(root / "cocosplit/datasplit/5k.json", held_out.document())
    for year, split in (("train2017", train), ("val2017", held_out)):
        _save_as_2017(root, year, split)


def _training_classes(rng: np.random.Generator) -> Iterator[list[int]]:
    """Class ids of each training photo: every class in EACH photos, in some of them twice."""
    order = np.concatenate([rng.permutation(scenes.CLASSES) for _ in range(EACH)])
    for k, classes in enumerate(order.reshape(-1, PER_PHOTO).tolist()):
        if k % EMPTY == EMPTY - 1:
            yield []
        yield classes + classes[:1] * (k % TWICE == 0)


class _Split:
    """The images and annotations of one json as they are made."""

    def __init__(self, root: Path, rng: np.random.Generator, ids: Iterator[int]):
        self.root, self.rng, self.ids = root, rng, ids
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, folder: str, classes: list[int]) -> None:
        """A photo with objects of these classes, and its annotations."""
        k, rng, image_id = len(self.images), self.rng, next(self.ids)
        height, width = SIZES[k % len(SIZES)]
        sides = np.exp(rng.uniform(np.log(20), np.log(min(height, width) / 2.2), len(classes))).tolist()
        wanted = list(zip(classes, sides, strict=True))
        if k % TINY == TINY - 1 and classes:
            wanted.append((int(rng.integers(scenes.CLASSES)), 5.0))
        scene = scenes.make(rng, height, width, wanted)
        name = f"COCO_{folder}_{image_id:012d}.jpg"
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        scenes.save_jpeg(scene.image, self.root / folder / name, gray=k % GRAY == GRAY - 1)
        self.images.append({
            "license": 1, "file_name": name, "coco_url": "", "height": height, "width": width,
            "date_captured": "2013-11-14 17:02:52", "flickr_url": "", "id": image_id,
        })  # fmt: skip
        for n, thing in enumerate(scene.things):
            (x0, y0), (x1, y1) = thing.polygon.min(0), thing.polygon.max(0)
            self._annotate(
                image_id * 100 + n, image_id, thing.class_id, [x0, y0, x1 - x0, y1 - y0],
                scenes.mask(thing, height, width).sum(), [thing.polygon.ravel().tolist()],
            )  # fmt: skip
        if k % CROWD == CROWD - 1:
            self._add_crowd(image_id, height, width)

    def _add_crowd(self, image_id: int, height: int, width: int) -> None:
        """A region of many objects: a strip along the lower edge."""
        strip = np.zeros((height, width), bool)
        top, left = height - height // 8, width // 4
        strip[top:, left:] = True
        changes = np.flatnonzero(np.diff(strip.ravel("F"), prepend=False))
        counts = np.diff(changes, prepend=0, append=strip.size).tolist()
        self._annotate(
            900_100_000_000 + image_id, image_id, int(self.rng.integers(scenes.CLASSES)),
            [left, top, width - left, height - top], int(strip.sum()), {"counts": counts, "size": [height, width]},
        )  # fmt: skip

    def add_flat(self) -> None:
        """An object without a height in the last photo, as a few of COCO's are; pycocotools counts it."""
        identity = self.images[-1]["id"]
        self._annotate(identity * 100 + 99, identity, 0, [20.0, 30.0, 9.5, 0.0], 0.0, [[20, 30, 25, 30, 29.5, 30]])

    def _annotate(self, identity: int, image_id: int, class_id: int, box: list, area: float, segmentation: Any):
        self.annotations.append({
            "segmentation": segmentation, "area": float(area), "iscrowd": int(isinstance(segmentation, dict)),
            "image_id": image_id, "bbox": [round(float(v), 2) for v in box], "category_id": CATEGORY_IDS[class_id],
            "id": identity,
        })  # fmt: skip

    def document(self) -> dict[str, Any]:
        """The json; annotations are in no order, as in COCO's."""
        order = self.rng.permutation(len(self.annotations))
        return {
            "info": {"description": "generated, in the layout of COCO 2014"},
            "images": self.images,
            "licenses": [{"url": "", "id": 1, "name": "none"}],
            "annotations": [self.annotations[i] for i in order],
            "categories": [{"supercategory": "thing", "id": i, "name": n} for i, n in coco_splits.CLASSES.items()],
        }


def _save_as_2017(root: Path, year: str, split: _Split) -> None:
    """The same photos under the names that they have in COCO 2017."""
    (root / year).mkdir(exist_ok=True)
    images = []
    for image in split.images:
        old = image["file_name"]
        name = old.rsplit("_", 1)[1]
        os.link(root / old.split("_")[1] / old, root / year / name)
        images.append(image | {"file_name": name})
    _save(root / "annotations" / f"instances_{year}.json", split.document() | {"images": images})


def _save(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
