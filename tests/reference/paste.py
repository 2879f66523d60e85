"""Pasting as products of dense matrices, over the whole image."""

import numpy as np


def _weights(start: float, end: float, size: int, length: int) -> np.ndarray:
    """[length, size]: bilinear weights of `size` mask values at each pixel center of an axis."""
    pixel = np.arange(length) + 0.5
    position = (pixel - start) / max(end - start, 1e-6) * size - 0.5
    w = np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(size)))
    # beyond the box the mask fades into the zeros around it; detectron2 cuts that off after a pixel
    near = (pixel > np.floor(start) - 1) & (pixel < np.ceil(end) + 1) & (end > start)
    return np.where(near[:, None], w, 0.0)


def paste(mask: np.ndarray, box: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """[M, M], [4] xyxy -> [h, w] float64 [detectron2 `paste_masks_in_image`]."""
    x0, y0, x1, y1 = (float(v) for v in box)
    return _weights(y0, y1, len(mask), hw[0]) @ mask.astype(np.float64) @ _weights(x0, x1, len(mask), hw[1]).T
