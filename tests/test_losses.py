"""Losses by hand and against plain numpy; against the original code: tests/parity."""

import jax
import numpy as np
import pytest

from maskdiff_jax import losses


@pytest.mark.parametrize(
    ("beta", "want"),
    [(0.0, [0.0, 0.5, 1.0, 3.0]), (1.0, [0.0, 0.125, 0.5, 2.5]), (2.0, [0.0, 0.0625, 0.25, 2.0])],
)
def test_smooth_l1(beta, want):
    difference = np.array([0.0, 0.5, -1.0, 3.0], np.float32)
    np.testing.assert_allclose(losses.smooth_l1(difference + 7, np.float32(7), beta=beta), want, atol=1e-6)


def test_rpn_losses():
    """Two images of three anchors; the divisor is the nominal number of anchors, whatever is used."""
    logits = np.array([[0.0, 2.0, 5.0], [0.0, -1.0, 9.0]], np.float32)
    is_fg = np.array([[True, False, True], [False, False, True]])
    used = np.array([[True, True, False], [True, True, False]])
    deltas = np.zeros((2, 3, 4), np.float32)
    targets = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    cls, box = losses.rpn_losses(logits, deltas, is_fg, used, targets, samples=10, beta=0.0)
    entropy = np.log(2) + np.log1p(np.exp(2)) + np.log(2) + np.log1p(np.exp(-1))
    np.testing.assert_allclose(cls, entropy / 20, rtol=1e-6)
    np.testing.assert_allclose(box, (0 + 1 + 2 + 3) / 20, rtol=1e-6)  # the one used foreground anchor


@pytest.mark.parametrize("agnostic", [False, True])
def test_roi_losses(agnostic):
    logits = np.log(np.array([[1, 2, 1], [3, 1, 4], [1, 1, 2], [5, 5, 5]], np.float32))
    labels, used = np.array([1, 0, 2, -1]), np.array([True, True, True, False])  # 2 is background, -1 padding
    deltas = np.zeros((4, 1 if agnostic else 2, 4), np.float32)
    deltas[0, -1], deltas[1, 0] = 1.0, -1.0  # of each foreground RoI's own class
    targets = np.full((4, 4), 3.0, np.float32)
    cls, box = losses.roi_losses(logits, deltas, labels, used, targets, beta=0.0)
    np.testing.assert_allclose(cls, -np.log([2 / 4, 3 / 8, 2 / 4]).mean(), rtol=1e-5)
    np.testing.assert_allclose(box, (4 * 2 + 4 * 4) / 3, rtol=1e-6)
    nothing = losses.roi_losses(logits, deltas, labels, ~used & used, targets, beta=0.0)
    assert nothing == (0, 0)


def test_focal_loss_by_hand():
    """A foreground RoI, a background RoI, an unused one; the second of three classes is not active."""
    logits = np.array([[2.0, -1e9, -1.0, 7.0], [0.5, -1e9, 0.0, 7.0], [9.0, 9.0, 9.0, 9.0]], np.float32)
    labels, used = np.array([0, 3, 1]), np.array([True, True, False])
    p = 1 / (1 + np.exp(-np.maximum(logits[:2], -50).astype(float)))
    positive = 0.25 * (1 - p[0, 0]) ** 2 * -np.log(p[0, 0])
    negative = sum(0.75 * q**2 * -np.log(1 - q) for q in (p[0, 2], p[1, 0], p[1, 2]))
    loss = lambda x: losses.focal_loss(x, labels, used)
    value, grad = jax.value_and_grad(loss)(logits)
    np.testing.assert_allclose(value, (positive + negative) / 2, rtol=1e-5)
    assert np.isfinite(grad).all() and not grad[:, 1].any() and not grad[:, 3].any() and not grad[2].any()
    background = losses.focal_loss(logits, np.array([3, 3, 3]), used)  # divided by 0 foreground RoIs + 1
    zero = 0.75 * p[0, 0] ** 2 * -np.log(1 - p[0, 0]) + negative
    np.testing.assert_allclose(background, zero, rtol=1e-5)


def test_uncertain_l1():
    """By hand, the gradient by differences, and the smallest value at v = |d|."""
    pred = np.array([[1.0, -2.0, 0.5, 0.0, 0.3, -1.0, 2.0, 0.0]], np.float32)
    target = np.array([[0.0, 0.0, 0.0, 0.0]], np.float32)
    v = np.log1p(np.exp(pred[0, 4:].astype(float))) + 1e-6
    np.testing.assert_allclose(losses.uncertain_l1(pred, target)[0], pred[0, :4] ** 2 / (2 * v) + v / 2, rtol=1e-5)
    total = lambda x: losses.uncertain_l1(x, target).sum()
    grad = np.asarray(jax.grad(total)(pred))[0]
    for i in range(8):
        step = np.zeros((1, 8), np.float32)
        step[0, i] = 1e-2
        np.testing.assert_allclose(grad[i], (total(pred + step) - total(pred - step)) / 2e-2, atol=2e-3)
    best = np.log(np.expm1(2.0))  # a raw variance of 2 for an error of 2
    flat = np.array([[2.0, 2.0, 2.0, 2.0, best, best, best, best]], np.float32)
    np.testing.assert_allclose(losses.uncertain_l1(flat, target), 2.0, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(jax.grad(total)(flat))[0, 4:], 0.0, atol=1e-5)


