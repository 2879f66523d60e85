import json
from pathlib import Path

import numpy as np
import pytest

from configs import base
from maskdiff_jax.data import pipeline, sources
from maskdiff_jax.data.formats import coco
from maskdiff_jax.data.prepared import shards
from maskdiff_jax.data.synthetic import scenes


def test_unknown_source_and_split(shapes_data):
    data = shapes_data.copy_and_resolve_references()
    with pytest.raises(ValueError, match="train, support, val, test"):
        pipeline.open_split(data, "valid")
    data.source = "lvis"
    with pytest.raises(ValueError, match="shapes, shapes_hard, coco, custom, voc"):
        pipeline.open_split(data, "train")


def test_validation_scenes_are_not_those_that_tables_report(shapes_data):
    """Version 1 chose its defaults on the scenes that it reported; they are "val" now."""
    val, test = (pipeline.open_split(shapes_data, split) for split in ("val", "test"))
    assert len(val.infos) == len(test.infos) and not {i.id for i in val.infos} & {i.id for i in test.infos}
    assert all((val.read(0) != test.read(i)).any() for i in range(len(test.infos)))
    with pytest.raises(ValueError, match="custom has no split 'val': name the annotations of your validation images"):
        pipeline.open_split(base.get_config("custom").data, "val")


@pytest.mark.parametrize("preset", ["coco", "custom"])
def test_missing_data_set_says_where_it_looked(preset, tmp_path):
    data = base.get_config(preset).data.copy_and_resolve_references()
    data.root = str(tmp_path / "here")
    with pytest.raises(FileNotFoundError, match=str(Path(data.root) / data.train_json)) as error:
        pipeline.open_split(data, "support")
    assert data.train_images in str(error.value) and "data.root" in str(error.value)


def test_custom(custom):
    train, support_split = pipeline.open_split(custom, "train"), pipeline.open_split(custom, "support")
    assert list(train.infos) == list(support_split.infos)
    assert [c.name for c in train.categories if c.novel] == ["ring"]
    pipeline.prepare_split(custom, "train")
    prepared = pipeline.open_split(custom, "train")
    assert list(prepared.infos) == list(train.infos) and prepared.categories == train.categories
    assert prepared.annotation_order == train.annotation_order
    np.testing.assert_array_equal(prepared.read(2), train.read(2))
    # a changed json is another dataset: the prepared one is left aside
    coco.save(scenes.scenes("shapes", "train", 1, 3), Path(custom.root) / "train.json", Path(custom.root) / "train")
    assert len(pipeline.open_split(custom, "train").infos) == 3


def test_other_settings_are_another_set(shapes_data, tmp_path):
    data = shapes_data.copy_and_resolve_references()
    data.root, data.shapes_test = str(tmp_path), 2
    assert len(pipeline.open_split(data, "test").infos) == 2
    data.shapes_test = 3
    assert len(pipeline.open_split(data, "test").infos) == 3
    data.shapes_seed = 1
    pipeline.open_split(data, "test")
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == 3
    settings = [json.loads((f / "settings.json").read_text()) for f in folders]
    assert sorted((s["count"], s["seed"]) for s in settings) == [(2, 0), (3, 0), (3, 1)]


def test_crops_of_an_older_layout_are_named(shapes_data, support_split, tmp_path, capsys):
    """What version 1 of the layout wrote has another folder; who prepared it is told."""
    data = shapes_data.copy_and_resolve_references()
    data.root = str(tmp_path)
    _, settings = sources.crops_folder(data, "support")
    old = tmp_path / "support-crops-0123456789"
    old.mkdir()
    settings = {k: v for k, v in settings.items() if k != "layout"} | {"records_version": shards.VERSION}
    (old / "settings.json").write_text(json.dumps(settings))
    assert pipeline.open_crops(data, support_split, "support").infos
    assert f"{old} was written by an older version" in capsys.readouterr().err
    settings["crop_margin"] += 1.0  # made with other settings: another dataset, as good as none
    (old / "settings.json").write_text(json.dumps(settings))
    pipeline.open_crops(data, support_split, "support")
    assert "older layout" not in capsys.readouterr().err


def test_images_of_an_older_layout_are_named(custom, capsys):
    images, *_ = pipeline.prepare_split(custom, "train")
    old = Path(custom.root) / "train-images-0123456789"
    Path(images).rename(old)
    settings = json.loads((old / "settings.json").read_text()) | {"records_version": 2}
    (old / "settings.json").write_text(json.dumps(settings))
    for _ in range(2):
        assert len(pipeline.open_split(custom, "train").infos) == 4
    assert (
        capsys.readouterr().err.count(f"{old} was written by an older version and is not read: delete that folder") == 1
    )
