"""benchmarks/studies/photos.py on a few generated photos: both methods, resumed, scored and rendered."""

import json
import math

import jax
import numpy as np
import pytest
from PIL import Image

from benchmarks.studies import masks, photos, photos_figure
from maskdiff_jax import mask_heads, model
from maskdiff_jax.training import loop
from tests.tiny_mask_head import OneBlock

CLASSES = ("cup", "person")  # a base and a novel class
TINY = {
    "data.novel_classes": ("person",), "model.num_classes": 2, "data.short_sides": (64,), "data.test_short_side": 64,
    "data.long_side": 64, "data.region_long_side": 64, "data.buckets": ((64, 64),), "data.box_jitter": 0.0,
    "model.detector.blocks": (1, 1, 1, 1), "model.detector.width": 8, "model.detector.fpn_channels": 8,
    "model.detector.fc_channels": 8, "model.mask.size": 16, "model.mask.slots": 2, "fewshot.shots": 2,
    "model.mask.unet.width": 16, "model.mask.unet.multipliers": (1,), "model.mask.unet.attention": (),
    "model.mask.unet.stem_patch": 1,
    "train.mask.batch": 4, "eval.mask_batch": 4, "data.region_augment": 0.5,
}  # fmt: skip

CONV = {key: value for key, value in TINY.items() if key.startswith("model.detector") or "short_side" in key} | {
    "model.detector.fpn_min_level": 4, "model.detector.anchor_sizes": (20, 40, 80), "model.mask.cnn.channels": 8,
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_net(monkeypatch):
    """In new models, here and in the tests after these."""
    model._build.cache_clear()
    monkeypatch.setattr(mask_heads, "UNet", OneBlock)
    yield
    model._build.cache_clear()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder as coco_mini.py wants it: disks of random colors on noise."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "annotations").mkdir()
    write_split(folder, "train", range(1, 11))
    write_split(folder, "val", range(101, 105))
    return folder


def write_split(folder, split, ids):
    rng = np.random.default_rng(ids[0])
    (folder / split).mkdir()
    images, annotations = [], []
    y, x = np.mgrid[:60, :100]
    for i in ids:
        pixels = rng.integers(0, 100, (60, 100, 3), np.uint8)
        for k, center in enumerate((25, 75)):
            inside = (x - center) ** 2 + (y - 30) ** 2 < 20**2
            pixels[inside] = rng.integers(150, 256, 3)
            turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            outline = np.stack([center + 20 * np.cos(turns), 30 + 20 * np.sin(turns)], 1).round(1)
            annotations.append({
                "id": 10 * i + k, "image_id": i, "category_id": k + 1, "bbox": [center - 20, 10, 40, 40],
                "area": int(inside.sum()), "iscrowd": 0, "segmentation": [outline.reshape(-1).tolist()],
            })  # fmt: skip
        name = f"{i:012}.jpg"
        Image.fromarray(pixels).save(folder / split / name)
        # in each split, one photo's license does not allow to show it
        images.append({
            "id": i, "file_name": name, "height": 60, "width": 100, "license": 1 if i == ids[1] else 4,
            "flickr_url": f"https://example.org/{split}/{i}",
        })  # fmt: skip
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def test_the_study_runs_and_is_not_run_again(root, tmp_path, monkeypatch):
    figure = tmp_path / "photos.png"
    methods, runs = list(photos.MAIN), tmp_path / "runs"
    result = photos.study(root, runs, 2, 2, methods, TINY, 0, figure=figure)
    assert result["photos"] == {"training": 2, "held out": 2, "val": 4}
    assert set(result["methods"]) == set(photos.MAIN) and not result["other_curves"]
    assert result["trained_on"] == {"photos": 8, "objects": 8}
    assert result["objects"]["training"] == {"base": 2, "novel": 0}  # of every fifth photo
    assert result["objects"]["val"] == {"base": 4, "novel": 4}
    assert 0.7 < result["guesses"]["the box"]["miou_novel"] < 0.85  # a disk in its box: pi / 4
    for found in result["methods"].values():
        assert [point["step"] for point in found["curve"]] == [2]
        assert all(0 < point["loss"] < 5 for point in found["curve"])
        assert found["curve"][-1]["training"]["0.5"]["miou_novel"] is None
    assert [*result["rows"], photos.CONV] == list(photos.SAMPLINGS)
    check_rows(result)
    assert {row["image_id"] for row in result["figure"]["objects"]} == {101, 103, 104}
    shown = {photo["url"] for photo in result["figure"]["photos"]}
    assert shown and not shown & {"https://example.org/train/2", "https://example.org/val/102"}
    assert figure.stat().st_size > 1000
    json.dumps(result)

    monkeypatch.setattr(loop, "make_step", lambda *_: None)
    curves, _ = photos.train(photos.open_parts(root, runs, TINY), methods, runs, 2, 2)
    assert curves == {name: found["curve"] for name, found in result["methods"].items()}


def check_rows(result):
    for row in result["rows"].values():
        for values in (*row["val"].values(), *row["held out"].values()):
            assert all(0 <= value <= 1 for value in values.values())


@pytest.mark.slow  # compiles the training of a Mask R-CNN
def test_the_conv_head_of_a_mask_rcnn(root, tmp_path):
    """It is trained on the same photos, scored as the others, and not trained again."""
    figure, runs, methods = tmp_path / "photos.png", tmp_path / "runs", ["plain UNet"]
    result = photos.study(root, runs, 2, 2, methods, TINY, 2, CONV, figure)
    (point,) = result["methods"][photos.CONV]["curve"]
    assert point["step"] == 2 and point["loss"] is None
    assert list(result["rows"]) == ["plain UNet", photos.CONV]
    check_rows(result)
    assert figure.stat().st_size > 1000
    again = photos.study(root, runs, 2, 2, methods, TINY, 2, CONV, figure)
    assert again["rows"] == result["rows"]


def test_an_interrupted_training_ends_as_an_uninterrupted_one(root, tmp_path):
    data = photos.open_parts(root, tmp_path, TINY)["training"]
    whole = list(masks.train(data, 0, 4, points=4))
    first = masks.train(data, 0, 4, points=4, folder=tmp_path / "state")
    for _ in range(2):
        next(first)
    first.close()
    steps, losses, params = zip(*masks.train(data, 0, 4, points=4, folder=tmp_path / "state"), strict=True)
    assert steps == (2, 3, 4) and math.isnan(losses[0])
    assert losses[1:] == tuple(loss for _, loss, _ in whole[2:])
    for mine, theirs in zip(jax.tree.leaves(params[-1]), jax.tree.leaves(whole[-1][2]), strict=True):
        assert np.array_equal(mine, theirs)


def test_the_middle_of_the_order_is_shown():
    ious = {10: 0.9, 11: 0.1, 12: 0.5, 13: 0.4, 14: 0.6}
    assert photos_figure.nearest_to_median(ious, 3) == [13, 12, 14]
    assert photos_figure.nearest_to_median(ious, 1) == [12]
    assert photos_figure.nearest_to_median(ious, 9) == [11, 13, 12, 14, 10]
