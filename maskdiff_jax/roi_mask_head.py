"""Mask R-CNN's mask head, the head of the baselines: from pooled features of a box to its mask, trained with the
detector.

B images, N ground-truth slots, R foreground RoIs, S cells per side of pooled features (masks have 2 S), F channels,
C classes, G side of ground-truth masks. Follows detectron2 modeling/roi_heads/mask_head.py.
"""

from collections.abc import Callable
from functools import partial
from typing import NoReturn

import jax
import jax.numpy as jnp

from maskdiff_jax import losses
from maskdiff_jax.nets.maskcnn import ConvMaskHead
from maskdiff_jax.ops import masks
from maskdiff_jax.ops.assign import SampledRois
from maskdiff_jax.ops.batch import per_image
from maskdiff_jax.types import Array, Batch, MaskHead, PyTree

GT_SIDE = 112  # G, px: four per pixel of a 28 x 28 target


def conv_head(
    *, num_classes: int, dtype: str, in_channels: int, convs: int, channels: int, class_agnostic: bool, roi_size: int
) -> MaskHead:
    """Convolutions over RoI features, see `nets.maskcnn.ConvMaskHead`.

    It takes neither shots nor noise; with `class_agnostic` no class either.

    Args:
      num_classes: C.
      dtype: of the convolutions.
      in_channels: F.
      convs, channels, class_agnostic, roi_size: `config.model.mask.cnn`, see configs/base.py.
    """
    net = ConvMaskHead(1 if class_agnostic else num_classes, convs, channels, jnp.dtype(dtype))

    def init(key: Array) -> PyTree:
        return net.init(key, jnp.zeros((1, roi_size, roi_size, in_channels)))["params"]

    def predict(params: PyTree, keys: Array, region: Array, shots: Array, classes: Array) -> Array:
        del keys, shots
        logits = net.apply({"params": params}, region)
        column = jnp.zeros_like(classes) if class_agnostic else classes
        return jax.nn.sigmoid(jnp.take_along_axis(logits, column[:, None, None, None], -1)[..., 0])

    def roi_loss(params: PyTree, batch: Batch, pool: Callable[[Array, int], Array], rois: SampledRois) -> Array:
        """See `types.MaskHead`."""
        cells = pool(rois.boxes, roi_size)  # [B, R, S, S, F]
        targets = per_image(partial(_targets, side=2 * roi_size))(
            batch.gt_masks, batch.instances.boxes, rois.boxes, rois.matched_gt_idx
        )
        flat = [x.reshape(-1, *x.shape[2:]) for x in (cells, rois.labels, rois.used, targets)]
        return losses.roi_mask_loss(net.apply({"params": params}, flat[0]), *flat[1:])

    return MaskHead(
        init=init, loss=_refuse, predict=predict, trajectory=_refuse, distill=_refuse,
        side=2 * roi_size, roi_size=roi_size, roi_loss=roi_loss, gt_side=GT_SIDE,
    )  # fmt: skip


def _targets(gt_masks: Array, gt_boxes: Array, boxes: Array, matched_gt_idx: Array, *, side: int) -> Array:
    """What the boxes [R, 4] of one image are trained on, [R, side, side] of 0 and 1.

    Args:
      gt_masks: [N, G, G] of 0 and 1, each cropped to its box.
      gt_boxes: [N, 4], those boxes.
      boxes: the RoIs.
      matched_gt_idx: [R], the object of each RoI.
      side: 2 S.
    """

    def one(box: Array, i: Array) -> Array:
        return masks.roi_target_of_crop(gt_masks[i], gt_boxes[i], box, side) >= 0.5

    return jax.vmap(one)(boxes, matched_gt_idx).astype(jnp.float32)


def _refuse(*args: object) -> NoReturn:
    del args
    raise ValueError(
        "model.mask.head='cnn' is trained with the detector and has neither sampling steps nor a separate loss"
    )
