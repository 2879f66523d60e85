"""MRCN+ft-full: a Mask R-CNN trained on base classes, then the whole network fine-tuned on K shots of every class.

    python launch/train.py --config configs/baselines/mrcn_ft_full.py:coco,shots=5,seed=0

It starts from stage 1 of MTFA (configs/baselines/mtfa.py), which is that Mask R-CNN, and keeps its linear classifier.
The name is Meta R-CNN's (Yan et al. 2019); the MaskDiff paper quotes it without a recipe. The closest published one is
TFA's FRCN+ft-full (few-shot-object-detection, configs/COCO-detection, `*_unfreeze`): 16 images per step at a rate of
0.001, nothing frozen but what detectron2 freezes in stage 1. Here masks are trained too. Novel classes start from a
short training of the last layers on the novel shots, as TFA's do. Schedules of shapes are those of MaskDiff's detector.
"""

from ml_collections import ConfigDict

from configs import base, fewshot, variant
from configs.baselines import mtfa


def get_config(arg: str | None = None) -> ConfigDict:
    """The locked config of stage 2; ``arg`` as in configs/variant.py."""
    return variant.get_config(arg, method="mrcn_ft_full", base_method="mtfa", change=change)


def change(config: ConfigDict) -> None:
    """What MRCN+ft-full sets in a config of stage 2."""
    mtfa.mask_rcnn(config)
    config.model.detector.classifier = "linear"
    # as in stage 1
    config.train.frozen = base.get_config(f"{config.preset},weights={config.weights}").train.frozen
    if not config.preset.startswith("shapes"):
        novel_steps, steps = fewshot.tfa_steps(config.fewshot.shots)
        config.train.novel.update(steps=novel_steps, ema=0.0)
        config.train.detector.update(steps=steps, lr=0.001, optimizer="sgd", weight_decay=1e-4, warmup=0, ema=0.0)
        config.train.detector.update(schedule="step", decay_at=(0.9,))
