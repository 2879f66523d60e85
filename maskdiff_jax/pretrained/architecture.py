"""Whether a detector of detectron2's layout has the net that a config describes; names the part that differs.

`rules.convert` also finds every difference, as a list of hundreds of tensors. This module names the part and the config
field instead. Names and shapes are those of detectron2 (modeling/backbone, modeling/roi_heads).
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

STEM = "backbone.bottom_up.stem.conv1.weight"  # [width, 3, 7, 7]
RPN = "proposal_generator.rpn_head.conv.weight"
FITTING = (
    "supported are Faster and Mask R-CNN with FPN and ResNet-50 or ResNet-101 of detectron2 or TFA, e.g. "
    "COCO-Detection/faster_rcnn_R_50_FPN_3x"
)
# a pattern of a name -> what a detector that has it is, where ours has no such part
OTHERS = {
    r"backbone\.body\..*": "a detector of torchvision",
    r"roi_heads\.box_head\.\d+\..*": "a Cascade R-CNN, with several box heads",
    r"roi_heads\.(res5|.*\.res5)\..*": "a detector without FPN (C4 or DC5)",
    r"backbone\.(stem|res\d)\..*": "a detector without FPN (C4 or DC5)",
    r"head\.(cls_score|bbox_pred|cls_subnet\.0)\..*": "a one-stage detector (RetinaNet or FCOS)",
    r"backbone\.fpn_\w+\.norm\..*": "a detector whose FPN has norms",
    r"backbone\.bottom_up\..*\.conv2_offset\..*": "a detector with deformable convolutions",
    r"backbone\.bottom_up\.(patch_embed|layers|net|blocks|s1)\..*": "a detector whose backbone is not a ResNet",
    r"(.*\.)?transformer\..*|sem_seg_head\.pixel_decoder\..*": "a transformer (DETR or Mask2Former)",
}


def other_kind(names: Mapping[str, Any]) -> str:
    """The kind of a detector that cannot be read, by its tensor names, with the fix; "" if it may be readable."""
    found = [what for pattern, what in OTHERS.items() if any(re.fullmatch(pattern, name) for name in names)]
    return f"it is {found[0]}, whose architecture is not supported: {FITTING}" if found else ""


def differences(tensors: Mapping[str, np.ndarray], detector: ConfigDict) -> list[str]:
    """The fields of ``config.model.detector`` that differ from a detector of detectron2's layout.

    Args:
      tensors: name -> array.
      detector: the fields.

    Returns:
      A clause for each: the part, both values, and the override that sets the file's value.
    """
    theirs: dict[str, tuple[str, Any]] = {
        "blocks": ("backbone", _blocks(tensors)),
        "width": ("stem", tensors[STEM].shape[0]),
        "fpn_channels": ("FPN", tensors[RPN].shape[0]),
        "fc_channels": ("box head", _rows(tensors, "roi_heads.box_head.fc1.weight")),
    }
    found = [
        f"its {part} has {field}={value}, the config {ours}: give --config.model.detector.{field}="
        + (f'"{value}"' if isinstance(value, tuple) else str(value))
        for field, (part, value) in theirs.items()
        if value is not None and (ours := detector[field]) != value
    ]
    anchors, ours = _rows(tensors, "proposal_generator.rpn_head.objectness_logits.weight"), len(detector.anchor_ratios)
    if anchors not in (None, ours):
        found.append(
            f"its RPN has {anchors} anchors per cell, the config {ours}: give --config.model.detector.anchor_ratios"
        )
    return found


def groups(tensors: Mapping[str, np.ndarray]) -> int:
    """Groups of the 3 x 3 convolutions: 1 in a ResNet, 32 in a ResNeXt."""
    inner, kernel = (tensors.get(f"backbone.bottom_up.res2.0.{n}.weight") for n in ("conv1", "conv2"))
    return 1 if inner is None or kernel is None else inner.shape[0] // kernel.shape[1]


def _blocks(tensors: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    numbers = [re.fullmatch(r"backbone\.bottom_up\.res(\d)\.(\d+)\.conv1\.weight", name) for name in tensors]
    found = {(int(m[1]), int(m[2])) for m in numbers if m}
    return tuple(sum(stage == s for stage, _ in found) for s in range(2, 6))


def _rows(tensors: Mapping[str, np.ndarray], name: str) -> int | None:
    return tensors[name].shape[0] if name in tensors else None
