"""Baselines: the published schedules on COCO, MaskDiff's budget on shapes."""

import pytest

from configs import base, fewshot
from configs.baselines import ifs_rcnn, imtfa, imtfa_fc, mrcn_ft_full, mtfa


def phase(config, name):
    fields = config.train[name]
    rate = fields.lr * fields.batch / fields.base_batch
    return fields.steps, fields.batch, rate, fields.optimizer, fields.schedule, fields.warmup, fields.ema


def test_mtfa_on_coco_is_the_published_one():
    """iMTFA, configs/coco-experiments: fc_fsdet_base, ft_fsdet_novel_*shot, ft_fsdet_cos_correct_all_*shot."""
    first = mtfa.get_config("coco,stage=base")
    assert phase(first, "detector") == (220_000, 8, 0.01, "sgd", "step", 1000, 0.0)
    decays = [round(x * 220) for x in first.train.detector.decay_at]
    assert decays == [170, 200]
    for shots, novel, steps in ((1, 1000, 20_000), (5, 3000, 72_000), (10, 4000, 96_000)):
        second = mtfa.get_config(f"coco,shots={shots}")
        assert phase(second, "novel") == (novel, 8, 0.005, "sgd", "constant", 0, 0.0)
        assert phase(second, "detector") == (steps, 8, 0.0005, "sgd", "constant", 10, 0.0)
        assert (second.fewshot.novel_init, second.fewshot.sampler) == ("fresh", "imtfa")
    for config, classifier in ((first, "linear"), (second, "cosine")):
        model = config.model
        assert (model.mask.head, model.detector.classifier, model.detector.cosine_scale) == ("cnn", classifier, 20.0)
        assert not model.mask.cnn.class_agnostic and not model.detector.class_agnostic_boxes


def test_mrcn_ft_full_on_coco_freezes_what_stage_1_does():
    """TFA's `*_unfreeze`: 16 images, 0.001, a decay at nine tenths; frozen is what detectron2's FREEZE_AT=2 freezes."""
    config = mrcn_ft_full.get_config("coco,shots=5")
    assert phase(config, "novel") == (1500, 16, 0.01, "sgd", "step", 0, 0.0)
    assert phase(config, "detector") == (80_000, 16, 0.001, "sgd", "step", 0, 0.0)
    assert config.train.detector.decay_at == (0.9,) and config.train.novel.decay_at == (1.0,)
    assert config.train.frozen == base.get_config("coco").train.frozen != ()
    assert mrcn_ft_full.get_config("coco,shots=5,weights=scratch").train.frozen == ()
    assert (config.base_method, config.model.detector.classifier) == ("mtfa", "linear")


@pytest.mark.parametrize("get", [mtfa, mrcn_ft_full, imtfa, imtfa_fc, ifs_rcnn])
@pytest.mark.parametrize("preset", ["coco", "shapes"])
def test_the_literal_reading_of_maskdiff_is_not_for_baselines(get, preset):
    """It would halve their batches and keep their rates."""
    with pytest.raises(ValueError, match="paper=true is not possible: it is a reading of the MaskDiff paper"):
        get.get_config(f"{preset},paper=true")


@pytest.mark.parametrize("get", [mtfa, mrcn_ft_full])
def test_shapes_has_maskdiffs_budget(get):
    for shots in (1, 5):
        ours, theirs = get.get_config(f"shapes,shots={shots}"), fewshot.get_config(f"shapes,shots={shots}")
        assert [phase(ours, k) for k in ("novel", "detector")] == [phase(theirs, k) for k in ("novel", "detector")]
    assert phase(mtfa.get_config("shapes,stage=base"), "detector") == phase(base.get_config("shapes"), "detector")
    with pytest.raises(ValueError, match="mrcn_ft_full starts from stage 1 of mtfa"):
        mrcn_ft_full.get_config("shapes,stage=base")
