"""The first of the two runs of iMTFA's stage 1: a class-agnostic Mask R-CNN with a linear classifier, on base classes.

    python launch/train.py --config configs/baselines/imtfa_fc.py:coco --config.init_from=runs/msra
    python launch/train.py --config configs/baselines/imtfa_fc.py:shapes

It is `fc_fullclsag_base` of the authors' code (github.com/danganea/iMTFA, configs/coco-experiments): one box and one
mask for all classes, 8 images per step. configs/baselines/imtfa.py starts from it. On shapes the two runs have as many
steps together as MaskDiff's detector.
"""

from ml_collections import ConfigDict

from configs import variant
from configs.baselines import mtfa


def get_config(arg: str | None = None) -> ConfigDict:
    """The locked config of the run; ``arg`` as that of configs/base.py.

    Raises:
      ValueError: stage 2 was asked for.
    """
    stage, rest = variant.take(arg, "stage", "base")
    if stage != "base":
        raise ValueError("imtfa_fc is the first half of iMTFA's stage 1: stage 2 is configs/baselines/imtfa.py")
    return variant.get_config(f"{rest},stage=base", method="imtfa_fc", change=change)


def change(config: ConfigDict) -> None:
    """What the run changes in the plain config of stage 1."""
    class_agnostic(config)
    config.model.detector.classifier = "linear"
    if config.preset.startswith("shapes"):
        config.train.detector.steps = 2000
    else:
        mtfa.base_schedule(config)


def class_agnostic(config: ConfigDict) -> None:
    """Mask R-CNN with one box and one mask for all classes."""
    mtfa.mask_rcnn(config)
    config.model.mask.cnn.class_agnostic = config.model.detector.class_agnostic_boxes = True
