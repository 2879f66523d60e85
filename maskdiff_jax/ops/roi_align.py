"""RoIAlign of ONE image, as detectron2's ROIAlignV2 (aligned) computes it, and its multi-level form.

H, W feature cells, F channels, R boxes, S = `size` cells per side of the result. A box is divided into S x S
bins; each bin averages g_y x g_x bilinear samples, g = ceil(box / S) cells per axis (`sampling` 0) or a
fixed number. A sample outside [-1, H] counts as 0, one within half a cell of the border is clamped.

Bilinear samples on a grid are separable, so with Wy [S, H] and Wx [S, W] that average the samples of a
bin along one axis the result is Wy feature Wx^T. That is exact for any number of samples and two matrix
products, which suits small maps and parity; the gathered form costs the same for every map size but needs
a fixed number of samples. No loop's length depends on the boxes: on a GPU the host would
wait for the device in every iteration.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from maskdiff_jax.types import Array

# the matrix form takes boxes in pieces whose intermediate [r, S, W, F] has at most this many bytes
_PIECE_BYTES = 1 << 28
# matrix products in 16 bits want sides that are multiples of this
_UNIT = 8
# samples of a bin that can touch one cell: two or more samples are over half a cell apart, so at most 4 of them lie
# within a cell's distance; one more absorbs rounding
_TOUCHING = 5


def roi_align(
    feature: Array, boxes: Array, *, stride: int, size: int, sampling: int, extent: Array | None = None
) -> Array:
    """Pools boxes from one map.

    Args:
      feature: [H, W, F].
      boxes: [R, 4] xyxy in pixels of the input. No gradient flows to them.
      stride: pixels per cell, a power of two.
      size: S.
      sampling: samples per bin and axis; 0 = adaptive.
      extent: [2] height and width in cells that count, None = all; samples are clamped there.

    Returns:
      [R, S, S, F] in the dtype of `feature`.
    """
    level = int(stride).bit_length() - 1
    extents = None if extent is None else {level: extent}
    chosen = jnp.full(boxes.shape[:1], level)
    return _pool({level: feature}, boxes, chosen, size=size, sampling=sampling, extents=extents)


def multilevel_roi_align(
    features: dict[int, Array],
    boxes: Array,
    *,
    size: int,
    sampling: int,
    canonical: tuple[float, int],
    extents: dict[int, Array] | None = None,
) -> Array:
    """Pools each box from the level of its area [Lin et al. 2017, Eq. 1].

    Args:
      features: level -> [H, W, F] of stride 2**level.
      boxes: [R, 4] xyxy in pixels of the input. No gradient flows to them.
      size, sampling: as in `roi_align`.
      canonical: (side in px, level): a box of that side belongs to that level.
      extents: level -> [2] as `extent` in `roi_align`.

    Returns:
      [R, S, S, F].
    """
    level = assign_level(boxes, canonical=canonical, lowest=min(features), highest=max(features))
    return _pool(features, boxes, level, size=size, sampling=sampling, extents=extents)


def assign_level(boxes: Array, *, canonical: tuple[float, int], lowest: int, highest: int) -> Array:
    """floor(level0 + log2(sqrt(area) / side0 + 1e-8)), kept within the levels there are: [R] int32."""
    side, level = canonical
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    root = jnp.sqrt(jnp.maximum(area, 0.0))
    return jnp.clip(jnp.floor(level + jnp.log2(root / side + 1e-8)), lowest, highest).astype(jnp.int32)


def _pool(features, boxes, level, *, size, sampling, extents):
    boxes = jax.lax.stop_gradient(boxes.astype(jnp.float32))
    extents = {l: jnp.array(f.shape[:2]) for l, f in features.items()} if extents is None else extents
    if sampling:
        return _gathered(features, boxes, level, extents, size, sampling)
    maps = [_oriented(l, features[l]) for l in sorted(features)]
    # each box on its own level alone, whatever the others' sizes would be there
    own = level - maps[0].level
    scaled = boxes * jnp.array([2.0**-m.level for m in maps])[own][:, None] - 0.5
    extent = jnp.stack([jnp.asarray(extents[m.level]) for m in maps])[own]
    bins = tuple(_bins(scaled[:, a], scaled[:, a + 2], extent[:, 1 - a], size) for a in (0, 1))
    r = boxes.shape[0]
    bytes_per_box = max(size * m.feature.shape[1] * m.feature.shape[2] * m.feature.dtype.itemsize for m in maps)
    count, piece = split_boxes(r, max(1, _PIECE_BYTES // bytes_per_box))
    if count == 1:
        return _separable(maps, level, *bins)

    def pieces(x):  # of one size, the last one padded: a remainder would be a second copy of the program
        padded = jnp.pad(x, ((0, count * piece - r), *((0, 0),) * (x.ndim - 1)))
        return padded.reshape(count, piece, *x.shape[1:])

    out = jax.lax.map(lambda one: _separable(maps, *one), jax.tree.map(pieces, (level, *bins)))
    return out.reshape(count * piece, *out.shape[2:])[:r]


def split_boxes(boxes: int, most: int) -> tuple[int, int]:
    """How many boxes are pooled together: (number of pieces, boxes in each).

    As few pieces as possible, all of one size and, where `most` allows, a multiple of 8.

    Args:
      boxes: R, to be covered.
      most: boxes in a piece, at most.
    """
    if boxes <= most:
        return 1, boxes
    unit = min(_UNIT, most)
    count = -(-boxes // (most - most % unit))
    return count, -(-boxes // (count * unit)) * unit


class _Map(NamedTuple):
    """A level's features, the longer side first: it is contracted first, which makes the intermediate smaller."""

    level: int
    feature: Array  # [A, B, F]
    swapped: bool  # [W, H, F] instead of [H, W, F]


