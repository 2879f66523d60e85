"""From dataset and crops to batches of numpy arrays: grain loaders that shuffle, repeat and resume.

Everything random in a batch comes from a numpy generator that grain seeds with (seed, number of the batch). So a
batch depends neither on threads, workers and caches nor on the batches before it.
"""

import functools
import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np
from absl import flags

from maskdiff_jax.data import buckets, detector_batches, mask_batches, sources, transforms
from maskdiff_jax.data.cache import Cached
from maskdiff_jax.data.crops import CropInfos, Crops, crops_from_dataset, select
from maskdiff_jax.data.dataset import Dataset, large_enough
from maskdiff_jax.data.prepared import records as prepared
from maskdiff_jax.data.synthetic import scenes
from maskdiff_jax.types import Batch

SOURCES = sources.SOURCES
BUFFER = 4  # batches that are loaded ahead
ENDLESS = 2**40  # samples; the length of grain's own endless repeat overflows in batches of one
SMALL_SET = 2**31  # bytes in all processes together: a decoded set that needs no more is kept in memory
SLOW_CROPS = 20_000  # from this number of crops on, a hint says that they can be prepared


def open_split(data: Any, split: str) -> Dataset:
    """A split of the dataset that config.data names.

    Args:
      data: config.data.
      split: "train" (images of stage 1), "support" (what the K shots are sampled from), "val" (generated
        scenes alone) or "test".

    Raises:
      FileNotFoundError: the dataset is not where config.data says.
      ValueError: an unknown source, split or novel class, or broken data.
    """
    return _source(data, split)(data, split)


def prepare_split(data: Any, split: str, *, shot_size: int | None = None) -> list[str]:
    """Writes the split's images, its instance crops and these as shots in array_record files.

    Args:
      data: config.data.
      split: as for `open_split`.
      shot_size: M of the mask head, px; None: no shots, for a split that is not trained on.

    Returns:
      The folders of the prepared sets.
    """
    return [str(folder) for folder in sources.prepare(data, split, _source(data, split), shot_size)]


