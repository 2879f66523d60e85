"""MaskDiff that sees no shots at test, though it was trained with them: is the mask conditioned on the K shots?

The paper claims so (Eq. 2) and has no such table. A trained run of the row "maskdiff" can be evaluated as this one:

    python launch/evaluate.py RUN --config.method=support_none --config.eval.support=none --output=FOLDER
"""

from configs import variant


def change(config):
    config.eval.support = "none"


def get_config(arg=None):
    return variant.get_config(arg, method="support_none", change=change, base_method="maskdiff")
