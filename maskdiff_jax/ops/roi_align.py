"""RoIAlign of ONE image, as detectron2's ROIAlignV2 (aligned) computes it, and its multi-level form.

H, W feature cells, F channels, R boxes, S = `size` cells per side of the result. A box is cut into S x S
bins; each bin averages g_y x g_x bilinear samples, g = ceil(box / S) cells per axis (`sampling` 0) or a
fixed number. A sample outside [-1, H] counts as 0, one within half a cell of the border is clamped.

Bilinear samples on a grid are separable, so with Wy [S, H] and Wx [S, W] that average the samples of a
bin along one axis the result is Wy feature Wx^T. That is exact for any number of samples and two matrix
products, which suits small maps and parity; the gathered form costs the same for every map size but needs
a fixed number of samples.
"""

import jax
import jax.numpy as jnp

from maskdiff_jax.types import Array

# the matrix form takes boxes in pieces whose intermediate [r, S, W, F] has at most this many elements
_PIECE = 1 << 26


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
    """Pools each box from the level that its area points to.

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
    widest = max(f.shape[1] * f.shape[2] for f in features.values())
    piece = max(1, _PIECE // (size * widest))
    r = boxes.shape[0]
    if r <= piece:
        return _separable(features, boxes, level, extents, size)
    return jax.lax.map(
        lambda one: _separable(features, one[0][None], one[1][None], extents, size)[0],
        (boxes, level),
        batch_size=piece,
    )


def _separable(features, boxes, level, extents, size):
    parts = []
    for l, feature in features.items():
        h, w, _ = feature.shape
        scaled = boxes / 2.0**l - 0.5
        rows = _average(scaled[:, 1], scaled[:, 3], h, extents[l][0], size)
        cols = _average(scaled[:, 0], scaled[:, 2], w, extents[l][1], size)
        # boxes of other levels weigh nothing here, so that the levels simply add up
        rows = jnp.where((level == l)[:, None, None], rows, 0.0)
        lines = jnp.einsum("rih,hwf->riwf", rows.astype(feature.dtype), feature)
        # columns repeated per row of bins: a batch of products in the order in which `lines` lies
        cols = jnp.broadcast_to(cols[:, None].astype(feature.dtype), (*rows.shape[:2], size, w))
        parts.append(cols @ lines)
    return sum(parts[1:], parts[0])


def _average(low, high, cells, extent, size):
    """[R, S, cells] weights of the averages over each bin's samples; low, high [R] in cells."""
    length = high - low
    # grouped as in the original, whose rounding decides where the length is a multiple of the bins
    samples = jnp.ceil(length / size)
    center = jnp.arange(cells, dtype=jnp.float32)
    corner = low[:, None] + jnp.arange(size) * (length / size)[:, None]  # [R, S]

    def add(state):
        i, total = state
        step = (length / size) / jnp.maximum(samples, 1.0)
        at = corner + ((i + 0.5) * step)[:, None]
        inside = (at >= -1.0) & (at <= extent) & (i < samples)[:, None]
        at = jnp.clip(at, 0.0, extent - 1.0)
        hat = jnp.maximum(1.0 - jnp.abs(at[..., None] - center), 0.0)
        return i + 1, total + jnp.where(inside[..., None], hat, 0.0)

    most = jnp.max(samples)
    zero = jnp.zeros((*corner.shape, cells), jnp.float32)
    _, total = jax.lax.while_loop(lambda s: s[0] < most, add, (jnp.zeros(()), zero))
    return total / jnp.maximum(samples, 1.0)[:, None, None]


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
