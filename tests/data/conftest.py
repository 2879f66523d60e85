"""Datasets that several test files share: generated scenes, written once per session, and small ones in json."""

import json

import pytest

from configs import base
from maskdiff_jax.data import pipeline
from maskdiff_jax.data.formats import coco
from maskdiff_jax.data.synthetic import scenes


@pytest.fixture(scope="session")
def shapes_data(tmp_path_factory):
    """config.data of the shapes preset with few scenes, in its own folder."""
    data = base.get_config().data.copy_and_resolve_references()
    data.root = str(tmp_path_factory.mktemp("shapes"))
    data.shapes_train, data.shapes_support, data.shapes_test = 16, 60, 12
    return data


@pytest.fixture(scope="session")
def train(shapes_data):
    return pipeline.open_split(shapes_data, "train")


@pytest.fixture(scope="session")
def support_split(shapes_data):
    return pipeline.open_split(shapes_data, "support")


@pytest.fixture(scope="session")
def test_split(shapes_data):
    return pipeline.open_split(shapes_data, "test")


@pytest.fixture
def write(tmp_path):
    """Writes a json of one 10 x 8 px image and two classes, after a change; returns load's arguments."""

    def write_(annotations=(), change=lambda raw: raw, **image):
        (tmp_path / "images").mkdir(exist_ok=True)
        raw = {
            "images": [{"id": 7, "file_name": "a.png", "width": 10, "height": 8, **image}],
            "annotations": list(annotations),
            "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}],
        }
        (tmp_path / "a.json").write_text(json.dumps(change(raw) or raw))
        return tmp_path / "a.json", tmp_path / "images"

    return write_


@pytest.fixture
def custom(tmp_path):
    """config.data of the preset custom: some scenes as json and png."""
    data = base.get_config("custom").data.copy_and_resolve_references()
    data.root, data.workers, data.novel_classes = str(tmp_path), 0, ("ring",)
    for split in ("train", "test"):
        coco.save(scenes.scenes("shapes", split, 0, 4), tmp_path / f"{split}.json", tmp_path / split)
    return data


@pytest.fixture
def photo_data(shapes_data):
    """config.data for `tiny.photos`: two padded sizes."""
    data = shapes_data.copy_and_resolve_references()
    data.short_sides, data.test_short_side, data.long_side = (48, 64), 64, 96
    data.buckets, data.region_long_side = ((64, 96), (96, 64)), 80
    return data
