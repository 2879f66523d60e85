"""iFS-RCNN (Nguyen and Todorovic, CVPR 2022): incremental few-shot instance segmentation, a Bayesian novel classifier.

    python launch/train.py --config configs/baselines/ifs_rcnn.py:coco,stage=base
    python launch/train.py --config configs/baselines/ifs_rcnn.py:coco,shots=5,seed=0

Stage 1 trains a Mask R-CNN, one box and one mask per class, with a sigmoid classifier and focal loss and with a
variance of each box delta; then its second pass (phase "refine"). Stage 2 trains the last layers of the novel classes
on the novel shots and combines them with those of the base classes, which do not change: there is no joint training.
Schedules of COCO are those of the authors' code (github.com/VinAIResearch/iFS-RCNN, configs/COCO-detection/mask_rcnn).
Those of shapes have the steps and batches of MaskDiff's detector in configs/presets.py and fewshot.py.
"""

from ml_collections import ConfigDict

from configs import variant
from configs.baselines import mtfa

# s by K (`COSINE_SCALE` of the authors' configs); other K take that of the next smaller one
SCALES = {1: 1.0, 2: 1.5, 3: 2.0, 5: 2.0, 10: 2.5, 30: 5.0}
REFINE_SHARE = 1 / 6  # on shapes: of the steps of stage 1; 20k of 130k on COCO


def get_config(arg: str | None = None) -> ConfigDict:
    """The locked config of a stage; ``arg`` as in configs/variant.py."""
    return variant.get_config(arg, method="ifs_rcnn", change=change)


def change(config: ConfigDict) -> None:
    """What iFS-RCNN sets in a config of either stage."""
    mtfa.mask_rcnn(config)
    detector, train = config.model.detector, config.train
    detector.update(classifier="probit", box_uncertainty=True, refine=True)
    is_shapes = config.preset.startswith("shapes")
    if is_shapes:
        detector.refine_candidates = 128
        # without it the box loss, an error over its variance, ran away after some 600 steps of AdamW at this rate
        train.detector.clip_norm = train.novel.clip_norm = 1.0
    if config.stage == "base":
        if is_shapes:
            # in 800 steps every loss fell faster than at 3e-3, the rate of MaskDiff's detector
            train.detector.lr = 1e-3
            steps = round(REFINE_SHARE * train.detector.steps)
            train.refine.update(train.detector.to_dict() | {"steps": steps})
            train.detector.steps -= steps
        else:
            train.detector.ema = train.refine.ema = 0.0
            train.refine.update(steps=20_000, decay_at=(0.5, 0.75))
        return
    shots = config.fewshot.shots
    detector.probit_scale = SCALES[max(k for k in SCALES if k <= shots)]
    config.fewshot.novel_init = "fresh"
    if is_shapes:  # all of stage 2's steps
        train.novel.steps += train.detector.steps
    else:
        train.novel.update(steps=2500, batch=16, base_batch=16, optimizer="sgd", lr=0.01, schedule="constant", ema=0.0)
    train.detector.steps = 0
