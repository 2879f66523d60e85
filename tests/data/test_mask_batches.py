import numpy as np
import pytest

from maskdiff_jax.data import mask_batches, pipeline, transforms
from maskdiff_jax.data.crops import CropInfo, Crops
from tests.data.tiny import mask_loader, plain_crops


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
        query = transforms.crop_resize(transforms.pack(rgb, mask), np.array(info.box), 16)
        for view in (query, query[:, ::-1]):
            expected.append((view[..., :3].tobytes(), (view[..., 3] >= 128).astype(np.uint8).tobytes()))
    batch = next(mask_loader(crops, data))
    for k in range(8):
        assert (batch.region[k].tobytes(), batch.mask[k].tobytes()) in expected
        assert batch.mask[k].max() == 1


def test_augmented_regions_have_tight_boxes_at_their_rate(shapes_data):
    data = shapes_data.copy_and_resolve_references()
    data.box_jitter, data.flip, data.region_augment, data.shot_augment = 0.0, 0.0, 0.75, 0.0
    crops = symmetric_crops()
    square = crops._replace(infos=[crops.infos[0]] * 3, read=lambda i: crops.read(0))
    plain = transforms.crop_resize(transforms.pack(*crops.read(0)), np.array(crops.infos[0].box), 32)[..., 3] >= 128
    loader = mask_loader(square, data, size=32, batch=32, slots=1)
    changed = 0
    for _ in range(8):
        for mask in next(loader).mask:
            if not np.array_equal(mask, plain):
                changed += 1
                assert all(side.any() for side in (mask[:2], mask[-2:], mask[:, :2], mask[:, -2:]))
    assert 0.65 < changed / 256 < 0.85


@pytest.mark.parametrize("seed", range(8))
def test_without_region_augmentation_no_random_number_is_used_for_it(shapes_data, train, seed):
    """So that batches of older configs stay what they were: the first random number is that of the flip."""
    data = shapes_data.copy_and_resolve_references()
    crops = pipeline.open_crops(data, train, "train")
    table = mask_batches.crop_table(crops, 16, 0.0, 0)
    options = mask_batches.MaskOptions(5, 1, 16, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0)
    batch = mask_batches.mask_batch(table, options, np.array([3]), np.random.default_rng(seed))
    query = transforms.crop_resize(table.packed(3), table.boxes[3], 16)[..., :3]
    flipped = np.random.default_rng(seed).random() < 0.5
    assert np.array_equal(batch.region[0], query[:, ::-1] if flipped else query)


def test_uniform_over_crops(shapes_data):
    loader = mask_loader(plain_crops([0] * 30 + [1] * 2), shapes_data, batch=16)
    seen = np.concatenate([next(loader).region[:, 0, 0, 0] for _ in range(4)])
    assert (np.unique(seen, return_counts=True)[1] == 2).all()  # 64 samples of 32 crops


def test_sample_shots_is_uniform():
    options = mask_batches.MaskOptions(5, 2, 8, 0.1, 0.0, 0.5, 0.5, 0.0, 0.0)
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
