"""Outlines, colors and textures of the generated scenes; everything random comes from a numpy generator.

An outline is a list of closed polygons [n, 2] (x right, y down) in a square of side 1 around 0; the first is filled,
the others are holes. Coverages are uint8 [h, w], 255 where the whole pixel is inside.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

OVERSAMPLE = 4  # coverage is computed from a grid of 4 x 4 points per pixel

Outline = list[np.ndarray]


def _polygon(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, np.float64)


def _arc(radius: float, start: float, stop: float, n: int, x: float = 0.0) -> np.ndarray:
    t = np.linspace(start, stop, n)
    return np.stack([x + radius * np.cos(t), radius * np.sin(t)], -1)


def _circle() -> Outline:
    return [_arc(1.0, 0.0, 2 * math.pi, 64)[:-1]]


def _square() -> Outline:
    return [_polygon((-1, -1), (1, -1), (1, 1), (-1, 1))]


def _triangle() -> Outline:
    return [_polygon((0, -1), (1.1, 0.9), (-1.1, 0.9))]


def _cross() -> Outline:
    a = 0.34  # half the width of an arm
    return [
        _polygon(
            (-a, -1),
            (a, -1),
            (a, -a),
            (1, -a),
            (1, a),
            (a, a),
            (a, 1),
            (-a, 1),
            (-a, a),
            (-1, a),
            (-1, -a),
            (-a, -a),
        )
    ]


def _heart() -> Outline:
    t = np.linspace(0, 2 * math.pi, 72)[:-1]
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return [np.stack([x, y], -1)]


def _drop() -> Outline:
    t = np.linspace(0, 2 * math.pi, 72)[:-1]
    return [np.stack([0.95 * np.sin(t) * np.abs(np.sin(t / 2)) ** 1.7, -np.cos(t)], -1)]


def _bolt() -> Outline:
    return [_polygon((0.25, -1), (-0.75, 0.2), (-0.12, 0.2), (-0.35, 1), (0.75, -0.28), (0.12, -0.28), (0.65, -1))]


def _frame() -> Outline:
    return [_square()[0], 0.54 * _square()[0]]


def _star() -> Outline:
    t = np.arange(10) * math.pi / 5 - math.pi / 2
    r = np.where(np.arange(10) % 2, 0.45, 1.0)
    return [np.stack([r * np.cos(t), r * np.sin(t)], -1)]


def _ring() -> Outline:
    return [_circle()[0], 0.56 * _circle()[0]]


def _arrow() -> Outline:
    return [_polygon((0, -1), (0.85, -0.1), (0.32, -0.1), (0.32, 1), (-0.32, 1), (-0.32, -0.1), (-0.85, -0.1))]


def _crescent() -> Outline:
    """A disc without a slightly smaller disc to its right; the tips are where the two circles meet."""
    shift, inner = 0.5, 0.8
    x = (1 - inner**2 + shift**2) / (2 * shift)
    tip, inner_tip = math.acos(x), math.acos((x - shift) / inner)
    outer = _arc(1.0, tip, 2 * math.pi - tip, 48)
    return [np.concatenate([outer, _arc(inner, 2 * math.pi - inner_tip, inner_tip, 40, shift)[1:-1]])]


def _centered(outline: Callable[[], Outline]) -> Outline:
    """The outline with the center of its box at 0 and a longer side of 1."""
    polygons = outline()
    low, high = polygons[0].min(0), polygons[0].max(0)
    return [(p - (low + high) / 2) / (high - low).max() for p in polygons]


# no two of them become equal by rotation and an aspect between 3:4 and 4:3
OUTLINES = {
    "circle": _centered(_circle), "square": _centered(_square), "triangle": _centered(_triangle),
    "cross": _centered(_cross), "heart": _centered(_heart), "drop": _centered(_drop),
    "bolt": _centered(_bolt), "frame": _centered(_frame),
    "star": _centered(_star), "ring": _centered(_ring), "arrow": _centered(_arrow),
    "crescent": _centered(_crescent),
}  # fmt: skip


def place(outline: Outline, center: np.ndarray, size: np.ndarray, angle: float) -> Outline:
    """An outline in px: stretched to `size` (along x, y), then rotated by `angle` (radians), then moved to `center`."""
    c, s = math.cos(angle), math.sin(angle)
    rotation = np.array([[c, s], [-s, c]])
    return [(p * size) @ rotation + center for p in outline]


def coverage(outline: Outline) -> tuple[np.ndarray, tuple[int, int]]:
    """Antialiased coverage of an outline in px, complete even where it leaves the scene.

    Returns:
      uint8 [h, w] and the (x, y) of its top left pixel.
    """
    low = np.floor(outline[0].min(0)).astype(int) - 1
    size = np.ceil(outline[0].max(0)).astype(int) + 1 - low
    points = Image.new("L", tuple(int(s) * OVERSAMPLE for s in size))
    pen = ImageDraw.Draw(points)
    for k, polygon in enumerate(outline):
        # PIL rounds vertices down to whole points and fills the border too: about 1/8 px too large, centered
        pen.polygon(((polygon - low) * OVERSAMPLE).ravel().tolist(), fill=0 if k else 255)
    return np.asarray(points.reduce(OVERSAMPLE)), (int(low[0]), int(low[1]))


def oklab(color: np.ndarray) -> np.ndarray:
    """OKLab (lightness, chroma, hue in radians) -> sRGB 0..255, clipped (bottosson.github.io/posts/oklab)."""
    light, chroma, hue = color
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    lms = np.array(
        [
            light + 0.3963377774 * a + 0.2158037573 * b,
            light - 0.1055613458 * a - 0.0638541728 * b,
            light - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    linear = _LMS_TO_RGB @ lms**3
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def color_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Perceived difference of two (lightness, chroma, hue); black to white is 1."""
    xy = [c[1] * np.array([math.cos(c[2]), math.sin(c[2])]) for c in (first, second)]
    return math.hypot(first[0] - second[0], *(xy[0] - xy[1]))


