"""The padded size of each image, and the share of padding in the padded images."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from maskdiff_jax.data import transforms

NEGLIGIBLE = 0.01  # share of padding below which a single padded size is not worth a message


class Padding(NamedTuple):
    share: float  # 0..1 of the area of all padded images, on average over data.short_sides
    images: dict[tuple[int, int], float]  # padded size (height, width) -> share of the images, 0..1


def padded_sizes(sizes: np.ndarray, short_side: int, data: Any) -> list[tuple[int, int]]:
    """The padded size of each image whose short side is resized to `short_side`.

    Args:
      sizes: [I, 2] height and width of the image files.
      short_side: px.
      data: config.data; `long_side` and `buckets` are read.

    Returns:
      (height, width) per image, each one of data.buckets.

    Raises:
      ValueError: an image fits none of data.buckets.
    """
    # a dataset has far fewer sizes than images
    unique, which = np.unique(np.asarray(sizes).reshape(-1, 2), axis=0, return_inverse=True)
    resized = [transforms.resized_hw(h, w, short_side, data.long_side) for h, w in unique.tolist()]
    padded = [transforms.padded_size(hw, data.buckets) for hw in resized]
    return [padded[k] for k in which.reshape(-1).tolist()]


def padding(sizes: np.ndarray | Sequence[tuple[int, int]], data: Any) -> Padding:
    """The share of padding in the training batches.

    An image is padded to the size that its largest short side needs, and resized to any of data.short_sides.

    Args:
      sizes: [I, 2] height and width of the image files.
      data: config.data; `short_sides`, `long_side` and `buckets` are read.

    Raises:
      ValueError: an image fits none of data.buckets.
    """
    unique, counts = np.unique(np.asarray(sizes).reshape(-1, 2), axis=0, return_counts=True)
    images: dict[tuple[int, int], int] = {}
    filled = whole = 0.0
    for (h, w), n, padded in zip(
        unique.tolist(), counts.tolist(), padded_sizes(unique, max(data.short_sides), data), strict=True
    ):
        sides = [transforms.resized_hw(h, w, s, data.long_side) for s in data.short_sides]
        filled += n * sum(a * b for a, b in sides) / len(sides)
        whole += n * padded[0] * padded[1]
        images[padded] = images.get(padded, 0) + n
    shares = {hw: n / counts.sum() for hw, n in sorted(images.items(), key=lambda item: -item[1])}
    return Padding(1 - filled / whole if whole else 0.0, shares)


def describe(found: Padding) -> str:
    """One line of text: the padding, and each padded size with its share of the images."""
    shares = ", ".join(f"{h}x{w} {100 * share:.0f} %" for (h, w), share in found.images.items())
    what = "1 padded size" if len(found.images) == 1 else f"{len(found.images)} padded sizes"
    return f"{what} (height x width), {100 * found.share:.0f} % of the area is padding; of the images: {shares}"


def print_padding(sizes: np.ndarray, data: Any) -> None:
    """Prints `describe` on stderr, unless (almost) nothing is padded."""
    found = padding(sizes, data)
    if len(found.images) > 1 or found.share > NEGLIGIBLE:
        print(describe(found), file=sys.stderr)
