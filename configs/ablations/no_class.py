"""A class-agnostic mask head: does the class input help? The paper claims that class-specific masks are better and more
stable (introduction, third contribution), and has no table of that.

Without a class there is no guidance. It needs its own stage 1: `stage=base`.
"""

from configs import variant


def change(config):
    config.model.mask.class_input = False


def get_config(arg=None):
    return variant.get_config(arg, method="no_class", change=change)
