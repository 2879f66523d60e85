from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import base
from maskdiff_jax.data import checks
from maskdiff_jax.data.formats import coco
from tests.data.small_json import IMAGE, UNLISTED_CATEGORY, annotation


def test_check_says_what_a_folder_holds(write, tmp_path):
    data = base.get_config("custom").data.copy_and_resolve_references()
    data.root, data.train_json, data.train_images, data.novel_classes = str(tmp_path), "a.json", "images", ("dog",)
    data.min_box_side, data.min_mask_area = 3, 4
    (tmp_path / "images").mkdir()
    listed = [IMAGE | {"id": k, "file_name": f"{k}.png"} for k in range(4)]
    whole = [annotation(k, image_id=k % 4) for k in range(1, 7)]
    bad = [
        annotation(8, image_id=0, category_id=9),
        annotation(9, image_id=0, category_id=2, bbox=[7, 5, 3, 3]),
        annotation(10, image_id=0, bbox=[2, 1, 2, 2]),
    ]
    path, folder = write(whole + bad, change=lambda raw: raw.update(images=listed))
    for k in (0, 1, 2):
        Image.new("RGB", (10, 8 + (k == 2))).save(folder / f"{k}.png")
    examples = {}
    dataset, problems = checks.check(data, "train", examples=examples)
    text = checks.describe(dataset, problems, examples=examples, min_box_side=3, min_mask_area=4)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "custom train: 4 images, 8 objects, 2 classes"
    assert lines[2:4] == ["cat 2 base 1 1 1", "dog 5 novel 7 4 6"]  # K: one dog is too small
    assert lines[4] == "possible K, novel classes: 1 yes; 5 yes; 10 no (dog 6)"
    assert lines[5] == "possible K, all classes: 1 yes; 5 no (cat 1); 10 no (cat 1, dog 6)"
    assert f"problem: 1 x {checks.MISSING}" in lines and f"problem: 1 x {checks.BROKEN}" in lines
    assert any("first: " in line and "2.png is 10 x 9 px" in line for line in lines)
    assert f"problem: 1 x {UNLISTED_CATEGORY}" in lines and "first: annotations[6]" in lines
    assert f"problem: 1 x {checks.ELSEWHERE}" in lines and f"note: 1 x {checks.SMALL}" in lines
    assert "no problems" not in text


def test_check(custom):
    (Path(custom.root) / "train" / "train_000001.png").write_bytes(b"")
    (Path(custom.root) / "train" / "train_000002.png").unlink()
    custom.min_box_side = 1000
    dataset, problems = checks.check(custom, "train")
    assert problems["image file is missing"] == 1
    assert problems["image file is broken or of another size than the json says"] == 1
    objects = sum(len(i.annotations) for i in dataset.infos)
    assert problems["object too small for the mask head"] == objects
    text = checks.describe(dataset, problems)
    assert f"4 images, {objects} objects, 12 classes" in text and "problem: 1 x image file is missing" in text
    custom.min_box_side = 8
    assert "no problems" in checks.describe(*checks.check(custom, "test"))


@pytest.mark.parametrize("brightest, stops", [(4095, True), (65535, False)])
def test_dark_16_bit_images_stop_training(write, tmp_path, brightest, stops):
    data = base.get_config("custom").data.copy_and_resolve_references()
    data.root, data.train_json, data.train_images = str(tmp_path), "a.json", "images"
    _, folder = write([annotation(), annotation(2, category_id=2)])
    Image.fromarray(np.full((8, 10), brightest, np.uint16)).save(folder / "a.png")
    dataset, problems = checks.check(data, "train")
    found = checks.stops(dataset, problems, min_box_side=1, min_mask_area=1, needs_shots=True)
    assert found == ([f"1 x {checks.DARK}"] if stops else [])
    Image.new("RGB", (10, 8)).save(folder / "a.png")  # a photo of the night
    assert checks.DARK not in checks.check(data, "train")[1]


def test_a_mostly_broken_json_stops_training(write, tmp_path):
    data = base.get_config("custom").data.copy_and_resolve_references()
    data.root, data.train_json, data.train_images = str(tmp_path), "a.json", "images"
    _, folder = write([annotation(), annotation(2, segmentation=[]), annotation(3, segmentation=[])])
    Image.new("RGB", (10, 8)).save(folder / "a.png")
    found = checks.stops(*checks.check(data, "train"), min_box_side=1, min_mask_area=1, needs_shots=False)
    assert found == [f"1 x {coco.REFUSED}"]
