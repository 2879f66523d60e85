import random

import numpy as np
import pytest

from maskdiff_jax.data import coco, fewshot, records


def toy(*images, classes=3, order=()):
    """Records of images given as lists of (annotation id, class id); each object is a 10 px square."""
    infos = []
    for i, objects in enumerate(images):
        annotations = []
        for k, (annotation_id, class_id) in enumerate(objects):
            mask = np.zeros((40, 60), np.uint8)
            mask[5:15, 10 * k : 10 * k + 10] = 1
            box = (10.0 * k, 5.0, 10.0 * k + 10, 15.0)
            rle = coco.encode_mask(mask)
            annotations.append(coco.Annotation(annotation_id, i + 1, class_id, box, rle, 100.0, False))
        infos.append(coco.ImageInfo(i + 1, f"{i}.png", 40, 60, tuple(annotations)))
    categories = tuple(coco.Category(10 * (c + 1), "abcdefgh"[c], c == 2) for c in range(classes))
    return coco.Records("toy", "pool", categories, infos, _picture, order)


def _picture(i):
    return np.random.default_rng(i).integers(0, 256, (40, 60, 3), np.uint8)


def test_restrict_forgets_other_classes_and_empty_images():
    all_of_it = toy([(1, 0), (2, 1)], [(3, 1)], [(4, 2), (5, 0)])
    part = fewshot.restrict(all_of_it, [0, 2])
    assert [[a.id for a in i.annotations] for i in part.infos] == [[1], [4, 5]]
    np.testing.assert_array_equal(part.read(1), all_of_it.read(2))
    assert part.categories == all_of_it.categories  # class ids keep their meaning


def test_draws_are_nested_and_of_their_class(pool):
    class_of = {a.id: a.class_id for i in pool.infos for a in i.annotations}
    sets = {k: fewshot.draw(pool, k, seed=1) for k in (1, 3, 5)}
    for c in range(12):
        assert sets[5][c][:3] == sets[3][c] and sets[3][c][:1] == sets[1][c]
        assert len(set(sets[5][c])) == 5 and {class_of[i] for i in sets[5][c]} == {c}
    assert sets[5] == fewshot.draw(pool, 5, seed=1) != fewshot.draw(pool, 5, seed=2)
    assert fewshot.draw(pool, 5, seed=1, class_ids=[8, 9]) == {c: sets[5][c] for c in (8, 9)}


def test_crowds_ignored_and_small_objects_are_never_drawn():
    data = toy([(1, 0), (2, 0), (3, 0), (4, 0)], classes=1)
    a = list(data.infos[0].annotations)
    a[0], a[1] = a[0]._replace(crowd=True), a[1]._replace(ignore=True)
    a[2] = a[2]._replace(box=(0.0, 0.0, 4.0, 20.0))
    data = data._replace(infos=[data.infos[0]._replace(annotations=tuple(a))])
    assert fewshot.draw(data, 1, 0, min_box_side=8) == {0: (4,)}
    assert sorted(fewshot.draw(data, 2, 0)[0]) == [3, 4]


def test_short_classes():
    data = toy([(1, 0), (2, 0), (3, 1)])
    with pytest.raises(ValueError, match=r"b 1, c 0.*take_all"):
        fewshot.draw(data, 2, 0)
    drawn = fewshot.draw(data, 2, 0, short_classes="take_all")
    assert sorted(drawn[0]) == [1, 2] and drawn[1] == (3,) and drawn[2] == ()
    for wrong in ({"short_classes": "skip"}, {"sampler": "best"}):
        with pytest.raises(ValueError, match="choose"):
            fewshot.draw(data, 1, 0, **{"class_ids": [0]} | wrong)


def tfa_transcript(by_class, seed, wanted):
    """The sampler as fsis_protocol 2.7 tells it, with nothing that keeps it from running for ever."""
    random.seed(seed)
    result = {}
    for c, by_image in by_class.items():
        shots, images = [], []
        for k in (1, 2, 3, 5, 10, 30):
            while len(shots) != k:
                for image in random.sample(list(by_image), k):
                    if image in images or len(shots) + len(by_image[image]) > k:
                        continue
                    shots += by_image[image]
                    images.append(image)
                    if len(shots) == k:
                        break
            if k == wanted:
                result[c] = tuple(shots)
    return result


