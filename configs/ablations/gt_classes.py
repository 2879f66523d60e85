"""Detected boxes with their ground-truth classes: the gain of a perfect classifier, in boxes and in masks.

The paper has no such table; this row shows which part of the gap in Tables 1 and 2 is due to the classifier. Boxes of
one object that were detected as several classes now have the same class, and all but the best count as false. A trained
run of the row "maskdiff" can be evaluated as this one:

    python launch/evaluate.py RUN --config.method=gt_classes --config.eval.oracle=classes --output=FOLDER
"""

from configs import variant


def change(config):
    config.eval.oracle = "classes"


def get_config(arg=None):
    return variant.get_config(arg, method="gt_classes", change=change, base_method="maskdiff")
