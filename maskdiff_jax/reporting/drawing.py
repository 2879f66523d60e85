"""Primitives of figures: mask outlines, labels, stars, text. Pictures are uint8 RGB arrays [h, w, 3]."""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Twenty hues that stay apart on photographs and on clutter, light enough for dark text; class id modulo 20.
PALETTE = (
    (78, 164, 246), (255, 159, 67), (86, 204, 134), (255, 107, 129), (180, 142, 255), (255, 214, 70),
    (64, 211, 219), (240, 128, 214), (168, 216, 88), (255, 138, 101), (129, 140, 248), (46, 196, 160),
    (228, 180, 120), (200, 120, 255), (120, 220, 255), (255, 185, 195), (190, 200, 90), (100, 180, 170),
    (245, 120, 80), (170, 180, 200),
)  # fmt: skip
INK, PAPER, MUTED = (28, 33, 40), (255, 255, 255), (110, 118, 129)
FONT_SIZE, LABEL_HEIGHT, STAR_WIDTH = 16, 20, 16  # px, of the labels; a report shows pictures at half their size

Color = tuple[int, int, int]
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels


def enlarge_mask(mask: np.ndarray, factor: int) -> np.ndarray:
    """[h, w] bool, or soft in 0..1 -> bool [h * factor, w * factor] with a smooth outline."""
    if factor == 1 and mask.dtype == bool:
        return mask
    h, w = mask.shape
    return np.asarray(_gray(mask).resize((w * factor, h * factor), Image.Resampling.BILINEAR)) >= 128


def paint_mask(picture: np.ndarray, mask: np.ndarray, color: Color, line_width: int) -> None:
    """Tints the pixels of a mask and draws its outline.

    Args:
      picture: float32 [h, w, 3] in 0..255; is changed.
      mask: bool [h, w].
      line_width: px.
    """
    rim = max(1, line_width // 2)
    window = mask_window(mask, rim + 1)
    mask, part = mask[window], picture[window]  # views: `picture` is painted
    tint = np.asarray(color, np.float32)
    part[mask] = 0.7 * part[mask] + 0.3 * tint
    # light on dark: the outline stays visible on a background of any color, its own included
    part[inner_edge(grow(mask, rim), rim)] *= 0.25
    part[inner_edge(mask, line_width + 1)] = tint


def mask_window(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """The rows and columns that a mask fills, and ``margin`` px around them; outlines in a whole photo are slow."""
    filled = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    rows, columns = (slice(max(0, i[0] - margin), i[-1] + 1 + margin) if len(i) else slice(0) for i in filled)
    return rows, columns


def inner_edge(mask: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a mask that lie within ``width`` px (city-block distance) of its outside."""
    core = mask
    for _ in range(width):
        p = np.pad(core, 1)  # beyond the picture is outside: an object at its border gets a closed outline
        core = core & p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:]
    return mask & ~core


def grow(mask: np.ndarray, width: int) -> np.ndarray:
    """A mask and the pixels within ``width`` px (city-block distance) of it."""
    for _ in range(width):
        p = np.pad(mask, 1)
        mask = mask | p[:-2, 1:-1] | p[2:, 1:-1] | p[1:-1, :-2] | p[1:-1, 2:]
    return mask


def spotlight(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture that is dimmed outside a soft mask [m, m] in 0..1, which is resized to it and outlined in orange."""
    h, w = picture.shape[:2]
    weight = np.asarray(_gray(mask).resize((w, h), Image.Resampling.BILINEAR), np.float32)[..., None] / 255.0
    out = picture * (0.25 + 0.75 * weight)
    out[inner_edge(weight[..., 0] >= 0.5, 2)] = PALETTE[1]
    return out.round().astype(np.uint8)


def _gray(mask: np.ndarray) -> Image.Image:
    return Image.fromarray((np.asarray(mask, np.float32).clip(0, 1) * 255).astype(np.uint8))


def font(size: int) -> Any:
    """Pillow's font at a size in px."""
    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> int:
    """Pixels that a line of text takes."""
    return int(np.ceil(font(size).getlength(text)))


def draw_star(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, color: Color) -> None:
    """A star of five points around (x, y)."""
    turns = np.arange(10) * np.pi / 5
    r = np.where(np.arange(10) % 2 == 0, radius, 0.42 * radius)
    draw.polygon(list(zip(x + r * np.sin(turns), y - r * np.cos(turns), strict=True)), fill=color)


def draw_label(
    draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, color: Color, *, star: bool, taken: list[Box]
) -> None:
    """A label above a corner, moved so that it lies inside the picture and beside the earlier labels.

    Args:
      corner: x, y in pixels of the picture.
      color: of the background.
      star: whether a star stands before the text.
      taken: where labels are; this one is appended.
    """
    picture_width, picture_height = draw.im.size
    text_start = 4 + (STAR_WIDTH if star else 0)
    width = text_width(text, FONT_SIZE) + text_start + 4
    x = int(min(max(corner[0], 0), max(picture_width - width, 0)))
    y = int(min(max(corner[1] - LABEL_HEIGHT, 0), max(picture_height - LABEL_HEIGHT, 0)))
    for _ in range(12):
        if not any(_overlap((x, y, x + width, y + LABEL_HEIGHT), box) for box in taken):
            break
        y = y + LABEL_HEIGHT if y + 2 * LABEL_HEIGHT <= picture_height else 0
    taken.append((x, y, x + width, y + LABEL_HEIGHT))
    draw.rounded_rectangle((x, y, x + width - 1, y + LABEL_HEIGHT - 1), 4, fill=color)
    if star:
        draw_star(draw, x + 11, y + LABEL_HEIGHT / 2, 8, INK)
    draw.text((x + text_start, y + LABEL_HEIGHT / 2), text, fill=INK, font=font(FONT_SIZE), anchor="lm")


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
