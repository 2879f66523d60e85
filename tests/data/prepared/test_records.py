import functools
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from maskdiff_jax.data import pipeline, sources
from maskdiff_jax.data.crops import Crops, crops_from_dataset
from maskdiff_jax.data.dataset import Dataset
from maskdiff_jax.data.fewshot import shots as fewshot
from maskdiff_jax.data.formats import coco
from maskdiff_jax.data.prepared import records as prepared
from maskdiff_jax.data.prepared import shards, tfds_builders
from maskdiff_jax.data.support import support_set
from maskdiff_jax.data.synthetic import scenes


def assert_same(first: Dataset, second: Dataset):
    assert list(first.infos) == list(second.infos)
    assert first.categories == second.categories
    assert tuple(first.annotation_order) == tuple(second.annotation_order)
    for i in range(len(first.infos)):
        np.testing.assert_array_equal(first.read(i), second.read(i))


def test_three_ways_to_the_same_scenes(test_split, tmp_path):
    """Rendered again, read from the prepared set, read from plain json and png."""
    rendered = scenes.scenes("shapes", "test", 0, 12)
    assert_same(test_split, rendered)
    coco.save(rendered, tmp_path / "test.json", tmp_path / "images")
    plain = coco.load(tmp_path / "test.json", tmp_path / "images", scenes.NOVEL, name="shapes", split="test")
    assert_same(plain, rendered)
    assert not list(tmp_path.glob("*.tmp*"))


def test_parts_are_tfds_data_sets(shapes_data, test_split):
    (folder,) = Path(shapes_data.root).glob("test-images-*")
    source = tfds.builder_from_directory(str(folder / "shard-00000")).as_data_source("data")
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


def test_an_interrupted_write_resumes(test_split, tmp_path):
    folder = prepared.folder_of(tmp_path, "x", {})
    write = functools.partial(prepared.write_images, test_split, folder, {}, per_shard=5)

    def stop(items):
        yield from items[:8]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(progress=stop)
    assert not prepared.is_prepared(folder)
    (writing,) = tmp_path.iterdir()
    assert os.listdir(writing) == ["shard-00000"]
    whole = (writing / "shard-00000").stat().st_mtime_ns
    (writing / ".shard-killed").mkdir()  # what a process leaves that had no time to clean up
    walked = []
    write(progress=lambda items: (walked.append(i) or i for i in items))
    assert walked == list(range(12))
    assert_same(prepared.open_images(folder), test_split)
    assert (folder / "shard-00000").stat().st_mtime_ns == whole
    assert sorted(os.listdir(folder)) == ["index.json", "settings.json", *(f"shard-0000{k}" for k in range(3))]
    write(progress=stop)  # it is there: nothing is walked
    assert os.listdir(tmp_path) == [folder.name]


def test_shards_truncated_or_of_another_size_are_written_again(test_split, tmp_path, monkeypatch):
    folder = prepared.folder_of(tmp_path, "x", {})

    def stop(items):
        yield from items[:11]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared.write_images(test_split, folder, {}, per_shard=5, progress=stop)
    (file,) = folder.with_name(folder.name + ".writing").glob("shard-00001/*array_record*")
    file.write_bytes(file.read_bytes()[:-10])
    made = []
    write = tfds_builders.write_shard
    monkeypatch.setattr(shards, "write_shard", lambda *a: (made.append(a[3].name), write(*a)))
    prepared.write_images(test_split, folder, {}, per_shard=5)
    assert made == ["shard-00001", "shard-00002"]
    assert_same(prepared.open_images(folder), test_split)


