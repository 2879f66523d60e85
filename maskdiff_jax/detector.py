"""Faster R-CNN with a feature pyramid: pixels -> features -> proposals -> sampled RoIs -> classes and boxes.

Follows detectron2 and TFA (reference: fsis_protocol.md, section 1) with static shapes: lists of boxes are
padded and carry a `valid` array. B images, N ground-truth slots, A anchors, P proposals, R sampled RoIs,
D detections, C classes, F channels. Boxes are xyxy in pixels of the network's input.

Each image is treated as if it were alone, padded to the next multiple of 32: what lies beyond in the canvas
is zero for every convolution, outside the statistics of the norms, without anchors. So neither the canvas
nor the neighbours in the batch change a detection.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from maskdiff_jax import losses
from maskdiff_jax.nets import fpn, rcnn, resnet
from maskdiff_jax.ops import assign, roi_align, select
from maskdiff_jax.ops import boxes as box_ops
from maskdiff_jax.types import Array, Batch, Detections, PyTree

INACTIVE = -1e9  # logit of a class that a stage does not know; finite, so that no loss becomes NaN
DIVISOR = 32  # px, stride of the coarsest stage
LAST = 6  # the coarsest level, every second cell of level 5


class Detector(NamedTuple):
    """The detector as pure functions."""

    init: Callable[[Array], PyTree]  # key -> params
    loss: Callable[..., tuple[Array, dict[str, Array]]]  # params, key, Batch, active [C] -> loss, metrics
    detect: Callable[..., Detections]  # params, image [B, H, W, 3], image_hw [B, 2], active [C]
    box_features: Callable[..., Array]  # params, image, image_hw, boxes [B, N, 4] -> [B, N, F]


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
    class_agnostic_boxes: bool
    box_weights: tuple[float, ...]
    box_beta: float
    min_score: float
    nms: float
    max_detections: int


class Nets(NamedTuple):
    """The flax modules, in the order of the data; names are those of the parameters."""

    backbone: resnet.ResNet
    fpn: fpn.FPN
    rpn: rcnn.RPNHead
    box_head: rcnn.BoxHead
    box_predictor: rcnn.BoxPredictor


class Features(NamedTuple):
    """What both stages look at."""

    levels: dict[int, Array]  # level -> [B, H, W, F]
    extents: dict[int, Array]  # level -> [B, 2] rows and columns that belong to the image


def make_nets(s: Settings) -> Nets:
    """The modules alone; parts of the detector are functions of (settings, nets, params, ...)."""
    return Nets(
        resnet.ResNet(s.blocks, s.width, s.norm, s.stride_in_1x1),
        fpn.FPN(s.fpn_channels, s.fpn_min_level, s.dtype),
        rcnn.RPNHead(len(s.anchor_ratios), s.dtype),
        rcnn.BoxHead(s.fc_channels, s.dtype),
        rcnn.BoxPredictor(s.num_classes, s.classifier, s.cosine_scale, s.class_agnostic_boxes, s.dtype),
    )


def make_detector(**fields: Any) -> Detector:
    """Builds the detector.

    Args:
      **fields: num_classes (C), dtype (of the computation), and every field of `config.model.detector`.

    Returns:
      The functions. `loss` gives the sum of four losses and, as metrics, each of them and how many anchors
      and RoIs were objects. Ground truth that is padding, or of a class that is not active, takes no part;
      ground truth marked `ignore` is neither target nor background. `detect` gives detections best first
      with scores over `min_score`. All take canvases of any size.

    Raises:
      TypeError: a field missing or unknown.
      ValueError: a field whose value makes no sense.
    """
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    s = Settings(**fields)._replace(dtype=jnp.dtype(fields["dtype"]))
    _check(s)
    nets = make_nets(s)

    @jax.jit
    def init(key: Array) -> PyTree:
        inputs = [jnp.zeros((1, 2 * DIVISOR, 2 * DIVISOR, 3), s.dtype)]
        params = {}
        for i, (name, net) in enumerate(zip(Nets._fields, nets, strict=True)):
            out, variables = net.init_with_output(jax.random.fold_in(key, i), *inputs)
            params[name] = variables["params"]
            # the pooled features take the place of the pyramid behind the proposals
            inputs = [jnp.zeros((1, s.roi_size, s.roi_size, s.fpn_channels), s.dtype)] if name == "rpn" else [out]
            inputs = [pyramid := out] if name == "fpn" else inputs
        return params

    def loss(params: PyTree, key: Array, batch: Batch, active: Array) -> tuple[Array, dict[str, Array]]:
        return _loss(s, nets, params, key, batch, active)

    def detect(params: PyTree, image: Array, image_hw: Array, active: Array) -> Detections:
        maps = features(s, nets, params, image, image_hw)
        proposals = propose(s, *rpn(s, nets, params, maps), image_hw, train=False)
        logits, deltas = predict(nets, params, pool(s, nets, params, maps, proposals.boxes), active)
        finish = lambda *a: select.detections(
            *a, weights=s.box_weights, min_score=s.min_score, threshold=s.nms, count=s.max_detections
        )
        return jax.vmap(finish)(logits, deltas, proposals, image_hw)

    def box_features(params: PyTree, image: Array, image_hw: Array, boxes: Array) -> Array:
        maps = features(s, nets, params, image, image_hw)
        return pool(s, nets, params, maps, boxes).astype(jnp.float32)

    return Detector(init, loss, detect, box_features)


def _check(s: Settings) -> None:
    levels = LAST + 1 - s.fpn_min_level
    if not 2 <= s.fpn_min_level <= 5:
        raise ValueError(f"detector.fpn_min_level is {s.fpn_min_level}: choose 2, 3, 4 or 5")
    if len(s.anchor_sizes) != levels:
        raise ValueError(
            f"detector.anchor_sizes has {len(s.anchor_sizes)} entries: give {levels}, one for each level from "
            f"fpn_min_level {s.fpn_min_level} to {LAST}"
        )
    if len(s.blocks) != 4:
        raise ValueError(f"detector.blocks has {len(s.blocks)} entries: give 4, for res2 to res5")
    if s.channel_order not in ("rgb", "bgr"):
        raise ValueError(f"unknown detector.channel_order '{s.channel_order}': choose rgb or bgr")


# ---------------------------------------------------------------------- features


def pixels(s: Settings, image: Array, image_hw: Array) -> Array:
    """Normalised pixels [B, H, W, 3], zero outside the images, sides rounded up to `DIVISOR`."""
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
    x = pixels(s, image, image_hw)
    padded = -(-image_hw // DIVISOR) * DIVISOR
    extents = {level: -(-padded // 2**level) for level in range(1, LAST + 1)}
    masks = {
        level: _inside((x.shape[1] >> level, x.shape[2] >> level), extents[level]).astype(s.dtype)
        for level in range(1, 6)
    }
    stages = nets.backbone.apply({"params": params["backbone"]}, x, masks)
    levels = nets.fpn.apply({"params": params["fpn"]}, stages, masks)
    return Features(levels, {level: extents[level] for level in levels})


def rpn(s: Settings, nets: Nets, params: PyTree, maps: Features) -> tuple[dict, dict, dict, dict]:
    """logits [B, A_l], deltas [B, A_l, 4], anchors [A_l, 4] and inside [B, A_l], each by level."""
    levels = dict(sorted(features.levels.items()))
    logits, deltas = nets.rpn.apply({"params": params["rpn"]}, levels)
    anchors, inside = {}, {}
    for (level, x), size in zip(levels.items(), s.anchor_sizes, strict=True):
        hw = x.shape[1:3]
        anchors[level] = box_ops.anchors(hw, stride=2**level, size=size, ratios=s.anchor_ratios)
        cells = _inside(hw, features.extents[level])
        inside[level] = jnp.repeat(cells.reshape(x.shape[0], -1), len(s.anchor_ratios), 1)
    return logits, deltas, anchors, inside


def pool(s: Settings, nets: Nets, params: PyTree, maps: Features, boxes: Array) -> Array:
    """[B, R, 4] boxes -> [B, R, F] after the two fully connected layers."""
    maps = {level: x for level, x in features.levels.items() if level < LAST}
    pool = lambda f, b, e: roi_align.multilevel_roi_align(
        f, b, size=s.roi_size, sampling=s.roi_sampling, canonical=s.roi_canonical, extents=e
    )
    pooled = jax.vmap(pool)(maps, boxes, {level: features.extents[level] for level in maps})
    return nets.box_head.apply({"params": params["box_head"]}, pooled)


def predict(nets: Nets, params: PyTree, x: Array, active: Array) -> tuple[Array, Array]:
    """[B, R, F] -> logits [B, R, C + 1] without the classes that are not active, deltas [B, R, C or 1, 4]."""
    logits, deltas = nets.box_predictor.apply({"params": params["box_predictor"]}, x)
    known = jnp.append(active, True)  # background is always known
    return jnp.where(known, logits, INACTIVE), deltas


# ---------------------------------------------------------------------- training


def _loss(s: Settings, nets: Nets, params: PyTree, key: Array, batch: Batch, active: Array):
    gt = batch.instances
    solid = box_ops.area(gt.boxes) > 0
    real = (gt.classes >= 0) & solid
    # a class that this stage does not know vanishes, as if it were not labelled
    target = real & ~gt.ignore & active[jnp.maximum(gt.classes, 0)]
    ignored = real & gt.ignore
    keys = jax.vmap(jax.random.split)(jax.random.split(key, gt.boxes.shape[0]))  # [B, 2] keys

    features = _features(s, nets, params, batch.image, batch.image_hw)
    logits, deltas, anchors, inside = _rpn(s, nets, params, features)
    flat = lambda by_level, axis: jnp.concatenate(list(by_level.values()), axis)
    sample = lambda *a: _sample_anchors(s, flat(anchors, 0), *a)
    index, is_fg, used, wanted = jax.vmap(sample)(keys[:, 0], flat(inside, 1), gt.boxes, target, ignored)
    rpn_cls, rpn_box = losses.rpn_losses(
        jnp.take_along_axis(flat(logits, 1), index, 1),
        jnp.take_along_axis(flat(deltas, 1), index[..., None], 1),
        is_fg,
        used,
        wanted,
        samples=s.rpn_samples,
        beta=s.rpn_beta,
    )

    propose = lambda *a: _propose(s, anchors, *a, pre_nms=s.rpn_pre_nms_train, count=s.proposals_train)
    fixed = jax.lax.stop_gradient((logits, deltas))  # proposals are data to the second stage
    proposals = jax.vmap(propose)(*fixed, inside, batch.image_hw)
    draw = lambda *a: _sample_rois(s, *a)
    rois, classes, roi_used, roi_wanted = jax.vmap(draw)(
        keys[:, 1], proposals, gt.boxes, gt.classes, target, ignored
    )
    x = _box_features(s, nets, params, features, rois)
    roi_logits, roi_deltas = _predict(nets, params, x, active)
    cls, box = losses.roi_losses(roi_logits, roi_deltas, classes, roi_used, roi_wanted, beta=s.box_beta)

    parts = {"loss_rpn_cls": rpn_cls, "loss_rpn_box": rpn_box, "loss_cls": cls, "loss_box": box}
    fg = roi_used & (classes < s.num_classes)
    right = (roi_logits[..., :-1].argmax(-1) == classes) & fg  # among the objects' classes alone
    metrics = parts | {
        "rpn_objects": (is_fg & used).sum(-1).mean(dtype=jnp.float32),  # anchors per image
        "roi_objects": fg.sum(-1).mean(dtype=jnp.float32),  # RoIs per image
        "accuracy": right.sum() / jnp.maximum(fg.sum(), 1),
    }
    return sum(parts.values()), metrics
