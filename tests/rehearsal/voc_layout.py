"""A small VOCdevkit: VOC2007 and VOC2012 with photos, label images, xml files and lists of the segmentation task."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from maskdiff_jax.data.formats import coco_splits, voc
from tests.rehearsal import scenes

SIZES = ((375, 500), (500, 375), (333, 500))  # height, width in px
TAKE_OVER = 2  # so many photos of 2007 are in VOC2012 again, as 2007_ + their name
RIM = 5  # px: void around objects, of a filter's side
CLASS_IDS = [list(coco_splits.CLASSES.values()).index(name) for name in voc.NAMES]  # of VOC's 1..20 among COCO's 80


def write(root: Path, *, each: int = 4, seed: int = 1) -> None:
    """Writes the devkit into ``root`` (datasets/VOCdevkit), with ``each`` separate photos per year."""
    rng = np.random.default_rng(seed)
    for year, names in (
        ("2007", [f"{n:06d}" for n in range(33, 33 + each)]),
        ("2012", [f"2008_{n:06d}" for n in range(1, 1 + each)]),
    ):
        for k, name in enumerate(names):
            height, width = SIZES[k % len(SIZES)]
            labels = rng.integers(1, 21, size=rng.integers(1, 4)).tolist()
            wanted = [(CLASS_IDS[label - 1], float(rng.uniform(60, 200))) for label in labels]
            scene = scenes.make(rng, height, width, wanted)
            _add(root, year, name, scene)
            if year == "2007" and k < TAKE_OVER:
                _add(root, "2012", f"2007_{name}", scene)


def _add(root: Path, year: str, name: str, scene: scenes.Scene) -> None:
    home = root / f"VOC{year}"
    for folder in ("JPEGImages", "Annotations", "SegmentationObject", "SegmentationClass", "ImageSets/Segmentation"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    scenes.save_jpeg(scene.image, home / "JPEGImages" / f"{name}.jpg")
    height, width = scene.image.shape[:2]
    objects, classes = np.zeros((2, height, width), np.uint8)
    for k, thing in enumerate(scene.things):
        mask = scenes.mask(thing, height, width)
        around = np.asarray(Image.fromarray(255 * mask).filter(ImageFilter.MaxFilter(RIM))) > 0
        for labels, value in ((objects, k + 1), (classes, CLASS_IDS.index(thing.class_id) + 1)):
            labels[around & (labels == 0)] = voc.VOID
            labels[mask > 0] = value
    for folder, labels in (("SegmentationObject", objects), ("SegmentationClass", classes)):
        image = Image.fromarray(labels)
        image.putpalette(_palette())
        image.save(home / folder / f"{name}.png")
    (home / "Annotations" / f"{name}.xml").write_text(_xml(name, scene))
    with open(home / "ImageSets/Segmentation/val.txt", "a") as file:
        file.write(f"{name}\n")


def _palette() -> list[int]:
    """VOC's 256 colors: the bits of an index, three by three from the lowest on, are the highest bits of r, g, b."""
    return [
        sum(((i >> (3 * place + channel)) & 1) << (7 - place) for place in range(8))
        for i in range(256)
        for channel in range(3)
    ]


def _xml(name: str, scene: scenes.Scene) -> str:
    height, width = scene.image.shape[:2]
    objects = ""
    for thing in scene.things:
        (x0, y0), (x1, y1) = thing.polygon.min(0), thing.polygon.max(0)
        box = f"<xmin>{x0:.0f}</xmin><ymin>{y0:.0f}</ymin><xmax>{x1:.0f}</xmax><ymax>{y1:.0f}</ymax>"
        objects += f"<object><name>{voc.NAMES[CLASS_IDS.index(thing.class_id)]}</name><bndbox>{box}</bndbox></object>"
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}.jpg</filename>{size}<segmented>1</segmented>{objects}</annotation>\n"
