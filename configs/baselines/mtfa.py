"""MTFA (Ganea et al. 2021, Section 3.1): TFA's two-stage fine-tuning of a Mask R-CNN.

    python launch/train.py --config configs/baselines/mtfa.py:coco,stage=base
    python launch/train.py --config configs/baselines/mtfa.py:coco,shots=5,seed=0

Boxes, classes and masks are those of Mask R-CNN, one box and one mask per class. Stage 1 trains everything on the base
classes with a linear classifier. Stage 2 trains new last layers on the novel shots, combines them with those of the
base classes, and trains the combined last layers on the shots of all classes with a cosine classifier; all else is
frozen. Schedules of COCO are those of the authors' code (github.com/danganea/iMTFA, configs/coco-experiments): 8 images
per step. Those of shapes have the steps, batches and rates of MaskDiff's detector in configs/presets.py and fewshot.py.
"""

from ml_collections import ConfigDict

from configs import variant

# steps of the two phases of stage 2 for K = 1, 5 and 10
STEPS = {1: (1000, 20_000), 5: (3000, 72_000), 10: (4000, 96_000)}
FROZEN = (r"detector/(backbone|fpn|rpn|box_head)/.*", r"mask_head/(?!predictor/).*")


def get_config(arg: str | None = None) -> ConfigDict:
    """The locked config of a stage; ``arg`` as in configs/variant.py."""
    return variant.get_config(arg, method="mtfa", change=change)


def change(config: ConfigDict) -> None:
    """What MTFA sets in a config of either stage."""
    mask_rcnn(config)
    train = config.train
    is_shapes = config.preset.startswith("shapes")
    if config.stage == "base":
        config.model.detector.classifier = "linear"
        if not is_shapes:
            base_schedule(config)
        return
    config.model.detector.classifier = "cosine"
    config.fewshot.novel_init, train.frozen = "fresh", FROZEN
    if not is_shapes:
        novel_steps, steps = STEPS.get(config.fewshot.shots, STEPS[10])
        fields = {"batch": 8, "base_batch": 8, "optimizer": "sgd", "weight_decay": 1e-4, "schedule": "constant"}
        train.novel.update(steps=novel_steps, lr=0.005, warmup=0, ema=0.0, **fields)
        train.detector.update(steps=steps, lr=0.0005, warmup=10, ema=0.0, **fields)


def mask_rcnn(config: ConfigDict) -> None:
    """Mask R-CNN with one box and one mask per class.

    Raises:
      ValueError: a smaller model, or ``paper=true``.
    """
    if config.paper:
        raise ValueError(
            "paper=true is not possible: it is a reading of the MaskDiff paper, and baselines have the batches and "
            "rates of their authors"
        )
    if config.size != "paper":
        raise ValueError(f"size={config.size} is not possible: baselines use the schedules of their authors")
    config.model.mask.head = "cnn"
    config.model.mask.cnn.class_agnostic = config.model.detector.class_agnostic_boxes = False
    config.model.mask.slots = max(10, config.model.mask.slots)  # the head sees no shots: any K of the tables
    config.train.mask.steps = 0  # it is trained with the detector


def base_schedule(config: ConfigDict) -> None:
    """The authors' schedule of stage 1 on COCO: 220k steps, decay at 170k and 200k."""
    config.train.detector.update(steps=220_000, batch=8, base_batch=8, lr=0.01, ema=0.0)