def test_nothing_is_left_of_an_incomplete_first_shard(test_split, tmp_path):
    folder = prepared.folder_of(tmp_path, "x", {})

    def stop(items):
        yield from items[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared.write_images(test_split, folder, {}, progress=stop)
    assert not list(tmp_path.iterdir())


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


def test_full_disk_says_what_to_do(test_split, tmp_path, monkeypatch):
    folder = prepared.folder_of(tmp_path, "x", {})
    write = tfds_builders.SceneImages.download_and_prepare
    calls = []

    def second_fails(self):
        calls.append(self)
        if len(calls) == 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: pwrite() failed: No space left on device")
        write(self)

    monkeypatch.setattr(tfds_builders.SceneImages, "download_and_prepare", second_fails)
    with pytest.raises(OSError, match="no space left for .* run the same command again; it resumes"):
        prepared.write_images(test_split, folder, {}, per_shard=5)
    assert os.listdir(folder.with_name(folder.name + ".writing")) == ["shard-00000"]


def test_two_at_once(test_split, tmp_path, capsys):
    """The second waits for the first and finds its set."""
    folder = prepared.folder_of(tmp_path, "x", {})
    inside, proceed = threading.Event(), threading.Event()

    def wait(items):
        inside.set()
        assert proceed.wait(60)
        yield from items

    first = threading.Thread(target=prepared.write_images, args=(test_split, folder, {}), kwargs={"progress": wait})
    second = threading.Thread(
        target=prepared.write_images, args=(test_split, folder, {}), kwargs={"progress": lambda _: 1 / 0}
    )
    first.start()
    assert inside.wait(60)
    second.start()
    time.sleep(0.2)
    proceed.set()
    first.join(60)
    second.join(60)
    assert_same(prepared.open_images(folder), test_split)
    assert os.listdir(tmp_path) == [folder.name]
    assert "another process is preparing" in capsys.readouterr().err


def test_several_processes_write_the_same(shapes_data, test_split, tmp_path):
    coco.save(test_split, tmp_path / "test.json", tmp_path / "images")
    plain = coco.load(tmp_path / "test.json", tmp_path / "images", scenes.NOVEL, name="shapes", split="test")
    one, two = (prepared.folder_of(tmp_path, "crops", {"n": n}) for n in (1, 2))
    crops = crops_from_dataset(plain, shapes_data)
    prepared.write_crops(crops, one, {}, per_shard=20)
    walked = []
    progress = lambda items: (walked.append(i) or i for i in items)
    prepared.write_crops(crops, two, {}, per_shard=20, workers=2, progress=progress)
    assert walked == list(range(len(crops.infos)))
    first, second = prepared.open_crops(one), prepared.open_crops(two)
    assert list(first.infos) == list(second.infos) == list(crops.infos)
    for i in range(len(crops.infos)):
        for a, b, c in zip(first.read(i), second.read(i), crops.read(i), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)


def test_an_error_comes_out_of_its_process(test_split, tmp_path):
    coco.save(test_split, tmp_path / "test.json", tmp_path / "images")
    plain = coco.load(tmp_path / "test.json", tmp_path / "images", scenes.NOVEL)
    (tmp_path / "images" / test_split.infos[7].file_name).unlink()
    folder = prepared.folder_of(tmp_path, "x", {})
    with pytest.raises(FileNotFoundError, match="put the file there"):
        prepared.write_images(plain, folder, {}, per_shard=4, workers=2)
    assert not prepared.is_prepared(folder)
    left = os.listdir(folder.with_name(folder.name + ".writing"))
    assert "shard-00000" in left and "shard-00001" not in left and not any(p.startswith(".") for p in left)


def test_readers_are_small_and_open_late(test_split, tmp_path):
    folder = prepared.folder_of(tmp_path, "x", {})
    prepared.write_images(test_split, folder, {}, per_shard=5)
    opened = prepared.open_images(folder)
    for _ in range(2):  # fresh, then with files open
        text = pickle.dumps(opened.read)
        assert len(text) < 2000
        np.testing.assert_array_equal(pickle.loads(text)(6), opened.read(6))


def test_no_example_is_a_set_too(test_split, tmp_path):
    folder = prepared.folder_of(tmp_path, "x", {})
    empty = test_split._replace(infos=[], annotation_order=())
    prepared.write_images(empty, folder, {})
    assert prepared.open_images(folder).infos == []
    empty = Crops((), [], lambda i: None)
    prepared.write_crops(empty, prepared.folder_of(tmp_path, "y", {}), {})
    assert not prepared.open_crops(prepared.folder_of(tmp_path, "y", {})).infos


def rewrite_index(folder, index):
    """Another index with the right checksum, as an earlier program with a bug could have written it."""
    text = json.dumps(index).encode()
    (folder / "index.json").write_bytes(text)
    settings = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps(settings | {"index_digest": shards._digest(text)}))


def test_damaged_set_is_named(test_split, tmp_path):
    folder = prepared.folder_of(tmp_path, "x", {})
    prepared.write_images(test_split, folder, {}, per_shard=5)
    index = json.loads((folder / "index.json").read_text())
    kept = dict(index["images"])
    index["images"] = {k: v[:-1] for k, v in kept.items()}
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"{folder.name} is damaged .*checksum.* delete that folder"):
        prepared.open_images(folder)
    rewrite_index(folder, index)
    with pytest.raises(ValueError, match=f"{folder.name} is damaged .* delete that folder"):
        prepared.open_images(folder)
    index["images"] = kept
    rewrite_index(folder, index)
    assert_same(prepared.open_images(folder), test_split)
    (file,) = (folder / "shard-00001").glob("*array_record*")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="bytes instead of .* delete that folder"):
        prepared.open_images(folder)
    file.unlink()
    with pytest.raises(ValueError, match="is damaged"):
        prepared.open_images(folder)
    (folder / "index.json").unlink()
    with pytest.raises(ValueError, match="is damaged"):
        prepared.open_images(folder)


