"""Faster R-CNN with a feature pyramid: pixels -> features -> proposals -> sampled RoIs -> classes and boxes.

Follows detectron2's GeneralizedRCNN (modeling/meta_arch/rcnn.py) and TFA's roi_heads with static shapes: lists of boxes
are padded and carry a `valid` array. B images, N ground-truth slots, A anchors, P proposals, R sampled anchors or RoIs,
D detections, C classes, F channels. Boxes are xyxy in pixels of the network's input.

Each image is padded to the next multiple of 32, as if it were alone. The remaining padding, up to the padded size of
the batch, is zero for every convolution, excluded from the statistics of the norms, and has no anchors. So neither the
padded size nor other images of the batch change a detection.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from maskdiff_jax import detector_settings, losses, refinement
from maskdiff_jax.detector_settings import LAST_LEVEL, Settings
from maskdiff_jax.nets import fpn, rcnn, resnet
from maskdiff_jax.nets.classifiers import CLASSIFIERS
from maskdiff_jax.ops import assign, roi_align, select
from maskdiff_jax.ops import boxes as box_ops
from maskdiff_jax.ops.batch import per_image
from maskdiff_jax.types import Array, Batch, Detections, PyTree

INACTIVE = -1e9  # logit of a class that is not active in a stage; finite, so that no loss becomes NaN
DIVISOR = 32  # px, stride of the coarsest stage


class Detector(NamedTuple):
    """The detector as pure functions."""

    init: Callable[[Array], PyTree]  # key -> params
    loss: Callable[..., tuple[Array, dict[str, Array]]]  # params, key, Batch, active [C], mask loss -> loss, metrics
    detect: Callable[..., Detections]  # params, image [B, H, W, 3], image_hw [B, 2], active [C]
    box_features: Callable[..., Array]  # params, image, image_hw, boxes [B, N, 4] -> [B, N, F]
    refine_loss: Callable[..., tuple[Array, dict[str, Array]]]  # as loss: box regression and second pass alone
    roi_features: Callable[..., Array]  # params, image, image_hw, boxes [B, N, 4], S -> [B, N, S, S, F]


class Nets(NamedTuple):
    """The flax modules, in the order of the data; names are those of the parameters."""

    backbone: resnet.ResNet
    fpn: fpn.FPN
    rpn: rcnn.RPNHead
    box_head: rcnn.BoxHead
    box_predictor: rcnn.BoxPredictor


class Features(NamedTuple):
    """The input of both stages."""

    levels: dict[int, Array]  # level -> [B, H, W, F]
    extents: dict[int, Array]  # level -> [B, 2] rows and columns that belong to the image


class Anchors(NamedTuple):
    """The first stage's view of every anchor, by level; A_l anchors in the order row, column, ratio."""

    boxes: dict[int, Array]  # [A_l, 4]
    logits: dict[int, Array]  # [B, A_l]
    deltas: dict[int, Array]  # [B, A_l, 4]
    inside: dict[int, Array]  # [B, A_l] bool, False in the padding around an image


def make_nets(s: Settings) -> Nets:
    """The flax modules; the parts of the detector are functions of (settings, nets, params, ...)."""
    scale = s.probit_scale if s.classifier == "probit" else s.cosine_scale
    return Nets(
        resnet.ResNet(s.blocks, s.width, s.norm, s.stride_in_1x1),
        fpn.FPN(s.fpn_channels, s.fpn_min_level, s.dtype),
        rcnn.RPNHead(len(s.anchor_ratios), s.dtype),
        rcnn.BoxHead(s.fc_channels, s.dtype),
        rcnn.BoxPredictor(
            s.num_classes, s.classifier, scale, s.class_agnostic_boxes, s.dtype, uncertain=s.box_uncertainty
        ),
    )


