"""From images to masks: detect, cut regions, sample the masks of many images' objects together, paste.

The path that evaluation, pictures and the predictor share. Boxes here are xyxy in pixels of the
image as stored ("original"); the network's input and the image that regions are cut from are other sizes of it.

Batches are divided over the devices of a mesh. The devices always have the next batch when the host reads the
results of the last one: loading, pasting and RLE happen while they work.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from maskdiff_jax import sharding
from maskdiff_jax.inference import paste
from maskdiff_jax.model import Model
from maskdiff_jax.ops import masks as mask_ops
from maskdiff_jax.types import Array, Batch, PyTree, SupportSet

T = TypeVar("T")


class Objects(NamedTuple):
    """n objects of any images, on the host; also the structure of one object (without the first axis)."""

    image_id: np.ndarray  # [n] int32
    rank: np.ndarray  # [n] int32, place in its image; with image_id it names the object's noise
    class_id: np.ndarray  # [n] int32
    score: np.ndarray  # [n] float32
    box: np.ndarray  # [n, 4] float32, original pixels
    region: np.ndarray  # [n, M, M, 3] uint8


class Segmenter(NamedTuple):
    """Compiled functions for one model, and what they read beside its parameters."""

    detect: Any  # params, batch, active -> boxes [B, D, 4] original px, scores, classes, regions [B, top_n, M, M, 3]
    crop: Any  # batch, boxes [B, n, 4] original px -> regions [B, n, M, M, 3] uint8
    sample: Any  # params, shots, key, Objects -> soft, each, as in `Drawn`
    mesh: Mesh  # the devices that batches are divided over
    shots: Array  # [C, K, M, M, 4] uint8 on every device: an argument of `sample`, so that others need no compilation
    noise: Array  # key of the sampler's noise
    mask_batches: tuple[int, ...]  # objects whose masks are sampled together, ascending
    context: float  # as for `make_segmenter`
    threshold: float  # likewise


class Drawn(NamedTuple):
    """Sampled masks of n objects."""

    objects: Objects
    hw: np.ndarray  # [n, 2] original height and width
    soft: np.ndarray  # [n, M, M] in 0..1: the mean of the samples
    each: np.ndarray  # [n, samples, M, M] in 0..1


def make_segmenter(
    model: Model, support: SupportSet, *, size: int, context: float, top_n: int, mask_batches: tuple[int, ...],
    threshold: float, samples: int, noise_seed: int, mesh: Mesh | None = None,
) -> Segmenter:  # fmt: skip
    """Compiled functions of the path; shapes are fixed by the first call of each.

    Args:
      model: from ``model.build``.
      support: the shots of each class.
      size: M, side of a region in pixels.
      context: share of the box's side added around it before cutting.
      top_n: detections per image whose regions are cut.
      mask_batches: objects whose masks are sampled together: the largest number as long as there are so many, then
        the smallest that holds the rest. One number suits many images (throughput), several suit single ones
        (latency); each is compiled when first needed, and rounded up to a multiple of the devices.
      threshold: of the pasted soft mask, above 0.
      samples: masks sampled per object and averaged.
      noise_seed: of the sampler's noise.
      mesh: the devices that batches are divided over; None: the first one alone.
    """

    def crop(batch: Batch, boxes: Array) -> Array:
        def one_image(image, region_hw, original_hw, boxes):
            scale = region_hw / original_hw
            scale = jnp.concatenate([scale[::-1], scale[::-1]])
            inside = jax.vmap(lambda b: mask_ops.context_box(b, context, original_hw))(boxes) * scale
            return jax.vmap(lambda b: mask_ops.crop_resize(image, b, size, region_hw))(inside)

        regions = jax.vmap(one_image)(batch.region_image, batch.region_hw, batch.original_hw, boxes)
        return jnp.round(regions).astype(jnp.uint8)  # dataset are cut to 8 bits too

    def detect(params: PyTree, batch: Batch, active: Array):
        found = model.detect(params, batch.image, batch.image_hw, active)
        scale = batch.original_hw / batch.image_hw
        boxes = found.boxes * jnp.concatenate([scale[:, ::-1], scale[:, ::-1]], 1)[:, None]
        return boxes, found.scores, found.classes, crop(batch, boxes[:, :top_n])

    def sample(params: PyTree, shots: Array, noise: Array, objects: Objects):
        def key_of(image_id, rank):
            return jax.random.fold_in(jax.random.fold_in(noise, image_id), rank)

        keys = jax.vmap(key_of)(objects.image_id, objects.rank)
        of_class = shots[objects.class_id]

        def one_sample(s):
            mine = jax.vmap(lambda k: jax.random.fold_in(k, s))(keys)
            return model.segment(params, mine, objects.region, of_class, objects.class_id)

        # one after the other: a batch of all would be another program for each number of samples
        each = jax.lax.map(one_sample, jnp.arange(samples)) if samples > 1 else one_sample(0)[None]
        return each.mean(0), jnp.moveaxis(each, 0, 1)

    mesh = sharding.make_mesh(1) if mesh is None else mesh
    everywhere = sharding.replicated(mesh)
    return Segmenter(
        detect=_per_device(detect, mesh, (False, True, False)),
        crop=_per_device(crop, mesh, (True, True)),
        sample=_per_device(sample, mesh, (False, False, False, True)),
        mesh=mesh,
        shots=jax.device_put(support.shots, everywhere),
        noise=jax.device_put(jax.random.key(noise_seed), everywhere),
        mask_batches=tuple(sorted({whole_batch(n, mesh) for n in mask_batches})),
        context=context,
        threshold=threshold,
    )


def _per_device(function: Callable, mesh: Mesh, divided: tuple[bool, ...]) -> Callable:
    """A compiled function that each device runs on its own part of the arguments that are divided, the others whole.

    Nothing is exchanged: images and objects are independent of each other.
    """
    # an axis of its own name: what divides batches over "data" inside (training does) would divide a part again
    own, part = Mesh(mesh.devices, "part"), PartitionSpec("part")
    specs = tuple(part if d else PartitionSpec() for d in divided)
    run = jax.shard_map(function, mesh=own, in_specs=specs, out_specs=part, check_vma=False)
    return jax.jit(run)


def whole_batch(count: int, mesh: Mesh) -> int:
    """The smallest batch of at least ``count`` that divides over the devices."""
    return -(-count // mesh.size) * mesh.size


def draw_masks(segmenter: Segmenter, params: PyTree, stream: Iterable[tuple[Objects, np.ndarray]]) -> Iterator[Drawn]:
    """Samples the masks of a stream of objects in full batches, whatever image they are from.

    Args:
      stream: pairs of Objects (any n) and the original height, width of their images [n, 2].
    """
    params = jax.device_put(params, sharding.replicated(segmenter.mesh))

    def start(part: tuple[Objects, np.ndarray]):
        objects, n = part[0], len(part[1])
        full = next(size for size in segmenter.mask_batches if size >= n)
        padded = jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[:1], full - n, 0)]), objects)
        placed = sharding.put_batch(padded, segmenter.mesh)
        return part, segmenter.sample(params, segmenter.shots, segmenter.noise, placed)

    for (objects, hw), found in _one_ahead(map(start, _batched(stream, segmenter.mask_batches[-1]))):
        soft, each = jax.device_get(found)
        yield Drawn(objects, hw, soft[: len(hw)], each[: len(hw)])


def pasted(segmenter: Segmenter, drawn: Drawn) -> list[dict[str, Any]]:
    """The masks of n objects in their images, as compressed COCO RLE."""
    parts = zip(drawn.soft, drawn.objects.box, drawn.hw, strict=True)
    return [
        paste.paste_rle(soft, paste.context_box(box, segmenter.context, hw), hw, segmenter.threshold)
        for soft, box, hw in parts
    ]


def _batched(stream: Iterable[tuple[Objects, np.ndarray]], n: int) -> Iterator[tuple[Objects, np.ndarray]]:
    """The same objects in parts of n, the last one of what is left."""
    waiting: list[tuple[Objects, np.ndarray]] = []
    count = 0
    for item in stream:
        waiting.append(item)
        count += len(item[1])
        while count >= n:
            joined = _join(waiting)
            yield jax.tree.map(lambda x: x[:n], joined)
            waiting, count = [jax.tree.map(lambda x: x[n:], joined)], count - n
    if count:
        yield _join(waiting)


def _one_ahead(started: Iterable[T]) -> Iterator[T]:
    """The same items, each given out once the next one is there.

    Where making an item starts work on the devices, which jax does not wait for, they have work of the next one while
    the host waits for this one's results and uses them.
    """
    last: list[T] = []
    for item in started:
        yield from last
        last = [item]
    yield from last


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


def detected_objects(
    segmenter: Segmenter, params: PyTree, batches: Iterable[Batch], active: np.ndarray, *,
    min_score: float, top_n: int, maskless: list,
) -> Iterator[tuple[Objects, np.ndarray]]:  # fmt: skip
    """Detections of each image that get a mask; the others are appended to ``maskless`` as (image_id, class
    id, score, box). Batches are of ``whole_batch`` images."""
    params = jax.device_put(params, sharding.replicated(segmenter.mesh))

    def start(batch: Batch):
        return batch, segmenter.detect(params, sharding.put_batch(batch, segmenter.mesh), active)

    for batch, found in _one_ahead(map(start, batches)):
        boxes, scores, classes, regions = jax.device_get(found)
        for i in np.flatnonzero(batch.image_id >= 0):
            real = np.flatnonzero(classes[i] >= 0)
            good = real[(scores[i, real] >= min_score) & (real < top_n)]
            for d in np.setdiff1d(real, good):
                maskless.append((int(batch.image_id[i]), int(classes[i, d]), float(scores[i, d]), boxes[i, d]))
            if len(good):
                image_id = np.full(len(good), batch.image_id[i], np.int32)
                objects = Objects(
                    image_id, good.astype(np.int32), classes[i, good], scores[i, good], boxes[i, good],
                    regions[i, good],
                )  # fmt: skip
                yield objects, np.repeat(batch.original_hw[i][None], len(good), 0)


def true_objects(
    segmenter: Segmenter, batches: Iterable[Batch], boxes_of: dict[int, tuple[np.ndarray, np.ndarray]]
) -> Iterator[tuple[Objects, np.ndarray]]:
    """Ground-truth objects as if they had been detected.

    Args:
      batches: of ``whole_batch`` images.
      boxes_of: image id -> boxes [n, 4] in original pixels, class ids [n].
    """
    most = max((len(c) for _, c in boxes_of.values()), default=0)

    def start(batch: Batch):
        padded = np.zeros((len(batch.image_id), most, 4), np.float32)
        padded[..., 2:] = 1.0  # an empty box has no pixels to resize
        for i, image_id in enumerate(batch.image_id):
            boxes, _ = boxes_of.get(int(image_id), (np.zeros((0, 4)), None))
            padded[i, : len(boxes)] = boxes
        return batch, segmenter.crop(*sharding.put_batch((batch, padded), segmenter.mesh))

    for batch, found in _one_ahead(map(start, batches)):
        regions = jax.device_get(found)
        for i in np.flatnonzero(batch.image_id >= 0):
            boxes, classes = boxes_of.get(int(batch.image_id[i]), (np.zeros((0, 4)), np.zeros(0)))
            n = len(boxes)
            if n:
                image_id = np.full(n, batch.image_id[i], np.int32)
                objects = Objects(
                    image_id, np.arange(n, dtype=np.int32), classes.astype(np.int32), np.ones(n, np.float32),
                    boxes.astype(np.float32), regions[i, :n],
                )  # fmt: skip
                yield objects, np.repeat(batch.original_hw[i][None], n, 0)
