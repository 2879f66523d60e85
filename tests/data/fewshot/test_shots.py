import json

import numpy as np
import pytest

from maskdiff_jax.data.fewshot import shots as fewshot
from maskdiff_jax.data.formats import coco_splits
from tests.data.tiny import squares


def test_restrict_drops_other_classes_and_empty_images():
    all_of_it = squares([(1, 0), (2, 1)], [(3, 1)], [(4, 2), (5, 0)])
    restricted = fewshot.restrict(all_of_it, [0, 2])
    assert [[a.id for a in i.annotations] for i in restricted.infos] == [[1], [4, 5]]
    np.testing.assert_array_equal(restricted.read(1), all_of_it.read(2))
    assert restricted.categories == all_of_it.categories  # class ids keep their meaning


def test_shot_sets_are_nested_and_of_their_class(support_split):
    class_of = {a.id: a.class_id for i in support_split.infos for a in i.annotations}
    sets = {k: fewshot.sample(support_split, k, seed=1) for k in (1, 3, 5)}
    for c in range(12):
        assert sets[5][c][:3] == sets[3][c] and sets[3][c][:1] == sets[1][c]
        assert len(set(sets[5][c])) == 5 and {class_of[i] for i in sets[5][c]} == {c}
    assert sets[5] == fewshot.sample(support_split, 5, seed=1) != fewshot.sample(support_split, 5, seed=2)
    assert fewshot.sample(support_split, 5, seed=1, class_ids=[8, 9]) == {c: sets[5][c] for c in (8, 9)}


def test_crowds_ignored_and_small_objects_are_never_sampled():
    data = squares([(1, 0), (2, 0), (3, 0), (4, 0)], classes=1)
    a = list(data.infos[0].annotations)
    a[0], a[1] = a[0]._replace(crowd=True), a[1]._replace(ignore=True)
    a[2] = a[2]._replace(box=(0.0, 0.0, 4.0, 20.0))
    data = data._replace(infos=[data.infos[0]._replace(annotations=tuple(a))])
    assert fewshot.sample(data, 1, 0, min_box_side=8) == {0: (4,)}
    assert sorted(fewshot.sample(data, 2, 0)[0]) == [3, 4]


def test_short_classes():
    data = squares([(1, 0), (2, 0), (3, 1)])
    with pytest.raises(ValueError, match=r"b 1, c 0.*take_all"):
        fewshot.sample(data, 2, 0)
    found = fewshot.sample(data, 2, 0, short_classes="take_all")
    assert sorted(found[0]) == [1, 2] and found[1] == (3,) and found[2] == ()
    for wrong in ({"short_classes": "skip"}, {"sampler": "best"}):
        with pytest.raises(ValueError, match="choose"):
            fewshot.sample(data, 1, 0, **{"class_ids": [0]} | wrong)


def test_tfa_worked_by_hand():
    # a: the single object must be the first shot, no image can add exactly one more; b: 1 + 1, then 3 = 2 + 1
    data = squares([(1, 0)], [(2, 0), (3, 0)], [(4, 0), (5, 0)], [(6, 1)], [(7, 1)], [(8, 1)], classes=2)
    assert fewshot.sample(data, 1, 0, sampler="tfa")[0] == (1,)
    assert sorted(fewshot.sample(data, 3, 0, sampler="tfa", class_ids=[1])[1]) == [6, 7, 8]
    with pytest.raises(ValueError, match=r"cannot reach exactly 2 shots with seed 0 for: a;"):
        fewshot.sample(data, 2, 0, sampler="tfa")
    with pytest.raises(ValueError, match="not 4"):
        fewshot.sample(data, 4, 0, sampler="tfa", short_classes="take_all")
    assert fewshot.sample(data, 5, 0, sampler="tfa", short_classes="take_all", class_ids=[1]) == {1: (6, 7, 8)}


def test_imtfa_worked_by_hand():
    # 1 and 5 can be reached by single objects; iMTFA then wants 10 of 6
    data = squares(*[[(i, 0)] for i in range(6)], classes=1)
    assert sorted(fewshot.sample(data, 5, 3, sampler="imtfa")[0]) != [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match=r"a 6; lower"):
        fewshot.sample(data, 10, 3, sampler="imtfa")
    assert len(fewshot.sample(data, 10, 3, sampler="imtfa", short_classes="take_all")[0]) == 6
    with pytest.raises(ValueError, match="samples 1, 5, 10 shots, not 3"):
        fewshot.sample(data, 3, 0, sampler="imtfa")
    # enough objects, but no image with a single one: the loop would never leave K = 1
    pairs = squares(*[[(2 * i, 0), (2 * i + 1, 0)] for i in range(8)], classes=1)
    with pytest.raises(ValueError, match=r"exactly 10 shots with seed 0 for: a \(already at 1\)"):
        fewshot.sample(pairs, 10, 0, sampler="imtfa", short_classes="take_all")


def test_a_table_is_sampled_from_and_what_the_dataset_lacks_is_named():
    data = squares([(1, 0)], [(2, 0)], classes=1)
    table = coco_splits.Table(
        3, {10: "a"}, np.array([1, 2, 3]), np.array([1, 2, 3]), np.array([10, 10, 10]), np.array([False, False, False])
    )
    seen = set()
    for seed in range(20):
        try:
            seen |= set(fewshot.sample(data, 1, seed, sampler="tfa", table=table)[0])
        except ValueError as error:
            assert "3 (a)" in str(error)
            seen.add(3)
    assert seen == {1, 2, 3}


def test_shots_on_disk(tmp_path):
    path = tmp_path / "deep" / "shots.json"
    fewshot.save_shots(path, {0: (3, 1), 7: ()})
    assert json.loads(path.read_text()) == {"0": [3, 1], "7": []}
    assert [p.name for p in path.parent.iterdir()] == ["shots.json"]


@pytest.mark.parametrize(("unlabeled", "others"), [("background", []), ("ignore", [(2, True), (3, True)])])
def test_shot_dataset(unlabeled, others):
    data = squares([(1, 0), (2, 1), (3, 0)], [(4, 2)])
    shots = fewshot.shot_dataset(data, {0: (1, 3), 2: (4,)}, unlabeled)
    assert len(shots.infos) == 3  # one entry per shot
    first, second, third = ([(a.id, a.ignore) for a in i.annotations] for i in shots.infos)
    assert first == [(1, False), *others]
    assert second[0] == (3, False) and third == [(4, False)]
    np.testing.assert_array_equal(shots.read(1), data.read(0))
    np.testing.assert_array_equal(shots.read(2), data.read(1))
    with pytest.raises(ValueError, match="choose"):
        fewshot.shot_dataset(data, {}, "drop")
    with pytest.raises(ValueError, match="99"):
        fewshot.shot_dataset(data, {0: (99,)}, unlabeled)
