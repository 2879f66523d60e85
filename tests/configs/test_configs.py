"""Configs: presets build, arguments are parsed strictly, every field is read somewhere."""

import json
import re
from pathlib import Path

import pytest

from configs import base, fewshot, presets
from launch import run_config
from maskdiff_jax import config_fields, workdir
from maskdiff_jax.data import transforms
from maskdiff_jax.training.compatibility import stage2_problems

ROOT = Path(__file__).resolve().parents[2]
PRESETS = [*base.PRESETS, "shapes,paper=true", "coco,paper=true"]


@pytest.mark.parametrize("arg", PRESETS)
def test_presets_build_locked_and_fit_json(arg):
    for c in (base.get_config(arg), fewshot.get_config(arg)):
        assert c.is_locked
        json.loads(c.to_json_best_effort())
        with pytest.raises((AttributeError, KeyError)):
            c.train.mask.no_such_field = 1


def test_the_paper_predicts_noise_by_its_own_loss():
    """Eq. 4 and Algorithm 2 in every preset; only the small nets of shapes read their output in another form."""
    for preset, form in (("coco", "none"), ("custom", "none"), ("shapes", "logit"), ("shapes_hard", "logit")):
        for module in (base, fewshot):
            f = module.get_config(f"{preset},paper=true").model.mask.diffusion
            assert (f.prediction, f.precondition, f.loss_weight, f.signal_scale) == ("eps", form, "none", 1.0)
            assert (f.sampler, f.steps, f.guidance) == ("ddpm", 1000, 5.0)
        assert base.get_config(preset).model.mask.diffusion.precondition == "none"


def test_arguments():
    c = fewshot.get_config("coco,shots=10,seed=3")
    assert (c.preset, c.stage, c.fewshot.shots, c.fewshot.seed) == ("coco", "fewshot", 10, 3)
    assert fewshot.get_config("shots=1").preset == "shapes"
    assert base.get_config("coco,paper=true").model.mask.diffusion.steps == 1000
    assert base.get_config("").preset == base.get_config(None).preset == "shapes"


@pytest.mark.parametrize("shots", [1, 5, 10])
def test_every_k_of_the_paper_has_a_stage_1(shots):
    """One stage 1 serves every K; read literally, there is one for each, and stage 2 finds it."""
    first, second = base.get_config("coco"), fewshot.get_config(f"coco,shots={shots}")
    assert stage2_problems(second, json.loads(first.to_json_best_effort())) == []
    first, second = (m.get_config(f"coco,paper=true,shots={shots}") for m in (base, fewshot))
    assert stage2_problems(second, json.loads(first.to_json_best_effort())) == []
    for c in (first, second):
        assert c.model.mask.slots == c.model.mask.min_shots == shots
    assert (
        run_config.complete(second).init_from
        == str(run_config.default_workdir(first))
        == f"runs/base-coco-paper-{shots}shot"
    )
    assert run_config.default_workdir(second) == Path(f"runs/fewshot-coco-paper-{shots}shot-seed0")


def test_the_literal_reading_is_literal():
    first, second = (m.get_config("coco,paper=true,shots=1") for m in (base, fewshot))
    for c in (first, second):
        assert c.fewshot.sampler == "imtfa" and c.data.flip == 0.5
        assert (c.data.shot_augment, c.data.shot_drop, c.data.box_jitter) == (0.0, 0.0, 0.0)
        assert c.train.detector.batch == c.train.mask.batch == 8
        assert (c.train.mask.optimizer, c.train.mask.lr, c.train.mask.base_batch) == ("adamw", 1e-4, 8)
    one, two = first.train.detector, second.train.detector
    assert (one.optimizer, one.lr, one.base_batch) == ("sgd", 0.02, 8) and (two.optimizer, two.lr) == ("adamw", 1e-4)
    assert second.train.mask.steps == second.train.detector.steps == 16_000  # "jointly"


def test_stage_2_has_its_own_rates():
    """AdamW at a constant 1e-4 [paper], or TFA's SGD with a decay at 0.9 of the steps; not stage 1's decays."""
    c = fewshot.get_config("coco,shots=5")
    assert (c.train.detector.optimizer, c.train.detector.lr, c.train.detector.schedule) == ("adamw", 1e-4, "constant")
    c = fewshot.get_config("coco,shots=5,optimizer=sgd")
    assert (c.train.detector.optimizer, c.train.detector.lr, c.train.detector.decay_at) == ("sgd", 1e-3, (0.9,))
    assert c.train.mask.steps < c.train.detector.steps and c.train.mask.schedule == "constant"


def test_it_names_what_stage_2_cannot_start_from():
    first, second = base.get_config("shapes"), fewshot.get_config("shapes,shots=1")
    second.model.mask.diffusion.steps = second.model.detector.max_detections = 7  # free to differ
    second.model.mask.diffusion.loss_weight = "min_snr"
    before = json.loads(first.to_json_best_effort())
    assert stage2_problems(second, before) == []
    second.model.mask.unet.width, second.data.novel_classes = 8, ("star",)
    second.model.mask.diffusion.precondition = "logit"
    found = stage2_problems(second, before)
    assert len(found) == 3 and "diffusion.precondition is 'none' there and 'logit' here" in found[1]
    assert "model.mask.unet.width is 32 there and 8 here" in found[2]
    second.fewshot.shots = 6
    assert "model.mask.slots=5" in stage2_problems(second, before)[0]


