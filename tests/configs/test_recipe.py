"""The numbers of published code and of the paper in the preset coco, and what `paper=true` changes, field by field.

Sources: detectron2 config/defaults.py, modeling/; TFA configs/Base-RCNN-FPN.yaml, configs/COCO-detection,
fsdet/data/builtin_meta.py; guided-diffusion script_util.py; the MaskDiff paper, "Implementation Details".
"""

import pytest

from configs import base, fewshot
from configs.baselines import ifs_rcnn, imtfa, imtfa_fc, mrcn_ft_full, mtfa
from maskdiff_jax.data.formats import coco_splits
from maskdiff_jax.workdir import flat

DETECTRON2 = {
    "pixel_mean": (103.530, 116.280, 123.675), "pixel_std": (1.0, 1.0, 1.0), "channel_order": "bgr",
    "blocks": (3, 4, 6, 3), "width": 64, "norm": "frozen_bn", "stride_in_1x1": True, "fpn_channels": 256,
    "fpn_min_level": 2, "anchor_sizes": (32, 64, 128, 256, 512), "anchor_ratios": (0.5, 1.0, 2.0),
    "rpn_iou": (0.3, 0.7), "rpn_samples": 256, "rpn_positive": 0.5, "rpn_beta": 0.0, "rpn_pre_nms_train": 2000,
    "rpn_pre_nms_test": 1000, "rpn_nms": 0.7, "proposals_train": 1000, "proposals_test": 1000, "roi_samples": 512,
    "roi_positive": 0.25, "roi_iou": 0.5, "roi_canonical": (224.0, 4), "roi_size": 7, "roi_sampling": 0,
    "fc_channels": 1024, "classifier": "cosine", "cosine_scale": 20.0, "class_agnostic_boxes": False,
    "box_weights": (10.0, 10.0, 5.0, 5.0), "box_beta": 0.0, "min_score": 0.05, "nms": 0.5, "max_detections": 100,
}  # fmt: skip
GUIDED_DIFFUSION = {
    "width": 128, "multipliers": (1, 1, 2, 3, 4), "blocks": 2, "attention": (16,), "heads": 4, "head_channels": -1,
    "scale_shift": True, "stem_patch": 1, "resblock_updown": False, "dropout": 0.0,
}  # fmt: skip
DIFFUSION = {
    "timesteps": 1000, "schedule": "linear", "precondition": "none", "loss_weight": "none", "learn_sigma": False,
    "p_uncond": 0.1, "spacing": "trailing", "variance": "fixed_small", "clip": True, "averaged": 1,
    "guidance_interval": (0.0, 1.0),
}  # fmt: skip
LITERAL = {  # what the paper says where the default differs, at K = 1
    "model.mask.slots": 1, "model.mask.diffusion.prediction": "eps", "model.mask.diffusion.signal_scale": 1.0,
    "model.mask.diffusion.sampler": "ddpm", "model.mask.diffusion.steps": 1000, "model.mask.diffusion.guidance": 5.0,
    "data.box_jitter": 0.0, "data.shot_augment": 0.0,
    "train.detector.batch": 8, "train.detector.base_batch": 8, "train.mask.batch": 8, "train.mask.base_batch": 8,
    "train.novel.batch": 8, "train.novel.ema": 0.0, "paper": True,
}  # fmt: skip


def differences(module, first, second):
    ours, theirs = (flat(module.get_config(arg).to_dict()) for arg in (first, second))
    assert ours.keys() == theirs.keys()
    return {name: theirs[name] for name in ours if ours[name] != theirs[name]}


def test_the_detector_is_that_of_detectron2_and_tfa():
    config = base.get_config("coco")
    for name, value in DETECTRON2.items():
        assert config.model.detector[name] == value, name
    data = config.data
    assert (data.short_sides, data.test_short_side, data.long_side) == ((640, 672, 704, 736, 768, 800), 800, 1333)
    assert data.flip == 0.5 and data.shot_unlabeled == "background"
    assert {name for i, name in coco_splits.CLASSES.items() if i in coco_splits.NOVEL_IDS} == set(data.novel_classes)
    assert (len(data.novel_classes), config.model.num_classes) == (20, 80)
    phase = config.train.detector
    assert (phase.steps, phase.batch, phase.base_batch, phase.lr, phase.warmup) == (110_000, 16, 16, 0.02, 1000)
    assert (phase.optimizer, phase.weight_decay, phase.clip_norm) == ("sgd", 1e-4, 0.0)
    assert [round(phase.steps * x, -3) for x in phase.decay_at] == [85_000, 100_000]