@pytest.mark.parametrize("shots", [1, 2, 3, 5, 10, 30])
def test_tfa_draws_what_tfa_draws(shots):
    rng = np.random.default_rng(0)
    images, n = [], 0
    for _ in range(160):
        classes = rng.choice(3, rng.integers(1, 5))
        images.append([(n + k, int(c)) for k, c in enumerate(classes)])
        n += len(classes)
    order = tuple(rng.permutation(n).tolist())  # the file does not list annotations image by image
    data = toy(*images, order=order)
    where = {a.id: a for i in data.infos for a in i.annotations}
    by_class = {c: {} for c in range(3)}
    for i in order:
        by_class[where[i].class_id].setdefault(where[i].image_id, []).append(i)
    for seed in range(4):
        drawn = fewshot.draw(data, shots, seed, sampler="tfa")
        assert drawn == tfa_transcript(by_class, seed, shots)
        assert {c: len(v) for c, v in drawn.items()} == dict.fromkeys(range(3), shots)


def test_tfa_worked_by_hand():
    # a: the single object must be the first shot, no image can add exactly one more; b: 1 + 1, then 3 = 2 + 1
    data = toy([(1, 0)], [(2, 0), (3, 0)], [(4, 0), (5, 0)], [(6, 1)], [(7, 1)], [(8, 1)], classes=2)
    assert fewshot.draw(data, 1, 0, sampler="tfa")[0] == (1,)
    assert sorted(fewshot.draw(data, 3, 0, sampler="tfa", class_ids=[1])[1]) == [6, 7, 8]
    with pytest.raises(ValueError, match=r"cannot reach exactly 2 with seed 0 for: a;"):
        fewshot.draw(data, 2, 0, sampler="tfa")
    with pytest.raises(ValueError, match="not 4"):
        fewshot.draw(data, 4, 0, sampler="tfa", short_classes="take_all")
    assert fewshot.draw(data, 5, 0, sampler="tfa", short_classes="take_all", class_ids=[1]) == {1: (6, 7, 8)}


def test_reachable():
    assert fewshot._reachable([2, 2, 3], 5) and fewshot._reachable([], 0)
    assert not fewshot._reachable([2, 2, 4], 5) and not fewshot._reachable([7], 5)


def test_shots_on_disk(tmp_path):
    path = tmp_path / "deep" / "shots.json"
    fewshot.save_shots(path, {0: (3, 1), 7: ()})
    assert fewshot.load_shots(path) == {0: (3, 1), 7: ()}
    assert [p.name for p in path.parent.iterdir()] == ["shots.json"]
    path.write_text("[1")
    with pytest.raises(ValueError, match="no file of shots"):
        fewshot.load_shots(path)


@pytest.mark.parametrize(("unlabelled", "others"), [("background", []), ("ignore", [(2, True), (3, True)])])
def test_shot_records(unlabelled, others):
    data = toy([(1, 0), (2, 1), (3, 0)], [(4, 2)])
    shots = fewshot.shot_records(data, {0: (1, 3), 2: (4,)}, unlabelled)
    assert len(shots.infos) == 3  # one entry per shot
    first, second, third = ([(a.id, a.ignore) for a in i.annotations] for i in shots.infos)
    assert first == [(1, False), *others]
    assert second[0] == (3, False) and third == [(4, False)]
    np.testing.assert_array_equal(shots.read(1), data.read(0))
    np.testing.assert_array_equal(shots.read(2), data.read(1))
    with pytest.raises(ValueError, match="choose"):
        fewshot.shot_records(data, {}, "drop")
    with pytest.raises(ValueError, match="99"):
        fewshot.shot_records(data, {0: (99,)}, unlabelled)


def test_support(shapes_data):
    data = toy([(1, 0), (2, 1)], [(3, 0)], [(4, 2)])
    crops = records.crops_from_records(data, shapes_data)
    bank = fewshot.support(crops, {0: (3, 1), 2: (4,)}, num_classes=3, slots=4, size=8)
    assert bank.shots.shape == (3, 4, 8, 8, 4) and bank.count.tolist() == [2, 0, 1]
    assert (bank.shots[0, :2, ..., 3] > 200).all()  # the object fills its tight box
    assert not bank.shots[0, 2:].any() and not bank.shots[1].any()
    wide = fewshot.support(crops, {0: (3, 1)}, num_classes=3, slots=4, size=8, context=0.2)
    assert (wide.shots[0, 0, 0, :, 3] < 128).all()
    with pytest.raises(ValueError, match="slots"):
        fewshot.support(crops, {0: (3, 1)}, num_classes=3, slots=1, size=8)
    with pytest.raises(ValueError, match="too small"):
        fewshot.support(crops, {0: (99,)}, num_classes=3, slots=1, size=8)