# Textures: (rng, height, width) -> [h, w] in 0..1, the share of the second color.


def _grid(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in px along two axes of a random direction."""
    angle = rng.uniform(0, math.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x


def _solid(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return np.zeros((height, width), np.float32)


def _gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    u, _ = _grid(rng, height, width)
    return (u - u.min()) / (np.ptp(u) + 1e-6)


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    u, _ = _grid(rng, height, width)
    period, phase = rng.uniform(6, 14), rng.uniform(0, 2 * math.pi)
    # a sine, clipped so that its slopes are about one pixel wide
    return np.clip(0.5 + period / 6 * np.sin(u * (2 * math.pi / period) + phase), 0, 1)


def _dots(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    u, v = _grid(rng, height, width)
    period, radius = rng.uniform(7, 12), rng.uniform(0.22, 0.34)
    shift = rng.uniform(0, period, 2)
    du = (u + shift[0]) % period - period / 2
    dv = (v + shift[1]) % period - period / 2
    return np.clip(radius * period + 0.5 - np.hypot(du, dv), 0, 1)


def _checks(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    u, v = _grid(rng, height, width)
    f = math.pi / rng.uniform(5, 9)
    phase = rng.uniform(0, 2 * math.pi, 2)
    return np.clip(0.5 + 1.2 / f * np.sin(u * f + phase[0]) * np.sin(v * f + phase[1]), 0, 1)


def _clouds(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    cell = rng.uniform(6, 16)
    size = max(2, int(width / cell) + 2), max(2, int(height / cell) + 2)
    coarse = Image.fromarray(rng.random((size[1], size[0]), np.float32))
    return np.clip(np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) * 1.6 - 0.3, 0, 1)


def _speckle(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return rng.random((height, width), np.float32) ** 2


TEXTURES = {
    "solid": _solid, "gradient": _gradient, "stripes": _stripes, "dots": _dots,
    "checks": _checks, "clouds": _clouds, "speckle": _speckle,
}  # fmt: skip
