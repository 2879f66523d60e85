"""MaskDiff with another number of sampling steps S, the option ``steps=`` (8): quality against cost, Table 4 (runtime).

The paper samples in 1,000 steps. A trained run of the row "maskdiff" can be evaluated as this one:

    python launch/evaluate.py RUN --config.method=steps8 --config.model.mask.diffusion.steps=8 --output=FOLDER
"""

from configs import variant


def get_config(arg=None):
    text, rest = variant.take(arg, "steps", "8")
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"option 'steps={text}' must be a whole number of at least 1")
    steps = int(text)

    def change(config):
        config.model.mask.diffusion.steps = steps

    return variant.get_config(rest, method=f"steps{steps}", change=change, base_method="maskdiff")
