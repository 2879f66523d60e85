"""A plain UNet in place of the diffusion mask head: Table 7, "basic UNet".

It predicts the mask in one pass, without noise. It is the same UNet with the region, the shots and the class as input,
trained with cross-entropy. It needs its own stage 1: `stage=base`. The detectors of trained runs of the row "maskdiff",
with the same stage and shots, can be reused, so that the two rows differ only in the mask head and half of the training
is saved:

    python launch/train.py --config configs/ablations/plain_unet.py:shapes,stage=base --config.detector_from=RUN
    python launch/train.py --config configs/ablations/plain_unet.py:shapes,shots=5,seed=0 --config.detector_from=RUN
"""

from configs import variant


def change(config):
    config.model.mask.head = "plain_unet"


def get_config(arg=None):
    return variant.get_config(arg, method="plain_unet", change=change)
