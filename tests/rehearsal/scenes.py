"""Photos of COCO's sizes with textured shapes on them: what the generated COCO and VOC hold.

A class is an outline and a range of hues, so that 80 classes can be told apart. Objects do not overlap.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from maskdiff_jax.data.synthetic import outlines as art

CLASSES = 80
OUTLINES = list(art.OUTLINES.values())
TEXTURES = list(art.TEXTURES.values())
HUES = math.ceil(CLASSES / len(OUTLINES))
TRIES = 60  # places that are tried for an object


class Thing(NamedTuple):
    class_id: int  # 0..79
    polygon: np.ndarray  # [n, 2] x, y in px, inside the photo; a hole is reached by a slit


class Scene(NamedTuple):
    image: np.ndarray  # uint8 [h, w, 3]
    things: list[Thing]


def make(rng: np.random.Generator, height: int, width: int, wanted: Sequence[tuple[int, float]]) -> Scene:
    """A photo with an object of each wanted (class id, longer side in px).

    Raises:
      ValueError: there is no room for an object.
    """
    image = _paint(rng, np.array([rng.uniform(0.2, 0.9), 0.04, rng.uniform(0, 2 * math.pi)]), height, width)
    taken = np.zeros((height, width), bool)
    things = []
    for class_id, side in sorted(wanted, key=lambda w: -w[1]):  # the largest needs the most room
        outline = _free_place(rng, taken, class_id, side)
        alpha, (x, y) = art.coverage(outline)
        x0, y0 = max(0, -x), max(0, -y)
        alpha = alpha[y0 : height - y, x0 : width - x]
        inside = np.s_[y + y0 : y + y0 + alpha.shape[0], x + x0 : x + x0 + alpha.shape[1]]
        hue = (class_id // len(OUTLINES) + rng.uniform(-0.3, 0.3)) * 2 * math.pi / HUES
        paint = _paint(rng, np.array([rng.uniform(0.45, 0.85), 0.15, hue]), *alpha.shape)
        image[inside] += alpha[..., None] / 255.0 * (paint - image[inside])
        taken[inside] = True
        things.append(Thing(class_id, np.round(_slit(outline), 2)))
    image += rng.normal(0, 2, (height, width, 1))
    return Scene(np.clip(image + 0.5, 0, 255).astype(np.uint8), things)


def mask(thing: Thing, height: int, width: int) -> np.ndarray:
    """uint8 [h, w]: 1 inside the polygon, as pycocotools fills it."""
    return rle.decode(rle.frPyObjects([thing.polygon.ravel().tolist()], height, width))[..., 0]


def save_jpeg(image: np.ndarray, path: Path, *, gray: bool = False) -> None:
    """Writes a photo; ``gray``: with one channel, as some of COCO's are."""
    photo = Image.fromarray(image)
    (photo.convert("L") if gray else photo).save(path, quality=90)


def _free_place(rng: np.random.Generator, taken: np.ndarray, class_id: int, side: float) -> art.Outline:
    height, width = taken.shape
    side = min(side, 0.6 * min(height, width))
    for _ in range(TRIES):
        size = side * np.array([1.0, rng.uniform(0.75, 1.0)])
        center = rng.uniform(0, 1, 2) * (width, height)
        outline = art.place(OUTLINES[class_id % len(OUTLINES)], center, size, rng.uniform(0, 2 * math.pi))
        low, high = outline[0].min(0) - 2, outline[0].max(0) + 2
        if (low < 0).any() or (high > (width, height)).any():
            continue
        (x0, y0), (x1, y1) = np.floor(low).astype(int), np.ceil(high).astype(int)
        if not taken[y0:y1, x0:x1].any():
            return outline
        side = max(0.97 * side, 6.0)
    raise ValueError(f"no room for an object of class {class_id} in a photo of {width} x {height} px")


def _paint(rng: np.random.Generator, color: np.ndarray, height: int, width: int) -> np.ndarray:
    """float32 [h, w, 3] RGB: a color (OKLab lightness, chroma, hue) and a lighter or darker one in a texture."""
    other = color + (rng.choice((-0.12, 0.12)), 0.0, rng.uniform(-0.3, 0.3))
    texture = TEXTURES[rng.integers(len(TEXTURES))](rng, height, width)[..., None].astype(np.float32)
    first, second = (art.oklab(c).astype(np.float32) for c in (color, other))
    return first + texture * (second - first)


def _slit(outline: art.Outline) -> np.ndarray:
    """One polygon of an outline: COCO's polygons have no holes, so the way into one goes there and back."""
    parts = [np.concatenate([p, p[:1]]) for p in outline]
    return parts[0][:-1] if len(parts) == 1 else np.concatenate([parts[0], *(p[::-1] for p in parts[1:])])
