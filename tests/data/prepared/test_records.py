import json
import os
from pathlib import Path

import numpy as np
import pytest

from maskdiff_jax.data import pipeline
from maskdiff_jax.data.crops import crops_from_dataset
from maskdiff_jax.data.fewshot import shots as fewshot
from maskdiff_jax.data.formats import coco
from maskdiff_jax.data.prepared import records as prepared
from maskdiff_jax.data.support import support_set
from maskdiff_jax.data.synthetic import scenes
from tests.data.tiny import assert_same, rewrite_index


def test_three_ways_to_the_same_scenes(test_split, tmp_path):
    """Rendered again, read from the prepared set, read from plain json and png."""
    rendered = scenes.scenes("shapes", "test", 0, 12)
    assert_same(test_split, rendered)
    coco.save(rendered, tmp_path / "test.json", tmp_path / "images")
    plain = coco.load(tmp_path / "test.json", tmp_path / "images", scenes.NOVEL, name="shapes", split="test")
    assert_same(plain, rendered)
    assert not list(tmp_path.glob("*.tmp*"))


def test_unreadable_image_is_named(test_split, tmp_path):
    coco.save(test_split, tmp_path / "test.json", tmp_path / "images")
    plain = coco.load(tmp_path / "test.json", tmp_path / "images", scenes.NOVEL)
    broken = tmp_path / "images" / test_split.infos[7].file_name
    good = broken.read_bytes()
    broken.write_bytes(good[:100])
    folder = prepared.folder_of(tmp_path, "x", {})
    with pytest.raises(ValueError, match=f"{broken.name}.*replace the file"):
        prepared.write_images(plain, folder, {}, per_shard=5)
    assert os.listdir(folder.with_name(folder.name + ".writing")) == ["shard-00000"]
    broken.write_bytes(good)
    prepared.write_images(plain, folder, {}, per_shard=5)
    np.testing.assert_array_equal(prepared.open_images(folder).read(7), test_split.read(7))


@pytest.mark.parametrize("long_side", [128, 60])
def test_prepared_crops_equal_crops_from_dataset(shapes_data, test_split, tmp_path, long_side):
    data = shapes_data.copy_and_resolve_references()
    data.region_long_side = long_side
    cropped = crops_from_dataset(test_split, data)
    folder = prepared.folder_of(tmp_path, "crops", {"side": long_side})
    prepared.write_crops(cropped, folder, {"side": long_side})
    kept = prepared.open_crops(folder)
    assert list(kept.infos) == list(cropped.infos) and kept.categories == cropped.categories
    assert len(kept.infos) == sum(len(i.annotations) for i in test_split.infos)
    for i in range(len(cropped.infos)):
        for a, b in zip(kept.read(i), cropped.read(i), strict=True):
            assert a.dtype == np.uint8
            np.testing.assert_array_equal(a, b)


def test_prepared_shots_are_those_of_the_support_set(shapes_data, support_split, tmp_path, capsys):
    """Training from prepared shots, training from crops and the evaluation's support set see the same pixels."""
    data = shapes_data.copy_and_resolve_references()
    data.context, data.crop_margin = 0.1, 0.3
    shot_set = fewshot.sample(support_split, 3, 0)
    shots = fewshot.shot_dataset(support_split, shot_set, "ignore")
    options = {"slots": 5, "min_shots": 1, "size": 16, "batch": 8, "seed": 0}
    plain = next(pipeline.mask_loader(pipeline.open_crops(data, shots, "support"), data, **options))
    data.root = str(tmp_path)
    folders = pipeline.prepare_split(data, "support", shot_size=16)
    assert [Path(f).name.rsplit("-", 1)[0] for f in folders] == ["support-images", "support-crops", "support-shots"]
    crops = pipeline.open_crops(data, shots, "support")
    capsys.readouterr()
    read = crops.shots(16)
    support = support_set(crops, shot_set, num_classes=12, slots=3, size=16, context=data.context)
    where = {info.annotation_id: i for i, info in enumerate(crops.infos)}
    for class_id, ids in shot_set.items():
        for k, i in enumerate(ids):
            np.testing.assert_array_equal(read(where[i]), support.shots[class_id, k])
    for a, b in zip(plain, next(pipeline.mask_loader(crops, data, **options)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not capsys.readouterr().err
    assert crops.shots(24) is None and "no shots of 24 px are prepared" in capsys.readouterr().err
    (folder,) = tmp_path.glob("support-shots-*")
    index = json.loads((folder / "index.json").read_text())
    index["annotation_id"][0] += 1
    rewrite_index(folder, index)
    with pytest.raises(ValueError, match="its objects differ from those of the crops.*delete that folder"):
        crops.shots(16)
