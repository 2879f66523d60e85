"""A mask head trained and tested without shots: do the K shots help? The paper claims that they help (Eq. 2).

The net keeps the channels of its shots, which are always empty: its size and cost are those of the row "maskdiff".
It needs its own stage 1: `stage=base`.
"""

from configs import variant


def change(config):
    config.data.shot_drop = 1.0
    config.eval.support = "none"


def get_config(arg=None):
    return variant.get_config(arg, method="no_shots", change=change)
