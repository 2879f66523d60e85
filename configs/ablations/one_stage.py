"""MaskDiff whose mask head is trained only in stage 2, on the K shots: Table 5, "without two-stage training".

The paper does not say which stage is missing. Here the detector is the one of the row "maskdiff", trained on base
classes, and only the mask head starts from new weights: 10.6 AP on novel classes, as in that table, is implausible
without any base training. configs/ablations/one_stage_literal.py is the other reading. The mask head is trained as in
stage 1 (steps, rate), on the shots. The detector of a trained run of the row "maskdiff" can be reused:

    python launch/train.py --config configs/ablations/one_stage.py:shapes,shots=5,seed=0 --config.detector_from=RUN
"""

from configs import variant


def change(config):
    config.train.reset = ("mask_head/.*",)
    config.train.mask.update(variant.plain_stage_1(config).train.mask)


def get_config(arg=None):
    return variant.get_config(arg, method="one_stage", change=change, base_method="maskdiff")