def test_roi_losses_with_variances():
    labels, used = np.array([1, 0, 2, -1]), np.array([True, True, True, False])
    deltas = np.zeros((4, 2, 8), np.float32)
    deltas[0, 1, :4] = 1.0  # the class of the first RoI; the second keeps 0
    targets = np.full((4, 4), 3.0, np.float32)
    v = np.log(2) + 1e-6
    _, box = losses.roi_losses(np.zeros((4, 3), np.float32), deltas, labels, used, targets, beta=1.0)
    np.testing.assert_allclose(box, 4 * ((4 + 9) / (2 * v) + v) / 3, rtol=1e-5)
    nothing = losses.roi_losses(
        np.zeros((4, 3), np.float32), deltas, labels, ~used & used, targets, beta=1.0, class_loss=losses.focal_loss
    )
    assert nothing == (0, 0)


def test_roi_mask_loss():
    """The mean over the pixels of the used boxes, each in the channel of its class."""
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(3, 2, 2, 4)).astype(np.float32), rng.integers(0, 2, (3, 2, 2))
    classes, used = np.array([3, 0, -1]), np.array([True, True, False])
    own = np.stack([logits[0, ..., 3], logits[1, ..., 0]]).astype(float)
    p = 1 / (1 + np.exp(-own))
    want = -np.where(target[:2] == 1, np.log(p), np.log(1 - p)).mean()
    np.testing.assert_allclose(losses.roi_mask_loss(logits, classes, used, target), want, rtol=1e-5)


def test_errors_per_object():
    pred, target = np.zeros((2, 2, 2), np.float32), np.array([[[1, 0], [0, 0]], [[1, 1], [1, 1]]], np.float32)
    np.testing.assert_allclose(losses.squared_error(pred, target), [0.25, 1.0])
    np.testing.assert_allclose(losses.sigmoid_cross_entropy(pred, target), [np.log(2)] * 2, rtol=1e-6)
    np.testing.assert_allclose(losses.sigmoid_cross_entropy(pred + 30, target), [22.5, 0.0], atol=1e-5)


def test_gaussian_kl_equals_the_integral():
    x = np.linspace(-30, 30, 200_001)
    density = lambda mean, log_var: (
        np.exp(-0.5 * (x - mean) ** 2 / np.exp(log_var) - 0.5 * log_var) / np.sqrt(2 * np.pi)
    )
    for p, q in (((0.5, 0.0), (-1.0, 1.0)), ((0.0, -2.0), (0.3, -1.0)), ((1.0, 0.4), (1.0, 0.4))):
        a, b = density(*p), density(*q)
        want = np.trapezoid(a * (np.log(a + 1e-300) - np.log(b + 1e-300)), x)
        np.testing.assert_allclose(losses.gaussian_kl(*p, *q), want, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_discretized_gaussian_is_a_distribution_over_gray_levels(scale):
    levels = scale * np.linspace(-1, 1, 256, dtype=np.float32)
    for mean, log_var in ((0.0, -2.0), (0.9, -4.0), (-3.0, 0.0)):
        nll = losses.discretized_gaussian_nll(levels, scale * np.float32(mean), np.float32(log_var), scale=scale)
        np.testing.assert_allclose(np.exp(-np.asarray(nll, float)).sum(), 1.0, atol=1e-4)


def test_variational_bound_is_the_likelihood_at_the_first_step():
    rng = np.random.default_rng(0)
    x0, true_mean, mean = rng.uniform(-1, 1, (3, 2, 5)).astype(np.float32)
    log_var, true_log_var = np.float32(-3.0), np.full((2, 1), -2.0, np.float32)
    bound = losses.variational_bound(x0, true_mean, true_log_var, mean, log_var, np.array([0, 7]))
    nll = np.mean(losses.discretized_gaussian_nll(x0[0], mean[0], log_var, scale=1.0))
    kl = np.mean(losses.gaussian_kl(true_mean[1], -2.0, mean[1], log_var))
    np.testing.assert_allclose(bound, np.array([nll, kl]) / np.log(2), rtol=1e-5)  # bits


def test_mask_agreement():
    pred = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]], bool)
    target = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]], bool)
    accuracy, iou = losses.mask_agreement(pred, target)
    np.testing.assert_allclose(accuracy, [0.5, 1.0, 0.5])
    np.testing.assert_allclose(iou, [1 / 3, 1.0, 0.0], rtol=1e-6)
