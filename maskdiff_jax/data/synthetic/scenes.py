"""The embedded data set: scenes of simple shapes with exact masks, drawn from a seed.

Every scene depends on (level, split, seed, index) alone, so any of them can be drawn at any time and
nothing is shipped. Color, texture, size, aspect, rotation and place are drawn without looking at the
class. A mask holds the pixels of which the object covers at least half and that nothing above it
covers by half.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from maskdiff_jax.data.dataset import Annotation, Category, Dataset, ImageInfo
from maskdiff_jax.data.formats.segmentation import encode_mask
from maskdiff_jax.data.synthetic import outlines as art

VERSION = 1  # raise it whenever a scene comes out different: prepared sets of another version are left aside
NAMES = tuple(art.OUTLINES)  # category id = position + 1
NOVEL = ("star", "ring", "arrow", "crescent")
CATEGORIES = tuple(Category(k + 1, name, name in NOVEL) for k, name in enumerate(NAMES))
SPLITS = ("train", "support", "test")


class Level(NamedTuple):
    side: int  # px, of the square scene
    objects: tuple[float, ...]  # probability of 1, 2, .. objects
    size: tuple[float, float]  # px, longer side before it is turned; log-uniform
    min_side: int  # px, of the box of the visible part
    min_visible: float  # share of an object's area that the objects above it leave
    truncated: float  # probability that an object may reach out of the scene
    min_inside: float  # share of a truncated object's area inside the scene
    contrast: float  # OKLab distance of object and background, at least
    chroma: float  # of the background, at most
    lines: tuple[int, int]  # distractors per scene, from .. to
    blobs: tuple[int, int]
    blob_size: tuple[float, float]  # px
    twigs: int  # thin strokes across the objects, at most
    unlabeled_novel: float  # share of base scenes that hold novel objects without saying so


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
    inside: float  # share of it inside the scene


def scene(level: str, split: str, seed: int, index: int) -> tuple[np.ndarray, ImageInfo]:
    """Draws one scene: uint8 [side, side, 3] RGB and its annotations.

    In the split "train" only base classes are labeled (class ids keep their place among all 12).
    """
    look = LEVELS[level]
    place = SPLITS.index(split)
    rng = np.random.default_rng([seed, list(LEVELS).index(level), place, index])
    base = np.array([k for k, c in enumerate(CATEGORIES) if not c.novel])
    novel = np.array([k for k, c in enumerate(CATEGORIES) if c.novel])
    count = 1 + int(rng.choice(len(look.objects), p=look.objects))
    if split == "train":
        classes = rng.choice(base, count)
        if rng.random() < look.unlabeled_novel:
            hidden = rng.permutation(count)[: rng.integers(1, 3)]
            classes[hidden] = rng.choice(novel, len(hidden))
    else:
        classes = rng.choice(len(CATEGORIES), count)

    objects, owner = _arrange(rng, look, classes)
    image, owner = _paint(rng, look, objects, owner)

    image_id = place * 10_000_000 + index + 1
    annotations = []
    for k, thing in enumerate(objects):
        mask = owner == k
        if (split == "train" and CATEGORIES[thing.class_id].novel) or not mask.any():
            continue
        y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (float(x[0]), float(y[0]), float(x[-1] + 1), float(y[-1] + 1))
        annotations.append(
            Annotation(image_id * 10 + k, image_id, thing.class_id, box, encode_mask(mask), float(mask.sum()), False)
        )
    info = ImageInfo(image_id, f"{split}_{index:06d}.png", look.side, look.side, tuple(annotations))
    return image, info


def scenes(
    level: str, split: str, seed: int, count: int, *, progress: Callable[[Sequence], Iterable] = lambda x: x
) -> Dataset:
    """The first `count` scenes of a split, in memory; `progress` wraps the range that is walked."""
    drawn = [scene(level, split, seed, i) for i in progress(range(count))]
    images, infos = [d[0] for d in drawn], [d[1] for d in drawn]
    order = tuple(a.id for info in infos for a in info.annotations)
    return Dataset(level, split, CATEGORIES, infos, images.__getitem__, order)


def _arrange(rng: np.random.Generator, look: Level, classes: np.ndarray) -> tuple[list[_Object], np.ndarray]:
    """Finds a place for each object, later ones above earlier ones.

    Returns:
      The objects that found one, and int [side, side]: whose pixel it is, -1 = nobody's.
    """
    objects: list[_Object] = []
    owner = np.full((look.side, look.side), -1, np.int8)
    for class_id in classes:
        for _ in range(20):
            thing = _throw(rng, look, int(class_id))
            if thing is None:
                continue
            tried = owner.copy()
            _view(tried, thing)[thing.alpha >= 128] = len(objects)
            if all(_visible(tried == k, o, look) for k, o in enumerate([*objects, thing])):
                objects.append(thing)
                owner = tried
                break
    return objects, owner


def _throw(rng: np.random.Generator, look: Level, class_id: int) -> _Object | None:
    """An object of random size, aspect, rotation and place; None if too much of it is outside."""
    size = math.exp(rng.uniform(math.log(look.size[0]), math.log(look.size[1])))
    aspect = math.exp(rng.uniform(math.log(0.75), math.log(1 / 0.75)))
    angle = rng.uniform(0, 2 * math.pi)
    half = size / 2 if rng.random() >= look.truncated else 0.0
    center = rng.uniform(half, look.side - half, 2)
    stretch = size * np.array([min(aspect, 1.0), min(1 / aspect, 1.0)])
    alpha, (x, y) = art.coverage(art.place(art.OUTLINES[NAMES[class_id]], center, stretch, angle))
    whole = int((alpha >= 128).sum())
    x0, y0 = max(0, -x), max(0, -y)
    alpha = alpha[y0 : look.side - y, x0 : look.side - x]
    if alpha.size == 0:
        return None
    inside = int((alpha >= 128).sum()) / whole
    if inside < (1.0 if half else look.min_inside):
        return None
    return _Object(class_id, alpha, (x + x0, y + y0), whole, inside)


def _visible(mask: np.ndarray, thing: _Object, look: Level) -> bool:
    """Whether enough of an object is left, and none of its sides is too short."""
    pixels = int(mask.sum())
    if pixels < look.min_visible * thing.area * thing.inside:
        return False
    y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return min(x[-1] - x[0], y[-1] - y[0]) + 1 >= look.min_side


def _view(array: np.ndarray, thing: _Object) -> np.ndarray:
    """The pixels of a scene that the object's alpha lies on."""
    (x, y), (h, w) = thing.corner, thing.alpha.shape
    return array[y : y + h, x : x + w]


