import functools
import json
import os
import pickle
import threading
import time

import numpy as np
import pytest

from maskdiff_jax.data.crops import Crops, crops_from_dataset
from maskdiff_jax.data.formats import coco
from maskdiff_jax.data.prepared import records as prepared
from maskdiff_jax.data.prepared import shards, tfds_builders
from maskdiff_jax.data.synthetic import scenes
from tests.data.tiny import assert_same, rewrite_index


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
    write(progress=stop)  # it exists: nothing is written
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
    with pytest.raises(
        OSError, match="no space left for .* run the same command again; it writes only the missing shards"
    ):
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


MUTATIONS = int(os.environ.get("MASKDIFF_FUZZ", 50))
WRONG = (None, True, -1, 1.5, 10**30, float("nan"), "", "x", "\ud800", [], {}, [[1]], "x" * 10**5)


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Flipped bits, overwritten or missing bytes, a file that is truncated or too long."""
    changed, at = bytearray(data), int(rng.integers(len(data)))
    how = rng.integers(5)
    if how == 0:
        for k in rng.integers(len(data), size=rng.integers(1, 4)).tolist():
            changed[k] ^= 1 << int(rng.integers(8))
    elif how == 1:
        changed[at : at + 200] = rng.bytes(len(changed[at : at + 200]))
    elif how == 2:
        changed[at : at + 4096] = bytes(len(changed[at : at + 4096]))
    elif how == 3:
        del changed[at:]
    else:
        changed += rng.bytes(8)
    return bytes(changed)


@pytest.fixture(scope="module")
def small_set(test_split, tmp_path_factory):
    """A prepared set, its pixels, and the bytes of its files."""
    folder = prepared.folder_of(tmp_path_factory.mktemp("fuzz"), "x", {})
    prepared.write_images(test_split._replace(infos=test_split.infos[:4]), folder, {}, per_shard=2)
    files = {p: p.read_bytes() for p in folder.rglob("*") if p.suffix == ".json" or "array_record" in p.name}
    return folder, [test_split.read(i) for i in range(4)], files


@pytest.mark.parametrize("kind", ["array_record", "index.json", "settings.json"])
def test_mutated_files_are_named_or_read_as_before(small_set, kind):
    """MASKDIFF_FUZZ=1000 tries more of them."""
    folder, pixels, files = small_set
    rng, refused = np.random.default_rng(0), 0
    for _ in range(MUTATIONS):
        path = rng.choice([p for p in files if kind in p.name and "dataset_info" not in p.name])
        path.write_bytes(mutated(files[path], rng))
        try:
            opened = prepared.open_images(folder)
            for i in range(4):
                np.testing.assert_array_equal(opened.read(i), pixels[i])
        except ValueError as error:
            assert f"{folder} is damaged (" in str(error) and "delete that folder (launch/prepare_data.py" in str(error)
            assert "\n" not in str(error) and len(str(error)) < 1000
            refused += 1
        finally:
            path.write_bytes(files[path])
    assert refused > MUTATIONS // 3


def test_an_index_of_wrong_types_is_named(small_set):
    """With the right checksum, so that reading alone has to notice."""
    folder, _, files = small_set
    good = json.loads(files[folder / "index.json"])
    try:
        for key in good:
            for wrong in WRONG:
                rewrite_index(folder, good | {key: wrong})
                for open_set in (prepared.open_images, prepared.open_crops):
                    try:
                        open_set(folder)
                    except ValueError as error:
                        assert "is damaged" in str(error) and "\n" not in str(error) and len(str(error)) < 1000
        rewrite_index(folder, [good])
        with pytest.raises(ValueError, match="is damaged"):
            prepared.open_images(folder)
    finally:
        for path, data in files.items():
            path.write_bytes(data)


def test_a_shard_that_vanishes_while_it_is_read_is_named(test_split, tmp_path):
    folder = prepared.folder_of(tmp_path, "x", {})
    prepared.write_images(test_split, folder, {}, per_shard=5)
    opened = prepared.open_images(folder)
    next((folder / "shard-00002").glob("*array_record*")).unlink()
    with pytest.raises(ValueError, match=r"is damaged \(.*shard-00002.*delete that folder"):
        opened.read(11)


def test_sets_of_an_older_layout_are_found(tmp_path):
    settings = {"source": "coco", "what": "images"}
    folder = shards.folder_of(tmp_path, "train-images", settings)
    assert shards.outdated(folder, settings) is None
    for name, text in (
        ("train-images-0000000000", json.dumps(settings | {"records_version": shards.VERSION - 1})),
        ("train-images-1111111111", json.dumps(settings | {"source": "voc", "records_version": 1})),
        ("train-images-2222222222", "{"),
        ("train-images-3333333333", "[]"),
        ("test-images-0000000000", json.dumps(settings | {"records_version": 1})),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.json").write_text(text)
    assert shards.outdated(folder, settings) == tmp_path / "train-images-0000000000"