@pytest.mark.parametrize("long_side", [128, 60])
def test_prepared_crops_equal_crops_from_dataset(shapes_data, test_split, tmp_path, long_side):
    data = shapes_data.copy_and_resolve_references()
    data.region_long_side = long_side
    cut = crops_from_dataset(test_split, data)
    folder = prepared.folder_of(tmp_path, "crops", {"side": long_side})
    prepared.write_crops(cut, folder, {"side": long_side})
    kept = prepared.open_crops(folder)
    assert list(kept.infos) == list(cut.infos) and kept.categories == cut.categories
    assert len(kept.infos) == sum(len(i.annotations) for i in test_split.infos)
    for i in range(len(cut.infos)):
        for a, b in zip(kept.read(i), cut.read(i), strict=True):
            assert a.dtype == np.uint8
            np.testing.assert_array_equal(a, b)


def test_crops_hold_their_object(shapes_data, test_split):
    cut = crops_from_dataset(test_split, shapes_data)
    annotations = [(i, a) for i, info in enumerate(test_split.infos) for a in info.annotations]
    for k, (i, a) in enumerate(annotations):
        rgb, mask = cut.read(k)
        info = cut.infos[k]
        assert (info.annotation_id, info.image_id, info.class_id) == (a.id, a.image_id, a.class_id)
        assert mask.sum() == a.area and set(np.unique(mask)) <= {0, 1}
        x0, y0, x1, y1 = (int(v) for v in info.box)
        assert mask[y0:y1, x0:x1].sum() == a.area
        left, top = int(a.box[0]) - x0, int(a.box[1]) - y0
        np.testing.assert_array_equal(rgb, test_split.read(i)[top : top + rgb.shape[0], left : left + rgb.shape[1]])


def test_open_crops_is_the_same_with_and_without_preparing(shapes_data, support_split, tmp_path):
    data = shapes_data.copy_and_resolve_references()
    shots = fewshot.shot_dataset(support_split, fewshot.sample(support_split, 3, 0), "ignore")
    before = pipeline.open_crops(data, shots, "support")
    data.root = str(tmp_path)
    data.shapes_support = 60
    pipeline.prepare_split(data, "support")
    assert prepared.is_prepared(sources.crops_folder(data, "support")[0])
    after = pipeline.open_crops(data, shots, "support")
    assert list(before.infos) == list(after.infos) and len(after.infos) == 36
    for i in (0, 17, 35):
        np.testing.assert_array_equal(before.read(i)[0], after.read(i)[0])
        np.testing.assert_array_equal(before.read(i)[1], after.read(i)[1])


def test_open_crops_leaves_out_what_is_no_sample(shapes_data, support_split):
    infos = list(support_split.infos[:6])
    sizes = [min(a.box[2] - a.box[0], a.box[3] - a.box[1]) for i in infos for a in i.annotations]
    data = shapes_data.copy_and_resolve_references()
    data.min_box_side = int(np.median(sizes))
    crops = pipeline.open_crops(data, support_split._replace(infos=infos), "support")
    assert len(crops.infos) == sum(s >= data.min_box_side for s in sizes) < len(sizes)
    crowded = [i._replace(annotations=tuple(a._replace(crowd=True) for a in i.annotations)) for i in infos]
    assert not pipeline.open_crops(data, support_split._replace(infos=crowded), "support").infos


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
    with pytest.raises(ValueError, match="other objects than the crops.*delete that folder"):
        crops.shots(16)


def test_crops_of_an_older_layout_are_named(shapes_data, support_split, tmp_path, capsys):
    """What version 1 of the layout wrote has another folder; whoever prepared it must not wonder."""
    data = shapes_data.copy_and_resolve_references()
    data.root = str(tmp_path)
    _, settings = sources.crops_folder(data, "support")
    old = tmp_path / "support-crops-0123456789"
    old.mkdir()
    settings = {k: v for k, v in settings.items() if k != "layout"} | {"records_version": shards.VERSION}
    (old / "settings.json").write_text(json.dumps(settings))
    assert pipeline.open_crops(data, support_split, "support").infos
    assert f"{old} is of an older layout" in capsys.readouterr().err
    settings["crop_margin"] += 1.0  # made with other settings: another data set, as good as none
    (old / "settings.json").write_text(json.dumps(settings))
    pipeline.open_crops(data, support_split, "support")
    assert "older layout" not in capsys.readouterr().err


def test_crops_and_shots_are_tfds_data_sets(shapes_data, support_split, tmp_path):
    data = shapes_data.copy_and_resolve_references()
    data.root = str(tmp_path)
    _, folder, shots = pipeline.prepare_split(data, "support", shot_size=16)
    kept = prepared.open_crops(Path(folder))
    read = prepared.open_shots(Path(shots), kept)
    for which, name in ((folder, "crop"), (shots, "shot")):
        example = tfds.builder_from_directory(f"{which}/shard-00000").as_data_source("data")[5]
        assert example["annotation_id"] == kept.infos[5].annotation_id
        hw = (example["height"], example["width"]) if name == "crop" else (example["size"],) * 2
        planes = np.cumsum(example["pixels"].reshape(4, *hw), 1, dtype=np.uint8)  # as the docstring of `encode` says
        rgb = kept.read(5)[0] if name == "crop" else read(5)[..., :3]
        np.testing.assert_array_equal(planes[:3].transpose(1, 2, 0), rgb)
