"""iMTFA (Ganea et al. 2021, Section 3.2): novel classes are added to a Mask R-CNN without training.

    python launch/train.py --config configs/baselines/imtfa_fc.py:coco --config.init_from=runs/msra
    python launch/train.py --config configs/baselines/imtfa.py:coco,stage=base
    python launch/train.py --config configs/baselines/imtfa.py:coco,shots=5,seed=0

Stage 1 starts from configs/baselines/imtfa_fc.py and trains the two fully connected layers, the boxes and a new cosine
classifier on the base classes, all else frozen (`ft_fullclsag_cos_bh_base` of the authors' code,
github.com/danganea/iMTFA, configs/coco-experiments). Stage 2 trains nothing: the vector of a novel class is the mean of
the normalized features of its shots. The authors report scores with a cosine scale of 10 for COCO-All, which is set
here, and of 1 for COCO-Novel and VOC, for which give

    --config.fewshot.classes=novel --config.model.detector.cosine_scale=1.0

See docs/design.md, "iMTFA".
"""

from ml_collections import ConfigDict

from configs import variant
from configs.baselines.imtfa_fc import class_agnostic


def get_config(arg: str | None = None) -> ConfigDict:
    """The locked config of a stage; ``arg`` as in configs/variant.py."""
    return variant.get_config(arg, method="imtfa", change=change)


def change(config: ConfigDict) -> None:
    """What iMTFA changes in the plain config of either stage."""
    class_agnostic(config)
    train = config.train
    config.model.detector.classifier = "cosine"
    if config.stage == "fewshot":
        config.fewshot.novel_init = "mean_embedding"
        train.novel.steps = train.detector.steps = 0
        config.model.detector.cosine_scale = 10.0
        return
    config.base_method = "imtfa_fc"
    train.reset = ("detector/box_predictor/cls_score/.*",)
    train.frozen = ("detector/(backbone|fpn|rpn)/.*", "mask_head/.*")
    if config.preset.startswith("shapes"):
        train.detector.update(steps=1000, lr=1e-3)
        # of 3, 5, 10 and COCO's 20 the one with the best masks on split val; design.md says what it is about
        config.model.detector.cosine_scale = 5.0
    else:
        train.detector.update(steps=180_000, batch=8, base_batch=8, lr=0.0007, warmup=20, ema=0.0)
        train.detector.decay_at = (0.667, 0.889)  # 120k and 160k of 180k
