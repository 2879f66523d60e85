"""Scores of masks sampled in ground-truth boxes, for the studies: mean IoU, boundary IoU, calibration."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageFilter

from maskdiff_jax.data import pipeline
from maskdiff_jax.data.dataset import Annotation, Dataset
from maskdiff_jax.data.formats.segmentation import decode_mask
from maskdiff_jax.inference import paste, segment
from maskdiff_jax.model import build
from maskdiff_jax.ops import masks
from maskdiff_jax.types import SupportSet

THRESHOLD = 0.5  # of the pasted soft mask
THRESHOLDS = np.arange(0.5, 1.0, 0.05)
MASK_THRESHOLDS = np.arange(0.2, 0.75, 0.05)  # thresholds of the soft mask that are compared
# what the settings of a study vary: each names what it changes
DEFAULT = {
    "steps": 10, "guidance": 2.0, "guidance_interval": (0.0, 1.0), "sampler": "ddim", "averaged": 1,
    "samples": 1, "shots": "real", "order": 0, "noise": 0, "jitter": 0.0,
}  # fmt: skip


class Data(NamedTuple):
    """What every training and every scoring reads."""

    config: ConfigDict
    crops: Any  # base objects of the training split
    test: Dataset
    support: SupportSet
    truth: dict[int, list]  # image id -> annotations


def changed(config: ConfigDict, changes: dict[str, Any]) -> ConfigDict:
    """A copy with fields replaced; names as "a.b.c"."""
    copy = ConfigDict(config.to_dict())
    copy.update_from_flattened_dict(changes)
    return copy


def sampled(data: Data, params: Any, setting: dict[str, Any]) -> Iterator[segment.SampledMasks]:
    """Samples a mask for every ground-truth object, class and shots given.

    Args:
      data: the test split and the support set are read.
      params: of the model.
      setting: fields of `DEFAULT` to change.
    """
    o = DEFAULT | setting
    changes = {
        f"model.mask.diffusion.{k}": o[k] for k in ("steps", "guidance", "guidance_interval", "sampler", "averaged")
    }
    c = changed(data.config, changes)
    model, support = build(c.model), shown(data.support, o["shots"], o["order"], c.model.mask.slots)
    segmenter = segment.make_segmenter(
        model, support, size=c.model.mask.size, context=c.data.context, top_n=1, mask_batches=(c.eval.mask_batch,),
        threshold=THRESHOLD, samples=o["samples"], noise_seed=o["noise"],
    )  # fmt: skip
    rng = np.random.default_rng(0)
    boxes = {}
    for image_id, annotations in data.truth.items():
        if annotations:
            tight = np.array([a.box for a in annotations], np.float64)
            moved = loosened(tight, o["jitter"], rng)
            boxes[image_id] = moved.astype(np.float32), np.array([a.class_id for a in annotations])
    batches = pipeline.eval_batches(data.test, c.data, batch=c.eval.batch)
    yield from segment.sample_masks(segmenter, params, segment.ground_truth_objects(segmenter, params, batches, boxes))


class Compared(NamedTuple):
    """An object of a test image beside what was sampled for it."""

    annotation: Annotation
    region: np.ndarray  # uint8 [M, M, 3], what the mask head saw
    around: np.ndarray  # [4] px of the image, the region's box
    soft: np.ndarray  # [M, M] in 0..1
    true: np.ndarray  # bool [H, W] of the image
    mine: np.ndarray  # bool [H, W]


def compared(data: Data, params: Any, setting: dict[str, Any]) -> Iterator[Compared]:
    """What `sampled` yields, object by object, beside the ground truth."""
    for found, hw, soft, _ in sampled(data, params, setting):
        for i, size in enumerate(hw):
            a = data.truth[int(found.image_id[i])][found.rank[i]]
            around = np.asarray(masks.context_box(found.box[i], data.config.data.context, size))
            true, mine = decode_mask(a.rle).astype(bool), in_image(soft[i], around, size)
            yield Compared(a, np.asarray(found.region[i]), around, soft[i], true, mine)


def score(data: Data, params: Any, setting: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    """Compares what `sampled` yields with the ground truth.

    Returns:
      the scores, the IoU of each object.
    """
    ious, edges, novel, spread, by_threshold = [], [], [], [], []
    bins = np.zeros((10, 3))  # by predicted probability: pixels, sum of predictions, sum of truth
    for c in compared(data, params, setting):
        ious.append(iou(c.true, c.mine))
        edges.append(iou(edge(c.true), edge(c.mine)))
        novel.append(data.test.categories[c.annotation.class_id].novel)
        spread.append(float((4 * c.soft * (1 - c.soft)).mean()))
        truth = in_region(c.true, c.soft.shape, c.around)
        count_pixels(bins, c.soft, truth)
        by_threshold.append([iou(truth, c.soft >= threshold) for threshold in MASK_THRESHOLDS])
    values, edges, novel = np.array(ious), np.array(edges), np.array(novel)
    mean_ious = np.mean(by_threshold, 0)
    return {
        **mean_ious(values, novel),
        "boundary_iou": round(float(edges.mean()), 4),
        "curve": [round(float((values > t).mean()), 4) for t in THRESHOLDS],
        # on the region's own grid: mean IoU by the threshold of the soft mask
        "by_threshold": {
            f"{threshold:.2f}": round(float(v), 4) for threshold, v in zip(MASK_THRESHOLDS, mean_ious, strict=True)
        },
        # does an unsure mask tell that it is wrong? rank correlation of the mean of 4 p (1 - p) with 1 - IoU
        "uncertainty_vs_error": rank_correlation(np.array(spread), 1 - values),
        "calibration": [[round(v, 4) for v in (p / n, t / n, n / bins[:, 0].sum())] for n, p, t in bins if n],
    }, values


def baselines(data: Data) -> dict[str, dict[str, float | None]]:
    """Mean IoU of two guesses that look at no image, over base and novel objects.

    Returns:
      "all foreground": every pixel of the region, on the region's own grid; "the box": every pixel of the given box at
      image size, which `score`'s masks are compared with.
    """
    size, found = data.config.model.mask.size, []
    for annotations in data.truth.values():
        for a in annotations:
            true = decode_mask(a.rle).astype(bool)
            around = np.asarray(masks.context_box(np.asarray(a.box), data.config.data.context, true.shape))
            filled = np.zeros_like(true)
            x0, y0, x1, y1 = np.round(a.box).astype(int)
            filled[y0:y1, x0:x1] = True
            region = in_region(true, (size, size), around)
            found.append((data.test.categories[a.class_id].novel, region.mean(), iou(true, filled)))
    novel, *columns = (np.array(column) for column in zip(*found, strict=True))

    names = ("all foreground", "the box")
    return {name: mean_ious(values, novel) for name, values in zip(names, columns, strict=True)}


def mean_ious(values: np.ndarray, novel: np.ndarray) -> dict[str, float | None]:
    """Means of IoUs [n], over all objects, base and novel ones (bool [n]); None where there are none."""
    parts = {"miou": values, "miou_base": values[~novel], "miou_novel": values[novel]}
    return {k: round(float(v.mean()), 4) if len(v) else None for k, v in parts.items()}


def in_region(true: np.ndarray, shape: tuple[int, int], box: np.ndarray) -> np.ndarray:
    """A mask of an image [H, W], cropped and resized to the region of a box; bool."""
    area = (*np.maximum(box[:2], 0), *np.minimum(box[2:], true.shape[::-1]))
    region = Image.fromarray(true.astype(np.uint8) * 255).resize(shape, Image.Resampling.BILINEAR, box=area)
    return np.asarray(region) >= 128


def in_image(soft: np.ndarray, box: np.ndarray, hw: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """The bool mask [H, W] of an image, from soft values [M, M] that cover a box."""
    return decode_mask(paste.paste_rle(soft, box, hw, threshold)).astype(bool)


def count_pixels(bins: np.ndarray, soft: np.ndarray, region: np.ndarray) -> None:
    """Adds a soft mask's pixels [M, M] to the bins of their value, beside the truth in the same region."""
    which = np.minimum((soft * len(bins)).astype(int), len(bins) - 1)
    for column, values in enumerate((np.ones_like(soft), soft, region)):
        bins[:, column] += np.bincount(which.ravel(), np.asarray(values, float).ravel(), len(bins))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; ties in the order they come."""
    ranks = [np.argsort(np.argsort(v)) for v in (a, b)]
    return round(float(np.corrcoef(*ranks)[0, 1]), 3)


def shown(support: SupportSet, what: str, order: int, slots: int) -> SupportSet:
    """The support set with real shots, the first alone ("one"), another class's, or none.

    Args:
      what: "real", "one", "other class" or "none".
      order: seed of the shots' order in each class; 0 = as sampled.
      slots: further shots are dropped.
    """
    shots, count = support.shots.copy(), support.count.copy()
    have = np.flatnonzero(count)
    if order:
        rng = np.random.default_rng(order)
        for c in have:
            shots[c, : count[c]] = shots[c, rng.permutation(count[c])]
    if what == "other class":
        shots[have] = shots[np.roll(have, 1)]
    keep = {"one": 1, "none": 0}.get(what, slots)
    shots[:, keep:] = 0
    return SupportSet(shots[:, :slots], np.minimum(count, keep))


def loosened(boxes: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Each side moved by up to `amount` of the box's side; not clipped to the image."""
    size = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return np.maximum(boxes + amount * rng.uniform(-1, 1, boxes.shape) * size, 0.0)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two bool masks; two empty ones agree."""
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def edge(mask: np.ndarray, share: float = 0.02) -> np.ndarray:
    """The pixels of a mask that lie within `share` of the image's diagonal from its outline."""
    reach = max(1, round(share * float(np.hypot(*mask.shape))))
    # beyond the image is background
    padded = Image.fromarray(np.pad(mask, reach).astype(np.uint8) * 255)
    for _ in range(reach):
        padded = padded.filter(ImageFilter.MinFilter(3))
    inner = np.asarray(padded)[reach:-reach, reach:-reach] > 0
    return mask & ~inner
