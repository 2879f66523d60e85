"""The small COCO and VOC of the rehearsal are what they pretend to be; its short form."""

import re
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import base, fewshot
from maskdiff_jax.data import checks, pipeline
from maskdiff_jax.data.fewshot import tfa
from maskdiff_jax.data.formats import coco_splits, voc
from maskdiff_jax.data.formats.segmentation import decode_mask
from maskdiff_jax.data.support import sample_shots
from maskdiff_jax.pretrained import files
from tests.rehearsal import coco_layout, commands, stage, voc_layout, weights

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """config.data of the preset on a generated COCO."""
    root = tmp_path_factory.mktemp("rehearsal") / "datasets/coco"
    coco_layout.write(root, test=4)
    data = base.get_config("coco").data.copy_and_resolve_references()
    data.update(root=str(root), counts="", workers=0)
    return data


def test_the_generated_coco(coco):
    examples = {}
    train, problems = checks.check(coco, "train", examples=examples)
    assert {c.id: c.name for c in train.categories} == coco_splits.CLASSES and sum(
        c.novel for c in train.categories
    ) == 20
    text = checks.describe(train, problems, min_box_side=coco.min_box_side, min_mask_area=coco.min_mask_area)
    assert "possible K, all classes: 1 yes; 5 yes; 10 yes" in text and "no problems" in text
    assert problems[checks.SMALL] > 10 and problems["crowd region (not used as a target)"] > 10
    objects = Counter(a.class_id for i in train.infos for a in i.annotations if not a.crowd)
    assert len(objects) == 80 and min(objects.values()) >= 11
    assert {i.file_name.split("/")[0] for i in train.infos} == {"train2014", "val2014"}
    modes = {Image.open(Path(coco.root) / i.file_name).mode for i in train.infos}
    assert modes == {"RGB", "L"}
    assert max(a.id for i in train.infos for a in i.annotations) > 2**32  # as COCO's crowds
    padded = pipeline.buckets.padded_sizes([(i.height, i.width) for i in train.infos], 800, coco)
    assert set(padded) == set(coco.buckets)


def test_masks_lie_on_their_objects(coco):
    """The background around an object has another color than most of the object."""
    test = pipeline.open_split(coco, "test")
    far = []
    for n, info in enumerate(test.infos):
        image = test.read(n).astype(float)
        every = sum(decode_mask(a.rle).astype(int) for a in info.annotations)
        ground = np.median(image[every == 0], axis=0)
        for a in info.annotations:
            mask = decode_mask(a.rle).astype(bool)
            if a.area > 500 and not a.crowd and np.ptp(image, axis=2).max() > 0:
                far.append(np.abs(np.median(image[mask], axis=0) - ground).max())
    assert len(far) > 5 and np.median(far) > 30


def test_coco_2017_holds_the_same(coco):
    data = coco.copy_and_resolve_references()
    data.update({k: v for k, v in base.get_config("coco,split=minival").data.items() if k.endswith(("json", "images"))})
    for split in ("train", "test"):
        ours, theirs = pipeline.open_split(data, split), pipeline.open_split(coco, split)
        assert [i.id for i in ours.infos] == [i.id for i in theirs.infos]
        assert all(re.fullmatch(r"\d{12}\.jpg", i.file_name) for i in ours.infos)
        assert (ours.read(0) == theirs.read(0)).all()


@pytest.mark.parametrize("sampler", ["instances", "tfa", "imtfa"])
@pytest.mark.parametrize("shots", [1, 5, 10])
def test_every_sampler_finds_its_shots(coco, sampler, shots):
    config = fewshot.get_config(f"coco,shots={shots}").unlock()
    config.data.update(root=coco.root, counts="")
    config.fewshot.sampler = sampler
    pool = pipeline.open_split(coco, "support")
    found = sample_shots(config, pool)
    assert len(found) == 80 and {len(set(ids)) for ids in found.values()} == {shots}


def test_shot_files(coco, tmp_path):
    assert tfa.write(Path(coco.root) / coco.train_json, tmp_path, [3], "imtfa") == 80 * 3
    pool = pipeline.open_split(coco, "support")
    found = tfa.read(tmp_path, pool, 10, 3, class_ids=range(80))
    assert {len(ids) for ids in found.values()} == {10}


def test_the_generated_voc(tmp_path):
    voc_layout.write(tmp_path, each=3)
    raw, problems = voc.convert(tmp_path, voc.image_list(tmp_path))
    assert not +problems
    names = [i["file_name"] for i in raw["images"]]
    assert len(names) == 6 and "VOC2012/JPEGImages/2007_000033.jpg" in names  # the photo of 2007 is taken from 2012
    labels = {c["id"]: c["name"] for c in raw["categories"]}
    for image in raw["images"]:
        xml = (tmp_path / image["file_name"].replace("JPEGImages", "Annotations").replace("jpg", "xml")).read_text()
        ours = sorted(labels[a["category_id"]] for a in raw["annotations"] if a["image_id"] == image["id"])
        assert sorted(re.findall("<object><name>(.*?)</name>", xml)) == ours
        assert f"<width>{image['width']}</width><height>{image['height']}</height>" in xml
    label_image = Image.open(tmp_path / "VOC2012/SegmentationClass/2007_000033.png")
    assert label_image.mode == "P" and label_image.getpalette()[3 * 15 : 3 * 16] == [192, 128, 128]  # person in VOC


def test_the_weights(tmp_path):
    weights.write_msra(tmp_path / "R-50.pkl", 8)
    weights.write_zoo(tmp_path / "zoo.pkl", 8, 16, 32)
    assert files.read(tmp_path / "R-50.pkl").kind == "msra"
    assert files.read(tmp_path / "zoo.pkl").kind == "detectron2"


def test_the_documented_recipe_is_rehearsed():
    """Each command of docs/paper_recipe.md is one of the rehearsal's, word by word."""
    lines = (ROOT / "docs/paper_recipe.md").read_text().splitlines()
    theirs = [shlex.split(line, comments=True) for line in lines if line.startswith("python launch/")]
    ours = [["python", f"launch/{script}", *rest] for script, *rest in (shlex.split(c.line) for c in commands.recipe())]
    assert len(theirs) >= 25
    assert [" ".join(c) for c in theirs if c not in ours] == []
    lines = " ".join(c.line for c in commands.recipe())
    for script in ("prepare_data", "import_weights", "train", "evaluate", "shots", "report", "export", "sample"):
        assert f"{script}.py" in lines


def test_the_data_are_looked_at_first(coco):
    """The first command, through its script: it reads COCO and VOC."""
    folder = Path(coco.root).parent.parent
    voc_layout.write(folder / "datasets/VOCdevkit")
    stage.run(commands.recipe()[0], folder)


@pytest.mark.slow
def test_the_short_form(tmp_path):
    stage.set_up(tmp_path)
    for command in commands.short():
        print(f"{stage.run(command, tmp_path):5.0f} s  {command.line}")
