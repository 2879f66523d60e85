"""A small embedded data set, written once per test session."""

import pytest

from configs import base
from maskdiff_jax.data import pipeline


@pytest.fixture(scope="session")
def shapes_data(tmp_path_factory):
    """config.data of the shapes preset with few scenes, in a folder of its own."""
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
