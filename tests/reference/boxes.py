"""Slow, plain versions of the detector's operations: loops over single numbers, float64."""

import math

import numpy as np


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    size = lambda box: (box[2] - box[0]) * (box[3] - box[1])
    return width * height / (size(a) + size(b) - width * height)


def encode(src, target, weights):
    w, h = src[2] - src[0], src[3] - src[1]
    tw, th = target[2] - target[0], target[3] - target[1]
    dx = ((target[0] + target[2]) - (src[0] + src[2])) / 2 / w
    dy = ((target[1] + target[3]) - (src[1] + src[3])) / 2 / h
    return [k * d for k, d in zip(weights, (dx, dy, math.log(tw / w), math.log(th / h)), strict=True)]


def decode(deltas, src, weights):
    dx, dy, dw, dh = (d / k for d, k in zip(deltas, weights, strict=True))
    w, h = src[2] - src[0], src[3] - src[1]
    x, y = (src[0] + src[2]) / 2 + dx * w, (src[1] + src[3]) / 2 + dy * h
    w *= math.exp(min(dw, math.log(1000 / 16)))
    h *= math.exp(min(dh, math.log(1000 / 16)))
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def nms(boxes, scores, threshold, classes=None):
    """Kept indices, best first; equal scores in the order of the input."""
    left = sorted(range(len(boxes)), key=lambda i: -scores[i])
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        other = lambda i, b=best: classes is not None and classes[i] != classes[b]
        left = [i for i in left if other(i) or not iou(boxes[best], boxes[i]) > threshold]
    return kept


def match(matrix, thresholds, labels, low_quality):
    """Best row and label of each column of an IoU matrix."""
    index, label = [], []
    for column in matrix.T:
        best = max(range(len(column)), key=lambda i: (column[i], -i))
        index.append(best)
        label.append(labels[sum(column[best] >= t for t in thresholds)])
        if low_quality and any(column[i] == matrix[i].max() for i in range(len(column))):
            label[-1] = 1
    return np.array(index), np.array(label)


def roi_align(feature, box, stride, size, sampling):
    """One box: [size, size, F]."""
    h, w, channels = feature.shape
    x0, y0, x1, y1 = (v / stride - 0.5 for v in box)
    ny = sampling or math.ceil((y1 - y0) / size)
    nx = sampling or math.ceil((x1 - x0) / size)
    out = np.zeros((size, size, channels))
    for i in range(size):
        for j in range(size):
            for a in range(ny):
                for b in range(nx):
                    y = y0 + (i + (a + 0.5) / ny) * (y1 - y0) / size
                    x = x0 + (j + (b + 0.5) / nx) * (x1 - x0) / size
                    if y < -1 or y > h or x < -1 or x > w:
                        continue
                    y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
                    r, c = int(y), int(x)
                    r2, c2 = min(r + 1, h - 1), min(c + 1, w - 1)
                    v, u = y - r, x - c
                    top = (1 - u) * feature[r, c] + u * feature[r, c2]
                    low = (1 - u) * feature[r2, c] + u * feature[r2, c2]
                    out[i, j] += (1 - v) * top + v * low
            out[i, j] /= max(ny * nx, 1)
    return out
