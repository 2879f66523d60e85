"""From images to masks: detect, cut regions, draw masks of many images' objects together, paste.

The path that evaluation, pictures and the predictor share. Boxes here are xyxy in pixels of the
image as stored ("original"); the network's input and the image that regions are cut from are other sizes of it.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax.model import Model
from maskdiff_jax.ops import masks as mask_ops
from maskdiff_jax.types import Array, Batch, PyTree, Support


class Objects(NamedTuple):
    """n objects of any images, on the host; also the structure of one object (without the first axis)."""

    image_id: np.ndarray  # [n] int32
    rank: np.ndarray  # [n] int32, place in its image; with image_id it names the object's noise
    class_id: np.ndarray  # [n] int32
    score: np.ndarray  # [n] float32
    box: np.ndarray  # [n, 4] float32, original pixels
    region: np.ndarray  # [n, M, M, 3] uint8


class Segmenter(NamedTuple):
    """Compiled functions for one model, one Support bank and one canvas."""

    detect: Any  # params, batch, active -> boxes [B, D, 4] original px, scores, classes, regions [B, top_n, M, M, 3]
    crop: Any  # batch, boxes [B, n, 4] original px -> regions [B, n, M, M, 3] uint8
    draw: Any  # params, key, Objects, original hw [n, 2] -> soft, pasted, each as in `Drawn`
    noise: Array  # key of the sampler's noise
    mask_batches: tuple[int, ...]  # objects drawn together, ascending


class Drawn(NamedTuple):
    """Masks of n objects."""

    objects: Objects
    hw: np.ndarray  # [n, 2] original height and width
    soft: np.ndarray  # [n, M, M] in 0..1: the mean of the samples
    pasted: np.ndarray  # [n, H, W] bool, on the canvas
    each: np.ndarray  # [n, samples, M, M] in 0..1


def make_segmenter(
    model: Model, support: Support, *, size: int, context: float, top_n: int, mask_batches: tuple[int, ...],
    canvas: tuple[int, int], threshold: float, samples: int, noise_seed: int,
) -> Segmenter:  # fmt: skip
    """Compiled functions of the path; shapes are fixed by the first call of each.

    Args:
      model: from ``model.build``.
      support: the shots of each class.
      size: M, side of a region in pixels.
      context: share of the box's side added around it before cutting.
      top_n: detections per image whose regions are cut.
      mask_batches: objects drawn together: the largest number as long as there are so many, then the smallest
        that holds the rest. One number suits many images (throughput), several suit single ones (latency); each is
        compiled when first needed.
      canvas: height, width in original pixels that holds every image.
      threshold: of the pasted soft mask.
      samples: masks drawn per object and averaged.
      noise_seed: of the sampler's noise.
    """

    def widen(box, hw):
        return mask_ops.context_box(box, context, hw)

    def crop(batch: Batch, boxes: Array) -> Array:
        def one_image(image, region_hw, original_hw, boxes):
            scale = region_hw / original_hw
            scale = jnp.concatenate([scale[::-1], scale[::-1]])
            inside = jax.vmap(lambda b: widen(b, original_hw))(boxes) * scale
            return jax.vmap(lambda b: mask_ops.crop_resize(image, b, size, region_hw))(inside)

        regions = jax.vmap(one_image)(batch.region_image, batch.region_hw, batch.original_hw, boxes)
        return jnp.round(regions).astype(jnp.uint8)  # records are cut to 8 bits too

    def detect(params: PyTree, batch: Batch, active: Array):
        found = model.detect(params, batch.image, batch.image_hw, active)
        scale = batch.original_hw / batch.image_hw
        boxes = found.boxes * jnp.concatenate([scale[:, ::-1], scale[:, ::-1]], 1)[:, None]
        return boxes, found.scores, found.classes, crop(batch, boxes[:, :top_n])

    shots = jnp.asarray(support.shots)

    def draw(params: PyTree, noise: Array, objects: Objects, original_hw: Array):
        def key_of(image_id, rank):
            return jax.random.fold_in(jax.random.fold_in(noise, image_id), rank)

        keys = jax.vmap(key_of)(objects.image_id, objects.rank)
        of_class = shots[objects.class_id]

        def one_sample(s):
            mine = jax.vmap(lambda k: jax.random.fold_in(k, s))(keys)
            return model.segment(params, mine, objects.region, of_class, objects.class_id)

        # one after the other: a batch of all would be another program for each number of samples
        each = jax.lax.map(one_sample, jnp.arange(samples)) if samples > 1 else one_sample(0)[None]
        soft = each.mean(0)
        boxes = jax.vmap(widen)(objects.box, original_hw)
        pasted = jax.vmap(lambda m, b: mask_ops.paste(m, b, canvas))(soft, boxes)
        return soft, pasted >= threshold, jnp.moveaxis(each, 0, 1)

    sizes = tuple(sorted(mask_batches))
    return Segmenter(jax.jit(detect), jax.jit(crop), jax.jit(draw), jax.random.key(noise_seed), sizes)


def draw_masks(
    segmenter: Segmenter, params: PyTree, stream: Iterable[tuple[Objects, np.ndarray]]
) -> Iterator[Drawn]:
    """Draws the masks of a stream of objects in full batches, whatever image they are from.

    Args:
      stream: pairs of Objects (any n) and the original height, width of their images [n, 2].
    """
    n = segmenter.mask_batches[-1]
    waiting: list[tuple[Objects, np.ndarray]] = []
    count = 0
    for item in stream:
        waiting.append(item)
        count += len(item[1])
        while count >= n:
            objects, hw = _join(waiting)
            first, rest = jax.tree.map(lambda x: x[:n], (objects, hw)), jax.tree.map(lambda x: x[n:], (objects, hw))
            yield _draw(segmenter, params, *first)
            waiting, count = [rest], count - n
    if count:
        yield _draw(segmenter, params, *_join(waiting))


def confidence(soft: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """How sure masks are of themselves: the mean of their soft values where these reach the threshold.

    Args:
      soft: [n, M, M] in 0..1; the mean of several samples says more than one sample. Pixel variances, on a scale
        of 0..1, are 4 soft (1 - soft).

    Returns:
      [n] float32 in threshold..1; 0 where a mask is empty.
    """
    inside = soft >= threshold
    count = inside.sum((1, 2))
    return ((soft * inside).sum((1, 2)) / np.maximum(count, 1)).astype(np.float32)


def _join(parts: list) -> tuple[Objects, np.ndarray]:
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def _draw(segmenter: Segmenter, params: PyTree, objects: Objects, hw: np.ndarray) -> Drawn:
    n = len(hw)
    full = next(size for size in segmenter.mask_batches if size >= n)
    padded = jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[:1], full - n, 0)]), (objects, hw))
    found = jax.device_get(segmenter.draw(params, segmenter.noise, *padded))
    return Drawn(objects, hw, *(x[:n] for x in found))


def detected_objects(
    segmenter: Segmenter, params: PyTree, batches: Iterable[Batch], active: np.ndarray, *,
    min_score: float, top_n: int, maskless: list,
) -> Iterator[tuple[Objects, np.ndarray]]:  # fmt: skip
    """Detections of each image that get a mask; the others are appended to ``maskless`` as (image_id, class
    id, score, box)."""
    for batch in batches:
        boxes, scores, classes, regions = jax.device_get(segmenter.detect(params, batch, active))
        for i in np.flatnonzero(batch.image_id >= 0):
            real = np.flatnonzero(classes[i] >= 0)
            good = real[(scores[i, real] >= min_score) & (real < top_n)]
            for d in np.setdiff1d(real, good):
                maskless.append((int(batch.image_id[i]), int(classes[i, d]), float(scores[i, d]), boxes[i, d]))
            if len(good):
                image_id = np.full(len(good), batch.image_id[i], np.int32)
                found = Objects(
                    image_id, good.astype(np.int32), classes[i, good], scores[i, good], boxes[i, good],
                    regions[i, good],
                )  # fmt: skip
                yield found, np.repeat(batch.original_hw[i][None], len(good), 0)


def true_objects(
    segmenter: Segmenter, batches: Iterable[Batch], boxes_of: dict[int, tuple[np.ndarray, np.ndarray]]
) -> Iterator[tuple[Objects, np.ndarray]]:
    """Ground-truth objects as if they had been detected.

    Args:
      boxes_of: image id -> boxes [n, 4] in original pixels, class ids [n].
    """
    most = max((len(c) for _, c in boxes_of.values()), default=0)
    for batch in batches:
        padded = np.zeros((len(batch.image_id), most, 4), np.float32)
        padded[..., 2:] = 1.0  # an empty box has no pixels to resize
        for i, image_id in enumerate(batch.image_id):
            boxes, _ = boxes_of.get(int(image_id), (np.zeros((0, 4)), None))
            padded[i, : len(boxes)] = boxes
        regions = jax.device_get(segmenter.crop(batch, padded))
        for i in np.flatnonzero(batch.image_id >= 0):
            boxes, classes = boxes_of.get(int(batch.image_id[i]), (np.zeros((0, 4)), np.zeros(0)))
            n = len(boxes)
            if n:
                image_id = np.full(n, batch.image_id[i], np.int32)
                found = Objects(
                    image_id, np.arange(n, dtype=np.int32), classes.astype(np.int32), np.ones(n, np.float32),
                    boxes.astype(np.float32), regions[i, :n],
                )  # fmt: skip
                yield found, np.repeat(batch.original_hw[i][None], n, 0)


def canvas_of(sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The smallest canvas, in multiples of 32 pixels, that holds images of these heights and widths."""
    high, wide = np.max(np.array(list(sizes)), 0)
    return int(-(-high // 32) * 32), int(-(-wide // 32) * 32)
