"""Which canvas each image is padded into, and how much of the canvases is padding."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from maskdiff_jax.data import transforms

NEGLIGIBLE = 0.01  # share of padding below which a single canvas is not worth a word


class Padding(NamedTuple):
    share: float  # 0..1 of the area of all canvases, in the mean over data.short_sides
    images: dict[tuple[int, int], float]  # canvas (height, width) -> share of the images, 0..1


def canvases_of(sizes: np.ndarray, short_side: int, data: Any) -> list[tuple[int, int]]:
    """The canvas of each image, once its short side is resized to `short_side`.

    Args:
      sizes: [I, 2] stored height and width.
      short_side: px.
      data: config.data; `long_side` and `buckets` are read.

    Raises:
      ValueError: an image fits no canvas.
    """
    # a data set has few sizes beside its images
    unique, which = np.unique(np.asarray(sizes).reshape(-1, 2), axis=0, return_inverse=True)
    resized = [transforms.resized_hw(h, w, short_side, data.long_side) for h, w in unique.tolist()]
    canvases = [transforms.fitting_canvas(hw, data.buckets) for hw in resized]
    return [canvases[k] for k in which.reshape(-1).tolist()]


def padding(sizes: np.ndarray | Sequence[tuple[int, int]], data: Any) -> Padding:
    """How full the canvases of the training batches are.

    The canvas of an image is that of its largest short side, the image then any of data.short_sides.

    Args:
      sizes: [I, 2] stored height and width.
      data: config.data; `short_sides`, `long_side` and `buckets` are read.

    Raises:
      ValueError: an image fits no canvas.
    """
    unique, counts = np.unique(np.asarray(sizes).reshape(-1, 2), axis=0, return_counts=True)
    images: dict[tuple[int, int], int] = {}
    filled = whole = 0.0
    for (h, w), n, canvas in zip(
        unique.tolist(), counts.tolist(), canvases_of(unique, max(data.short_sides), data), strict=True
    ):
        sides = [transforms.resized_hw(h, w, s, data.long_side) for s in data.short_sides]
        filled += n * sum(a * b for a, b in sides) / len(sides)
        whole += n * canvas[0] * canvas[1]
        images[canvas] = images.get(canvas, 0) + n
    shares = {c: n / counts.sum() for c, n in sorted(images.items(), key=lambda item: -item[1])}
    return Padding(1 - filled / whole if whole else 0.0, shares)


def line(found: Padding) -> str:
    """One line for people: the padding, and each canvas with its share of the images."""
    parts = ", ".join(f"{h}x{w} {100 * share:.0f} %" for (h, w), share in found.images.items())
    what = "1 canvas" if len(found.images) == 1 else f"{len(found.images)} canvases"
    return f"{what} (height x width), {100 * found.share:.0f} % of their area is padding; of the images: {parts}"


def tell(sizes: np.ndarray, data: Any) -> None:
    """Prints the line on stderr, unless nothing is padded."""
    found = padding(sizes, data)
    if len(found.images) > 1 or found.share > NEGLIGIBLE:
        print(line(found), file=sys.stderr)