def _oriented(level: int, feature: Array) -> _Map:
    if feature.dtype.itemsize == 2:  # else XLA would pad the intermediate, which is much larger
        feature = jnp.pad(feature, ((0, -feature.shape[0] % _UNIT), (0, -feature.shape[1] % _UNIT), (0, 0)))
    swapped = feature.shape[1] > feature.shape[0]
    return _Map(level, feature.swapaxes(0, 1) if swapped else feature, swapped)


class _Bins(NamedTuple):
    """One axis of every box, in cells of the box's level."""

    corner: Array  # [R, S] where each bin starts
    step: Array  # [R] from sample to sample
    per_cell: Array  # [R] 1 / step, 1 for empty boxes
    samples: Array  # [R] per bin
    last: Array  # [R] the last sample from which `_TOUCHING` ones follow, or 0
    extent: Array  # [R] cells that count


def _bins(low: Array, high: Array, extent: Array, size: int) -> _Bins:
    length = high - low
    samples = samples_per_bin(length, size)
    width = length / size
    corner = low[:, None] + jnp.arange(size) * width[:, None]
    step = width / jnp.maximum(samples, 1.0)
    per_cell = 1.0 / jnp.where(step > 0, step, 1.0)
    return _Bins(corner, step, per_cell, samples, jnp.maximum(samples - _TOUCHING, 0.0), extent.astype(jnp.float32))


def _separable(maps: list[_Map], level: Array, x: _Bins, y: _Bins) -> Array:
    """[R, S, S, F] of the boxes with these bins, on the level of each [R]."""
    parts = []
    for l, feature, swapped in maps:
        cells = feature.shape[:2]
        first, second = (_average(b, n) for b, n in zip((x, y) if swapped else (y, x), cells, strict=True))
        # boxes of other levels weigh nothing here, so that the levels simply add up
        first = jnp.where((level == l)[:, None, None], first, 0.0).astype(feature.dtype)
        lines = jnp.einsum("ria,abf->ribf", first, feature)
        # the second weights repeated per line: a batch of products in the order in which `lines` lies
        second = second[:, None].astype(feature.dtype)
        part = jnp.broadcast_to(second, (*first.shape[:2], *second.shape[2:])) @ lines
        parts.append(part.swapaxes(1, 2) if swapped else part)
    return sum(parts[1:], parts[0])


