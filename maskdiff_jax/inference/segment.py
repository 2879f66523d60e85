"""From images to masks: detect, crop regions, sample the masks of many images' objects together, paste.

Evaluation, its figures and the predictor share this path. Boxes here are xyxy in pixels of the image as stored
("original"). The network's input and the image that regions are cropped from are other sizes of it.

Batches are divided over the devices of a mesh. While the host reads the results of one batch, the devices already
work on the next one: loading, pasting and RLE take no device time.
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
from maskdiff_jax.ops import nms
from maskdiff_jax.types import Array, Batch, PyTree, SupportSet

T = TypeVar("T")


class Objects(NamedTuple):
    """n objects of any images, on the host; without the first axis also one object."""

    image_id: np.ndarray  # [n] int32
    rank: np.ndarray  # [n] int32, position in its image; image_id and rank select the object's noise
    class_id: np.ndarray  # [n] int32, 0..C-1
    score: np.ndarray  # [n] float32, 0..1
    box: np.ndarray  # [n, 4] float32, xyxy in original pixels
    region: np.ndarray  # what the mask head sees: [n, M, M, 3] uint8, RGB, or [n, S, S, F] features


class Segmenter(NamedTuple):
    """The compiled functions of one model, and what they need besides its parameters."""

    detect: Any  # params, batch, active -> boxes [B, D, 4] original px, scores, classes, regions [B, top_n, ...]
    crop: Any  # params, batch, boxes [B, n, 4] original px -> regions [B, n, ...], as in `Objects`
    sample: Any  # params, shots, key, Objects -> soft, each, as in `SampledMasks`
    mesh: Mesh  # the devices that batches are divided over
    shots: Array  # [C, K, M, M, 4] uint8 on every device; an argument of `sample`, so other shots need no compilation
    noise: Array  # random key of the sampler's noise
    mask_batches: tuple[int, ...]  # ascending; how many objects are sampled together, see `make_segmenter`
    context: float  # as in `make_segmenter`
    threshold: float  # as in `make_segmenter`


class SampledMasks(NamedTuple):
    """Sampled masks of n objects."""

    objects: Objects
    hw: np.ndarray  # [n, 2] original height and width
    soft: np.ndarray  # [n, M, M] in 0..1: the mean of the samples
    each: np.ndarray  # [n, samples, M, M] in 0..1


def make_segmenter(
    model: Model, support: SupportSet, *, size: int, context: float, top_n: int, mask_batches: tuple[int, ...],
    threshold: float, samples: int, noise_seed: int, mesh: Mesh | None = None,
) -> Segmenter:  # fmt: skip
    """Prepares the functions of this path. Each is compiled at its first call, once per shape of its arguments.

    Args:
      model: from ``model.build``.
      support: the shots of each class.
      size: M, side of a region in pixels.
      context: margin around a box before cropping, as a share of the box's side; none around RoI features.
      top_n: detections per image whose regions are cropped.
      mask_batches: numbers of objects whose masks are sampled together. The largest is used while there are enough
        objects, then the smallest that holds the rest. One number suits many images (throughput), several suit
        single images (latency). Each is rounded up to a multiple of the devices.
      threshold: soft mask values from here on belong to the mask; above 0, up to 1.
      samples: masks sampled per object and averaged.
      noise_seed: seed of the sampler's noise.
      mesh: the devices that batches are divided over; None: the first device.
    """
    mesh = sharding.make_mesh(1) if mesh is None else mesh
    everywhere = sharding.replicated(mesh)
    context = 0.0 if model.mask_features else context
    crop = _pooler(model.mask_features) if model.mask_features else _cropper(size, context)
    return Segmenter(
        detect=_per_device(_detector(model, crop, top_n), mesh, (False, True, False)),
        crop=_per_device(crop, mesh, (False, True, True)),
        sample=_per_device(_mask_sampler(model, samples), mesh, (False, False, False, True)),
        mesh=mesh,
        shots=jax.device_put(support.shots, everywhere),
        noise=jax.device_put(jax.random.key(noise_seed), everywhere),
        mask_batches=tuple(sorted({round_up(n, mesh) for n in mask_batches})),
        context=context,
        threshold=threshold,
    )


def _cropper(size: int, context: float) -> Callable:
    """`Segmenter.crop` of a head that sees crops, not compiled."""

    def crop(params: PyTree, batch: Batch, boxes: Array) -> Array:
        def one_image(image, region_hw, original_hw, boxes):
            scale = region_hw / original_hw
            scale = jnp.concatenate([scale[::-1], scale[::-1]])
            inside = jax.vmap(lambda b: mask_ops.context_box(b, context, original_hw))(boxes) * scale
            return jax.vmap(lambda b: mask_ops.crop_resize(image, b, size, region_hw))(inside)

        regions = jax.vmap(one_image)(batch.region_image, batch.region_hw, batch.original_hw, boxes)
        return jnp.round(regions).astype(jnp.uint8)  # training's crops are stored in 8 bits too

    return crop


def _pooler(mask_features: Callable) -> Callable:
    """`Segmenter.crop` of a head that sees RoI features, not compiled."""

    def crop(params: PyTree, batch: Batch, boxes: Array) -> Array:
        scale = batch.image_hw / batch.original_hw
        scale = jnp.concatenate([scale[:, ::-1], scale[:, ::-1]], 1)[:, None]
        return mask_features(params, batch.image, batch.image_hw, boxes * scale)

    return crop


def _detector(model: Model, crop: Callable, top_n: int) -> Callable:
    """`Segmenter.detect`, not compiled."""

    def detect(params: PyTree, batch: Batch, active: Array):
        found = model.detect(params, batch.image, batch.image_hw, active)
        scale = batch.original_hw / batch.image_hw
        boxes = found.boxes * jnp.concatenate([scale[:, ::-1], scale[:, ::-1]], 1)[:, None]
        return boxes, found.scores, found.classes, crop(params, batch, boxes[:, :top_n])

    return detect


def _mask_sampler(model: Model, samples: int) -> Callable:
    """`Segmenter.sample`, not compiled."""

    def sample(params: PyTree, shots: Array, noise: Array, objects: Objects):
        def key_of(image_id, rank):
            return jax.random.fold_in(jax.random.fold_in(noise, image_id), rank)

        keys = jax.vmap(key_of)(objects.image_id, objects.rank)
        shots_of_class = shots[objects.class_id]

        def one_sample(s):
            sample_keys = jax.vmap(lambda k: jax.random.fold_in(k, s))(keys)
            return model.segment(params, sample_keys, objects.region, shots_of_class, objects.class_id)

        # one sample after the other: one batch of all samples would need another program for each number of samples
        each = jax.lax.map(one_sample, jnp.arange(samples)) if samples > 1 else one_sample(0)[None]
        return each.mean(0), jnp.moveaxis(each, 0, 1)

    return sample


def _per_device(function: Callable, mesh: Mesh, divided: tuple[bool, ...]) -> Callable:
    """Compiles a function so that each device computes its own part of the batch and needs nothing of the others.

    Args:
      divided: for each argument, whether it is a batch to divide; the others go to every device whole.
    """
    # its own axis name: a function that shards its batch over "data" (training does) would shard a part again
    devices, part = Mesh(mesh.devices, "part"), PartitionSpec("part")
    specs = tuple(part if d else PartitionSpec() for d in divided)
    run = jax.shard_map(function, mesh=devices, in_specs=specs, out_specs=part, check_vma=False)
    return jax.jit(run)


def round_up(count: int, mesh: Mesh) -> int:
    """The smallest batch size, at least ``count``, that is a multiple of the devices."""
    return -(-count // mesh.size) * mesh.size


def detected_objects(
    segmenter: Segmenter, params: PyTree, batches: Iterable[Batch], active: np.ndarray, *,
    min_score: float, top_n: int, without_mask: list, agnostic_iou: float | None = None,
) -> Iterator[tuple[Objects, np.ndarray]]:  # fmt: skip
    """Detects the objects of each image, and yields those that get a mask.

    Args:
      batches: each of a multiple of the devices, see ``round_up``; images with id -1 are padding.
      active: [C] bool, the classes that may be detected.
      min_score: detections below get no mask, 0..1.
      top_n: detections of an image after this many get no mask.
      without_mask: (image_id, class id, score, box) of each detection that gets no mask is appended here.
      agnostic_iou: a detection gets no mask if its IoU with one of higher score and any class is larger; None: it may.

    Yields:
      Objects of one image and its original height, width, repeated for each of them [n, 2].
    """
    params = jax.device_put(params, sharding.replicated(segmenter.mesh))

    def start(batch: Batch):
        return batch, segmenter.detect(params, sharding.put_batch(batch, segmenter.mesh), active)

    for batch, found in _one_ahead(map(start, batches)):
        boxes, scores, classes, regions = jax.device_get(found)
        for i in np.flatnonzero(batch.image_id >= 0):
            detections = np.flatnonzero(classes[i] >= 0)
            chosen = detections[(scores[i, detections] >= min_score) & (detections < top_n)]
            if agnostic_iou is not None:
                chosen = chosen[nms.class_agnostic(boxes[i, chosen], scores[i, chosen], agnostic_iou)]
            for d in np.setdiff1d(detections, chosen):
                without_mask.append((int(batch.image_id[i]), int(classes[i, d]), float(scores[i, d]), boxes[i, d]))
            if n := len(chosen):
                objects = Objects(
                    image_id=np.full(n, batch.image_id[i], np.int32), rank=chosen.astype(np.int32),
                    class_id=classes[i, chosen], score=scores[i, chosen], box=boxes[i, chosen],
                    region=regions[i, chosen],
                )  # fmt: skip
                yield objects, np.repeat(batch.original_hw[i][None], n, 0)


def ground_truth_objects(
    segmenter: Segmenter, params: PyTree, batches: Iterable[Batch], boxes_of: dict[int, tuple[np.ndarray, np.ndarray]]
) -> Iterator[tuple[Objects, np.ndarray]]:
    """Ground-truth objects as if the detector had found them, each with score 1.

    Args:
      batches: as for ``detected_objects``.
      boxes_of: image id -> boxes [n, 4] in original pixels, class ids [n].

    Yields:
      As ``detected_objects``.
    """
    params = jax.device_put(params, sharding.replicated(segmenter.mesh))
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
    most = max((len(classes) for _, classes in boxes_of.values()), default=0)

    def start(batch: Batch):
        padded = np.zeros((len(batch.image_id), most, 4), np.float32)
        padded[..., 2:] = 1.0  # an empty box has no pixels to resize
        for i, image_id in enumerate(batch.image_id):
            boxes, _ = boxes_of.get(int(image_id), nothing)
            padded[i, : len(boxes)] = boxes
        return batch, segmenter.crop(params, *sharding.put_batch((batch, padded), segmenter.mesh))

    for batch, found in _one_ahead(map(start, batches)):
        regions = jax.device_get(found)
        for i in np.flatnonzero(batch.image_id >= 0):
            boxes, classes = boxes_of.get(int(batch.image_id[i]), nothing)
            if n := len(boxes):
                objects = Objects(
                    image_id=np.full(n, batch.image_id[i], np.int32), rank=np.arange(n, dtype=np.int32),
                    class_id=classes.astype(np.int32), score=np.ones(n, np.float32), box=boxes.astype(np.float32),
                    region=regions[i, :n],
                )  # fmt: skip
                yield objects, np.repeat(batch.original_hw[i][None], n, 0)


def sample_masks(
    segmenter: Segmenter, params: PyTree, stream: Iterable[tuple[Objects, np.ndarray]]
) -> Iterator[SampledMasks]:
    """Samples the masks of a stream of objects in full batches that mix the objects of several images.

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
        yield SampledMasks(objects, hw, soft[: len(hw)], each[: len(hw)])


