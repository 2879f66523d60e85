"""MaskDiff with guidance of weight 5, as in the paper: Table 5 (rows with guided sampling) and Table 6.

Guidance acts when masks are sampled. The head is the one of the row "maskdiff", which learned to do without its class
in a tenth of the samples (model.mask.diffusion.p_uncond). A trained run of that row can be evaluated as this one:

    python launch/evaluate.py RUN --config.method=guided --config.model.mask.diffusion.guidance=5.0 --output=FOLDER
"""

from configs import variant


def change(config):
    config.model.mask.diffusion.guidance = 5.0


def get_config(arg=None):
    return variant.get_config(arg, method="guided", change=change, base_method="maskdiff")
