"""docs/photos.png: objects of median mask IoU, their true masks, what each method samples, and the shots."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.studies.mask_scores import THRESHOLD, Data, compared, in_image, in_region, iou
from maskdiff_jax.data import pipeline
from maskdiff_jax.data.support import make_support_set

PER_KIND = 5  # objects of base classes, and of novel classes
SHOTS = 3  # that are shown
SMALLEST = 32**2  # px of the mask: COCO's "medium" and "large" objects, smaller ones are a blur
# of COCO's json, those that allow to show a part of a photo
LICENSES = {4: "CC BY 2.0", 5: "CC BY-SA 2.0", 7: "no known copyright restrictions", 8: "US government work"}
SIDE, GAP, HEAD, FOOT = 80, 6, 46, 14  # px


class Shown(NamedTuple):
    """An object in its region; masks are on the region's own grid."""

    image_id: int
    class_id: int
    area: float  # px of the image
    region: np.ndarray  # uint8 [M, M, 3]
    true: np.ndarray  # bool [M, M]
    soft: np.ndarray  # [M, M] in 0..1
    ious: dict[float, float]  # threshold of the soft mask -> IoU at the image's size, 0..1


def render(
    data: Data, found: dict[str, dict[int, Shown]], images: dict[int, dict[str, Any]], path: Path
) -> dict[str, list]:
    """Renders the objects whose IoU by the first method is nearest to the median of their kind.

    Args:
      data: the photos.
      found: method -> what `sampled_objects` returns.
      images: image id -> its entry in COCO's json, of all photos; `license` and `flickr_url` are read.
      path: of the figure.

    Returns:
      "objects" from top to bottom: image id, class, and IoU of each method (0..1); "photos" of them and of the shots:
      image id, address and license.
    """
    first = next(iter(found))
    kinds = [
        [
            key for key, x in found[first].items()
            if data.test.categories[x.class_id].novel == novel and x.area >= SMALLEST
            and images[x.image_id]["license"] in LICENSES
        ]
        for novel in (False, True)
    ]  # fmt: skip
    chosen = [
        key for keys in kinds for key in nearest_to_median({k: found[first][k].ious[THRESHOLD] for k in keys}, PER_KIND)
    ]
    rows = [[found[name][key] for name in found] for key in chosen]
    shots = {row[0].class_id: free_shots(data, row[0].class_id, images) for row in rows}
    paint(rows, list(found), data, {class_id: pixels for class_id, (pixels, _) in shots.items()}, path)
    objects = [
        {
            "image_id": row[0].image_id,
            "class": data.test.categories[row[0].class_id].name,
            "iou": {name: round(x.ious[THRESHOLD], 4) for name, x in zip(found, row, strict=True)},
        }
        for row in rows
    ]
    used = {row[0].image_id for row in rows} | {i for _, photos in shots.values() for i in photos}
    photos = [
        {"image_id": i, "url": images[i]["flickr_url"], "license": LICENSES[images[i]["license"]]} for i in sorted(used)
    ]
    return {"objects": objects, "photos": photos}


def sampled_objects(data: Data, params: Any, sampling: dict[str, Any], thresholds: Sequence[float]) -> dict[int, Shown]:
    """Every object that is scored, by annotation id."""
    found = {}
    for c in compared(data, params, sampling):
        true = in_region(c.true, c.soft.shape, c.around)
        ious = {t: iou(c.true, in_image(c.soft, c.around, c.true.shape, t)) for t in thresholds}
        a = c.annotation
        found[a.id] = Shown(a.image_id, a.class_id, a.area, c.region, true, c.soft, ious)
    return found


def nearest_to_median(values: dict[int, float], count: int) -> list[int]:
    """The `count` keys in the middle of the order of their values, ascending."""
    order = sorted(values, key=lambda key: (values[key], key))
    start = max(0, (len(order) - count) // 2)
    return order[start : start + count]


def free_shots(data: Data, class_id: int, images: dict[int, dict[str, Any]]) -> tuple[np.ndarray, list[int]]:
    """The first SHOTS shots of a class that may be shown, uint8 [n, M, M, 4], and the ids of their photos."""
    split = pipeline.open_split(data.config.data, "support")
    image_of = {a.id: a.image_id for info in split.infos for a in info.annotations}
    shot_set, support = make_support_set(data.config, split)
    photos = [image_of[shot] for shot in shot_set[class_id]]
    free = [slot for slot, photo in enumerate(photos) if images[photo]["license"] in LICENSES][:SHOTS]
    return support.shots[class_id, free], [photos[slot] for slot in free]


def paint(rows: list[list[Shown]], names: list[str], data: Data, shots: dict[int, np.ndarray], path: Path) -> None:
    """One row for each object: region, true mask, each method's mask with its IoU, shots [n, M, M, 4] of its class."""
    titles = ["region", "true mask", *names, "shots"]
    columns = 2 + len(names) + SHOTS
    step = SIDE + FOOT + GAP
    page = Image.new("RGB", ((SIDE + GAP) * columns + GAP, step * len(rows) + HEAD), "white")
    pen = ImageDraw.Draw(page)
    for x, title in enumerate(titles):
        lines = title.replace(", ", ",\n")
        pen.multiline_text((GAP + x * (SIDE + GAP), 2), lines, "black", font_size=12, spacing=1)
    for y, row in enumerate(rows):
        category = data.test.categories[row[0].class_id]
        cells = [
            (row[0].region, f"{category.name}, {'novel' if category.novel else 'base'}"),
            (row[0].true, ""),
            *((x.soft >= THRESHOLD, f"IoU {100 * x.ious[THRESHOLD]:.0f}") for x in row),
            *((on_gray(shot), "") for shot in shots[row[0].class_id]),
        ]
        for x, (pixels, text) in enumerate(cells):
            corner = (GAP + x * (SIDE + GAP), HEAD + y * step)
            array = pixels * np.uint8(255) if pixels.dtype == bool else pixels
            page.paste(Image.fromarray(array).resize((SIDE, SIDE), Image.Resampling.BILINEAR).convert("RGB"), corner)
            pen.text((corner[0], corner[1] + SIDE), text, "black", font_size=11)
    page.quantize(128).save(path, optimize=True)


def on_gray(shot: np.ndarray) -> np.ndarray:
    """A shot [M, M, 4] as the mask head sees it, uint8 [M, M, 3]: gray where the object is not."""
    alpha = shot[..., 3:] / 255.0
    return np.round(shot[..., :3] * alpha + 127.5 * (1 - alpha)).astype(np.uint8)
