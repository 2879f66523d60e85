from pathlib import Path

import numpy as np
import pytest

from configs import base
from maskdiff_jax.data import checks, coco, pipeline, shapes


def test_unknown_source_and_split(shapes_data):
    data = shapes_data.copy_and_resolve_references()
    with pytest.raises(ValueError, match="train, pool, test"):
        pipeline.open_split(data, "val")
    data.source = "voc"
    with pytest.raises(ValueError, match="shapes, shapes_hard, coco, custom"):
        pipeline.open_split(data, "train")


@pytest.mark.parametrize("preset", ["coco", "custom"])
def test_missing_data_set_says_where_it_looked(preset, tmp_path):
    data = base.get_config(preset).data.copy_and_resolve_references()
    data.root = str(tmp_path / "here")
    with pytest.raises(FileNotFoundError, match=str(Path(data.root) / data.train_json)) as error:
        pipeline.open_split(data, "pool")
    assert data.train_images in str(error.value) and "data.root" in str(error.value)


@pytest.fixture
def custom(tmp_path):
    """config.data of a data set of one's own: some scenes as json and png."""
    data = base.get_config("custom").data.copy_and_resolve_references()
    data.root, data.workers, data.novel_classes = str(tmp_path), 0, ("ring",)
    for split in ("train", "test"):
        coco.save(shapes.scenes("shapes", split, 0, 4), tmp_path / f"{split}.json", tmp_path / split)
    return data


def test_custom(custom):
    train, pool = pipeline.open_split(custom, "train"), pipeline.open_split(custom, "pool")
    assert list(train.infos) == list(pool.infos)
    assert [c.name for c in train.categories if c.novel] == ["ring"]
    pipeline.prepare_split(custom, "train")
    prepared = pipeline.open_split(custom, "train")
    assert list(prepared.infos) == list(train.infos) and prepared.categories == train.categories
    assert prepared.annotation_order == train.annotation_order
    np.testing.assert_array_equal(prepared.read(2), train.read(2))
    # a changed json is another data set: the prepared one is left aside
    coco.save(
        shapes.scenes("shapes", "train", 1, 3), Path(custom.root) / "train.json", Path(custom.root) / "train"
    )
    assert len(pipeline.open_split(custom, "train").infos) == 3


def test_check(custom):
    (Path(custom.root) / "train" / "train_000001.png").write_bytes(b"")
    (Path(custom.root) / "train" / "train_000002.png").unlink()
    custom.min_box_side = 1000
    records, problems = checks.check(custom, "train")
    assert problems["image file is missing"] == 1
    assert problems["image file is broken or of another size than the json says"] == 1
    objects = sum(len(i.annotations) for i in records.infos)
    assert problems["object too small for the mask head"] == objects
    text = checks.describe(records, problems)
    assert f"4 images, {objects} objects, 12 classes" in text and "problem: 1 x image file is missing" in text
    custom.min_box_side = 8
    assert "no problems" in checks.describe(*checks.check(custom, "test"))
