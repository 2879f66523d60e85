"""The settings of the detector: the fields of `config.model.detector`, and which values fit together."""

from typing import Any, NamedTuple

LAST_LEVEL = 6  # the coarsest level, every second cell of level 5


class Settings(NamedTuple):
    """The fields of `config.model.detector`, explained in configs/base.py, and two of `config.model`."""

    num_classes: int
    dtype: Any
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    channel_order: str
    blocks: tuple[int, ...]
    width: int
    norm: str
    stride_in_1x1: bool
    fpn_channels: int
    fpn_min_level: int
    anchor_sizes: tuple[float, ...]
    anchor_ratios: tuple[float, ...]
    rpn_iou: tuple[float, float]
    rpn_samples: int
    rpn_positive: float
    rpn_beta: float
    rpn_pre_nms_train: int
    rpn_pre_nms_test: int
    rpn_nms: float
    proposals_train: int
    proposals_test: int
    roi_samples: int
    roi_positive: float
    roi_iou: float
    roi_canonical: tuple[float, int]
    roi_size: int
    roi_sampling: int
    fc_channels: int
    classifier: str
    cosine_scale: float
    probit_scale: float
    class_agnostic_boxes: bool
    box_weights: tuple[float, ...]
    box_beta: float
    box_uncertainty: bool
    refine: bool
    refine_iou: float
    refine_candidates: int
    min_score: float
    nms: float
    max_detections: int


def check(s: Settings) -> None:
    """Whether the fields fit together.

    Raises:
      ValueError: they do not fit; names the field.
    """
    levels = LAST_LEVEL + 1 - s.fpn_min_level
    if not 2 <= s.fpn_min_level <= 5:
        raise ValueError(f"detector.fpn_min_level is {s.fpn_min_level}: choose 2, 3, 4 or 5")
    if len(s.anchor_sizes) != levels:
        raise ValueError(
            f"detector.anchor_sizes has {len(s.anchor_sizes)} entries: give {levels}, one for each level "
            f"from fpn_min_level {s.fpn_min_level} to {LAST_LEVEL}"
        )
    if len(s.blocks) != 4:
        raise ValueError(f"detector.blocks has {len(s.blocks)} entries: give 4, for res2 to res5")
    if s.channel_order not in ("rgb", "bgr"):
        raise ValueError(f"unknown detector.channel_order '{s.channel_order}': choose rgb or bgr")
    if s.refine and not s.box_uncertainty:
        raise ValueError("detector.refine needs detector.box_uncertainty: the second pass sees the variances of a box")
