"""Figures: overlays of masks and boxes, ground truth beside prediction, support sets, strips of masks.

Everything takes and gives uint8 RGB arrays [h, w, 3]. Small images are enlarged by a whole factor before anything is
drawn on them, so that outlines and labels stay sharp.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from maskdiff_jax.reporting import drawing

SHOWN_SIDE = 384  # px: images are enlarged until their long side is about this


class Objects(NamedTuple):
    """n objects of one image, in pixels of that image."""

    boxes: np.ndarray  # [n, 4] xyxy
    classes: np.ndarray  # [n], 0..C-1
    masks: np.ndarray | None = None  # [n, h, w] bool or soft 0..1
    scores: np.ndarray | None = None  # [n] 0..1


def color(class_id: int) -> drawing.Color:
    """The color of a class, the same in every figure."""
    return drawing.PALETTE[int(class_id) % len(drawing.PALETTE)]


def enlarge_factor(height: int, width: int) -> int:
    """The whole factor that brings an image's long side near `SHOWN_SIDE`; 1 for images that are large."""
    return max(1, round(SHOWN_SIDE / max(height, width)))


def overlay(
    image: np.ndarray,
    masks: np.ndarray | None = None,
    boxes: np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    scores: np.ndarray | None = None,
    colors: Sequence[drawing.Color] | None = None,
    *,
    novel: Sequence[bool] | None = None,
    factor: int | None = None,
) -> np.ndarray:
    """Draws n objects over an image: tinted, outlined masks, boxes, labels; novel classes get a star.

    Args:
      image: uint8 [h, w, 3] RGB.
      masks: [n, h, w] bool, or soft 0..1 (shown from 0.5 on); None shows none.
      boxes: [n, 4] xyxy in pixels of `image`; None shows none and places the labels at the masks.
      labels: n names; None writes none.
      scores: n numbers 0..1, written behind the labels as percent.
      colors: n RGB triples; None takes one per object from the palette.
      novel: n flags.
      factor: enlargement; None chooses one by the image's size.

    Returns:
      uint8 [h * factor, w * factor, 3].
    """
    h, w = image.shape[:2]
    n = max((len(x) for x in (masks, boxes, labels, scores) if x is not None), default=0)
    factor = factor or enlarge_factor(h, w)
    colors = colors if colors is not None else [color(i) for i in range(n)]
    size = (w * factor, h * factor)
    line_width = max(1, round(max(size) / 160))
    picture = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
    for i in range(n if masks is not None else 0):
        drawing.paint_mask(picture, drawing.enlarge_mask(masks[i], factor), colors[i], line_width)  # type: ignore[index]
    out = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(out)
    for i in range(n if boxes is not None else 0):
        x0, y0, x1, y1 = (float(v) * factor for v in boxes[i])  # type: ignore[index]
        corners = (x0, y0, max(x1 - 1, x0), max(y1 - 1, y0))
        draw.rectangle(corners, outline=colors[i], width=max(1, line_width // 2))
    taken: list[drawing.Box] = []
    for i in range(n):
        star = bool(novel is not None and novel[i])
        text = labels[i] if labels is not None else ""
        if scores is not None:
            text = f"{text} {100 * float(scores[i]):.0f}".strip()
        if text or star:
            x, y = _label_corner(boxes, masks, i)
            drawing.draw_label(draw, (x * factor, y * factor), text, colors[i], star=star, taken=taken)
    return np.asarray(out)


def uncertainty(image: np.ndarray, uncertain: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """An image in dark gray, orange where it is uncertain whether a pixel belongs to a mask; masks have white outlines.

    Args:
      image: uint8 [h, w, 3] RGB.
      uncertain: [h, w] in 0..1.
      masks: [n, h, w] bool.

    Returns:
      uint8 [h * factor, w * factor, 3], enlarged as by `overlay`.
    """
    gray = 0.45 * np.repeat(image.mean(2, keepdims=True), 3, 2)
    picture = gray + uncertain[..., None] * (np.float32(drawing.PALETTE[1]) - gray)
    for mask in masks:
        edge = drawing.inner_edge(mask, 1)
        picture[edge] = 0.5 * picture[edge] + 0.5 * 255
    factor = enlarge_factor(*image.shape[:2])
    return picture.round().astype(np.uint8).repeat(factor, 0).repeat(factor, 1)


def cut_out(image: np.ndarray, mask: np.ndarray, side: int) -> np.ndarray:
    """An object, tinted and outlined, with a margin of a third of it.

    Args:
      image: uint8 [h, w, 3] RGB.
      mask: [h, w] bool, not empty.
      side: px, the long side of what is returned.
    """
    rows, columns = drawing.mask_window(mask, 0)
    margin = max(rows.stop - rows.start, columns.stop - columns.start) // 3 + 1
    window = tuple(slice(max(0, s.start - margin), s.stop + margin) for s in (rows, columns))
    part, inside = Image.fromarray(image[window]), Image.fromarray(mask[window])
    scale = side / max(part.size)
    size = (max(1, round(part.width * scale)), max(1, round(part.height * scale)))
    picture = np.asarray(part.resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
    drawing.paint_mask(picture, np.asarray(inside.resize(size, Image.Resampling.NEAREST)), drawing.PALETTE[1], 1)
    return picture.round().clip(0, 255).astype(np.uint8)


def _label_corner(boxes: np.ndarray | None, masks: np.ndarray | None, i: int) -> tuple[float, float]:
    """Where the label of object i is placed: the top left corner of its box, else of its mask."""
    if boxes is not None:
        return float(boxes[i][0]), float(boxes[i][1])
    if masks is not None and (np.asarray(masks[i]) >= 0.5).any():
        ys, xs = np.nonzero(np.asarray(masks[i]) >= 0.5)
        return float(xs.min()), float(ys.min())
    return 0.0, 0.0


def side_by_side(image: np.ndarray, truth: Objects, prediction: Objects, categories: Sequence[Any]) -> np.ndarray:
    """An image twice: with the ground truth, with the prediction. `categories`: by class id, with name and novel."""
    sides = []
    for title, objects in (("ground truth", truth), ("prediction", prediction)):
        ids = [int(c) for c in objects.classes]
        shown = overlay(
            image,
            objects.masks,
            objects.boxes,
            [categories[c].name for c in ids],
            objects.scores,
            [color(c) for c in ids],
            novel=[categories[c].novel for c in ids],
        )
        sides.append(_titled(shown, title))
    return beside(sides)


def support_sheet(support: Any, categories: Sequence[Any], *, cell: int = 72) -> np.ndarray:
    """The support set: one row of shots per class on white, novel classes last and with a star.

    Args:
      support: types.SupportSet: shots uint8 [C, K, M, M, 4] RGBA, count [C].
      categories: by class id, with name and novel.
      cell: px, side of a shot in the figure.
    """
    shots, count = np.asarray(support.shots), np.asarray(support.count)
    order = sorted(range(len(categories)), key=lambda c: (bool(categories[c].novel), c))
    shots = shots[:, : max(1, count.max(initial=0))]  # slots that no class fills are not shown
    name_width = max((drawing.text_width(categories[c].name, 15) for c in order), default=0)
    rows = [_support_row(categories[c], shots[c], int(count[c]), c, name_width, cell) for c in order]
    half = (len(rows) + 1) // 2 if len(rows) > 8 and shots.shape[1] <= 5 else len(rows)
    columns = [above(rows[i : i + half], gap=6) for i in range(0, len(rows), half)]
    return beside(columns, gap=24)


def _support_row(category: Any, shots: np.ndarray, count: int, class_id: int, name_width: int, cell: int) -> np.ndarray:
    """A class's color and name, then its shots [K, M, M, 4] RGBA on gray; slots from ``count`` on are empty."""
    head = Image.new("RGB", (name_width + 40, cell), drawing.PAPER)
    draw = ImageDraw.Draw(head)
    draw.rounded_rectangle((2, cell // 2 - 7, 16, cell // 2 + 7), 4, fill=color(class_id))
    if category.novel:
        drawing.draw_star(draw, 9, cell / 2, 6, drawing.INK)
    draw.text((24, cell / 2), category.name, fill=drawing.INK, font=drawing.font(15), anchor="lm")
    tiles = [np.asarray(head)]
    for k, shot in enumerate(shots):
        tile = np.full((cell - 2, cell - 2, 3), 250.0)
        if k < count:
            rgba = np.asarray(Image.fromarray(shot, "RGBA").resize((cell - 2, cell - 2), Image.Resampling.BICUBIC))
            alpha = rgba[..., 3:].astype(np.float32) / 255.0
            tile = rgba[..., :3] * alpha + 238.0 * (1.0 - alpha)
        tiles.append(_framed(tile.round().astype(np.uint8)))
    return beside(tiles, gap=4)


def strip(images: Sequence[np.ndarray], captions: Sequence[str] = (), *, cell: int = 96, title: str = "") -> np.ndarray:
    """Images in a row with captions below, such as the steps of the forward or the reverse process.

    Each image is uint8 [h, w, 3], or float [h, w] in 0..1, which is shown gray (values outside are clipped).
    """
    cells = []
    for image in images:
        tile = Image.fromarray(to_rgb(image))
        small = max(tile.size) * 2 <= cell  # the pixels of small masks stay visible
        tile = tile.resize((cell, cell), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
        cells.append(_framed(np.asarray(tile)))
    row = beside(cells, gap=6)
    if any(captions):
        row = above([row, _captions(captions, cell + 2, 6, row.shape[1])], gap=3)
    return _titled(row, title) if title else row


def samples(
    region: np.ndarray, truth: np.ndarray, masks: Sequence[np.ndarray], *, cell: int = 96, title: str = ""
) -> np.ndarray:
    """Several masks sampled for one object: its region, the ground-truth mask, then each sample over the region.

    Args:
      region: uint8 [M, M, 3].
      truth: [M, M], bool or 0..1.
      masks: soft 0..1 [M, M] each.
      cell: px, side of each picture in the figure.
      title: written above.
    """
    large = np.asarray(Image.fromarray(region).resize((cell, cell), Image.Resampling.BICUBIC))
    tiles = [large, drawing.spotlight(large, truth), *(drawing.spotlight(large, mask) for mask in masks)]
    captions = ["region", "ground truth", *(f"sample {i + 1}" for i in range(len(masks)))]
    return strip(tiles, captions, cell=cell, title=title)


# ------------------------------------------------------------------------------------------------ layout


def beside(pictures: Sequence[np.ndarray], *, gap: int = 10) -> np.ndarray:
    """Pictures in one row on white, ``gap`` px apart, tops aligned."""
    return above([p.transpose(1, 0, 2) for p in pictures], gap=gap).transpose(1, 0, 2)


def above(pictures: Sequence[np.ndarray], *, gap: int = 10) -> np.ndarray:
    """Pictures in one column on white, ``gap`` px apart, left sides aligned."""
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


def _titled(picture: np.ndarray, title: str) -> np.ndarray:
    width = max(picture.shape[1], drawing.text_width(title, 15) + 4)
    head = Image.new("RGB", (width, 22), drawing.PAPER)
    ImageDraw.Draw(head).text((1, 10), title, fill=drawing.MUTED, font=drawing.font(15), anchor="lm")
    return above([np.asarray(head), picture], gap=0)


def _framed(picture: np.ndarray) -> np.ndarray:
    return np.pad(picture, ((1, 1), (1, 1), (0, 0)), constant_values=208)


def _captions(captions: Sequence[str], cell: int, gap: int, width: int) -> np.ndarray:
    """Text centered below cells of ``cell`` px that are ``gap`` px apart, in the largest size that fits."""
    row = Image.new("RGB", (width, 18), drawing.PAPER)
    draw = ImageDraw.Draw(row)
    for i, text in enumerate(captions):
        size = next((s for s in (13, 12, 11, 10) if drawing.text_width(text, s) <= cell), 9)
        x = i * (cell + gap) + cell / 2
        draw.text((x, 9), text, fill=drawing.MUTED, font=drawing.font(size), anchor="mm")
    return np.asarray(row)
