import numpy as np
import pytest

from maskdiff_jax.data import mask_batches, pipeline, transforms
from maskdiff_jax.data.crops import CropInfo, Crops
from maskdiff_jax.data.dataset import Annotation, Category, Dataset, ImageInfo
from maskdiff_jax.data.formats.segmentation import encode_mask


def leaves(batch):
    for value in batch:
        if isinstance(value, tuple):
            yield from leaves(value)
        elif value is not None:
            yield value


def assert_equal(first, second):
    for a, b in zip(leaves(first), leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def mask_loader(crops, data, seed=0, **options):
    options = {"slots": 5, "min_shots": 1, "size": 16, "batch": 8} | options
    return pipeline.mask_loader(crops, data, seed=seed, **options)


def test_detector_batch(shapes_data, train):
    batch = next(pipeline.detector_loader(train, shapes_data, batch=4, seed=0))
    assert batch.image.shape == (4, 128, 128, 3) and batch.image.dtype == np.uint8
    assert batch.instances.boxes.shape == (4, 8, 4) and batch.instances.boxes.dtype == np.float32
    assert batch.region_image is None
    by_id = {info.id: (i, info) for i, info in enumerate(train.infos)}
    for k in range(4):
        i, info = by_id[int(batch.image_id[k])]
        stored, boxes = train.read(i), np.array([a.box for a in info.annotations])
        mirrored = not np.array_equal(batch.image[k], stored)
        if mirrored:
            stored, boxes = stored[:, ::-1], transforms.flip_boxes(boxes, 128)
        np.testing.assert_array_equal(batch.image[k], stored)
        n = len(boxes)
        order = np.argsort([-a.area for a in info.annotations], kind="stable")
        np.testing.assert_array_equal(batch.instances.boxes[k, :n], boxes[order])
        assert batch.instances.classes[k, :n].tolist() == [info.annotations[j].class_id for j in order]
        assert (batch.instances.classes[k, n:] == -1).all() and not batch.instances.boxes[k, n:].any()


def test_flips_are_random_per_sample(shapes_data, train):
    loader = pipeline.detector_loader(train, shapes_data, batch=8, seed=0)
    by_id = {info.id: i for i, info in enumerate(train.infos)}
    mirrored = []
    for _ in range(10):
        batch = next(loader)
        mirrored += [
            not np.array_equal(image, train.read(by_id[int(i)]))
            for image, i in zip(batch.image, batch.image_id, strict=True)
        ]
    assert 20 < sum(mirrored) < 60


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


def photos(sizes, crowd=False):
    """Dataset of plain pictures of (height, width), each with one object in its left half."""
    infos = []
    for i, (h, w) in enumerate(sizes):
        mask = np.zeros((h, w), np.uint8)
        mask[: h // 2, : w // 2] = 1
        box = (0.0, 0.0, float(w // 2), float(h // 2))
        annotation = Annotation(i + 1, i + 1, 0, box, encode_mask(mask), float(mask.sum()), crowd)
        infos.append(ImageInfo(i + 1, "", h, w, (annotation,)))
    return Dataset(
        "photos", "train", (Category(1, "thing", False),), infos,
        read=lambda i: np.full((*sizes[i], 3), i + 1, np.uint8),
    )  # fmt: skip


@pytest.fixture
def photo_data(shapes_data):
    data = shapes_data.copy_and_resolve_references()
    data.short_sides, data.test_short_side, data.long_side = (48, 64), 64, 96
    data.buckets, data.region_long_side = ((64, 96), (96, 64)), 80
    return data


def test_batches_have_one_padded_size(photo_data):
    sizes = [(60, 80), (80, 60), (50, 100), (100, 50), (64, 64), (30, 40)]
    loader = pipeline.detector_loader(photos(sizes), photo_data, batch=2, seed=0)
    sizes_seen = {}
    for _ in range(30):
        batch = next(loader)
        for k in range(2):
            i = int(batch.image_id[k]) - 1
            h, w = batch.image_hw[k].tolist()
            assert (h, w) in [transforms.resized_hw(*sizes[i], s, 96) for s in (48, 64)]
            assert (batch.image[k, :h, :w] == i + 1).all() and not batch.image[k, h:].any()
            assert not batch.image[k, :, w:].any()
            assert batch.original_hw[k].tolist() == list(sizes[i])
            x0, y0, x1, y1 = batch.instances.boxes[k, 0]
            assert (x1 - x0) / w == pytest.approx((sizes[i][1] // 2) / sizes[i][1])
            assert (x0 == 0 or x1 == w) and y0 == 0
            sizes_seen.setdefault(i, set()).add(batch.image.shape[1:3])
    assert all(len(c) == 1 for c in sizes_seen.values()) and len(sizes_seen) == 6
    assert sizes_seen[0] == {(64, 96)} and sizes_seen[1] == {(96, 64)}


def test_crowds_are_no_targets(photo_data):
    with pytest.raises(ValueError, match="no image"):
        pipeline.detector_loader(photos([(60, 80)], crowd=True), photo_data, batch=1, seed=0)
    batch = next(pipeline.eval_batches(photos([(60, 80)], crowd=True), photo_data, batch=1))
    assert batch.instances.ignore[0].tolist() == [True] + 7 * [False]


def test_only_the_largest_of_too_many_stay(photo_data):
    dataset = photos([(60, 80)])
    (a,) = dataset.infos[0].annotations
    many = tuple(a._replace(id=k, area=float(k), class_id=k) for k in range(12))
    dataset = dataset._replace(infos=[dataset.infos[0]._replace(annotations=many)])
    batch = next(pipeline.detector_loader(dataset, photo_data, batch=1, seed=0))
    assert batch.instances.classes[0].tolist() == [11, 10, 9, 8, 7, 6, 5, 4]


def test_eval_batches_cover_each_image_once(photo_data):
    sizes = [(60, 80), (80, 60), (50, 100), (100, 50), (64, 64), (200, 100)]
    seen = []
    for batch in pipeline.eval_batches(photos(sizes), photo_data, batch=4):
        assert batch.image.shape[0] == 4 and batch.region_image.shape == (4, 80, 80, 3)
        for k in range(4):
            i = int(batch.image_id[k]) - 1
            if i < 0:
                assert not batch.image[k].any() and (batch.image_hw[k] == 1).all()
                continue
            seen.append(i)
            assert tuple(batch.image_hw[k]) == transforms.resized_hw(*sizes[i], 64, 96)
            h, w = batch.region_hw[k]
            assert (h, w) == transforms.region_hw(*sizes[i], 80)
            assert (batch.region_image[k, :h, :w] == i + 1).all() and not batch.region_image[k, h:].any()
    assert sorted(seen) == list(range(6))


def plain_crops(classes, side=20):
    """Crops of one color each, so that a batch tells which they are; the object fills the middle."""

    def read(i):
        mask = np.zeros((side, side), np.uint8)
        mask[5:15, 5:12] = 1
        mask[5:10, 12:15] = 1  # no symmetry
        return np.full((side, side, 3), 3 * i + 1, np.uint8), mask

    infos = [CropInfo(i, i, c, (5.0, 5.0, 15.0, 15.0)) for i, c in enumerate(classes)]
    return Crops((), infos, read)


def test_query_is_never_its_own_shot(shapes_data):
    classes = [0] * 2 + [1] * 4 + [2] * 30 + [3] * 3
    data = shapes_data.copy_and_resolve_references()
    data.shot_augment, data.flip, data.box_jitter = 0.0, 0.0, 0.0
    loader = mask_loader(plain_crops(classes), data, batch=16)
    counts = []
    for _ in range(20):
        batch = next(loader)
        for k in range(16):
            query = (int(batch.region[k, 0, 0, 0]) - 1) // 3
            assert batch.classes[k] == classes[query]
            filled = batch.shots[k].any((1, 2, 3))
            n = int(filled.sum())
            assert filled[:n].all() and not filled[n:].any()
            shots = ((batch.shots[k, :n, 0, 0, 0].astype(int) - 1) // 3).tolist()
            assert query not in shots and {classes[s] for s in shots} == {classes[query]}
            others = classes.count(classes[query]) - 1
            assert len(set(shots)) == min(n, others)  # repeated only when there are too few
            counts.append(n)
    assert set(counts) == {1, 2, 3, 4, 5}


def test_all_slots_are_filled_when_asked(shapes_data):
    batch = next(mask_loader(plain_crops([0] * 3), shapes_data, min_shots=5))
    assert batch.shots.any((2, 3, 4)).all()


def test_only_crop_of_a_class_is_its_own_augmented_shot(shapes_data):
    data = shapes_data.copy_and_resolve_references()
    data.shot_augment, data.flip, data.box_jitter = 0.0, 0.0, 0.0
    loader = mask_loader(plain_crops([0, 1]), data)
    for _ in range(5):
        batch = next(loader)
        for k in range(8):
            assert batch.shots[k, 0].any()
            assert not np.array_equal(batch.shots[k, 0, ..., 3] >= 128, batch.mask[k].astype(bool))


@pytest.mark.parametrize("source", ["scenes", "symmetric"])
def test_own_shot_does_not_keep_the_silhouette(shapes_data, train, source):
    """A class with one object: its shot, alpha on mask, must not be the answer.

    Of the plain augmentations, 6 % overlap by more than 0.9 in these scenes without box jitter, all of a box's do
    at quarter turns.
    """
    data = shapes_data.copy_and_resolve_references()
    data.box_jitter = 0.0
    crops = pipeline.open_crops(data, train, "train") if source == "scenes" else symmetric_crops()
    infos = [info._replace(class_id=i) for i, info in enumerate(crops.infos)]  # each is the only one of its class
    loader = mask_loader(crops._replace(infos=infos), data, size=32, batch=16)
    overlaps, areas = [], []
    for _ in range(12):
        batch = next(loader)
        for mask, shots in zip(batch.mask, batch.shots, strict=True):
            for shot in shots[shots.any((1, 2, 3))]:
                overlaps.append(transforms.silhouette_iou(shot, mask))
                areas.append((shot[..., 3] >= 128).sum() / mask.sum())
    assert len(overlaps) > 300 and max(overlaps) <= transforms.MAX_OWN_IOU
    assert 0.2 < min(areas) and 0.4 < np.mean(areas)  # a shot that shows nothing would overlap nothing


def symmetric_crops(side=40):
    """A box, a disk and a ring, which all quarter turns and mirrorings map to themselves."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    radius = np.hypot(x, y)
    inner = (np.abs(x) < 16) & (np.abs(y) < 16)
    masks = [inner, radius < 16, (radius < 16) & (radius > 8)]
    infos = [CropInfo(i, i, 0, (4.0, 4.0, 36.0, 36.0)) for i in range(3)]
    return Crops((), infos, lambda i: (np.full((side, side, 3), 90, np.uint8), masks[i].astype(np.uint8)))


def test_other_objects_are_augmented_without_that_bound(shapes_data):
    """The minimum change of pose is for own shots alone: others keep the augmentation they had."""
    data = shapes_data.copy_and_resolve_references()
    data.shot_augment = 1.0
    crops = symmetric_crops()
    batch = next(mask_loader(crops._replace(infos=[crops.infos[1]] * 3, read=lambda i: crops.read(1)), data, batch=32))
    found = [
        transforms.silhouette_iou(s, m)
        for m, shots in zip(batch.mask, batch.shots, strict=True)
        for s in shots[shots.any((1, 2, 3))]
    ]
    assert max(found) > 0.9


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


def test_shots_are_dropped_and_augmented_at_their_rates(shapes_data):
    data = shapes_data.copy_and_resolve_references()
    data.shot_drop, data.shot_augment = 0.25, 0.5
    crops = plain_crops([0] * 40)
    loader = mask_loader(crops, data, batch=32)
    plain = transforms.crop_shot(transforms.pack(*crops.read(0)), np.array(crops.infos[0].box), 16, 0.0)[..., 3]
    empty, same, filled = 0, 0, 0
    for _ in range(20):
        batch = next(loader)
        slots = batch.shots.any((2, 3, 4))
        empty += int((~slots.any(1)).sum())
        filled += int(slots.sum())
        same += int((batch.shots[slots][..., 3] == plain).all((1, 2)).sum())
    assert 110 < empty < 210  # 160 of 640 expected
    assert 0.42 < same / filled < 0.58
    data.shot_drop = 1.0
    assert not next(mask_loader(crops, data)).shots.any()


def test_region_and_mask_move_together(shapes_data, train):
    data = shapes_data.copy_and_resolve_references()
    data.box_jitter = 0.0
    crops = pipeline.open_crops(data, train, "train")
    expected = []
    for i, info in enumerate(crops.infos):
        rgb, mask = crops.read(i)
        cut = transforms.crop_resize(transforms.pack(rgb, mask), np.array(info.box), 16)
        for view in (cut, cut[:, ::-1]):
            expected.append((view[..., :3].tobytes(), (view[..., 3] >= 128).astype(np.uint8).tobytes()))
    batch = next(mask_loader(crops, data))
    for k in range(8):
        assert (batch.region[k].tobytes(), batch.mask[k].tobytes()) in expected
        assert batch.mask[k].max() == 1


def test_uniform_over_crops(shapes_data):
    loader = mask_loader(plain_crops([0] * 30 + [1] * 2), shapes_data, batch=16)
    seen = np.concatenate([next(loader).region[:, 0, 0, 0] for _ in range(4)])
    assert (np.unique(seen, return_counts=True)[1] == 2).all()  # 64 samples of 32 crops


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


def test_sample_shots_is_uniform():
    options = mask_batches.MaskOptions(5, 2, 8, 0.1, 0.0, 0.5, 0.5, 0.0)
    rng = np.random.default_rng(0)
    members = np.arange(100, 112)
    counts = np.zeros(12)
    for _ in range(3000):
        chosen, alone = mask_batches.sample_shots(members, 4, options, rng)
        assert not alone and 2 <= len(chosen) <= 5
        counts[chosen - 100] += 1
    assert counts[4] == 0
    rest = np.delete(counts, 4)
    assert np.abs(rest / rest.mean() - 1).max() < 0.12
