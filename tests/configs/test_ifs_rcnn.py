"""The baseline iFS-RCNN: published schedules on COCO, MaskDiff's budget on shapes."""

import pytest

from configs import base, fewshot
from configs.baselines import ifs_rcnn
from maskdiff_jax.training.compatibility import stage2_problems
from maskdiff_jax.workdir import as_json


@pytest.mark.parametrize("shots, scale", [(1, 1.0), (2, 1.5), (3, 2.0), (4, 2.0), (5, 2.0), (10, 2.5), (30, 5.0)])
def test_the_scale_depends_on_the_shots(shots, scale):
    assert ifs_rcnn.get_config(f"coco,shots={shots}").model.detector.probit_scale == scale


def test_schedules_of_coco():
    first, second = ifs_rcnn.get_config("coco,stage=base"), ifs_rcnn.get_config("coco,shots=10")
    detector, refine, novel = first.train.detector, first.train.refine, second.train.novel
    assert (detector.steps, detector.batch, detector.lr, detector.optimizer) == (110_000, 16, 0.02, "sgd")
    assert [round(detector.steps * x, -3) for x in detector.decay_at] == [85_000, 100_000]
    assert (refine.steps, refine.batch, refine.lr, refine.warmup) == (20_000, 16, 0.02, 0)
    assert [round(refine.steps * x) for x in refine.decay_at] == [10_000, 15_000]
    assert (novel.steps, novel.batch, novel.lr, novel.schedule, novel.warmup) == (2500, 16, 0.01, "constant", 0)
    assert (second.train.detector.steps, second.train.mask.steps, second.train.refine.steps) == (0, 0, 0)


@pytest.mark.parametrize("preset", ["shapes", "shapes_hard"])
def test_budget_of_shapes(preset):
    """As many steps of the detector as MaskDiff has, in both stages."""
    first, plain = ifs_rcnn.get_config(f"{preset},stage=base").train, base.get_config(preset).train
    assert first.detector.steps + first.refine.steps == plain.detector.steps and first.refine.steps == 500
    second, plain = ifs_rcnn.get_config(f"{preset},shots=5").train, fewshot.get_config(f"{preset},shots=5").train
    assert second.novel.steps == plain.novel.steps + plain.detector.steps and second.detector.steps == 0


@pytest.mark.parametrize("preset", base.PRESETS)
def test_stage_2_may_start_from_stage_1(preset):
    first, second = ifs_rcnn.get_config(f"{preset},stage=base"), ifs_rcnn.get_config(f"{preset},shots=1")
    assert not stage2_problems(second, as_json(first))
    detector = second.model.detector
    assert detector.refine and detector.box_uncertainty and not detector.class_agnostic_boxes
    assert (detector.classifier, second.model.mask.head) == ("probit", "cnn")
