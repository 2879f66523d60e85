"""MaskDiff that sees shots of another class at test: does the mask depend on what the K shots show?

The paper claims so (Eq. 2) and has no such table. Each class has the shots of the next one by class id, the last those
of the first. A trained run of the row "maskdiff" can be evaluated as this one:

    python launch/evaluate.py RUN --config.method=support_other --config.eval.support=other --output=FOLDER
"""

from configs import variant


def change(config):
    config.eval.support = "other"


def get_config(arg=None):
    return variant.get_config(arg, method="support_other", change=change, base_method="maskdiff")