def _paint(
    rng: np.random.Generator, look: Level, objects: list[_Object], owner: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draws background, distractors, objects and, at the hard level, twigs over all of them.

    Returns:
      uint8 [side, side, 3], and `owner` without the pixels that twigs took.
    """
    side = look.side
    lightness = rng.uniform(0.2, 0.95)
    ground = np.array([lightness, rng.uniform(0.0, look.chroma), rng.uniform(0, 2 * math.pi)])
    canvas = _fill(rng, ground, rng.uniform(0.03, 0.12), side, side)

    for _ in range(rng.integers(*look.blobs, endpoint=True)):
        _stamp(rng, canvas, look, _blob(rng, look), ground)
    for _ in range(rng.integers(*look.lines, endpoint=True)):
        _stamp(rng, canvas, look, _stroke(rng, side, rng.uniform(8, 40), rng.uniform(0.8, 2.4)), ground)

    used = [ground]
    for thing in objects:
        color = _color(rng, used, look.contrast)
        used.append(color)
        paint = _fill(rng, color, rng.uniform(0.08, 0.2), *thing.alpha.shape, away_from=ground[0])
        _blend(_view(canvas, thing), paint, thing.alpha)

    for _ in range(rng.integers(0, look.twigs, endpoint=True)):
        covered = _stamp(rng, canvas, look, _stroke(rng, side, rng.uniform(40, 120), rng.uniform(1.5, 4)), ground)
        owner = np.where(covered, np.int8(-1), owner)

    u = np.linspace(-1, 1, side, dtype=np.float32)
    light = 1 + rng.uniform(-0.08, 0.08) * u[None, :] + rng.uniform(-0.08, 0.08) * u[:, None]
    grain = rng.normal(0, rng.uniform(0.5, 3.0), (side, side, 1)).astype(np.float32)
    return np.clip(canvas * light[..., None] + grain + 0.5, 0, 255).astype(np.uint8), owner


def _color(rng: np.random.Generator, used: list[np.ndarray], contrast: float) -> np.ndarray:
    """A vivid (lightness, chroma, hue) that stands out from the ground, used[0], and less from the others."""
    best, best_gap = used[0], -1.0
    for _ in range(30):
        color = np.array([rng.uniform(0.4, 0.88), rng.uniform(0.06, 0.2), rng.uniform(0, 2 * math.pi)])
        gaps = [art.color_distance(color, u) for u in used]
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
    """float32 [h, w, 3] RGB: a color and its lighter or darker sister in a random texture.

    Args:
      depth: how far the sister's lightness is off, 0..1.
      away_from: the sister's lightness moves away from this one.
    """
    texture = list(art.TEXTURES.values())[rng.integers(len(art.TEXTURES))](rng, height, width)[..., None]
    sign = rng.choice((-1.0, 1.0)) if away_from is None else (1.0 if color[0] > away_from else -1.0)
    sister = color + (sign * depth, rng.uniform(-0.03, 0.03), rng.uniform(-0.5, 0.5))
    sister[:2] = np.clip(sister[:2], (0.1, 0.0), (0.97, 0.25))
    first, second = art.oklab(color).astype(np.float32), art.oklab(sister).astype(np.float32)
    return first + texture * (second - first)


def _blob(rng: np.random.Generator, look: Level) -> art.Outline:
    """A small irregular stone, of no class."""
    n = int(rng.integers(5, 10))
    t = (np.arange(n) + rng.uniform(0, 0.6, n)) * (2 * math.pi / n)
    r = rng.uniform(*look.blob_size) * rng.uniform(0.5, 1.0, n)
    return [np.stack([r * np.cos(t), rng.uniform(0.4, 1) * r * np.sin(t)], -1) + rng.uniform(0, look.side, 2)]


def _stroke(rng: np.random.Generator, side: int, length: float, width: float) -> art.Outline:
    """A straight line, as a thin rectangle."""
    box = 0.5 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    return art.place([box], rng.uniform(0, side, 2), np.array([length, width]), rng.uniform(0, math.pi))


def _stamp(
    rng: np.random.Generator, canvas: np.ndarray, look: Level, outline: art.Outline, ground: np.ndarray
) -> np.ndarray:
    """Draws a distractor in a plain color; bool [side, side]: what it covers by half."""
    alpha, (x, y) = art.coverage(outline)
    x0, y0 = max(0, -x), max(0, -y)
    alpha = alpha[y0 : max(y0, look.side - y), x0 : max(x0, look.side - x)]
    x, y, (h, w) = x + x0, y + y0, alpha.shape
    covered = np.zeros(canvas.shape[:2], bool)
    if alpha.size:
        light = np.clip(ground[0] + rng.choice((-1, 1)) * rng.uniform(0.08, 0.3), 0.1, 0.97)
        color = np.array([light, rng.uniform(0, 0.12), rng.uniform(0, 2 * math.pi)])
        _blend(canvas[y : y + h, x : x + w], art.oklab(color).astype(np.float32), alpha)
        covered[y : y + h, x : x + w] = alpha >= 128
    return covered


def _blend(under: np.ndarray, over: np.ndarray, alpha: np.ndarray) -> None:
    """Lays `over` on the pixels of `under`, in place."""
    share = alpha[..., None].astype(np.float32) * np.float32(1 / 255)
    under += share * (over - under)