@pytest.mark.parametrize(
    "arg, word", [("cocoo", "unknown preset"), ("shapes,shot=3", "unknown option"), ("shots=five", "type int"),
                  ("paper=maybe", "type bool"), ("shots=3,coco", "unknown preset")]
)  # fmt: skip
def test_wrong_arguments_say_what_is_wrong(arg, word):
    with pytest.raises(ValueError, match=word):
        fewshot.get_config(arg)


def test_weights_set_what_goes_with_them():
    """The pixels and the layout that each kind of file was trained with (docs/design.md, "Pretrained files")."""
    bgr = ("bgr", (103.530, 116.280, 123.675), (1.0, 1.0, 1.0), True)
    rgb = ("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), False)
    frozen = base.get_config("coco").train.frozen
    assert len(frozen) == 2
    rows = {
        "msra": (bgr, "frozen_bn", frozen, "cosine"), "torchvision": (rgb, "frozen_bn", frozen, "cosine"),
        "zoo": (bgr, "frozen_bn", frozen, "linear"), "detector": (bgr, "frozen_bn", presets.FEATURES, "cosine"),
        "scratch": (rgb, "group", (), "cosine"),
    }  # fmt: skip
    assert tuple(rows) == base.WEIGHTS

    def row(c):
        detector = c.model.detector
        pixels = (detector.channel_order, detector.pixel_mean, detector.pixel_std, detector.stride_in_1x1)
        return pixels, detector.norm, c.train.frozen, detector.classifier

    for name, want in rows.items():
        for preset in ("coco", "custom"):
            c = base.get_config(f"{preset},weights={name}")
            assert c.weights == name and row(c) == want
            if name != "zoo":
                second = fewshot.get_config(f"{preset},weights={name}")
                assert second.weights == name and second.model.detector == c.model.detector
    assert base.get_config("coco") == base.get_config("coco,weights=msra")
    assert base.get_config("custom") == base.get_config("custom,weights=scratch")
    assert base.get_config("shapes") == base.get_config("shapes,weights=scratch")
    assert base.get_config("coco,weights=zoo").data.novel_classes == ()


def test_a_detector_of_other_classes_keeps_its_features():
    """Stage 1 trains new last layers for a short time; stage 2 is that of other starts."""
    for size in ("paper", "small"):
        plain, first = (base.get_config(f"custom,size={size},weights={x}").train for x in ("msra", "detector"))
        assert first.detector.steps < plain.detector.steps / 4 and first.mask == plain.mask
        assert first.reset == (presets.PREDICTOR, "mask_head/.*")
        ours, other = (fewshot.get_config(f"custom,size={size},weights={x}").train for x in ("msra", "detector"))
        assert ours == other


@pytest.mark.parametrize(
    "get, arg, word",
    [(base, "shapes,weights=msra", "weights=msra is not possible: shapes has"),
     (base, "coco,weights=r50", "weights=r50 is not possible: msra, torchvision"),
     (fewshot, "coco,weights=zoo", "has seen the novel classes"),
     (fewshot, "weights=torchvision", "shapes has its own small detector"),
     (fewshot, "coco,optimizer=lion", "optimizer=lion: choose adamw or sgd"),
     (fewshot, "optimizer=sgd", "shapes has its own optimizer"),
     (base, "coco,paper=true,weights=detector", "have seen novel classes"),
     (base, "coco,shots=5", "needs paper=true")],
)  # fmt: skip
def test_impossible_options_are_errors(get, arg, word):
    with pytest.raises(ValueError, match=word):
        get.get_config(arg)


def test_padded_sizes_anchors_and_slots_fit_together():
    for arg in PRESETS:
        c = base.get_config(arg)
        data, detector, mask = c.data, c.model.detector, c.model.mask
        for height, width in data.buckets:
            assert height % 32 == width % 32 == 0
        assert len(detector.anchor_sizes) == 6 - detector.fpn_min_level + 1
        assert data.crop_margin >= transforms.needed_margin(data.box_jitter, data.context)
        assert 1 <= mask.min_shots <= mask.slots
        assert c.fewshot.shots <= mask.slots


def _leaves(config, prefix=""):
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", key


def test_every_field_is_read_somewhere():
    """A field that nothing reads is a promise that the code does not keep."""
    files = [*(ROOT / "maskdiff_jax").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    words = set(re.findall(r"\w+", "\n".join(f.read_text() for f in files)))
    unread = [path for path, key in _leaves(base.get_config("coco")) if key not in words]
    assert not unread


def test_every_field_has_a_rule():
    """A new field needs its type and range in maskdiff_jax/config_fields.py, or no run folder could be read."""

    def leaves(rules, prefix=""):
        for name, rule in rules.items():
            yield from leaves(rule, f"{prefix}{name}.") if isinstance(rule, dict) else [f"{prefix}{name}"]

    assert sorted(leaves(config_fields.FIELDS)) == sorted(workdir.flat(base.get_config().to_dict()))
    assert set(config_fields.RENAMED.values()) <= set(leaves(config_fields.FIELDS))
