"""MaskDiff with guidance of weight 5, as in the paper: Table 5 (rows with guided sampling) and Table 6.

The option ``guidance=`` sets another whole weight; then the row is "guided2", for example. Guidance acts when masks are
sampled. The head is the one of the row "maskdiff", which was trained without the class in a tenth of the samples
(model.mask.diffusion.p_uncond). A trained run of that row can be evaluated as this one:

    python launch/evaluate.py RUN --config.method=guided --config.model.mask.diffusion.guidance=5.0 --output=FOLDER
"""

from configs import variant


def get_config(arg=None):
    text, rest = variant.take(arg, "guidance", "5")
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"option 'guidance={text}' must be a whole number of at least 1")
    weight = int(text)

    def change(config):
        config.model.mask.diffusion.guidance = float(weight)

    method = "guided" if weight == 5 else f"guided{weight}"
    return variant.get_config(rest, method=method, change=change, base_method="maskdiff")