def test_the_mask_head_is_guided_diffusions():
    mask, train = base.get_config("coco").model.mask, base.get_config("coco").train.mask
    assert mask.unet.to_dict() == GUIDED_DIFFUSION and mask.size == 128
    assert {name: mask.diffusion[name] for name in DIFFUSION} == DIFFUSION
    assert (train.optimizer, train.lr, train.betas, train.weight_decay) == ("adamw", 1e-4, (0.9, 0.999), 0.0)
    assert (train.ema, train.clip_norm, train.decay_at) == (0.9999, 0.0, (1.0,))


def test_paper_changes_these_fields_and_no_others():
    more = {"fewshot.shots": 1, "train.detector.ema": 0.0}  # one stage 1 for each K; detectron2 keeps the last weights
    assert differences(base, "coco", "coco,paper=true,shots=1") == LITERAL | more
    more = {"data.shot_drop": 0.0, "train.mask.steps": 16_000}
    assert differences(fewshot, "coco,shots=1", "coco,shots=1,paper=true") == LITERAL | more


@pytest.mark.parametrize("shots", [1, 2, 3, 5, 10, 30])
def test_the_lengths_of_stage_2_are_tfas(shots):
    """TFA configs/COCO-detection: max iterations of the novel-only and of the last stage, warm-up, decay."""
    novel = {1: 500, 2: 1500, 3: 1500, 5: 1500, 10: 2000, 30: 6000}[shots]
    both = {1: 16_000, 2: 32_000, 3: 48_000, 5: 80_000, 10: 160_000, 30: 240_000}[shots]
    train = fewshot.get_config(f"coco,shots={shots},optimizer=sgd").train
    assert (train.novel.steps, train.novel.batch, train.novel.lr, train.novel.warmup) == (novel, 16, 0.01, 0)
    assert (train.detector.steps, train.detector.batch, train.detector.lr, train.detector.warmup) == (
        both,
        16,
        1e-3,
        10,
    )
    assert train.detector.decay_at == (0.9,) and train.detector.schedule == "step"
    full = mrcn_ft_full.get_config(f"coco,shots={shots}").train
    assert (full.novel.steps, full.detector.steps, full.detector.lr) == (novel, both, 1e-3)


def test_lengths_between_tfas_are_those_of_the_next_smaller_k():
    assert fewshot.tfa_steps(4) == fewshot.tfa_steps(3) and fewshot.tfa_steps(29) == fewshot.tfa_steps(10)


@pytest.mark.parametrize("shots", [1, 5, 10])
def test_all_methods_have_the_same_shots(shots):
    """Equal shot seeds are pairs only then."""
    methods = [module.get_config(f"coco,shots={shots}") for module in (fewshot, mtfa, imtfa, ifs_rcnn, mrcn_ft_full)]
    methods.append(fewshot.get_config(f"coco,shots={shots},paper=true"))
    assert {(c.fewshot.sampler, c.fewshot.shots_from, c.fewshot.short_classes) for c in methods} == {
        ("imtfa", "", "error")
    }


def test_imtfa_on_coco_is_the_published_one():
    """iMTFA, configs/coco-experiments: fc_fullclsag_base, ft_fullclsag_cos_bh_base; the scale of COCO-All."""
    first, second, third = (
        imtfa_fc.get_config("coco"), imtfa.get_config("coco,stage=base"), imtfa.get_config("coco,shots=1"),
    )  # fmt: skip
    one, two = first.train.detector, second.train.detector
    assert (one.steps, one.batch, one.lr, one.ema) == (220_000, 8, 0.01, 0.0)
    assert (two.steps, two.batch, two.lr, two.warmup, two.ema) == (180_000, 8, 0.0007, 20, 0.0)
    assert [round(two.steps * x, -3) for x in two.decay_at] == [120_000, 160_000]
    assert [c.model.detector.classifier for c in (first, second, third)] == ["linear", "cosine", "cosine"]
    assert [c.model.detector.cosine_scale for c in (second, third)] == [20.0, 10.0]
    for config in (first, second, third):
        assert config.model.detector.class_agnostic_boxes and config.model.mask.cnn.class_agnostic
    assert third.train.novel.steps == third.train.detector.steps == third.train.mask.steps == 0