def samples_per_bin(length: Array, size: int) -> Array:
    """ceil(length / size) as by an exact division; 0 for lengths of at most 0.

    XLA multiplies by the rounded reciprocal of a constant divisor, which yields one too many for many multiples of 7,
    e.g. 21, 42 and 49.

    Args:
      length: float32, cells.
      size: S.

    Returns:
      float32 of the same shape.
    """
    samples = jnp.maximum(jnp.ceil(length / size), 0.0)
    many = ((samples - 1.0) * size >= length) & (samples > 0)
    few = samples * size < length
    return samples - many + few


def _average(bins: _Bins, cells: int) -> Array:
    """[R, S, cells] weights of the averages over each bin's samples."""
    corner, (step, per_cell, samples, last, extent) = bins.corner[..., None], (v[:, None, None] for v in bins[1:])
    center = jnp.arange(cells, dtype=jnp.float32)
    # of a bin's samples only the few from `first` on can touch a cell, however many there are
    first = jnp.clip(jnp.floor((center - (corner + 1.0)) * per_cell - 0.5), 0.0, last)
    total = jnp.zeros(first.shape, jnp.float32)
    for k in range(_TOUCHING):
        i = first + k
        at = corner + (i + 0.5) * step
        inside = (at >= -1.0) & (at <= extent) & (i < samples)
        at = jnp.clip(at, 0.0, extent - 1.0)
        total += jnp.where(inside, jnp.maximum(1.0 - jnp.abs(at - center), 0.0), 0.0)
    return total / jnp.maximum(samples, 1.0)


def _gathered(features, boxes, level, extents, size, sampling):
    names = sorted(features)
    shapes = [features[l].shape for l in names]
    table = jnp.concatenate([features[l].reshape(-1, features[l].shape[2]) for l in names])
    offsets = [sum(h * w for h, w, _ in shapes[:i]) for i in range(len(names))]
    which = level - names[0]

    def pick(values):
        """Each box's own entry of a list by level: [R, 1]."""
        return jnp.stack([jnp.asarray(v) for v in values])[which][:, None]

    def taps(low, high, extent):
        """Lower cell, upper cell [R, S n] and their weights, zero for samples outside."""
        step = (high - low) / (size * sampling)
        at = low + (jnp.arange(size * sampling) + 0.5) * step
        inside = (at >= -1.0) & (at <= extent)
        at = jnp.clip(at, 0.0, extent - 1.0)
        cell = jnp.floor(at)
        upper = jnp.minimum(cell + 1.0, extent - 1.0)
        part = at - cell
        return ((cell, jnp.where(inside, 1.0 - part, 0.0)), (upper, jnp.where(inside, part, 0.0)))

    scaled = boxes / (2.0 ** level.astype(jnp.float32))[:, None] - 0.5
    y_taps = taps(scaled[:, 1:2], scaled[:, 3:4], pick([extents[l][0] for l in names]))
    x_taps = taps(scaled[:, 0:1], scaled[:, 2:3], pick([extents[l][1] for l in names]))
    start, width = pick(offsets)[..., None], pick([s[1] for s in shapes])[..., None]
    total = jnp.zeros((), table.dtype)
    for y, wy in y_taps:
        for x, wx in x_taps:
            cell = start + y[:, :, None].astype(jnp.int32) * width + x[:, None, :].astype(jnp.int32)
            weight = (wy[:, :, None] * wx[:, None, :]).astype(table.dtype)
            total = total + table[cell] * weight[..., None]
    r, channels = boxes.shape[0], table.shape[1]
    total = total.reshape(r, size, sampling, size, sampling, channels)
    return total.sum(4).sum(2) / sampling**2
