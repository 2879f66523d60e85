import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from maskdiff_jax.data import coco, fewshot, pipeline, records, shapes, sources


def assert_same(first: coco.Records, second: coco.Records):
    assert list(first.infos) == list(second.infos)
    assert first.categories == second.categories
    assert tuple(first.annotation_order) == tuple(second.annotation_order)
    for i in range(len(first.infos)):
        np.testing.assert_array_equal(first.read(i), second.read(i))


def test_three_ways_to_the_same_scenes(test_split, tmp_path):
    """Drawn again, read from the prepared set, read from plain json and png."""
    drawn = shapes.scenes("shapes", "test", 0, 12)
    assert_same(test_split, drawn)
    coco.save(drawn, tmp_path / "test.json", tmp_path / "images")
    plain = coco.load(tmp_path / "test.json", tmp_path / "images", shapes.NOVEL, name="shapes", split="test")
    assert_same(plain, drawn)
    assert not list(tmp_path.glob("*.tmp*"))


def test_prepared_set_is_a_tfds_data_set(shapes_data, test_split):
    (folder,) = Path(shapes_data.root).glob("test-images-*")
    source = tfds.builder_from_directory(str(folder)).as_data_source("data")
    assert len(source) == 12
    example, info = source[4], test_split.infos[4]
    np.testing.assert_array_equal(example["image"], test_split.read(4))
    assert example["file_name"].decode() == info.file_name
    assert [r.decode() for r in example["objects"]["rle"]] == [a.rle["counts"] for a in info.annotations]
    np.testing.assert_allclose(example["objects"]["box"], [a.box for a in info.annotations])


def test_no_tensorflow():
    code = "import sys, maskdiff_jax.data.pipeline; print('tensorflow' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


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


def test_interrupted_write_leaves_no_set(test_split, tmp_path):
    folder = records.folder_of(tmp_path, "x", {})

    def stop(items):
        yield from items[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        records.write_images(test_split, folder, {}, progress=stop)
    assert not records.is_prepared(folder) and not list(tmp_path.iterdir())
    records.write_images(test_split, folder, {})
    records.write_images(test_split, folder, {})  # somebody else was faster
    assert_same(records.open_images(folder), test_split)
    assert os.listdir(tmp_path) == [folder.name]


def test_damaged_set_is_named(test_split, tmp_path):
    folder = records.folder_of(tmp_path, "x", {})
    records.write_images(test_split, folder, {})
    index = json.loads((folder / "index.json").read_text())
    index["infos"].pop()
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"{folder.name} is damaged .* delete that folder"):
        records.open_images(folder)
    (folder / "index.json").unlink()
    with pytest.raises(ValueError, match="is damaged"):
        records.open_images(folder)


@pytest.mark.parametrize("long_side", [128, 60])
def test_prepared_crops_equal_crops_from_records(shapes_data, test_split, tmp_path, long_side):
    data = shapes_data.copy_and_resolve_references()
    data.region_long_side = long_side
    cut = records.crops_from_records(test_split, data)
    folder = records.folder_of(tmp_path, "crops", {"side": long_side})
    records.write_crops(cut, folder, {"side": long_side})
    kept = records.open_crops(folder)
    assert list(kept.infos) == list(cut.infos) and kept.categories == cut.categories
    assert len(kept.infos) == sum(len(i.annotations) for i in test_split.infos)
    for i in range(len(cut.infos)):
        for a, b in zip(kept.read(i), cut.read(i), strict=True):
            assert a.dtype == np.uint8
            np.testing.assert_array_equal(a, b)


def test_crops_hold_their_object(shapes_data, test_split):
    cut = records.crops_from_records(test_split, shapes_data)
    annotations = [(i, a) for i, info in enumerate(test_split.infos) for a in info.annotations]
    for k, (i, a) in enumerate(annotations):
        rgb, mask = cut.read(k)
        info = cut.infos[k]
        assert (info.annotation_id, info.image_id, info.class_id) == (a.id, a.image_id, a.class_id)
        assert mask.sum() == a.area and set(np.unique(mask)) <= {0, 1}
        x0, y0, x1, y1 = (int(v) for v in info.box)
        assert mask[y0:y1, x0:x1].sum() == a.area
        left, top = int(a.box[0]) - x0, int(a.box[1]) - y0
        np.testing.assert_array_equal(
            rgb, test_split.read(i)[top : top + rgb.shape[0], left : left + rgb.shape[1]]
        )


def test_open_crops_is_the_same_with_and_without_preparing(shapes_data, pool, tmp_path):
    data = shapes_data.copy_and_resolve_references()
    shots = fewshot.shot_records(pool, fewshot.draw(pool, 3, 0), "ignore")
    before = pipeline.open_crops(data, shots, "pool")
    data.root = str(tmp_path)
    data.shapes_pool = 60
    pipeline.prepare_split(data, "pool")
    assert records.is_prepared(sources.crops_folder(data, "pool")[0])
    after = pipeline.open_crops(data, shots, "pool")
    assert list(before.infos) == list(after.infos) and len(after.infos) == 36
    for i in (0, 17, 35):
        np.testing.assert_array_equal(before.read(i)[0], after.read(i)[0])
        np.testing.assert_array_equal(before.read(i)[1], after.read(i)[1])


def test_open_crops_leaves_out_what_is_no_sample(shapes_data, pool):
    infos = list(pool.infos[:6])
    sizes = [min(a.box[2] - a.box[0], a.box[3] - a.box[1]) for i in infos for a in i.annotations]
    data = shapes_data.copy_and_resolve_references()
    data.min_box_side = int(np.median(sizes))
    crops = pipeline.open_crops(data, pool._replace(infos=infos), "pool")
    assert len(crops.infos) == sum(s >= data.min_box_side for s in sizes) < len(sizes)
    crowded = [i._replace(annotations=tuple(a._replace(crowd=True) for a in i.annotations)) for i in infos]
    assert not pipeline.open_crops(data, pool._replace(infos=crowded), "pool").infos
