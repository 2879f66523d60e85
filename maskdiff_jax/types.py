"""The types that the parts of the package hand to each other.

Shape letters, the same everywhere: B images or objects in a batch, N ground-truth slots, A anchors,
P proposals, R sampled RoIs, D detections, C classes, K shots, M mask side, T diffusion steps,
S sampling steps, L levels, F channels; H, W padded height and width.

Boxes are ``xyxy`` float32 in pixels of the network's input, continuous coordinates (the first pixel
covers 0..1), unless the name says otherwise. Class ids are 0..C-1 over base and novel classes,
background is C, padding is -1. Arrays may be numpy (from ``data/``) or jax.
"""

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
