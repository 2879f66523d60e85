"""TFA's sampler against a transcript of its script, and the round trip of its files."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from maskdiff_jax.data.fewshot import shots as fewshot
from maskdiff_jax.data.fewshot import tfa
from maskdiff_jax.data.formats import coco, coco_splits

MINI = Path(__file__).resolve().parents[4] / "shared" / "data" / "coco_mini"
LOOPS = {"tfa": (1, 2, 3, 5, 10, 30), "imtfa": (1, 5, 10)}


def transcript(by_class, seed, loop):
    """The sampler as prepare_coco_few_shot.py has it, slowly; None for a class where it would not end.

    Nothing here looks ahead: it gives up on a class after many rounds, or where random.sample does.
    """
    random.seed(seed)
    sets = {}
    for name, objects in by_class.items():
        images = {}
        for annotation, image in objects:
            images[image] = [*images.get(image, []), annotation]
        shots, seen = [], []
        for k in loop:
            rounds = itertools.count()
            while True:
                try:
                    some = random.sample(list(images), k)
                except ValueError:
                    return sets
                for image in some:
                    if image in seen:
                        continue
                    if len(shots) + len(images[image]) > k:
                        continue
                    shots = shots + images[image]
                    seen.append(image)
                    if len(shots) == k:
                        break
                if len(shots) == k:
                    break
                if next(rounds) == 3000:
                    return sets
            sets[name, k] = tuple(shots)
    return sets


def random_objects(rng, images, most):
    """{class: [(annotation id, image id)]} in a random order, as a file may list them."""
    rows = [(c, i) for i in range(images) for c in rng.choice(4, rng.integers(1, most + 1)).tolist()]
    ids = rng.permutation(len(rows)).tolist()
    objects = {c: [] for c in range(4)}
    for k in rng.permutation(len(rows)).tolist():
        objects[rows[k][0]].append((ids[k], rows[k][1]))
    return objects


@pytest.mark.parametrize("sampler", LOOPS)
def test_the_sampler_is_tfas(sampler):
    assert tfa.LEVELS[sampler] == LOOPS[sampler]
    rng = np.random.default_rng(7)
    for seed, most in itertools.product(range(6), (2, 5)):
        objects = random_objects(rng, 220, most)
        sampled = tfa.sample(objects, seed, LOOPS[sampler])
        expected = transcript(objects, seed, LOOPS[sampler])
        assert len(expected) == 4 * len(LOOPS[sampler])
        assert {(c, k): ids for c, sets in sampled.items() for k, ids in sets.items()} == expected
        for sets in sampled.values():
            assert all(len(ids) == k for k, ids in sets.items())
            assert all(a == b[: len(a)] for a, b in itertools.pairwise(sets.values()))


def test_other_loops_sample_other_sets():
    objects = random_objects(np.random.default_rng(1), 220, 4)
    a, b = (tfa.sample(objects, 3, LOOPS[s]) for s in LOOPS)
    assert a[0][1] == b[0][1] and a[0][10] != b[0][10]


def agree(objects, seed, loop):
    """Checks the sampler against the transcript, up to the set where that does not end; returns how many sets that is.

    Where the sampler stops beforehand, the transcript does not end.
    """
    sampled = {(c, k): ids for c, sets in tfa.sample(objects, seed, loop).items() for k, ids in sets.items()}
    expected = transcript(objects, seed, loop)
    assert expected.items() <= sampled.items()
    first = next(((c, k) for c in objects for k in loop if (c, k) not in expected), None)
    assert first not in sampled
    return len(expected)


@pytest.mark.parametrize("sampler", LOOPS)
def test_where_tfa_would_not_end(sampler):
    rng = np.random.default_rng(3)
    found = [agree(random_objects(rng, int(rng.integers(1, 40)), 6), s, LOOPS[sampler]) for s in range(40)]
    assert min(found) < 3 and max(found) > 4  # of 24 and 12


def test_reachable():
    assert tfa.reachable([2, 2, 3], 5) and tfa.reachable([], 0)
    assert not tfa.reachable([2, 2, 4], 5) and not tfa.reachable([7], 5)


def make_json(folder, *, images=60, seed=0):
    """A COCO-format file of two classes with COCO's ids, in random order, and a crowd region; returns its path."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    annotations = []
    for i in range(images):
        for category_id in rng.choice([1, 90], rng.integers(1, 4)).tolist():
            x, y = rng.integers(0, 8, 2).tolist()
            box = [x, y, 6, 5]
            polygon = [x, y, x + 6, y, x + 6, y + 5, x, y + 5]
            annotations.append(
                {"id": 1000 + len(annotations), "image_id": i, "category_id": category_id, "bbox": box, "iscrowd": 0,
                 "area": 30.0, "segmentation": [polygon]}
            )  # fmt: skip
    annotations[5]["iscrowd"] = 1
    raw = {
        "info": {"year": 2014},
        "licenses": [{"id": 1}],
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "height": 20, "width": 20} for i in range(images)],
        "annotations": [annotations[k] for k in rng.permutation(len(annotations))],
        "categories": [{"id": 90, "name": "tooth brush"}, {"id": 1, "name": "person"}],
    }
    path = folder / "trainvalno5k.json"
    path.write_text(json.dumps(raw))
    return path


