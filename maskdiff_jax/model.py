"""Builds a model from ``config.model``: the detector and the mask head, as functions of their parameters.

Only ``build`` hands the fields of ``config.model`` to networks. Other modules read single fields of it: num_classes,
the sizes of masks and support sets, the options of the sampler.
"""

import json
from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from maskdiff_jax import mask_heads, roi_mask_head
from maskdiff_jax.config_fields import Fields, read_only
from maskdiff_jax.detector import make_detector
from maskdiff_jax.types import Array, Batch, Detections, MaskBatch, PyTree

if TYPE_CHECKING:  # an export is used without ml_collections
    from ml_collections import ConfigDict

MASK_HEADS = {
    "diffusion": mask_heads.diffusion_head,
    "plain_unet": mask_heads.plain_unet_head,
    "cnn": roi_mask_head.conv_head,
}
WITH_DETECTOR = ("cnn",)  # the heads that are trained with the detector, in phase "detector"
WITHOUT_NOISE = ("plain_unet", "cnn")  # the heads whose masks are the same for every noise seed


class Model(NamedTuple):
    """Pure functions over ``params = {"detector": ..., "mask_head": ...}``."""

    init: Callable[[Array], PyTree]  # key -> params
    # params, key, batch, active [C] bool -> loss, metrics; with `gt_mask_side` the mask head's loss is part of it
    detector_loss: Callable[[PyTree, Array, Batch, Array], tuple[Array, dict]]
    # the same arguments; trains the second pass of a detector that has one
    refine_loss: Callable[[PyTree, Array, Batch, Array], tuple[Array, dict]]
    mask_loss: Callable[[PyTree, Array, MaskBatch], tuple[Array, dict]]  # params, key, batch -> loss, metrics
    # params, image [B, H, W, 3] uint8, image_hw [B, 2], active [C] -> Detections
    detect: Callable[[PyTree, Array, Array, Array], Detections]
    # params, image, image_hw, boxes [B, N, 4] -> [B, N, F]: what the classifier sees of each box
    box_features: Callable[[PyTree, Array, Array, Array], Array]
    # params, keys [N], region [N, M, M, 3], shots [N, K, M, M, 4], classes [N] -> soft masks [N, M, M] in [0, 1]; with
    # `mask_features` a region is [N, S, S, F], what that gives
    segment: Callable[[PyTree, Array, Array, Array, Array], Array]
    # the same arguments -> noisy masks y [S, N, M, M], estimates x0 [S, N, M, M] after each step
    trajectory: Callable[[PyTree, Array, Array, Array, Array], tuple[Array, Array]]
    # steps, halve, weight (see MaskHead) -> a loss like mask_loss, whose params also hold "teacher", a mask head
    distill: Callable[[int, bool, float], Callable[[PyTree, Array, MaskBatch], tuple[Array, dict]]]
    mask_side: int  # M of the masks that `segment` gives
    # side of `Batch.gt_masks`, px: the mask head is trained with the detector; 0: by `mask_loss`, on crops
    gt_mask_side: int
    # params, image, image_hw, boxes [B, N, 4] -> [B, N, S, S, F]: what the mask head sees of each box; None: crops
    mask_features: Callable[[PyTree, Array, Array, Array], Array] | None


def build(config: "ConfigDict") -> Model:
    """The model that ``config.model`` describes.

    Equal configs give the same functions, so that what jax has traced and compiled of them serves again.

    Args:
      config: ``config.model``, of a whole config.

    Raises:
      ValueError: an unknown mask head or option; lists the known ones.
    """
    # text, because a config can change and cannot be hashed
    return _build(json.dumps(config.to_dict(), sort_keys=True))


@lru_cache(maxsize=8)
def _build(text: str) -> Model:
    config = read_only(json.loads(text))
    if config.mask.head not in MASK_HEADS:
        raise ValueError(f"unknown model.mask.head '{config.mask.head}': choose {', '.join(MASK_HEADS)}")
    shared = {"num_classes": config.num_classes, "dtype": config.dtype}
    detector = make_detector(**shared, **config.detector.to_dict())
    head = MASK_HEADS[config.mask.head](**shared, **_mask_head_fields(config))

    def init(key: Array) -> PyTree:
        detector_key, head_key = jax.random.split(key)
        return {"detector": detector.init(detector_key), "mask_head": head.init(head_key)}

    def detector_loss(params: PyTree, key: Array, batch: Batch, active: Array) -> tuple[Array, dict]:
        # the parameters of other heads are not read
        mask_loss = partial(head.roi_loss, params["mask_head"], batch) if head.roi_loss else None
        return detector.loss(params["detector"], key, batch, active, mask_loss)

    def mask_features(params: PyTree, image: Array, image_hw: Array, boxes: Array) -> Array:
        return detector.roi_features(params["detector"], image, image_hw, boxes, head.roi_size)

    def distill(steps: int, halve: bool, weight: float) -> Callable:
        loss = head.distill(steps, halve, weight)
        return lambda params, *args: loss(params["mask_head"], params["teacher"], *args)

    return Model(
        init=init,
        detector_loss=detector_loss,
        refine_loss=lambda params, *args: detector.refine_loss(params["detector"], *args),
        mask_loss=lambda params, *args: head.loss(params["mask_head"], *args),
        detect=lambda params, *args: detector.detect(params["detector"], *args),
        box_features=lambda params, *args: detector.box_features(params["detector"], *args),
        segment=lambda params, *args: head.predict(params["mask_head"], *args),
        trajectory=lambda params, *args: head.trajectory(params["mask_head"], *args),
        distill=distill,
        mask_side=head.side,
        gt_mask_side=head.gt_side,
        mask_features=mask_features if head.roi_size else None,
    )


def _mask_head_fields(config: Fields) -> dict[str, Any]:
    """What the mask head of ``config.model`` takes besides the fields that the detector takes too."""
    fields = config.mask.to_dict()
    if config.mask.head == "cnn":
        return {"in_channels": config.detector.fpn_channels} | fields["cnn"]
    return {k: v for k, v in fields.items() if k not in ("head", "min_shots", "cnn")}
