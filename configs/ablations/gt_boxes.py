"""The mask head without the detector: ground-truth boxes and classes replace detections.

The paper has no such table; this row shows which part of the gap in Tables 1 and 2 is due to the mask head. A trained
run of the row "maskdiff" can be evaluated as this one:

    python launch/evaluate.py RUN --config.method=gt_boxes --config.eval.oracle=boxes --output=FOLDER
"""

from configs import variant


def change(config):
    config.eval.oracle = "boxes"


def get_config(arg=None):
    return variant.get_config(arg, method="gt_boxes", change=change, base_method="maskdiff")
