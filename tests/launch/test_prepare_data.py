"""launch/prepare_data.py: what it writes and prints for a small dataset. The sets: tests/data/prepared."""

import json
import shutil

import pytest

from maskdiff_jax.data.formats import coco
from maskdiff_jax.data.synthetic import scenes
from tests import launched
from tests.data.formats import photos


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A few scenes as json and png, and the flags that name them."""
    root = tmp_path_factory.mktemp("prepare_data")
    for split, kind, count in (("train", "support", 40), ("test", "test", 4)):  # "support" has objects of every class
        coco.save(scenes.scenes("shapes", kind, 0, count), root / f"{split}.json", root / split)
    fields = {
        "data.root": root, "data.workers": 0, "data.novel_classes": "('ring',)", "data.train_json": "train.json",
        "data.train_images": "train", "data.test_json": "test.json", "data.test_images": "test", "model.mask.size": 16,
    }  # fmt: skip
    return root, [
        f"--config={launched.ROOT}/configs/base.py:custom",
        *(f"--config.{k}={v}" for k, v in fields.items()),
    ]


def test_check_prints_each_split_once_and_writes_nothing(dataset, tmp_path):
    root, flags = dataset
    before = sorted(root.rglob("*"))
    done = launched.run("prepare_data", *flags, "--check", cwd=tmp_path)
    assert done.code == 0, done.err
    titles = [x for x in done.out.splitlines() if x.startswith("custom ")]
    assert [x.split(":")[0] for x in titles] == ["custom train", "custom test"]  # shots come from train
    assert "40 images" in titles[0] and "4 images" in titles[1] and "no problems" in done.out
    assert sorted(root.rglob("*")) == before and list(tmp_path.iterdir()) == []


def test_an_unreadable_image_fails_the_check(dataset, tmp_path):
    """Training would stop at it."""
    root, flags = dataset
    shutil.copytree(root, tmp_path / "data")
    next((tmp_path / "data" / "test").iterdir()).write_bytes(b"no image")
    done = launched.run("prepare_data", *flags, f"--config.data.root={tmp_path}/data", "--check", cwd=tmp_path)
    assert done.code == 1 and "problem: 1 x image file is broken" in done.out
    assert done.err.splitlines()[-1] == (
        "prepare_data.py: custom test: 1 image cannot be read: replace it, or remove it from the json"
    )


def test_prepared_sets_are_named(dataset, tmp_path):
    root, flags = dataset
    done = launched.run("prepare_data", *flags, "--splits=test", cwd=tmp_path)
    assert done.code == 0, done.err
    folders = [x.removeprefix("prepared: ") for x in done.out.splitlines()]
    assert len(folders) == 2  # images and crops; shots are for training
    assert all((root / x / "index.json").is_file() for x in folders)


def test_photos_are_converted_without_a_config(tmp_path):
    for k in range(2):
        photos.labelme(tmp_path / "in", photos.shape([[2, 1], [16, 1], [16, 9]]), name=str(k))
    done = launched.run("prepare_data", "--convert=in", "--output=out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "read: LabelMe" in done.out and done.out.splitlines()[-1] == (
        "check it: python launch/prepare_data.py --config configs/base.py:custom --check --config.data.root=out"
    )
    done = launched.run("prepare_data", "--convert=in", "--output=out", cwd=tmp_path)
    assert done.code == 2 and "out exists and is not empty" in done.err


def test_everything_that_would_stop_training_is_named(tmp_path):
    """A converted dataset of one class passes; then one fault after another."""
    for k in range(2):
        photos.labelme(tmp_path / "in", photos.shape([[2, 1], [38, 1], [38, 19]]), name=str(k), size=(40, 20))
    assert launched.run("prepare_data", "--convert=in", "--output=out", cwd=tmp_path).code == 0
    flags = [f"--config={launched.ROOT}/configs/base.py:custom", "--config.data.root=out", "--check"]
    check = lambda *more: launched.run("prepare_data", *flags, *more, cwd=tmp_path)
    done = check()
    assert done.code == 0 and "1 classes" in done.out, done.err
    assert check("--config.data.test_json=").code == 0

    done = check("--config.data.novel_classes=('cup',)")
    assert done.code == 1 and "custom train: no base class" in done.err
    done = check("--config.data.novel_classes=('cupp',)")
    assert done.code == 2 and "did you mean cup?" in done.err

    train = json.loads((tmp_path / "out/train.json").read_text())
    train["categories"] += [{"id": 7, "name": "dog", "supercategory": "pets"}, {"id": 8, "name": "pets"}]
    (tmp_path / "out/train.json").write_text(json.dumps(train))
    done = check()
    assert done.code == 1
    assert "custom train: class without a shot: dog, pets; stage 2" in done.err
    assert "category 'pets' is empty and only the supercategory of others, as Roboflow" in done.err
    assert "test.json lists other classes than train.json, e.g. 'dog' (id 7)" in done.err


def test_a_dataset_that_cannot_be_opened_is_a_wrong_request(dataset, tmp_path):
    """Exit code 2; what was found before is told too."""
    root, flags = dataset
    shutil.copytree(root, tmp_path / "data")
    check = lambda *more: launched.run(
        "prepare_data", *flags, f"--config.data.root={tmp_path}/data", "--check", *more, cwd=tmp_path
    )
    done = check("--config.data.root=nowhere")
    assert done.code == 2 and "the annotation file of custom is missing: looked for the train annotations" in done.err
    for splits, words in (
        ("--splits=trian", "--splits=trian: choose from train, support, val, test"),
        ("--splits=", "--splits=: choose from"),
        ("--splits=val", "unknown split 'val' of a COCO json: choose train, support, test"),
    ):
        done = check(splits)
        assert done.code == 2 and words in done.err and done.err.count("\n") == 1, done
    image = sorted((tmp_path / "data/train").iterdir())[0]
    good = image.read_bytes()
    image.write_bytes(b"no image")
    shutil.rmtree(tmp_path / "data/test")
    done = check()
    assert done.code == 2 and done.err.splitlines()[-2:] == [
        "prepare_data.py: custom train: 1 image cannot be read: replace it, or remove it from the json",
        f"prepare_data.py: custom: no image folder {tmp_path}/data/test: put the images of "
        f"{tmp_path}/data/test.json there",
    ]
    image.write_bytes(good)
    image.unlink()
    done = check("--config.data.test_json=")
    assert done.code == 2 and "1 of 40 images of custom train are missing" in done.err
    (tmp_path / "data/train.json").write_text("{")
    done = check()
    assert done.code == 2 and "is not valid json" in done.err