def make_detector(**fields: Any) -> Detector:
    """Builds the detector.

    Args:
      **fields: num_classes (C), dtype (of the computation), and every field of `config.model.detector`.

    Returns:
      The functions. `loss` returns the sum of its losses and, as metrics, each of them, how many anchors and RoIs
      were foreground, and the share of foreground RoIs with the right class. Ground truth that is padding, or of a
      class that is not active, is dropped; ground truth marked `ignore` is neither foreground nor background.
      `detect` returns detections best first with scores over `min_score`. All take images of any padded size.
      `refine_loss` trains the second pass (`refinement`) and the box regression, after everything else is trained.

    Raises:
      TypeError: a field missing or unknown.
      ValueError: a field with a value that cannot be used.
    """
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    s = Settings(**fields)._replace(dtype=jnp.dtype(fields["dtype"]))
    detector_settings.check(s)
    nets = make_nets(s)

    @jax.jit
    def init(key: Array) -> PyTree:
        image = jnp.zeros((1, 2 * DIVISOR, 2 * DIVISOR, 3), s.dtype)
        pooled = jnp.zeros((1, s.roi_size, s.roi_size, s.fpn_channels), s.dtype)
        keys = dict(zip(Nets._fields, jax.random.split(key, len(nets)), strict=True))
        params = {}

        def start(name: str, x: Any) -> Any:
            out, variables = getattr(nets, name).init_with_output(keys[name], x)
            params[name] = variables["params"]
            return out

        start("rpn", start("fpn", start("backbone", image)))
        start("box_predictor", start("box_head", pooled))
        if s.refine:
            params["refine"] = refinement.head(s).init(jax.random.fold_in(key, 1), pooled, jnp.zeros((1, 4)))["params"]
        return params

    def detect(params: PyTree, image: Array, image_hw: Array, active: Array) -> Detections:
        maps = features(s, nets, params, image, image_hw)
        anchors = rpn(s, nets, params, maps)
        proposals = propose(s, anchors, image_hw, pre_nms=s.rpn_pre_nms_test, count=s.proposals_test)
        logits, deltas = predict(nets, params, pool(s, nets, params, maps, proposals.boxes), active)
        scores = CLASSIFIERS[s.classifier].scores(logits)
        if s.refine:
            crop = functools.partial(crops, s, maps, size=s.roi_size)
            return refinement.detect(s, params["refine"], crop, scores, deltas, proposals, image_hw)
        finish = functools.partial(
            select.detections,
            weights=s.box_weights,
            min_score=s.min_score,
            threshold=s.nms,
            count=s.max_detections,
        )
        return per_image(finish)(scores, deltas[..., :4], proposals, image_hw)

    def box_features(params: PyTree, image: Array, image_hw: Array, boxes: Array) -> Array:
        maps = features(s, nets, params, image, image_hw)
        return pool(s, nets, params, maps, boxes).astype(jnp.float32)

    def roi_features(params: PyTree, image: Array, image_hw: Array, boxes: Array, size: int) -> Array:
        return crops(s, features(s, nets, params, image, image_hw), boxes, size)

    first, second = functools.partial(_loss, s, nets), functools.partial(_refine_loss, s, nets)
    return Detector(init, first, detect, box_features, second, roi_features)


# -------------------------------------------------------------------------------------------------- parts


def pixels(s: Settings, image: Array, image_hw: Array) -> Array:
    """Normalized pixels [B, H, W, 3], zero outside the images, sides rounded up to `DIVISOR`."""
    x = image[..., ::-1] if s.channel_order == "bgr" else image
    x = (x.astype(jnp.float32) - jnp.array(s.pixel_mean)) / jnp.array(s.pixel_std)
    x = jnp.where(_inside(image.shape[1:3], image_hw), x, 0.0).astype(s.dtype)
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % DIVISOR), (0, -x.shape[2] % DIVISOR), (0, 0)))


def _inside(hw: tuple[int, int], extent: Array) -> Array:
    """[B, H, W, 1] bool: rows and columns below `extent` [B, 2]."""
    rows = jnp.arange(hw[0]) < extent[:, :1]
    cols = jnp.arange(hw[1]) < extent[:, 1:]
    return (rows[:, :, None] & cols[:, None, :])[..., None]


