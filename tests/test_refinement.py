"""The second pass of iFS-RCNN: which pairs it trains on, its losses, and what becomes of a detection."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax import detector, refinement
from maskdiff_jax.ops import boxes as box_ops
from maskdiff_jax.ops.assign import SampledRois
from maskdiff_jax.ops.select import Proposals
from tests.compiling import jit
from tests.test_detector import ACTIVE, BOXES, CLASSES, FIELDS, KEY, finite, make_batch

IFS = FIELDS | dict(classifier="probit", box_uncertainty=True, refine=True)
HW = np.array([[64, 64]])


@functools.cache
def made():
    d = detector.make_detector(**IFS)
    return d, d.init(KEY)


def test_iou_map():
    """-1..1 for IoU of 0.7..1, and back."""
    np.testing.assert_allclose(refinement.mapped_iou(np.array([0.7, 0.85, 1.0]), 0.7), [-1, 0, 1], atol=1e-6)
    iou = np.linspace(0.701, 0.999, 50)
    np.testing.assert_allclose(refinement.iou_of(np.arctanh(refinement.mapped_iou(iou, 0.7)), 0.7), iou, rtol=1e-5)
    np.testing.assert_allclose(refinement.iou_of(np.array([-50.0, 0.0, 50.0]), 0.7), [0.7, 0.85, 1.0], rtol=1e-6)


def test_pairs_are_foreground_with_more_than_the_lowest_iou():
    pred = np.array([[0, 0, 10, 10], [0, 0, 7, 10], [0, 0, 6, 10], [0, 0, 10, 10], [0, 0, 0, 0]], np.float32)
    gt = np.array([[0, 0, 10, 10]] * 5, np.float32)
    foreground = np.array([True, True, True, False, True])
    iou, pairs = refinement.overlaps(pred, gt, foreground, 0.65)
    np.testing.assert_allclose(iou, [1, 0.7, 0.6, 1, 0], rtol=1e-6)
    np.testing.assert_array_equal(pairs, [True, True, False, False, False])
    exactly = refinement.overlaps(pred, gt, foreground, float(iou[2]))[1]
    np.testing.assert_array_equal(exactly, [True, True, False, False, False])
    np.testing.assert_allclose(np.diagonal(box_ops.iou(pred, gt)), iou)


def test_pair_losses_by_hand():
    logits, iou = np.arctanh([0.2, 0.0, 0.9]), np.array([0.85, 1.0, 0.7])  # mapped: 0, 1, -1
    deltas, targets = np.ones((3, 4)), np.array([[0, 0, 0, 0], [1, 1, 1, 5], [9, 9, 9, 9]])
    pairs = np.array([True, True, False])
    out = refinement.pair_losses(logits, deltas, iou, targets, pairs, lowest=0.7)
    np.testing.assert_allclose(out["loss_iou"], (0.5 * 0.2**2 / 0.5 + (1 - 0.25)) / 2, rtol=1e-5)
    np.testing.assert_allclose(out["loss_refine"], (1 + 1) / 2, rtol=1e-6)
    nothing = refinement.pair_losses(logits, deltas, iou, targets, ~pairs & pairs, lowest=0.7)
    assert nothing == {"loss_iou": 0, "loss_refine": 0}


def test_losses_are_of_the_predicted_boxes():
    """RoIs that are off by up to a fifth; deltas that repair the first alone; the third is background."""
    s = detector.Settings(**IFS)._replace(roi_positive=1.0, roi_samples=3, dtype=jnp.dtype("float32"))
    gt = np.array([[[10, 10, 40, 40], [10, 10, 40, 40], [0, 0, 5, 5]]], np.float32)
    roi = np.array([[[12, 12, 44, 40], [10, 10, 40, 20], [30, 30, 60, 60]]], np.float32)
    targets = np.asarray(box_ops.encode(roi, gt, s.box_weights))
    labels, used = np.array([[2, 0, 4]]), np.ones((1, 3), bool)
    deltas = np.zeros((1, 3, 4, 8), np.float32)
    deltas[0, 0, 2, :4] = targets[0, 0]  # in the columns of its class
    seen = []
    crop = lambda boxes: seen.append(boxes) or jnp.zeros((*boxes.shape[:2], 3, 3, 16))
    params = made()[1]["refine"]
    rois = SampledRois(roi, labels, used, targets, np.array([[0, 1, 2]]))
    parts, metrics = refinement.losses_of(s, params, crop, rois, deltas, HW)
    np.testing.assert_allclose(seen[0][0, 0], gt[0, 0], atol=1e-3)
    np.testing.assert_allclose(seen[0][0, 1], roi[0, 1], atol=1e-3)
    assert metrics["refine_pairs"] == 1 and metrics["iou"] == pytest.approx(1, abs=1e-4)
    assert finite((parts, metrics)) and parts["loss_iou"] > 0


def test_detections_are_scored_with_their_iou_and_moved():
    """Two boxes of one class that overlap: the head prefers the one of the lower score."""
    s = detector.Settings(**IFS)._replace(min_score=0.1, max_detections=3, refine_candidates=6)
    proposals = Proposals(
        jnp.float32([[[10, 10, 40, 40], [12, 10, 42, 40], [0, 0, 9, 9]]]), jnp.zeros((1, 3)), jnp.array([[True] * 3])
    )
    scores = jnp.float32([[[0.8, 0.0], [0.78, 0.0], [0.0, 0.11]]])
    deltas = jnp.zeros((1, 3, 1, 8)).at[0, :, 0, 4:].set(jnp.float32([[[-20.0]], [[3.0]], [[-20.0]]])[..., 0])
    params = jax.tree.map(jnp.zeros_like, made()[1]["refine"])
    head = params["box_head"]  # lets the variance of the first delta through both layers
    head["fc1"]["kernel"] = head["fc1"]["kernel"].at[16, 0].set(10.0)  # the first cell: 16 features, 4 variances
    head["fc2"]["kernel"] = head["fc2"]["kernel"].at[0, 0].set(1.0)
    params["iou"]["kernel"] = params["iou"]["kernel"].at[0, 0].set(1.0)
    params["iou"]["bias"] = jnp.float32([-10.0])
    params["deltas"]["bias"] = jnp.float32([1.0, 0, 0, 0])  # a tenth of the width to the right
    crop = lambda boxes: jnp.zeros((*boxes.shape[:2], 3, 3, 16))
    run = lambda p: refinement.detect(s, p, crop, scores, deltas, proposals, jnp.asarray(HW))
    out = jax.tree.map(lambda x: np.asarray(x[0]), jit(run)(params))
    np.testing.assert_array_equal(out.classes, [0, -1, -1])  # 0.11 x 0.7 is below the limit
    np.testing.assert_allclose(out.scores[0], 0.78, rtol=1e-4)
    np.testing.assert_allclose(out.boxes[0], [15, 10, 45, 40], atol=1e-3)


def test_the_whole_detector():
    """Losses, gradients and detections are finite; the second pass trains in its own loss alone."""
    d, params = made()
    both = jit(jax.value_and_grad(d.loss, has_aux=True)), jit(jax.value_and_grad(d.refine_loss, has_aux=True))
    for batch in (make_batch(BOXES, CLASSES), make_batch([], [])):
        for own, f in zip((False, True), both, strict=True):
            (loss, metrics), grads = f(params, KEY, batch, ACTIVE)
            assert finite((loss, metrics, grads))
            parts = [v for k, v in metrics.items() if k.startswith("loss")]
            np.testing.assert_allclose(sum(parts), loss, rtol=1e-5)
            assert own or not any(np.asarray(x).any() for x in jax.tree.leaves(grads["refine"]))
            variances = np.asarray(grads["box_predictor"]["bbox_variance"]["kernel"])
            assert variances.any() == (batch.instances.classes >= 0).any()
            if own:
                assert not np.asarray(grads["box_predictor"]["cls_score"]["kernel"]).any()
    out = jax.tree.map(np.asarray, jit(d.detect)(params, batch.image, batch.image_hw, ACTIVE))
    real = out.classes >= 0
    assert finite(out) and real.any() and (out.scores[real] > IFS["min_score"]).all() and (out.classes < 3).all()
