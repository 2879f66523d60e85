"""Mask R-CNN's mask head inside the model; the net and the loss by themselves are compared with detectron2 in
tests/parity/test_parity_mask_rcnn.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from maskdiff_jax import detector, roi_mask_head
from maskdiff_jax.ops import masks
from tests import test_detector
from tests.compiling import jit

S, F, C = 4, 6, 4
target = jit(masks.roi_target_of_crop, static_argnums=3)


def head(**changes):
    fields = {"num_classes": C, "dtype": "float32", "in_channels": F, "convs": 1, "channels": 5, "roi_size": S}
    return roi_mask_head.conv_head(**fields | {"class_agnostic": False} | changes)


def test_targets_by_hand():
    """A mask of 4 x 4 px in the box (10, 20)..(18, 28): the left half of the object, and its lowest row."""
    mask = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]], np.uint8)
    box = np.float32([10, 20, 18, 28])
    np.testing.assert_allclose(target(mask, box, box, 4), mask, atol=1e-6)
    right = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]])
    np.testing.assert_allclose(target(mask, box, box + np.float32([4, 0, 4, 0]), 4), right, atol=1e-6)
    # twice as large, from the same corner: nothing beyond the object's box, although its last row is full
    large = target(mask, box, np.float32([10, 20, 26, 36]), 8)
    want = np.pad(mask, ((0, 4), (0, 4)))
    np.testing.assert_array_equal(np.asarray(large) >= 0.5, want)
    assert not np.asarray(target(mask, box, box + 100, 4)).any()
    assert np.isfinite(target(mask, np.zeros(4, np.float32), box, 4)).all()  # an empty slot


def test_a_box_has_the_target_of_its_object():
    gt = np.zeros((2, 8, 8), np.uint8)
    gt[0, :, :4], gt[1, 4:] = 1, 1
    boxes = np.float32([[0, 0, 8, 8], [20, 20, 36, 36]])
    rois = np.float32([[20, 20, 36, 36], [0, 0, 8, 8], [0, 0, 4, 8]])
    found = jit(roi_mask_head._targets, static_argnames="side")(gt, boxes, rois, np.array([1, 0, 0]), side=4)
    np.testing.assert_array_equal(found[0], np.repeat([[0], [0], [1], [1]], 4, 1))
    np.testing.assert_array_equal(found[1], np.repeat([[1, 1, 0, 0]], 4, 0))
    assert (np.asarray(found[2]) == 1).all()


@pytest.mark.parametrize("agnostic", [False, True])
def test_a_mask_is_that_of_its_class(agnostic):
    h = head(class_agnostic=agnostic)
    params = h.init(jax.random.key(0))
    assert params["predictor"]["bias"].shape == (1 if agnostic else C,)
    params["predictor"]["bias"] = jnp.linspace(-3.0, 3.0, C)[: 1 if agnostic else C]
    region = jax.random.normal(jax.random.key(1), (C, S, S, F))
    nothing = (jax.random.split(jax.random.key(2), C), jnp.zeros((C, 1, 8, 8, 4)))
    soft = np.asarray(jit(h.predict)(params, nothing[0], region, nothing[1], np.arange(C)))
    assert soft.shape == (C, 2 * S, 2 * S) and h.side == 2 * S
    np.testing.assert_allclose(soft.mean((1, 2)), jax.nn.sigmoid(np.full(C, -3.0) if agnostic else
                               np.linspace(-3, 3, C)), atol=0.02)  # fmt: skip


def test_it_is_not_trained_on_crops():
    h = head()
    for call in (lambda: h.loss({}, jax.random.key(0), None), lambda: h.distill(2, True, 1.0)):
        with pytest.raises(ValueError, match="model.mask.head='cnn' is trained with the detector"):
            call()


def test_the_joint_loss_reaches_the_backbone():
    """The mask loss of foreground RoIs alone, which are one of the detector's samples; and no RoI, no loss."""
    d = detector.make_detector(**test_detector.FIELDS)
    h = head(in_channels=test_detector.FIELDS["fpn_channels"])
    params = {"detector": d.init(jax.random.key(0)), "mask_head": h.init(jax.random.key(1))}

    def loss(params, batch):
        def mask_loss(pool, rois):
            return h.roi_loss(params["mask_head"], batch, pool, rois)

        total, metrics = d.loss(params["detector"], jax.random.key(2), batch, test_detector.ACTIVE, mask_loss)
        parts = [metrics[f"loss_{k}"] for k in ("rpn_cls", "rpn_box", "cls", "box", "mask")]
        return metrics["loss_mask"], (total, sum(parts))

    batch = test_detector.make_batch(test_detector.BOXES, test_detector.CLASSES)
    gt = np.zeros((2, 4, 16, 16), np.uint8)
    gt[:, :, 4:8] = 1
    compiled = jit(jax.value_and_grad(loss, has_aux=True))
    (value, (total, parts)), grads = compiled(params, batch._replace(gt_masks=gt))
    np.testing.assert_allclose(total, parts, rtol=1e-6)
    np.testing.assert_allclose(value, np.log(2), atol=0.01)  # a new head says 0.5 everywhere
    flat = {k: bool(np.abs(v).max() > 0) for k, v in flatten_dict(grads, sep="/").items()}
    reached = {k.rsplit("/", 1)[0] for k, moved in flat.items() if moved}
    assert {"detector/backbone/res2/block0/conv1", "detector/fpn/lateral3", "mask_head/mask_fcn1",
            "mask_head/deconv", "mask_head/predictor"} <= reached  # fmt: skip
    assert not any("rpn" in k or "box_" in k for k in reached)
    other = compiled(params, batch._replace(gt_masks=1 - gt))[1]["mask_head"]["predictor"]["bias"]
    assert (np.asarray(other) * np.asarray(grads["mask_head"]["predictor"]["bias"]) <= 0).all()  # the other way
    assert np.asarray(other)[[0, 2]].all() and not np.asarray(other)[[1, 3]].any()  # of the objects' classes alone
    empty = test_detector.make_batch(np.zeros((0, 4)), [])._replace(gt_masks=gt)
    (value, _), grads = compiled(params, empty)
    assert value == 0 and not any(np.asarray(x).any() for x in jax.tree.leaves(grads))
