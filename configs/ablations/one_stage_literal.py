"""MaskDiff without any training on base classes: the literal reading of "without two-stage training" in Table 5.

Stage 1 (`stage=base`) has no steps: it keeps the weights that it starts from, new ones or a pretrained backbone
(--config.init_from). Stage 2 trains what stage 1 otherwise trains, in the same way (steps, rates, frozen parameters),
on the K shots of every class.
"""

from configs import variant


def change(config):
    train = config.train
    if config.stage == "base":
        train.detector.steps = train.mask.steps = 0
        return
    first = variant.plain_stage_1(config).train
    train.detector.update(first.detector)
    train.mask.update(first.mask)
    train.frozen, train.novel.steps, config.fewshot.novel_init = first.frozen, 0, "random"


def get_config(arg=None):
    return variant.get_config(arg, method="one_stage_literal", change=change)
