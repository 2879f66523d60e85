"""Sizes of the presets coco and custom: they build, fit together, and pass from stage 1 to the later stages."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import base, distill, fewshot, presets, variant
from configs.ablations import guidance, one_stage
from configs.baselines import imtfa, mtfa
from launch import run_config
from maskdiff_jax import config_fields, model, workdir
from maskdiff_jax.data import transforms
from maskdiff_jax.training.compatibility import stage2_problems
from maskdiff_jax.workdir import as_json

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALLER = ("small", "tiny")


@pytest.mark.parametrize("preset", ["coco", "custom"])
@pytest.mark.parametrize("size", presets.SIZES)
def test_a_size_is_valid_and_the_same_in_every_stage(preset, size):
    first = base.get_config(f"{preset},size={size}")
    assert first.size == size and first.is_locked
    for shots in (1, 5, 10):
        second = fewshot.get_config(f"{preset},size={size},shots={shots}")
        third = distill.get_config(f"{preset},size={size},shots={shots}")
        assert second.size == third.size == size
        assert stage2_problems(second, as_json(first)) == []
        assert second.data.buckets == first.data.buckets and second.data.short_sides == first.data.short_sides
        for config in (first, second, third):
            assert config_fields.find_problem(config.to_dict()) == ""
            for phase in (config.train.detector, config.train.mask, config.train.novel):
                assert phase.base_batch == phase.batch


def test_paper_is_the_default():
    for preset in ("coco", "custom"):
        for module in (base, fewshot, distill):
            assert module.get_config(preset) == module.get_config(f"{preset},size=paper")


@pytest.mark.parametrize("size", presets.SIZES)
def test_images_anchors_and_masks_fit_together(size):
    config = base.get_config(f"coco,size={size}")
    data, detector, mask = config.data, config.model.detector, config.model.mask
    for side in (*data.short_sides, data.test_short_side):
        for height, width in ((480, 640), (640, 480), (300, 500), (500, 300), (400, 400)):
            resized = transforms.resized_hw(height, width, side, data.long_side)
            assert any(all(r <= b for r, b in zip(resized, bucket, strict=True)) for bucket in data.buckets), side
    assert len(detector.anchor_sizes) == 6 - detector.fpn_min_level + 1
    assert detector.fpn_min_level <= detector.roi_canonical[1] <= 5
    # the largest anchor covers most of an image, the canonical box is an object of middle size
    assert 0.5 <= max(detector.anchor_sizes) / data.test_short_side <= 1.0
    assert 0.2 <= detector.roi_canonical[0] / data.test_short_side <= 0.5
    smallest = mask.size // mask.unet.stem_patch >> (len(mask.unet.multipliers) - 1)
    assert 4 <= smallest <= 8 and all(mask.size % side == 0 for side in mask.unet.attention)
    assert data.region_long_side >= mask.size


def parameters(config):
    """Number of parameters of the detector and of the mask head; nothing is compiled."""
    params = jax.eval_shape(model.build(config.model).init, jax.random.key(0))
    return {name: sum(int(np.prod(p.shape)) for p in jax.tree.leaves(tree)) for name, tree in params.items()}


def test_a_smaller_size_has_a_smaller_net():
    paper, small, tiny = (parameters(base.get_config(f"coco,size={size}")) for size in ("paper", "small", "tiny"))
    assert small["mask_head"] < paper["mask_head"] / 3 and tiny["mask_head"] < small["mask_head"] / 4
    assert tiny["detector"] < small["detector"] / 8


@pytest.mark.parametrize("weights", presets.WEIGHTS)
def test_pretrained_detectors_fit_size_small(weights):
    paper, small = (base.get_config(f"coco,size={size},weights={weights}") for size in ("paper", "small"))
    assert small.model.detector == paper.model.detector and small.train.frozen == paper.train.frozen


def test_size_tiny_trains_from_scratch():
    assert base.get_config("coco,size=tiny").weights == "scratch"
    assert base.get_config("coco,size=tiny") == base.get_config("coco,size=tiny,weights=scratch")
    assert base.get_config("coco,size=tiny").model.detector.norm == "group"
    assert base.get_config("coco,size=small").weights == "msra"


@pytest.mark.parametrize(
    "get, arg, words",
    [
        (base, "custom,size=huge", "size=huge is not possible: choose paper, small, tiny"),
        (base, "shapes,size=tiny", "size=tiny is not possible: shapes has its own small model"),
        (fewshot, "size=paper", "size=paper is not possible: shapes has its own small model"),
        (base, "coco,size=small,paper=true", "size=small is not possible with paper=true"),
        (base, "coco,size=tiny,weights=msra", "weights=msra is not possible: size=tiny has its own small detector"),
        (fewshot, "custom,size=tiny,weights=torchvision", "weights=torchvision is not possible: size=tiny has"),
        (fewshot, "custom,size=small,optimizer=sgd", "optimizer=sgd: size=small has its own optimizer"),
        (
            fewshot,
            "shapes,classes=3",
            "classes=3 is not possible: shapes has a fixed set of 12 classes and its own number of steps",
        ),
        (
            base,
            "custom,sise=tiny",
            "unknown option 'sise' in .* the known options are paper, weights, split, size, shots",
        ),
        (mtfa, "coco,size=small", "size=small is not possible: baselines use the schedules of their authors"),
        (imtfa, "coco,stage=base,size=tiny", "size=tiny is not possible: baselines"),
    ],
)
def test_sizes_that_are_not_possible(get, arg, words):
    with pytest.raises(ValueError, match=words):
        get.get_config(arg)


def test_variants_pass_the_size_on():
    config = guidance.get_config("custom,size=tiny,shots=1")
    assert (config.size, config.model.mask.size, config.method) == ("tiny", 32, "guided")
    config = one_stage.get_config("coco,size=small")
    assert config.train.mask.steps == base.get_config("coco,size=small").train.mask.steps
    assert variant.plain_stage_1(fewshot.get_config("custom,size=tiny")) == base.get_config("custom,size=tiny")


@pytest.fixture
def first_stage(tmp_path, monkeypatch):
    """A run of stage 1 of size tiny, in its default folder."""
    monkeypatch.chdir(tmp_path)
    config = base.get_config("custom,size=tiny").unlock()
    config.model.num_classes = 3
    workdir.create("runs/base-custom", config)
    return tmp_path / "runs" / "base-custom"


def read(file, *overrides):
    return run_config.complete(*run_config.read_config(f"{CONFIGS}/{file}", list(overrides)))


def test_stage_2_has_the_size_of_stage_1(first_stage, capsys):
    """Net, images, and the steps and rates of stage 2."""
    config = read("fewshot.py:custom,shots=1", "--config.train.mask.steps=7")
    expected = fewshot.get_config("custom,shots=1,size=tiny,classes=3").unlock()
    expected.update({"init_from": "runs/base-custom"})
    expected.model.num_classes, expected.train.mask.steps = 3, 7  # a given field stays
    assert config.to_dict() == expected.to_dict()
    assert capsys.readouterr().out == "from runs/base-custom: model.num_classes = 3\n"
    elsewhere = shutil.move(first_stage, first_stage.parent / "mine")
    assert read("ablations/guidance.py:custom", f"--config.init_from={elsewhere}").size == "tiny"
    assert read("fewshot.py:custom,size=tiny", f"--config.init_from={elsewhere}").size == "tiny"


def test_steps_of_the_mask_head_are_for_the_classes_of_stage_1(first_stage):
    """Epochs over the shots of all classes: 100 of 5 shots of each, in batches of 16."""
    assert read("fewshot.py:custom,shots=5").train.mask.steps == round(100 * 5 * 3 / 16)
    assert read("ablations/guidance.py:custom,shots=5").train.mask.steps == round(100 * 5 * 3 / 16)
    assert read("fewshot.py:custom,shots=5,classes=9").train.mask.steps == round(100 * 5 * 9 / 16)
    config, _ = run_config.read_config(f"{CONFIGS}/fewshot.py:custom", ["--config.init_from=nowhere"])
    assert config.train.mask.steps == round(100 * 5 * 20 / 64)  # of an unknown number
    assert fewshot.get_config("coco,size=small").train.mask.steps == round(100 * 5 * 80 / 64)


def test_another_size_than_that_of_stage_1_is_refused(first_stage):
    words = "runs/base-custom was trained with size='tiny', this run has size='small': add the same option"
    with pytest.raises(ValueError, match=words):
        read("fewshot.py:custom,size=small")


def test_the_size_is_an_option_not_a_field():
    with pytest.raises(ValueError, match="size is set by the option size= of a config file: --config configs/base.py"):
        run_config.read_config(f"{CONFIGS}/base.py:custom", ["--config.size=tiny"])


def test_a_run_of_version_0_1_has_size_paper(first_stage):
    document = as_json(base.get_config("coco"))
    del document["size"]
    (first_stage / "config.json").write_text(json.dumps(document))
    assert workdir.read_config(first_stage) == base.get_config("coco")
    assert config_fields.fields(document).size == "paper"


@pytest.mark.parametrize("text", ["{", "[]", '{"size": "huge"}', '{"size": []}', "{}"])
def test_a_damaged_run_has_no_size_to_take_over(first_stage, text):
    (first_stage / "config.json").write_text(text)
    assert run_config.options_before(fewshot.get_config("custom")) == {}
