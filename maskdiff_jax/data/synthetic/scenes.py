"""The generated dataset: scenes of simple shapes with exact masks, rendered from a seed.

Every scene depends on (level, split, seed, index) alone, so any of them can be rendered at any time and no file is
shipped. Color, texture, size, aspect, rotation and position are random and independent of the class. The mask of an
object has the pixels of which it covers at least half and that nothing above it covers by half.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from maskdiff_jax.data.dataset import Annotation, Category, Dataset, ImageInfo
from maskdiff_jax.data.formats.segmentation import encode_mask
from maskdiff_jax.data.synthetic import outlines

VERSION = 2  # increase it whenever a scene changes: prepared sets of another version are not read
NAMES = tuple(outlines.OUTLINES)  # category id = position + 1
NOVEL = ("star", "ring", "arrow", "crescent")
CATEGORIES = tuple(Category(k + 1, name, name in NOVEL) for k, name in enumerate(NAMES))
SPLITS = ("train", "support", "val", "test")  # hyperparameters are chosen on "val"; tables report "test"


class Level(NamedTuple):
    side: int  # px, height and width of a scene
    objects: tuple[float, ...]  # probability of 1, 2, .. objects
    size: tuple[float, float]  # px, longer side before rotation; log-uniform
    min_side: int  # px, of the box of the visible part
    min_visible: float  # share of an object's area that the objects above it leave
    truncated: float  # probability that an object may extend beyond the scene
    min_inside: float  # share of a truncated object's area inside the scene
    contrast: float  # OKLab distance of object and background, at least
    chroma: float  # of the background, at most
    lines: tuple[int, int]  # distractors per scene, smallest and largest number
    blobs: tuple[int, int]
    blob_size: tuple[float, float]  # px
    twigs: int  # thin strokes across the objects, at most
    unlabeled_novel: float  # share of training scenes that have novel objects without annotations


LEVELS = {
    "shapes": Level(
        side=128, objects=(0.1, 0.2, 0.35, 0.35), size=(30, 66), min_side=24, min_visible=0.7,
        truncated=0.0, min_inside=1.0, contrast=0.26, chroma=0.05, lines=(0, 4), blobs=(0, 4),
        blob_size=(3, 8), twigs=0, unlabeled_novel=0.0,
    ),
    "shapes_hard": Level(
        side=160, objects=(0.05, 0.1, 0.15, 0.2, 0.25, 0.25), size=(24, 84), min_side=14, min_visible=0.4,
        truncated=0.35, min_inside=0.5, contrast=0.16, chroma=0.12, lines=(4, 14), blobs=(4, 14),
        blob_size=(4, 22), twigs=3, unlabeled_novel=0.3,
    ),
}  # fmt: skip


class _Object(NamedTuple):
    class_id: int
    alpha: np.ndarray  # uint8 [h, w], the part inside the scene
    corner: tuple[int, int]  # x, y of alpha's first pixel
    area: int  # px that the whole object covers by half, inside the scene or not
    inside: float  # share of the area inside the scene


def scene(level: str, split: str, seed: int, index: int) -> tuple[np.ndarray, ImageInfo]:
    """Renders one scene.

    Args:
      level: a key of LEVELS.
      split: one of SPLITS; in "train" only base classes have annotations (class ids are those of all 12 classes).
      seed: of the dataset.
      index: of the scene, 0 or more.

    Returns:
      uint8 [side, side, 3] RGB, and the annotations.
    """
    rules = LEVELS[level]
    place = SPLITS.index(split)
    rng = np.random.default_rng([seed, list(LEVELS).index(level), place, index])
    base = np.array([k for k, c in enumerate(CATEGORIES) if not c.novel])
    novel = np.array([k for k, c in enumerate(CATEGORIES) if c.novel])
    count = 1 + int(rng.choice(len(rules.objects), p=rules.objects))
    if split == "train":
        classes = rng.choice(base, count)
        if rng.random() < rules.unlabeled_novel:
            hidden = rng.permutation(count)[: rng.integers(1, 3)]
            classes[hidden] = rng.choice(novel, len(hidden))
    else:
        classes = rng.choice(len(CATEGORIES), count)

    objects, object_of = _arrange(rng, rules, classes)
    image, object_of = _paint(rng, rules, objects, object_of)

    image_id = place * 10_000_000 + index + 1
    annotations = []
    for k, obj in enumerate(objects):
        mask = object_of == k
        if (split == "train" and CATEGORIES[obj.class_id].novel) or not mask.any():
            continue
        y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (float(x[0]), float(y[0]), float(x[-1] + 1), float(y[-1] + 1))
        annotations.append(
            Annotation(image_id * 10 + k, image_id, obj.class_id, box, encode_mask(mask), float(mask.sum()), False)
        )
    info = ImageInfo(image_id, f"{split}_{index:06d}.png", rules.side, rules.side, tuple(annotations))
    return image, info


def scenes(
    level: str, split: str, seed: int, count: int, *, progress: Callable[[Sequence], Iterable] = lambda x: x
) -> Dataset:
    """The first `count` scenes of a split, in memory; `progress` wraps the range of scenes."""
    rendered = [scene(level, split, seed, i) for i in progress(range(count))]
    images, infos = [image for image, _ in rendered], [info for _, info in rendered]
    order = tuple(a.id for info in infos for a in info.annotations)
    return Dataset(level, split, CATEGORIES, infos, images.__getitem__, order)


def _arrange(rng: np.random.Generator, level: Level, classes: np.ndarray) -> tuple[list[_Object], np.ndarray]:
    """Finds a position for each object, later ones above earlier ones.

    Returns:
      The objects that have one, and int8 [side, side]: the object that each pixel shows, -1 for none.
    """
    objects: list[_Object] = []
    object_of = np.full((level.side, level.side), -1, np.int8)
    for class_id in classes:
        for _ in range(20):
            candidate = _random_object(rng, level, int(class_id))
            if candidate is None:
                continue
            tried = object_of.copy()
            _view(tried, candidate)[candidate.alpha >= 128] = len(objects)
            if all(_visible(tried == k, o, level) for k, o in enumerate([*objects, candidate])):
                objects.append(candidate)
                object_of = tried
                break
    return objects, object_of


def _random_object(rng: np.random.Generator, level: Level, class_id: int) -> _Object | None:
    """An object of random size, aspect, rotation and position; None if too much of it is outside the scene."""
    size = math.exp(rng.uniform(math.log(level.size[0]), math.log(level.size[1])))
    aspect = math.exp(rng.uniform(math.log(0.75), math.log(1 / 0.75)))
    angle = rng.uniform(0, 2 * math.pi)
    half = size / 2 if rng.random() >= level.truncated else 0.0
    center = rng.uniform(half, level.side - half, 2)
    stretch = size * np.array([min(aspect, 1.0), min(1 / aspect, 1.0)])
    alpha, (x, y) = outlines.coverage(outlines.place(outlines.OUTLINES[NAMES[class_id]], center, stretch, angle))
    whole = int((alpha >= 128).sum())
    x0, y0 = max(0, -x), max(0, -y)
    alpha = alpha[y0 : level.side - y, x0 : level.side - x]
    if alpha.size == 0:
        return None
    inside = int((alpha >= 128).sum()) / whole
    if inside < (1.0 if half else level.min_inside):
        return None
    return _Object(class_id, alpha, (x + x0, y + y0), whole, inside)


def _visible(mask: np.ndarray, obj: _Object, level: Level) -> bool:
    """Whether enough of an object is visible, and both sides of the visible box are long enough."""
    pixels = int(mask.sum())
    if pixels < level.min_visible * obj.area * obj.inside:
        return False
    y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return min(x[-1] - x[0], y[-1] - y[0]) + 1 >= level.min_side


def _view(array: np.ndarray, obj: _Object) -> np.ndarray:
    """The pixels of a scene below the object's alpha."""
    (x, y), (h, w) = obj.corner, obj.alpha.shape
    return array[y : y + h, x : x + w]


