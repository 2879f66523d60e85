"""MaskDiff without guidance (weight 1): Table 5 (rows without guided sampling) and Table 6.

This is the row "maskdiff" itself, except with paper=true, where that row has weight 5. The class still enters the net:
guidance would only strengthen its influence. A trained run of that row can be evaluated as this one:

    python launch/evaluate.py RUN --config.method=no_guidance --config.model.mask.diffusion.guidance=1.0 --output=FOLDER
"""

from configs import variant


def change(config):
    config.model.mask.diffusion.guidance = 1.0


def get_config(arg=None):
    return variant.get_config(arg, method="no_guidance", change=change, base_method="maskdiff")