def test_round_trip_of_tfas_files(tmp_path):
    path = make_json(tmp_path)
    raw = json.loads(path.read_text())
    dataset = coco.load(path, tmp_path / "images")
    assert tfa.write(path, tmp_path / "split", [0, 3], "imtfa") == 2 * 2 * 3
    one = json.loads((tmp_path / "split/seed3/full_box_5shot_tooth brush_trainval.json").read_text())
    assert list(one) == ["info", "licenses", "images", "annotations", "categories"]
    assert one["info"] == raw["info"] and one["categories"] == raw["categories"]
    assert len(one["annotations"]) == 5 and {a["category_id"] for a in one["annotations"]} == {90}
    assert [i["id"] for i in one["images"]] == list(dict.fromkeys(a["image_id"] for a in one["annotations"]))
    assert all(a in raw["annotations"] for a in one["annotations"])
    table = coco_splits.read_table(path)
    for seed, shots in itertools.product((0, 3), (1, 5, 10)):
        back = tfa.read(tmp_path / "split", dataset, shots, seed, class_ids=[0, 1])
        assert back == fewshot.sample(dataset, shots, seed, sampler="imtfa", table=table)
        assert back == fewshot.sample(dataset, shots, seed, sampler="imtfa")  # nothing is unusable here
    assert tfa.read(tmp_path / "split", dataset, 5, 3, class_ids=[1]).keys() == {1}


def test_seed_0_may_be_in_the_folder_itself(tmp_path):
    path = make_json(tmp_path)
    dataset = coco.load(path, tmp_path / "images")
    tfa.write(path, tmp_path / "split", [0], "tfa")
    expected = tfa.read(tmp_path / "split", dataset, 3, 0, class_ids=[0, 1])
    (tmp_path / "split" / "seed0").rename(tmp_path / "cocosplit")
    assert tfa.read(tmp_path / "cocosplit", dataset, 3, 0, class_ids=[0, 1]) == expected
    with pytest.raises(
        FileNotFoundError, match=r"2 of 2 files are missing in .*seed1, e\.g\. full_box_3shot_person_trainval"
    ):
        tfa.read(tmp_path / "cocosplit", dataset, 3, 1, class_ids=[0, 1])


def test_more_or_fewer_shots_than_k(tmp_path):
    path = make_json(tmp_path)
    dataset = coco.load(path, tmp_path / "images")
    tfa.write(path, tmp_path, [2], "tfa")
    many, few = (tmp_path / "seed2" / tfa.file_name(k, "person") for k in (10, 3))
    whole = tfa.read(tmp_path, dataset, 10, 2, class_ids=[0])[0]
    few.write_text(many.read_text())
    chosen = tfa.read(tmp_path, dataset, 3, 2, class_ids=[0])[0]
    assert len(chosen) == 3 and [i for i in whole if i in chosen] == list(chosen)
    assert chosen == tfa.read(tmp_path, dataset, 3, 2, class_ids=[0])[0]
    many.write_text((tmp_path / "seed2" / tfa.file_name(5, "person")).read_text())
    with pytest.raises(ValueError, match=r"person 5; lower"):
        tfa.read(tmp_path, dataset, 10, 2, class_ids=[0])
    assert len(tfa.read(tmp_path, dataset, 10, 2, class_ids=[0], short_classes="take_all")[0]) == 5


