"""MaskDiff with another number of sampling steps S, the option ``steps=`` (8): quality against cost, Table 4 (runtime).

The paper samples in 1,000 steps. A trained run of the row "maskdiff" can be evaluated as this one:

    python launch/evaluate.py RUN --config.method=steps8 --config.model.mask.diffusion.steps=8 --output=FOLDER
"""

from configs import variant


def get_config(arg=None):
    parts = [part.strip() for part in (arg or "").split(",")]
    given = [part.partition("=")[2] for part in parts if part.startswith("steps=")] or ["8"]
    if not given[-1].isdecimal() or int(given[-1]) < 1:
        raise ValueError(f"option 'steps={given[-1]}' must be a whole number from 1 on")
    steps = int(given[-1])

    def change(config):
        config.model.mask.diffusion.steps = steps

    rest = ",".join(part for part in parts if not part.startswith("steps="))
    return variant.get_config(rest, method=f"steps{steps}", change=change, base_method="maskdiff")