def features(s: Settings, nets: Nets, params: PyTree, image: Array, image_hw: Array) -> Features:
    """The pyramid of [B, H, W, 3] RGB images 0..255 of size `image_hw` [B, 2], top left in [H, W]."""
    x = pixels(s, image, image_hw)
    padded = -(-image_hw // DIVISOR) * DIVISOR
    extents = {level: -(-padded // 2**level) for level in range(1, LAST_LEVEL + 1)}
    masks = {
        level: _inside((x.shape[1] >> level, x.shape[2] >> level), extents[level]).astype(s.dtype)
        for level in range(1, LAST_LEVEL)
    }
    stages = nets.backbone.apply({"params": params["backbone"]}, x, masks)
    levels = nets.fpn.apply({"params": params["fpn"]}, stages, masks)
    return Features(levels, {level: extents[level] for level in levels})


def rpn(s: Settings, nets: Nets, params: PyTree, maps: Features) -> Anchors:
    """Scores every anchor of every level."""
    levels = dict(sorted(maps.levels.items()))
    logits, deltas = nets.rpn.apply({"params": params["rpn"]}, levels)
    boxes, inside = {}, {}
    for (level, x), size in zip(levels.items(), s.anchor_sizes, strict=True):
        hw = x.shape[1:3]
        boxes[level] = box_ops.anchors(hw, stride=2**level, size=size, ratios=s.anchor_ratios)
        cells = _inside(hw, maps.extents[level])
        inside[level] = jnp.repeat(cells.reshape(x.shape[0], -1), len(s.anchor_ratios), 1)
    return Anchors(boxes, logits, deltas, inside)


def propose(s: Settings, anchors: Anchors, image_hw: Array, *, pre_nms: int, count: int) -> select.Proposals:
    """[B, P, 4] proposals; no gradient flows through them."""
    logits, deltas = jax.lax.stop_gradient((anchors.logits, anchors.deltas))
    one = functools.partial(select.propose, pre_nms=pre_nms, threshold=s.rpn_nms, count=count)
    return per_image(one, (None, 0, 0, 0, 0))(anchors.boxes, logits, deltas, anchors.inside, image_hw)


def pool(s: Settings, nets: Nets, params: PyTree, maps: Features, boxes: Array) -> Array:
    """[B, R, 4] boxes -> [B, R, F] after the two fully connected layers."""
    return nets.box_head.apply({"params": params["box_head"]}, crops(s, maps, boxes, s.roi_size))


def crops(s: Settings, maps: Features, boxes: Array, size: int) -> Array:
    """[B, R, 4] boxes -> [B, R, size, size, F], each from the level of its area."""
    levels = {level: x for level, x in maps.levels.items() if level < LAST_LEVEL}
    extents = {level: maps.extents[level] for level in levels}
    options = dict(size=size, sampling=s.roi_sampling, canonical=s.roi_canonical)

    def one(levels: dict[int, Array], boxes: Array, extents: dict[int, Array]) -> Array:
        return roi_align.multilevel_roi_align(levels, boxes, extents=extents, **options)

    return per_image(one)(levels, boxes, extents)


def predict(nets: Nets, params: PyTree, x: Array, active: Array) -> tuple[Array, Array]:
    """[B, R, F] -> logits [B, R, C + 1] without the classes that are not active, deltas [B, R, C or 1, 4 or 8]."""
    logits, deltas = nets.box_predictor.apply({"params": params["box_predictor"]}, x)
    return jnp.where(jnp.append(active, True), logits, INACTIVE), deltas  # background is always active


# ------------------------------------------------------------------------------------------------- losses


def _loss(
    s: Settings, nets: Nets, params: PyTree, key: Array, batch: Batch, active: Array,
    mask_loss: Callable[..., Array] | None = None,
) -> tuple[Array, dict[str, Array]]:  # fmt: skip
    """The losses of both stages, see `make_detector`, and a mask loss (pool, foreground RoIs), see `types.MaskHead`."""
    keys = jax.vmap(jax.random.split)(jax.random.split(key, len(batch.image)))  # [B, 2] keys
    gt = _ground_truth(batch, active)
    maps = features(s, nets, params, batch.image, batch.image_hw)
    anchors = rpn(s, nets, params, maps)
    parts, anchors_fg = _rpn_losses(s, keys[:, 0], anchors, gt)
    proposals = propose(s, anchors, batch.image_hw, pre_nms=s.rpn_pre_nms_train, count=s.proposals_train)
    rois = _sampled_rois(s, keys[:, 1], proposals, gt)
    roi_parts, correct, _ = _roi_losses(s, nets, params, maps, rois, active)
    parts |= roi_parts
    foreground = rois.used & (rois.labels < s.num_classes)
    if mask_loss is not None:
        most = max(int(s.roi_samples * s.roi_positive), 1)  # foreground comes first, see `assign.sample`
        chosen = jax.tree.map(lambda x: x[:, :most], rois._replace(used=foreground))
        parts["loss_mask"] = mask_loss(functools.partial(crops, s, maps), chosen)
    metrics = parts | {
        "rpn_foreground": anchors_fg.sum(-1).mean(dtype=jnp.float32),  # sampled anchors per image
        "roi_foreground": foreground.sum(-1).mean(dtype=jnp.float32),  # sampled RoIs per image
        "accuracy": correct.sum() / jnp.maximum(foreground.sum(), 1),  # of the class of foreground RoIs
    }
    return sum(parts.values()), metrics


def _refine_loss(
    s: Settings, nets: Nets, params: PyTree, key: Array, batch: Batch, active: Array
) -> tuple[Array, dict[str, Array]]:
    """The box loss and the losses of the second pass."""
    keys = jax.vmap(jax.random.split)(jax.random.split(key, len(batch.image)))  # [B, 2] keys
    maps = features(s, nets, params, batch.image, batch.image_hw)
    anchors = rpn(s, nets, params, maps)
    proposals = propose(s, anchors, batch.image_hw, pre_nms=s.rpn_pre_nms_train, count=s.proposals_train)
    rois = _sampled_rois(s, keys[:, 1], proposals, _ground_truth(batch, active))
    parts, _, deltas = _roi_losses(s, nets, params, maps, rois, active)
    crop = functools.partial(crops, s, maps, size=s.roi_size)
    refine_parts, metrics = refinement.losses_of(s, params["refine"], crop, rois, deltas, batch.image_hw)
    parts = {"loss_box": parts["loss_box"]} | refine_parts
    return sum(parts.values()), parts | metrics


def _ground_truth(batch: Batch, active: Array) -> assign.GroundTruth:
    """Objects of B images; objects of inactive classes are dropped, as if they were not annotated."""
    boxes, classes, ignore = batch.instances
    real = (classes >= 0) & (box_ops.area(boxes) > 0)
    return assign.GroundTruth(boxes, classes, real & ~ignore & active[jnp.maximum(classes, 0)], real & ignore)


def _rpn_losses(s: Settings, keys: Array, anchors: Anchors, gt: assign.GroundTruth) -> tuple[dict[str, Array], Array]:
    """Losses of the first stage, and which sampled anchors [B, R] are foreground."""
    boxes = jnp.concatenate(list(anchors.boxes.values()))
    logits, deltas, inside = (
        jnp.concatenate(list(levels.values()), 1) for levels in (anchors.logits, anchors.deltas, anchors.inside)
    )
    sample = functools.partial(
        assign.sample_anchors,
        thresholds=s.rpn_iou,
        count=s.rpn_samples,
        positive=s.rpn_positive,
        weights=select.RPN_WEIGHTS,
    )

    def sampled(key, boxes, inside, gt, logits, deltas):
        chosen = sample(key, boxes, inside, gt)
        return logits[chosen.index], deltas[chosen.index], chosen.is_fg, chosen.used, chosen.targets

    in_axes = (0, None, 0, 0, 0, 0)
    logits, deltas, is_fg, used, targets = per_image(sampled, in_axes)(keys, boxes, inside, gt, logits, deltas)
    cls, box = losses.rpn_losses(logits, deltas, is_fg, used, targets, samples=s.rpn_samples, beta=s.rpn_beta)
    return {"loss_rpn_cls": cls, "loss_rpn_box": box}, is_fg


def _sampled_rois(s: Settings, keys: Array, proposals: select.Proposals, gt: assign.GroundTruth) -> assign.SampledRois:
    """[B, R] RoIs, foreground first."""
    sample = functools.partial(
        assign.sample_rois,
        background=s.num_classes,
        threshold=s.roi_iou,
        count=s.roi_samples,
        positive=s.roi_positive,
        weights=s.box_weights,
    )
    return per_image(sample)(keys, proposals.boxes, proposals.valid, gt)


def _roi_losses(
    s: Settings, nets: Nets, params: PyTree, maps: Features, rois: assign.SampledRois, active: Array
) -> tuple[dict[str, Array], Array, Array]:
    """Losses of the second stage; which RoIs [B, R] are foreground of the right class; deltas, see `predict`."""
    classifier = CLASSIFIERS[s.classifier]
    logits, deltas = predict(nets, params, pool(s, nets, params, maps, rois.boxes), active)
    cls, box = losses.roi_losses(
        logits, deltas, rois.labels, rois.used, rois.targets, beta=s.box_beta, class_loss=classifier.loss
    )
    parts = {"loss_cls": cls, "loss_box": box}
    if classifier.penalty is not None:
        parts["loss_variance"] = classifier.penalty(params["box_predictor"]["cls_score"], active)
    foreground = rois.used & (rois.labels < s.num_classes)
    return parts, foreground & (logits[..., :-1].argmax(-1) == rois.labels), deltas