def concatenate(parts: Iterable[SampledMasks], size: int, samples: int) -> SampledMasks:
    """All objects of several batches as one; arrays without rows where there is no object.

    Args:
      parts: from ``sample_masks``.
      size: M, px.
      samples: masks per object.
    """
    parts = list(parts)
    if parts:
        return jax.tree.map(lambda *x: np.concatenate(x), *parts)
    none = Objects(
        image_id=np.zeros(0, np.int32), rank=np.zeros(0, np.int32), class_id=np.zeros(0, np.int32),
        score=np.zeros(0, np.float32), box=np.zeros((0, 4), np.float32), region=np.zeros((0, size, size, 3), np.uint8),
    )  # fmt: skip
    soft, each = np.zeros((0, size, size), np.float32), np.zeros((0, samples, size, size), np.float32)
    return SampledMasks(none, np.zeros((0, 2), np.int32), soft, each)


def paste_all(segmenter: Segmenter, sampled: SampledMasks) -> list[dict[str, Any]]:
    """The n masks at their place in their images, as compressed COCO RLE."""
    parts = zip(sampled.soft, sampled.objects.box, sampled.hw, strict=True)
    return [
        paste.paste_rle(soft, paste.context_box(box, segmenter.context, hw), hw, segmenter.threshold)
        for soft, box, hw in parts
    ]


def confidence(soft: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """The confidence of masks: the mean soft value inside the mask.

    Args:
      soft: [n, M, M] in 0..1; the mean of several samples is more informative than one sample. The variance of a
        pixel between samples, scaled to 0..1, is 4 soft (1 - soft).
      threshold: soft values from here on are inside.

    Returns:
      [n] float32 in threshold..1; 0 where a mask is empty.
    """
    inside = soft >= threshold
    count = inside.sum((1, 2))
    return ((soft * inside).sum((1, 2)) / np.maximum(count, 1)).astype(np.float32)


def _batched(stream: Iterable[tuple[Objects, np.ndarray]], n: int) -> Iterator[tuple[Objects, np.ndarray]]:
    """The same objects in batches of n; the last batch holds the rest."""
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


def _join(parts: list) -> tuple[Objects, np.ndarray]:
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def _one_ahead(started: Iterable[T]) -> Iterator[T]:
    """The same items, each yielded once the next one was made.

    Making an item starts work on the devices, which jax does not wait for. So the devices work on the next item while
    the host reads and uses the results of this one.
    """
    last: list[T] = []
    for item in started:
        yield from last
        last = [item]
    yield from last