def _paint(
    rng: np.random.Generator, level: Level, objects: list[_Object], object_of: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Renders background, distractors, objects and, at the hard level, twigs above all of them.

    Returns:
      uint8 [side, side, 3], and `object_of` without the pixels that twigs cover.
    """
    side = level.side
    lightness = rng.uniform(0.2, 0.95)
    background = np.array([lightness, rng.uniform(0.0, level.chroma), rng.uniform(0, 2 * math.pi)])
    image = _fill(rng, background, rng.uniform(0.03, 0.12), side, side)

    for _ in range(rng.integers(*level.blobs, endpoint=True)):
        _stamp(rng, image, level, _blob(rng, level), background)
    for _ in range(rng.integers(*level.lines, endpoint=True)):
        _stamp(rng, image, level, _stroke(rng, side, rng.uniform(8, 40), rng.uniform(0.8, 2.4)), background)

    used = [background]
    for obj in objects:
        color = _color(rng, used, level.contrast)
        used.append(color)
        paint = _fill(rng, color, rng.uniform(0.08, 0.2), *obj.alpha.shape, away_from=background[0])
        _blend(_view(image, obj), paint, obj.alpha)

    for _ in range(rng.integers(0, level.twigs, endpoint=True)):
        covered = _stamp(rng, image, level, _stroke(rng, side, rng.uniform(40, 120), rng.uniform(1.5, 4)), background)
        object_of = np.where(covered, np.int8(-1), object_of)

    u = np.linspace(-1, 1, side, dtype=np.float32)
    light = 1 + rng.uniform(-0.08, 0.08) * u[None, :] + rng.uniform(-0.08, 0.08) * u[:, None]
    grain = rng.normal(0, rng.uniform(0.5, 3.0), (side, side, 1)).astype(np.float32)
    return np.clip(image * light[..., None] + grain + 0.5, 0, 255).astype(np.uint8), object_of


def _color(rng: np.random.Generator, used: list[np.ndarray], contrast: float) -> np.ndarray:
    """A vivid (lightness, chroma, hue) that differs from the background, used[0], and half as much from the others."""
    best, best_gap = used[0], -1.0
    for _ in range(30):
        color = np.array([rng.uniform(0.4, 0.88), rng.uniform(0.06, 0.2), rng.uniform(0, 2 * math.pi)])
        gaps = [outlines.color_distance(color, u) for u in used]
        gap = min(gaps[0] / contrast, *(g / (0.5 * contrast) for g in gaps[1:]), 1.0)
        if gap >= 1:
            return color
        if gap > best_gap:
            best, best_gap = color, gap
    return best


def _fill(
    rng: np.random.Generator,
    color: np.ndarray,
    depth: float,
    height: int,
    width: int,
    away_from: float | None = None,
) -> np.ndarray:
    """float32 [h, w, 3] RGB: a color and a lighter or darker one in a random texture.

    Args:
      rng: random number generator.
      color: (lightness, chroma, hue).
      depth: difference of the two lightnesses, 0..1.
      height: px.
      width: px.
      away_from: a lightness that the second color's is further from than the first's; None: at random.
    """
    texture = list(outlines.TEXTURES.values())[rng.integers(len(outlines.TEXTURES))](rng, height, width)[..., None]
    sign = rng.choice((-1.0, 1.0)) if away_from is None else (1.0 if color[0] > away_from else -1.0)
    second_color = color + (sign * depth, rng.uniform(-0.03, 0.03), rng.uniform(-0.5, 0.5))
    second_color[:2] = np.clip(second_color[:2], (0.1, 0.0), (0.97, 0.25))
    first, second = outlines.oklab(color).astype(np.float32), outlines.oklab(second_color).astype(np.float32)
    return first + texture * (second - first)


def _blob(rng: np.random.Generator, level: Level) -> outlines.Outline:
    """A small irregular polygon, a distractor."""
    n = int(rng.integers(5, 10))
    t = (np.arange(n) + rng.uniform(0, 0.6, n)) * (2 * math.pi / n)
    r = rng.uniform(*level.blob_size) * rng.uniform(0.5, 1.0, n)
    return [np.stack([r * np.cos(t), rng.uniform(0.4, 1) * r * np.sin(t)], -1) + rng.uniform(0, level.side, 2)]


def _stroke(rng: np.random.Generator, side: int, length: float, width: float) -> outlines.Outline:
    """A straight line as a thin rectangle."""
    box = 0.5 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    return outlines.place([box], rng.uniform(0, side, 2), np.array([length, width]), rng.uniform(0, math.pi))


def _stamp(
    rng: np.random.Generator, image: np.ndarray, level: Level, outline: outlines.Outline, background: np.ndarray
) -> np.ndarray:
    """Renders a distractor in a plain color; returns bool [side, side], the pixels that it covers by half."""
    alpha, (x, y) = outlines.coverage(outline)
    x0, y0 = max(0, -x), max(0, -y)
    alpha = alpha[y0 : max(y0, level.side - y), x0 : max(x0, level.side - x)]
    x, y, (h, w) = x + x0, y + y0, alpha.shape
    covered = np.zeros(image.shape[:2], bool)
    if alpha.size:
        light = np.clip(background[0] + rng.choice((-1, 1)) * rng.uniform(0.08, 0.3), 0.1, 0.97)
        color = np.array([light, rng.uniform(0, 0.12), rng.uniform(0, 2 * math.pi)])
        _blend(image[y : y + h, x : x + w], outlines.oklab(color).astype(np.float32), alpha)
        covered[y : y + h, x : x + w] = alpha >= 128
    return covered


def _blend(under: np.ndarray, over: np.ndarray, alpha: np.ndarray) -> None:
    """Blends `over` onto the pixels of `under`, in place."""
    share = alpha[..., None].astype(np.float32) * np.float32(1 / 255)
    under += share * (over - under)
