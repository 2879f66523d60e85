"""A plain UNet in place of the diffusion mask head: Table 7, "basic UNet".

It predicts the mask in one pass, without noise. It is the same UNet with the region, the shots and the class as input,
trained with cross-entropy, and it has a stage 1 of its own: `stage=base`. The detectors of trained runs of the row
"maskdiff", of the same stage and shots, can be taken over, so that the two rows differ in the mask head alone and half
of the training is saved:

    python launch/train.py --config configs/ablations/plain_unet.py:shapes,stage=base --config.detector_from=RUN
    python launch/train.py --config configs/ablations/plain_unet.py:shapes,shots=5,seed=0 --config.detector_from=RUN
"""

from configs import variant


def change(config):
    config.model.mask.head = "plain_unet"


def get_config(arg=None):
    return variant.get_config(arg, method="plain_unet", change=change)
