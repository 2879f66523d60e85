import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.data import pipeline, transforms
from maskdiff_jax.data.formats.segmentation import decode_mask
from tests.data.tiny import photos


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


def test_masks_of_the_objects_in_their_boxes(shapes_data, train):
    """Where they are asked for, and mirrored with the image; each lies in its own box."""
    assert next(pipeline.detector_loader(train, shapes_data, batch=2, seed=0)).gt_masks is None
    batch = next(pipeline.detector_loader(train, shapes_data, batch=8, seed=0, mask_side=64))
    assert batch.gt_masks.shape == (8, 8, 64, 64) and batch.gt_masks.dtype == np.uint8
    by_id = {info.id: (i, info) for i, info in enumerate(train.infos)}
    flips = set()
    for k in range(8):
        i, info = by_id[int(batch.image_id[k])]
        mirrored = not np.array_equal(batch.image[k], train.read(i))
        flips.add(mirrored)
        for slot, a in enumerate(sorted(info.annotations, key=lambda a: -a.area)):
            whole = decode_mask(a.rle)[:, :: -1 if mirrored else 1]
            x0, y0, x1, y1 = batch.instances.boxes[k, slot].round().astype(int)
            box = Image.fromarray(whole[y0:y1, x0:x1] * np.uint8(255)).resize((64, 64), Image.Resampling.BILINEAR)
            same = (np.asarray(box) >= 128) == (batch.gt_masks[k, slot] == 1)
            assert same.mean() > 0.97 and 0.05 < batch.gt_masks[k, slot].mean() <= 1
        assert not batch.gt_masks[k, len(info.annotations) :].any()
    assert flips == {True, False}


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