def test_files_of_another_data_set_are_refused(tmp_path):
    path = make_json(tmp_path)
    dataset = coco.load(path, tmp_path / "images")
    tfa.write(path, tmp_path, [1], "tfa")
    file = tmp_path / "seed1" / tfa.file_name(1, "person")
    raw = json.loads(file.read_text())

    def refuses(match, **change):
        file.write_text(json.dumps({**raw, "annotations": [raw["annotations"][0] | change]}))
        with pytest.raises(ValueError, match=match):
            tfa.read(tmp_path, dataset, 1, 1, class_ids=[0])

    refuses(r"1 annotations of .*seed1 are not in custom train, e\.g\. annotation 5 of person", id=5)
    refuses("another object's", image_id=10**6)
    refuses("is of category 90, but person is 1", category_id=90)
    refuses("have fewer objects", iscrowd=1)
    refuses("has no id, category_id or image_id", id=[5])
    file.write_text(json.dumps({**raw, "annotations": [{}]}))
    with pytest.raises(ValueError, match="has no id"):
        tfa.read(tmp_path, dataset, 1, 1, class_ids=[0])
    file.write_text("{")
    with pytest.raises(ValueError, match="not valid json"):
        tfa.read(tmp_path, dataset, 1, 1, class_ids=[0])


def test_nothing_is_written_where_tfa_would_not_end(tmp_path):
    path = make_json(tmp_path, images=12)
    with pytest.raises(ValueError, match=r"seed 0 no set of images has exactly K objects of person at K = \d+"):
        tfa.write(path, tmp_path / "split", [0], "tfa")
    assert not (tmp_path / "split").exists()
    with pytest.raises(ValueError, match="tfa or imtfa"):
        tfa.write(path, tmp_path / "split", [0], "instances")
    with pytest.raises(ValueError, match="without '/'"):
        tfa.file_name(1, "car/van")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda raw: raw["images"][0].pop("id"), r"images\[0\].* has no id: add it"),
        (lambda raw: raw["annotations"][0].update(area=float("nan")), "is not finite: fix the json"),
        (lambda raw: raw["images"].pop(), "of an image that is not listed"),
    ],
)
def test_a_broken_json_to_sample_from_is_named(tmp_path, change, match):
    path = make_json(tmp_path)
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=match):
        tfa.write(path, tmp_path / "split", range(40), "imtfa")


@pytest.mark.skipif(not MINI.is_dir(), reason="shared data not here")
def test_coco_mini_as_tfa_samples_it():
    """Real annotations, in the file's order; the transcript runs over its raw json, class ids ascending."""
    path = MINI / "annotations/instances_train.json"
    raw = json.loads(path.read_text())
    by_class = {c: [] for c in sorted(c["id"] for c in raw["categories"])}
    for a in raw["annotations"]:
        if a["iscrowd"] != 1:
            by_class[a["category_id"]].append((a["id"], a["image_id"]))
    objects = tfa.objects_of(coco_splits.read_table(path))
    assert objects == dict(enumerate(by_class.values()))
    # 234 images do not hold 30 shots of every class: those of persons and chairs go far
    some = {k: objects[k] for k, c in enumerate(by_class) if c in (1, 62)}
    assert sum(agree(some, seed, (1, 5, 10)) for seed in range(8)) > 36
    assert max(agree(some, seed, (1, 2, 3, 5, 10, 30)) for seed in range(4)) >= 6
    assert agree(objects, 0, (1,)) > 3  # all 80, up to the first class that occurs in no image alone
