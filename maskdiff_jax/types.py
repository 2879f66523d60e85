"""The types that the parts of the package exchange.

Shape letters, the same everywhere: B images or objects in a batch, N ground-truth slots, A anchors,
P proposals, R sampled RoIs, D detections, C classes, K shots, M mask side, G side of ground-truth masks,
T diffusion steps, S sampling steps, L levels, F channels; H, W padded height and width.

Boxes are ``xyxy`` float32 in pixels of the network's input, continuous coordinates (the first pixel
covers 0..1), unless the name says otherwise. Class ids are 0..C-1 over base and novel classes,
background is C, padding is -1. Arrays may be numpy (from ``data/``) or jax.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int, UInt8

Array = Any
PyTree = Any


class Instances(NamedTuple):
    """Ground-truth objects of B images, padded to N slots."""

    boxes: Float[Array, "B N 4"]  # xyxy, inside the image; zeros in padding
    classes: Int[Array, "B N"]  # 0..C-1; -1 in padding
    ignore: Bool[Array, "B N"]  # a known object that is neither foreground nor background here


class Batch(NamedTuple):
    """A detector batch: images padded on the right and below with zeros to one size."""

    image: UInt8[Array, "B H W 3"]  # RGB 0..255
    image_hw: Int[Array, "B 2"]  # height, width of the image without padding
    original_hw: Int[Array, "B 2"]  # height, width of the image as stored
    image_id: Int[Array, " B"]  # COCO image id; -1 for padding of the batch
    instances: Instances
    # What mask regions are cropped from; in evaluation batches alone. Long side at most
    # `region_long_side`, never enlarged.
    region_image: UInt8[Array, "B Hr Wr 3"] | None = None
    region_hw: Int[Array, "B 2"] | None = None  # height, width of that image without padding
    # each ground-truth object's mask in its box, 1 on the object; where the mask head is trained with the detector
    gt_masks: UInt8[Array, "B N G G"] | None = None


class MaskBatch(NamedTuple):
    """A mask-head batch: B objects with up to K shots of the same class."""

    region: UInt8[Array, "B M M 3"]  # RGB crop of the box
    mask: UInt8[Array, "B M M"]  # 1 on the object, 0 elsewhere
    shots: UInt8[Array, "B K M M 4"]  # RGBA crops, alpha = soft mask 0..255; all zero = empty slot
    classes: Int[Array, " B"]  # 0..C-1


class SupportSet(NamedTuple):
    """The shots of every class, as the mask head sees them."""

    shots: UInt8[Array, "C K M M 4"]  # as in MaskBatch; empty slots are all zero
    count: Int[Array, " C"]  # how many slots are filled, from the first on


class Detections(NamedTuple):
    """Detections of B images, best first, padded to D."""

    boxes: Float[Array, "B D 4"]  # xyxy in pixels of the network's input; zeros in padding
    scores: Float[Array, "B D"]  # 0..1; zero in padding
    classes: Int[Array, "B D"]  # 0..C-1; -1 in padding


class TrainState(NamedTuple):
    """What a training step changes."""

    step: Int[Array, ""]  # steps done in this phase
    params: PyTree  # {"detector": ..., "mask_head": ...}, float32
    opt_state: PyTree
    ema: PyTree  # exponential moving average of the trained leaves: {"path/to/leaf": array}


class MaskHead(NamedTuple):
    """The interface between a mask head and the rest of the package.

    `init(key) -> params`.
    `loss(params, key, batch) -> (scalar, {"loss", "accuracy", "iou", ...})`; accuracy and IoU (0..1) are those of the
    net's own estimate of the mask. For a diffusion head it is taken at random times; a fourth argument t [N] in 0..T-1
    sets them.
    `predict(params, keys [N], region [N, M, M, 3] 0..255, shots [N, K, M, M, 4] 0..255, classes [N])
    -> [N, M, M] float32 in 0..1`; an object's mask depends only on its own key and inputs.
    `trajectory(params, keys, region, shots, classes) -> (y [S, N, M, M], x0 [S, N, M, M])`: each step's input, noise
    included, and its estimate, both scaled so that the mask is 0..1; the prediction is x0[-1], or the mean of the last
    estimates if a head averages them.
    `distill(steps, halve, guidance) -> loss`: the loss (params, teacher's params, key, batch) -> as `loss` that
    teaches a net to sample in `steps` network evaluations, see `distillation.make_distillation`.
    `side`: M of what `predict` returns.

    The rest is for a head that sees pooled features of a box instead of its crop and is trained with the detector, as
    Mask R-CNN's: `region` is [N, S, S, F] with S = `roi_size`, and `roi_loss(params, batch, pool, foreground RoIs)
    -> scalar` replaces `loss`. `pool(boxes [B, R, 4], S) -> [B, R, S, S, F]`; the batch has `gt_masks` of `gt_side` px.
    """

    init: Callable[[Array], PyTree]
    loss: Callable[..., tuple[Array, dict[str, Array]]]
    predict: Callable[[PyTree, Array, Array, Array, Array], Array]
    trajectory: Callable[[PyTree, Array, Array, Array, Array], tuple[Array, Array]]
    distill: Callable[[int, bool, float], Callable[[PyTree, PyTree, Array, MaskBatch], tuple[Array, dict]]]
    side: int
    roi_size: int = 0
    roi_loss: Callable[..., Array] | None = None
    gt_side: int = 0
