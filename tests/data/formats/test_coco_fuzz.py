"""Mutated annotation files give a valid dataset or one error that names the file; MASKDIFF_FUZZ=1000 tries more."""

import copy
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from maskdiff_jax.data.dataset import Dataset
from maskdiff_jax.data.formats import coco, segmentation
from maskdiff_jax.data.formats.segmentation import decode_mask

EXAMPLES = int(os.environ.get("MASKDIFF_FUZZ", 50))
DIGITS = "".join(map(chr, range(47, 113)))  # of compressed run lengths, and one on either side


def valid():
    """Two images, three classes, every kind of mask."""
    mask = np.zeros((8, 10), np.uint8)
    mask[2:5, 3:9] = 1
    common = {"bbox": [3.0, 2.0, 6.0, 3.0], "area": 18.0, "iscrowd": 0}
    segmentations = [
        [[3, 2, 9, 2, 9, 5, 3, 5]],
        [[3.5, 2, 9, 2, 9, 5], [1, 1, 2, 1, 2, 2, 1, 2]],
        segmentation.encode_mask(mask),
        {"size": [8, 10], "counts": [26, 3, 5, 3, 43]},
    ]
    return {
        "info": {"description": "fuzz"},
        "images": [
            {"id": 1, "file_name": "a.png", "height": 8, "width": 10},
            {"id": 2, "file_name": "sub/ä.png", "height": 8, "width": 10},
        ],
        "annotations": [
            {"id": k, "image_id": 1 + k % 2, "category_id": 1 + k % 3, "segmentation": s, **common}
            for k, s in enumerate(segmentations * 2)
        ],
        "categories": [{"id": k, "name": name} for k, name in ((1, "cat"), (2, "dog"), (3, "cow"))],
    }


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 200), st.floats(allow_nan=True, allow_infinity=True, width=64),
    st.text(max_size=6), st.text("0123456789PNOo`", max_size=8),
    st.sampled_from([2**31, 2**63, -(2**63), 10**400, 1e300, -1e300, "../x", "/x", "7", "\ud800", "\0"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda v: st.one_of(st.lists(v, max_size=7), st.dictionaries(st.text(max_size=4), v, max_size=3)),
    max_leaves=8,
)


def places(node, path=()):
    """The path of every value inside a json object."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def mutate(raw, draw):
    """One change at one place."""
    every = list(places(raw))
    if not every:
        return
    *parents, key = draw(st.sampled_from(every))
    node = raw
    for p in parents:
        node = node[p]
    how = draw(st.sampled_from(["replace", "replace", "delete", "repeat", "move", "text"]))
    if how == "replace":
        node[key] = draw(VALUES)
    elif how == "delete":
        del node[key]
    elif how == "repeat" and isinstance(node, list):
        node.insert(draw(st.integers(0, len(node))), copy.deepcopy(node[key]))
    elif how == "move":  # a value of the file's own, where it does not belong
        *others, last = draw(st.sampled_from(every))
        value = raw
        try:
            for p in (*others, last):
                value = value[p]
            node[key] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):
            pass
    elif how == "text" and isinstance(node[key], str) and node[key]:
        at = draw(st.integers(0, len(node[key]) - 1))
        node[key] = node[key][:at] + draw(st.characters(min_codepoint=32, max_codepoint=127)) + node[key][at + 1 :]


@st.composite
def files(draw):
    """The bytes of a changed file."""
    raw = valid()
    for _ in range(draw(st.integers(1, 4))):
        mutate(raw, draw)
    text = json.dumps(raw, ensure_ascii=True).encode()
    if draw(st.integers(0, 9)) == 0:
        text = text[: draw(st.integers(0, len(text)))]
    if draw(st.integers(0, 19)) == 0:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.binary(min_size=1, max_size=3)) + text[at:]
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def check(folder: Path, data: bytes) -> None:
    path = folder / "some.json"
    path.write_bytes(data)
    for problems in (None, Counter()):
        try:
            dataset = coco.load(path, folder, problems=problems)
        except (ValueError, FileNotFoundError) as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            check_dataset(dataset)
            check_truth(dataset)


def check_truth(dataset: Dataset) -> None:
    """What is scored holds every object of the dataset, and nothing that pycocotools could not read."""
    assert dataset.truth is not None
    found = dataset.truth()
    json.dumps(found, allow_nan=False).encode()
    sizes = {i["id"]: i["height"] * i["width"] for i in found["images"]}
    for a in found["annotations"]:
        assert len(a["bbox"]) == 4 and a["iscrowd"] in (0, 1) and sizes[a["image_id"]] > 0
        if sizes[a["image_id"]] < 10**6 and "segmentation" in a:
            decode_mask(a["segmentation"])
    assert {i.id for i in dataset.infos} == set(sizes)
    assert len(found["annotations"]) >= sum(len(i.annotations) for i in dataset.infos)


def check_dataset(dataset: Dataset) -> None:
    ids, classes = [], len(dataset.categories)
    for info in dataset.infos:
        assert type(info.id) is int and info.height > 0 and info.width > 0
        for a in info.annotations:
            x0, y0, x1, y1 = a.box
            assert 0 <= x0 < x1 <= info.width and 0 <= y0 < y1 <= info.height
            assert a.image_id == info.id and 0 <= a.class_id < classes
            assert 0 < a.area < np.inf and type(a.crowd) is bool
            if info.height * info.width < 10**6:
                mask = decode_mask(a.rle)
                assert mask.shape == (info.height, info.width) and mask.any() and mask.max() == 1
            ids.append(a.id)
    assert len(set(ids)) == len(ids) and all(type(i) is int and 0 <= i < 2**63 for i in ids)
    assert sorted(ids) == sorted(dataset.annotation_order)
    json.dumps(coco.ground_truth(dataset), allow_nan=False).encode()


def test_the_unchanged_file_has_no_problem(folder):
    (folder / "good.json").write_text(json.dumps(valid()))
    problems = Counter()
    dataset = coco.load(folder / "good.json", folder, problems=problems)
    assert not +problems and sum(len(i.annotations) for i in dataset.infos) == 8
    check_dataset(dataset)


@settings(
    max_examples=EXAMPLES, derandomize=True, database=None, deadline=1000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(data=files())
@example(data=b"")
@example(data=b"\xef\xbb\xbf{}")
@example(data=b"\x1f\x8b")
def test_mutated_files(folder, data):
    check(folder, data)


@settings(max_examples=EXAMPLES, derandomize=True, database=None, deadline=1000)
@given(counts=st.one_of(st.text(DIGITS, max_size=12), st.text(max_size=5)), seed=st.integers(0, 50))
def test_mutated_run_lengths(counts, seed):
    """Two neighbors swapped keep the sum and may make a run negative; any text may be a run length."""
    rng = np.random.default_rng(seed)
    good = segmentation.encode_mask(rng.random((8, 10)) < 0.3)["counts"]
    at = rng.integers(len(good) - 1)
    swapped = good[:at] + good[at + 1] + good[at] + good[at + 2 :]
    for text in (counts, swapped, good[:at] + counts + good[at:]):
        try:
            rle, area = segmentation.from_json({"size": [8, 10], "counts": text}, 8, 10, [])
        except segmentation.Unusable:
            continue
        mask = segmentation.decode_mask(rle)
        assert mask.shape == (8, 10) and mask.sum() == area and mask.max() == 1
