import weakref

import numpy as np
import pytest

from maskdiff_jax.data import pipeline, sources
from maskdiff_jax.data.fewshot import shots as fewshot
from maskdiff_jax.data.prepared import records as prepared
from tests.data.tiny import mask_loader, photos, plain_crops


def leaves(batch):
    for value in batch:
        if isinstance(value, tuple):
            yield from leaves(value)
        elif value is not None:
            yield value


def assert_equal(first, second):
    for a, b in zip(leaves(first), leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_image_comes_once_per_epoch(shapes_data, train):
    loader = pipeline.detector_loader(train, shapes_data, batch=4, seed=3)
    epochs = [np.concatenate([next(loader).image_id for _ in range(4)]).tolist() for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == [i.id for i in train.infos]
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("kind", ["detector", "mask"])
def test_loaders_resume(shapes_data, train, kind):
    crops = pipeline.open_crops(shapes_data, train, "train")

    def make(seed=5):
        if kind == "detector":
            return pipeline.detector_loader(train, shapes_data, batch=3, seed=seed)
        return mask_loader(crops, shapes_data, seed)

    loader = make()
    for _ in range(4):
        next(loader)
    state = loader.get_state()
    expected = [next(loader) for _ in range(4)]
    resumed = make()
    resumed.set_state(state)
    for batch in expected:
        assert_equal(next(resumed), batch)
    fresh, other = make(), make(seed=6)
    with pytest.raises(AssertionError):
        assert_equal(next(fresh), next(other))


@pytest.mark.slow
def test_worker_processes_make_the_same_batches(shapes_data, train):
    data = shapes_data.copy_and_resolve_references()
    data.workers = 2
    threads, processes = (pipeline.detector_loader(train, d, batch=3, seed=1) for d in (shapes_data, data))
    for _ in range(3):
        assert_equal(next(threads), next(processes))
    state = processes.get_state()
    expected = next(processes)
    again = pipeline.detector_loader(train, data, batch=3, seed=1)
    again.set_state(state)
    assert_equal(next(again), expected)


@pytest.mark.parametrize("small", [True, False])
def test_a_small_set_is_decoded_once(shapes_data, monkeypatch, small):
    """What stage 2 learns from fits into memory and is kept there, without data.cache_mb; a large set is not."""
    data = shapes_data.copy_and_resolve_references()
    data.cache_mb, data.crop_margin = 0, 0.5  # that `plain_crops` have
    if not small:
        monkeypatch.setattr(pipeline, "SMALL_SET", 1000)
    crops, read = plain_crops([0] * 6), []
    counted = crops._replace(read=lambda i: (read.append(i), crops.read(i))[1])
    loader = mask_loader(counted, data, batch=6)
    batches = [next(loader) for _ in range(10)]
    assert len(batches) == 10
    if small:  # two threads may read the same once each
        assert sorted(set(read)) == list(range(6)) and len(read) <= 12
    else:
        assert len(read) > 60
    images = photos([(60, 80)] * 4)
    data.short_sides, data.long_side, data.buckets = (48,), 96, ((64, 96),)
    seen = []
    counted = images._replace(read=lambda i: (seen.append(i), images.read(i))[1])
    loader = pipeline.detector_loader(counted, data, batch=4, seed=0)
    for _ in range(6):
        next(loader)
    assert len(seen) <= 8 if small else len(seen) >= 24


def test_bad_options_say_what_to_change(shapes_data):
    crops = plain_crops([0, 0])
    with pytest.raises(ValueError, match="min_shots"):
        mask_loader(crops, shapes_data, min_shots=6)
    with pytest.raises(ValueError, match="min_box_side"):
        mask_loader(plain_crops([]), shapes_data)
    data = shapes_data.copy_and_resolve_references()
    data.box_jitter = 0.3
    with pytest.raises(ValueError, match="crop_margin"):
        mask_loader(crops, data)


def test_open_crops_is_the_same_with_and_without_preparing(shapes_data, support_split, tmp_path):
    data = shapes_data.copy_and_resolve_references()
    shots = fewshot.shot_dataset(support_split, fewshot.sample(support_split, 3, 0), "ignore")
    before = pipeline.open_crops(data, shots, "support")
    data.root = str(tmp_path)
    data.shapes_support = 60
    pipeline.prepare_split(data, "support")
    assert prepared.is_prepared(sources.crops_folder(data, "support")[0])
    after = pipeline.open_crops(data, shots, "support")
    assert list(before.infos) == list(after.infos) and len(after.infos) == 36
    for i in (0, 17, 35):
        np.testing.assert_array_equal(before.read(i)[0], after.read(i)[0])
        np.testing.assert_array_equal(before.read(i)[1], after.read(i)[1])


def test_open_crops_leaves_out_what_is_no_sample(shapes_data, support_split):
    infos = list(support_split.infos[:6])
    sizes = [min(a.box[2] - a.box[0], a.box[3] - a.box[1]) for i in infos for a in i.annotations]
    data = shapes_data.copy_and_resolve_references()
    data.min_box_side = int(np.median(sizes))
    crops = pipeline.open_crops(data, support_split._replace(infos=infos), "support")
    assert len(crops.infos) == sum(s >= data.min_box_side for s in sizes) < len(sizes)
    crowded = [i._replace(annotations=tuple(a._replace(crowd=True) for a in i.annotations)) for i in infos]
    assert not pipeline.open_crops(data, support_split._replace(infos=crowded), "support").infos


def test_batches_of_evaluation_are_freed_at_the_end():
    """Grain's iterator is in a reference cycle; its shared memory was reported as leaked when the process ended."""

    class Batches:
        def __init__(self):
            self.cycle, self.rest = self, iter(range(2))

        def __iter__(self):
            return self.rest

    batches = Batches()
    alive = weakref.ref(batches)
    freed = pipeline._freed(batches)
    del batches
    assert list(freed) == [0, 1]
    assert alive() is None