def open_crops(data: Any, dataset: Dataset, split: str) -> Crops:
    """The objects of `dataset` that the mask head can learn from.

    Prepared crops are read where `launch/prepare_data.py` has written them. Otherwise objects are cropped from
    their images when they are needed, with the same result.

    Args:
      data: config.data.
      dataset: of `split`, or a subset of it. Crowd regions, ignored objects and those that are not
        `large_enough` are dropped.
      split: as for `open_split`.

    Raises:
      ValueError: the prepared crops are damaged, or of another dataset.
    """
    wanted = np.array(
        [
            a.id
            for info in dataset.infos
            for a in info.annotations
            if a.is_target and large_enough(a, data.min_box_side, data.min_mask_area)
        ],
        np.int64,
    )
    folder, _ = sources.crops_folder(data, split)
    if prepared.is_prepared(folder):
        crops = prepared.open_crops(folder)
        shots = functools.partial(_prepared_shots, data, split, crops)
        crops = crops._replace(categories=dataset.categories, shots=shots)
    else:
        sources.tell_outdated(*sources.crops_folder(data, split))
        # an image holds several objects: a third of the cache is for whole images
        read = _cached(dataset.read, _cache_bytes(data) // 3)
        crops = crops_from_dataset(dataset._replace(read=read), data)
        if len(wanted) > SLOW_CROPS:
            print(
                f"{len(wanted)} objects are cropped from whole images in every step; run launch/prepare_data.py "
                "to crop them once and load faster",
                file=sys.stderr,
            )
    available = CropInfos.of(crops.infos).annotation_ids
    lost = wanted[~np.isin(wanted, available)]
    if len(lost):
        raise ValueError(
            f"{folder} has no crop of annotation {lost[0]} of {dataset.name} {dataset.split}: delete that folder "
            "(launch/prepare_data.py writes it again)"
        )
    order = np.argsort(available)
    return select(crops, order[np.searchsorted(available, wanted, sorter=order)])


def _prepared_shots(data: Any, split: str, crops: Crops, size: int) -> Callable[[int], np.ndarray] | None:
    """Reads prepared `crops` as shots of `size` px, where these are prepared too."""
    folder, _ = sources.shots_folder(data, split, size)
    if prepared.is_prepared(folder):
        return prepared.open_shots(folder, crops)
    print(
        f"no shots of {size} px are prepared for the crops of {split}: run launch/prepare_data.py to write them "
        "and load faster",
        file=sys.stderr,
    )
    return None


def detector_loader(dataset: Dataset, data: Any, *, batch: int, seed: int, mask_side: int = 0) -> grain.DatasetIterator:
    """Endless training batches: resized, flipped at random, padded to one size per batch.

    Images without a target (see `Annotation.is_target`) are dropped. Each batch has images of one padded size, the
    smallest of data.buckets that holds them; a line on stderr says how much of that is padding.

    Args:
      dataset: with the classes to learn; see `fewshot.restrict`.
      data: config.data.
      batch: B.
      seed: of the order, sizes and flips.
      mask_side: G of `Batch.gt_masks`, px; 0: without them.

    Returns:
      An iterator of `types.Batch` (N = data.max_boxes; of more targets the largest are kept) with
      get_state and set_state. Crowd regions are dropped, as in detectron2 (data/dataset_mapper.py).

    Raises:
      ValueError: no image has a target, or an image fits none of data.buckets.
    """
    usable = [i for i, info in enumerate(dataset.infos) if any(a.is_target for a in info.annotations)]
    if not usable:
        raise ValueError(
            f"no image of {dataset.name} {dataset.split} has an object to train on: check the annotations and "
            "data.novel_classes"
        )
    decoded = sum(3 * dataset.infos[i].height * dataset.infos[i].width for i in usable)
    read = _cached(dataset.read, _limit(data, _cache_bytes(data), decoded))
    table = detector_batches.image_table(dataset, usable, data.max_boxes, read, masks=mask_side > 0)
    options = detector_batches.TrainOptions(tuple(data.short_sides), data.long_side, data.flip, mask_side)
    padded = buckets.padded_sizes(table.sizes, max(data.short_sides), data)
    buckets.print_padding(table.sizes, data)
    groups, shares = [], []
    for size in sorted(set(padded)):
        members = np.array([k for k, s in enumerate(padded) if s == size])
        make = functools.partial(detector_batches.training_batch, table, size, data.max_boxes, options)
        group = _endless(grain.MapDataset.source(members), seed + len(groups), batch)
        groups.append(group.random_map(make))
        shares.append(len(members) / len(usable))
    batches = groups[0] if len(groups) == 1 else grain.MapDataset.mix(groups, weights=shares)
    return _iterate(batches, data.workers)


def mask_loader(
    crops: Crops, data: Any, *, slots: int, min_shots: int, size: int, batch: int, seed: int
) -> grain.DatasetIterator:
    """Endless mask-head batches: a query crop and shots of its class, uniform over the crops.

    The region is the query's box, moved by data.box_jitter and widened by data.context. The shots, between min_shots
    and slots, are other crops of the class in random order, repeated only if there are too few. The only crop of a
    class is its own shot, always augmented. See config.data for flip, region_augment, shot_augment and
    shot_drop.

    Args:
      crops: from `open_crops`.
      data: config.data.
      slots: K; unfilled slots are zero, from the last on.
      min_shots: 1..slots.
      size: M, px.
      batch: B.
      seed: of the order and of everything random.

    Returns:
      An iterator of `types.MaskBatch` with get_state and set_state.

    Raises:
      ValueError: no crop, min_shots out of range, or crops with too small a margin.
    """
    if not 1 <= min_shots <= slots:
        raise ValueError(f"model.mask.min_shots is {min_shots}: it must be 1..{slots} (model.mask.slots)")
    if not len(crops.infos):
        raise ValueError("no object is large enough for the mask head: lower data.min_box_side, data.min_mask_area")
    if data.crop_margin < transforms.needed_margin(data.box_jitter, data.context):
        raise ValueError(
            f"data.crop_margin is {data.crop_margin}, but data.box_jitter and data.context need "
            f"{transforms.needed_margin(data.box_jitter, data.context):.3g}: raise it"
        )
    options = mask_batches.MaskOptions(
        slots, min_shots, size, data.box_jitter, data.context, data.flip, data.shot_augment, data.shot_drop,
        data.region_augment,
    )  # fmt: skip
    limit = _limit(data, 2 * _cache_bytes(data) // 3, mask_batches.decoded_bytes(crops, size, data.crop_margin))
    table = mask_batches.crop_table(crops, size, data.context, limit)
    order = _endless(grain.MapDataset.range(len(crops.infos)), seed, batch)
    make = functools.partial(mask_batches.mask_batch, table, options)
    return _iterate(order.random_map(make), data.workers)


def eval_batches(dataset: Dataset, data: Any, *, batch: int) -> Iterator[Batch]:
    """Each image once, at the test size, with the pixels that mask regions are cropped from.

    A batch has images of one padded size, so the order is not that of `dataset`; the last batch of a padded size is
    filled with empty images of id -1. Ground truth is kept, crowd regions as ignored objects.
    """
    everything = range(len(dataset.infos))
    table = detector_batches.image_table(dataset, everything, data.max_boxes, dataset.read, crowd=True)
    hw = [transforms.resized_hw(*s, data.test_short_side, data.long_side) for s in table.sizes.tolist()]
    padded = buckets.padded_sizes(table.sizes, data.test_short_side, data)
    plan = []
    for size in sorted(set(padded)):
        members = [k for k, s in enumerate(padded) if s == size]
        plan += [(size, members[k : k + batch]) for k in range(0, len(members), batch)]
    make = functools.partial(detector_batches.test_batch, table, plan, hw, data.max_boxes, data.region_long_side, batch)
    return _freed(_iterate(grain.MapDataset.range(len(plan)).map(make), data.workers))


def _freed(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches. Grain's iterator holds their shared memory in a reference cycle, beyond the end of it."""
    try:
        yield from batches
    finally:
        del batches
        gc.collect()


def _source(data: Any, split: str) -> Callable[[Any, str], Dataset]:
    if data.source not in SOURCES:
        raise ValueError(f"data.source is '{data.source}': choose one of {', '.join(SOURCES)}")
    if split not in sources.SPLITS:
        raise ValueError(f"unknown split '{split}': choose one of {', '.join(sources.SPLITS)}")
    if split == "val" and data.source not in scenes.LEVELS:
        raise ValueError(
            f"{data.source} has no split 'val': name the annotations of your validation images in data.test_json and "
            "data.test_images, and use the split 'test'"
        )
    return SOURCES[data.source]


def _cached(read: Callable[[int], np.ndarray], limit: int) -> Callable[[int], np.ndarray]:
    return Cached(read, limit, lambda image: image.nbytes)


def _cache_bytes(data: Any) -> int:
    return int(data.cache_mb * 2**20) // max(1, data.workers)


def _limit(data: Any, configured: int, decoded: int) -> int:
    """Bytes that a process may keep: as configured, but a small set, such as K shots, is kept as a whole.

    Args:
      data: config.data; `workers` is read.
      configured: bytes per process.
      decoded: bytes of all that the loader reads.
    """
    return max(configured, decoded) if decoded * max(1, data.workers) <= SMALL_SET else configured


def _endless(dataset: grain.MapDataset, seed: int, batch: int) -> grain.MapDataset:
    """Batches of a dataset that is shuffled again in each epoch; a batch may cross epochs."""
    return dataset.seed(seed).shuffle().repeat(ENDLESS // len(dataset)).batch(batch)


def _iterate(dataset: grain.MapDataset, workers: int) -> grain.DatasetIterator:
    if workers == 0:
        return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=BUFFER)))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # in a notebook or a test: grain's workers refuse unparsed absl flags
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
    # a batch is one element: in a worker process one thread is enough
    one = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    return iter(dataset.to_iter_dataset(one).mp_prefetch(options))
