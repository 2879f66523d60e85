"""Pictures: overlays of masks and boxes, truth beside prediction, support sheets, denoising strips.

Everything takes and gives uint8 RGB numpy arrays [h, w, 3]; small images are enlarged by a whole factor
before anything is drawn on them, so that outlines and labels stay sharp.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

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
DRAWN_SIDE = 384  # px: images are enlarged until their long side is about this


class Objects(NamedTuple):
    """Objects of one image, in pixels of that image."""

    boxes: np.ndarray  # [n, 4] xyxy
    classes: np.ndarray  # [n], 0..C-1
    masks: np.ndarray | None = None  # [n, h, w] bool or soft 0..1
    scores: np.ndarray | None = None  # [n] 0..1


def color(class_id: int) -> tuple[int, int, int]:
    """The color of a class, the same in every picture."""
    return PALETTE[int(class_id) % len(PALETTE)]


def enlarge_factor(height: int, width: int) -> int:
    """The whole factor that brings an image's long side near `DRAWN_SIDE`; 1 for images that are large."""
    return max(1, round(DRAWN_SIDE / max(height, width)))


def overlay(
    image: np.ndarray,
    masks: np.ndarray | None = None,
    boxes: np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    scores: np.ndarray | None = None,
    colors: Sequence[tuple[int, int, int]] | None = None,
    *,
    novel: Sequence[bool] | None = None,
    factor: int | None = None,
) -> np.ndarray:
    """Draws n objects over an image: tinted outlined masks, boxes, labels; novel classes get a star.

    Args:
      image: uint8 [h, w, 3] RGB.
      masks: [n, h, w] bool, or soft 0..1 (drawn from 0.5 on); None draws none.
      boxes: [n, 4] xyxy in pixels of `image`; None draws none and hangs the labels on the masks.
      labels: n names; None writes none.
      scores: n numbers 0..1, written behind the labels as percent.
      colors: n RGB triples; None takes one per object from the palette.
      novel: n flags.
      factor: enlargement; None chooses one by the image's size.

    Returns:
      uint8 [h * factor, w * factor, 3].
    """
    h, w = image.shape[:2]
    n = max(len(x) for x in (() if a is None else a for a in (masks, boxes, labels, scores)))
    f = factor or enlarge_factor(h, w)
    picture = np.asarray(Image.fromarray(image).resize((w * f, h * f), Image.Resampling.BICUBIC), np.float32)
    shades = list(colors) if colors is not None else [color(i) for i in range(n)]
    line = max(1, round(max(h, w) * f / 160))
    for i in range(n if masks is not None else 0):
        inside = _enlarge_mask(masks[i], f)  # type: ignore[index]
        rim = max(1, line // 2)
        window = _window(inside, rim + 1)
        inside, part = inside[window], picture[window]  # views: `picture` is painted
        tint = np.asarray(shades[i], np.float32)
        part[inside] = 0.7 * part[inside] + 0.3 * tint
        # light on dark: the outline stays visible on a ground of any color, its own included
        part[_edge(_grow(inside, rim), rim)] *= 0.25
        part[_edge(inside, line + 1)] = tint
    canvas = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for i in range(n if boxes is not None else 0):
        x0, y0, x1, y1 = (float(v) * f for v in boxes[i])  # type: ignore[index]
        x1, y1 = max(x1 - 1, x0), max(y1 - 1, y0)
        draw.rectangle((x0, y0, x1, y1), outline=shades[i], width=max(1, line // 2))
    taken: list[tuple[int, int, int, int]] = []
    for i in range(n):
        star = bool(novel is not None and novel[i])
        text = labels[i] if labels is not None else ""
        if scores is not None:
            text = f"{text} {100 * float(scores[i]):.0f}".strip()
        if text or star:
            x, y = _corner(boxes, masks, i)
            _chip(draw, canvas.size, (x * f, y * f), text, shades[i], star, taken)
    return np.asarray(canvas)


def side_by_side(
    image: np.ndarray, truth: Objects, prediction: Objects, categories: Sequence[Any], *, note: str = ""
) -> np.ndarray:
    """One scene twice: what is there, what was predicted. `categories`: by class id, with name and novel."""
    sides = []
    for title, objects in (("truth", truth), ("prediction", prediction)):
        ids = [int(c) for c in objects.classes]
        drawn = overlay(
            image,
            objects.masks,
            objects.boxes,
            [categories[c].name for c in ids],
            objects.scores,
            [color(c) for c in ids],
            novel=[categories[c].novel for c in ids],
        )
        sides.append(_titled(drawn, title + (f" · {note}" if note and title == "prediction" else "")))
    return beside(sides)


def support_sheet(support: Any, categories: Sequence[Any], *, cell: int = 72) -> np.ndarray:
    """The shots of every class on light paper, one row per class, novel classes last and starred.

    Args:
      support: types.SupportSet: shots uint8 [C, K, M, M, 4] RGBA, count [C].
      categories: by class id, with name and novel.
      cell: px, side of a drawn shot.
    """
    shots, count = np.asarray(support.shots), np.asarray(support.count)
    order = sorted(range(len(categories)), key=lambda c: (bool(categories[c].novel), c))
    shots = shots[:, : max(1, count.max(initial=0))]  # slots that no class fills are not shown
    widest = max((_text_width(categories[c].name, 15) for c in order), default=0)
    rows = [_support_row(categories[c], shots[c], int(count[c]), c, widest, cell) for c in order]
    half = (len(rows) + 1) // 2 if len(rows) > 8 and shots.shape[1] <= 5 else len(rows)
    columns = [above(rows[i : i + half], gap=6) for i in range(0, len(rows), half)]
    return beside(columns, gap=24)


def strip(images: Sequence[np.ndarray], captions: Sequence[str] = (), *, cell: int = 96, title: str = "") -> np.ndarray:
    """Images in a row with captions below, such as noising or denoising in steps.

    Each image is uint8 [h, w, 3], or [h, w] float in 0..1, which is shown gray (values outside are clipped).
    """
    cells = []
    for image in images:
        tile = Image.fromarray(to_rgb(image))
        crisp = max(tile.size) * 2 <= cell  # small masks are shown as the pixels that they are
        tile = tile.resize((cell, cell), Image.Resampling.NEAREST if crisp else Image.Resampling.LANCZOS)
        cells.append(_framed(np.asarray(tile)))
    row = beside(cells, gap=6)
    if any(captions):
        row = above([row, _captions(captions, cell + 2, 6, row.shape[1])], gap=3)
    return _titled(row, title) if title else row


def samples(
    region: np.ndarray, truth: np.ndarray, masks: Sequence[np.ndarray], *, cell: int = 96, title: str = ""
) -> np.ndarray:
    """Several masks drawn for one object: its region, the true mask, then each sample over the region.

    Args:
      region: uint8 [m, m, 3]; truth: [m, m]; masks: soft 0..1 [m, m], all of the same side.
      title: written above.
    """
    size = (cell, cell)
    big = np.asarray(Image.fromarray(region).resize(size, Image.Resampling.BICUBIC))
    tiles, names = [big, _spotlight(big, truth)], ["region", "truth"]
    for i, mask in enumerate(masks):
        tiles.append(_spotlight(big, mask))
        names.append(f"sample {i + 1}")
    return strip(tiles, names, cell=cell, title=title)


def grid(pictures: Sequence[np.ndarray], columns: int, *, gap: int = 10) -> np.ndarray:
    """Pictures in rows of `columns`."""
    rows = [beside(pictures[i : i + columns], gap=gap) for i in range(0, len(pictures), columns)]
    return above(rows, gap=gap)


def beside(pictures: Sequence[np.ndarray], *, gap: int = 10) -> np.ndarray:
    """Pictures in one row on white, tops aligned."""
    height = max(p.shape[0] for p in pictures)
    parts = []
    for i, p in enumerate(pictures):
        if i:
            parts.append(np.full((height, gap, 3), 255, np.uint8))
        parts.append(np.pad(p, ((0, height - p.shape[0]), (0, 0), (0, 0)), constant_values=255))
    return np.concatenate(parts, axis=1)


def above(pictures: Sequence[np.ndarray], *, gap: int = 10) -> np.ndarray:
    """Pictures in one column on white, left sides aligned."""
    width = max(p.shape[1] for p in pictures)
    parts = []
    for i, p in enumerate(pictures):
        if i:
            parts.append(np.full((gap, width, 3), 255, np.uint8))
        parts.append(np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255))
    return np.concatenate(parts, axis=0)


def to_rgb(image: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] of an RGB image or of a gray one ([h, w] uint8, bool or float in 0..1)."""
    image = np.asarray(image)
    if image.dtype != np.uint8:
        image = (np.clip(image.astype(np.float32), 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image[..., :3]


# ---------------------------------------------------------------------------------------------- parts


def _enlarge_mask(mask: np.ndarray, factor: int) -> np.ndarray:
    """[h, w] soft or bool -> bool [h * factor, w * factor] with a smooth outline."""
    if factor == 1 and mask.dtype == bool:
        return mask
    h, w = mask.shape
    soft = Image.fromarray((np.asarray(mask, np.float32).clip(0, 1) * 255).astype(np.uint8))
    return np.asarray(soft.resize((w * factor, h * factor), Image.Resampling.BILINEAR)) >= 128


def _window(inside: np.ndarray, margin: int) -> tuple[slice, slice]:
    """The rows and columns that a mask fills, and `margin` px around them: outlines of a photo's objects are dear."""
    filled = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    rows, columns = (slice(max(0, i[0] - margin), i[-1] + 1 + margin) if len(i) else slice(0) for i in filled)
    return rows, columns


def _edge(inside: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a mask that lie within `width` px (diamond) of its outside."""
    core = inside
    for _ in range(width):
        p = np.pad(core, 1)  # outside the picture counts as outside: cut objects get a closed outline
        core = core & p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:]
    return inside & ~core


def _grow(inside: np.ndarray, width: int) -> np.ndarray:
    """A mask and the pixels within `width` px (diamond) of it."""
    for _ in range(width):
        p = np.pad(inside, 1)
        inside = inside | p[:-2, 1:-1] | p[2:, 1:-1] | p[1:-1, :-2] | p[1:-1, 2:]
    return inside


def _corner(boxes: np.ndarray | None, masks: np.ndarray | None, i: int) -> tuple[float, float]:
    """Where the label of object i hangs: the top left corner of its box, else of its mask."""
    if boxes is not None:
        return float(boxes[i][0]), float(boxes[i][1])
    if masks is not None and (np.asarray(masks[i]) >= 0.5).any():
        ys, xs = np.nonzero(np.asarray(masks[i]) >= 0.5)
        return float(xs.min()), float(ys.min())
    return 0.0, 0.0


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _text_width(text: str, size: int) -> int:
    return int(np.ceil(_font(size).getlength(text)))


def _star(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: tuple[int, int, int]) -> None:
    turns = np.arange(10) * np.pi / 5
    r = np.where(np.arange(10) % 2 == 0, radius, 0.42 * radius)
    draw.polygon(list(zip(x + r * np.sin(turns), y - r * np.cos(turns), strict=True)), fill=fill)


def _chip(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    corner: tuple[float, float],
    text: str,
    fill: tuple[int, int, int],
    star: bool,
    taken: list[tuple[int, int, int, int]],
) -> None:
    """A label on its class's color above `corner`, moved so that it stays inside and free of `taken`."""
    font, height = 16, 20  # px; the report shows pictures at half their size
    lead = 16 if star else 0
    width = _text_width(text, font) + 8 + lead
    x = int(min(max(corner[0], 0), max(size[0] - width, 0)))
    y = int(min(max(corner[1] - height, 0), max(size[1] - height, 0)))
    for _ in range(12):
        if not any(x < b[2] and b[0] < x + width and y < b[3] and b[1] < y + height for b in taken):
            break
        y = (y + height) if y + 2 * height <= size[1] else 0
    taken.append((x, y, x + width, y + height))
    draw.rounded_rectangle((x, y, x + width - 1, y + height - 1), 4, fill=fill)
    if star:
        _star(draw, x + 11, y + height / 2, 8, INK)
    draw.text((x + 4 + lead, y + height / 2), text, fill=INK, font=_font(font), anchor="lm")


def _titled(picture: np.ndarray, title: str) -> np.ndarray:
    width = max(picture.shape[1], _text_width(title, 15) + 4)
    head = Image.new("RGB", (width, 22), PAPER)
    ImageDraw.Draw(head).text((1, 10), title, fill=MUTED, font=_font(15), anchor="lm")
    return above([np.asarray(head), picture], gap=0)


def _framed(picture: np.ndarray) -> np.ndarray:
    return np.pad(picture, ((1, 1), (1, 1), (0, 0)), constant_values=208)


def _captions(captions: Sequence[str], cell: int, gap: int, width: int) -> np.ndarray:
    row = Image.new("RGB", (width, 18), PAPER)
    draw = ImageDraw.Draw(row)
    for i, text in enumerate(captions):
        size = next((s for s in (13, 12, 11, 10) if _text_width(text, s) <= cell), 9)
        draw.text((i * (cell + gap) + cell / 2, 9), text, fill=MUTED, font=_font(size), anchor="mm")
    return np.asarray(row)


def _support_row(category: Any, shots: np.ndarray, count: int, class_id: int, name_width: int, cell: int) -> np.ndarray:
    head = Image.new("RGB", (name_width + 40, cell), PAPER)
    draw = ImageDraw.Draw(head)
    draw.rounded_rectangle((2, cell // 2 - 7, 16, cell // 2 + 7), 4, fill=color(class_id))
    if category.novel:
        _star(draw, 9, cell / 2, 6, INK)
    draw.text((24, cell / 2), category.name, fill=INK, font=_font(15), anchor="lm")
    tiles = [np.asarray(head)]
    for k in range(shots.shape[0]):
        if k < count:
            rgba = np.asarray(Image.fromarray(shots[k], "RGBA").resize((cell - 2, cell - 2), Image.Resampling.BICUBIC))
            alpha = rgba[..., 3:].astype(np.float32) / 255.0
            tile = rgba[..., :3] * alpha + 238.0 * (1.0 - alpha)
        else:
            tile = np.full((cell - 2, cell - 2, 3), 250.0)  # an empty slot
        tiles.append(_framed(tile.round().astype(np.uint8)))
    return beside(tiles, gap=4)


def _spotlight(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture whose pixels outside a soft mask are dimmed, the mask's outline drawn in orange."""
    h, w = picture.shape[:2]
    soft = Image.fromarray((np.asarray(mask, np.float32).clip(0, 1) * 255).astype(np.uint8))
    weight = np.asarray(soft.resize((w, h), Image.Resampling.BILINEAR), np.float32)[..., None] / 255.0
    out = picture * (0.25 + 0.75 * weight)
    out[_edge(weight[..., 0] >= 0.5, 2)] = PALETTE[1]
    return out.round().astype(np.uint8)
