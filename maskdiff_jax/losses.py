"""Losses of the detector and of the mask heads, as pure functions of arrays.

B images, N objects, R sampled anchors or RoIs, C classes. Everything is float32.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from maskdiff_jax.types import Array

FOCAL_GAMMA, FOCAL_ALPHA = 2.0, 0.25  # [Lin et al. 2017; iFS-RCNN fast_rcnn.py]
MIN_VARIANCE = 1e-6  # of a box delta [iFS-RCNN fast_rcnn.py]


def smooth_l1(pred: Array, target: Array, *, beta: float) -> Array:
    """Elementwise 0.5 d^2 / beta below |d| = beta, |d| - beta / 2 above; beta 0 is plain L1."""
    d = jnp.abs(pred - target)
    if beta == 0:
        return d
    return jnp.where(d < beta, 0.5 * d * d / beta, d - 0.5 * beta)


def rpn_losses(
    logits: Array, deltas: Array, is_fg: Array, used: Array, targets: Array, *, samples: int, beta: float
) -> tuple[Array, Array]:
    """Objectness and box loss of the sampled anchors [detectron2 proposal_generator/rpn.py].

    Args:
      logits: [B, R] of R anchors per image.
      deltas: [B, R, 4] predicted.
      is_fg: [B, R] bool, foreground anchors.
      used: [B, R] bool, anchors in the loss.
      targets: [B, R, 4] regression targets; read where is_fg and used.
      samples: the nominal number of anchors per image. Both sums are divided by samples * B, however
        many anchors were found.
      beta: knee of the smooth L1 loss.

    Returns:
      binary cross-entropy, box loss: scalars.
    """
    total = samples * logits.shape[0]
    entropy = jax.nn.softplus(logits) - logits * is_fg
    box = smooth_l1(deltas, targets, beta=beta).sum(-1)
    return jnp.where(used, entropy, 0.0).sum() / total, jnp.where(used & is_fg, box, 0.0).sum() / total


def cross_entropy(logits: Array, labels: Array, used: Array) -> Array:
    """Mean softmax cross-entropy of the used RoIs [detectron2 roi_heads/fast_rcnn.py]; 0 where there is none.

    Args:
      logits: [..., C + 1] float32, background last.
      labels: [...] int, 0..C, background is C; anything where not used.
      used: [...] bool.
    """
    labels = jnp.clip(labels, 0, logits.shape[-1] - 1)  # padding is -1, which would index from the end
    entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)[..., 0]
    return jnp.where(used, entropy, 0.0).sum() / jnp.maximum(used.sum(), 1)


def focal_loss(logits: Array, labels: Array, used: Array) -> Array:
    """Sigmoid focal loss [Lin et al. 2017; iFS-RCNN fast_rcnn.py], summed over RoIs and classes.

    The sum is divided by the number of foreground RoIs plus 1. The logit of background is not used: a background RoI is
    a negative of every class. A class whose logit is hugely negative, as one that is not active, adds nothing.

    Args:
      logits, labels, used: as in `cross_entropy`.
    """
    classes = logits.shape[-1] - 1
    logits, target = logits[..., :-1], jax.nn.one_hot(labels, classes)
    entropy = jax.nn.softplus(logits) - logits * target
    p = jax.nn.sigmoid(logits)
    wrong = p * (1.0 - target) + (1.0 - p) * target
    weight = FOCAL_ALPHA * target + (1.0 - FOCAL_ALPHA) * (1.0 - target)
    focal = (weight * wrong**FOCAL_GAMMA * entropy).sum(-1)
    foreground = used & (labels >= 0) & (labels < classes)
    return jnp.where(used, focal, 0.0).sum() / (foreground.sum() + 1)


def box_variance(raw: Array) -> Array:
    """Elementwise variance of a box delta from the number that the net predicts [iFS-RCNN fast_rcnn.py]."""
    return jax.nn.softplus(raw) + MIN_VARIANCE


def uncertain_l1(pred: Array, target: Array) -> Array:
    """[..., 8] means and raw variances, [..., 4] targets -> [..., 4]: d^2 / (2 v) + v / 2 [iFS-RCNN fast_rcnn.py].

    It is smallest at v = |d|, where it is |d|: an L1 loss that also teaches how large the error is.
    """
    d, variance = pred[..., :4] - target, box_variance(pred[..., 4:])
    return 0.5 * (d * d / variance + variance)


def roi_losses(
    logits: Array, deltas: Array, labels: Array, used: Array, targets: Array, *, beta: float,
    class_loss: Callable[[Array, Array, Array], Array] = cross_entropy,
) -> tuple[Array, Array]:  # fmt: skip
    """Class and box loss of the sampled RoIs [detectron2 and TFA roi_heads/fast_rcnn.py].

    Args:
      logits: [..., C + 1] float32, background last.
      deltas: [..., C, 4] per class, or [..., 1, 4] for all classes; with variances [..., 8], see `uncertain_l1`.
      labels: [...] int, 0..C, background is C; anything where not used.
      used: [...] bool.
      targets: [..., 4] regression targets; read where used and not background.
      beta: knee of the smooth L1 loss; not used where there are variances.
      class_loss: a function like `cross_entropy`.

    Returns:
      class loss; box loss of the foreground RoIs at their class's deltas, summed and divided by the number of ALL used
      RoIs. Both 0 where no RoI is used.
    """
    background = logits.shape[-1] - 1
    fg = used & (labels < background)
    own = own_class(deltas, jnp.clip(labels, 0, background))
    box = uncertain_l1(own, targets) if own.shape[-1] == 8 else smooth_l1(own, targets, beta=beta)
    count = jnp.maximum(used.sum(), 1)
    return class_loss(logits, labels, used), jnp.where(fg, box.sum(-1), 0.0).sum() / count


def own_class(deltas: Array, classes: Array) -> Array:
    """Deltas [..., C or 1, N] of the classes [...], each 0 or more -> [..., N]; those of all classes fit any."""
    column = jnp.minimum(classes, deltas.shape[-2] - 1)[..., None, None]
    return jnp.take_along_axis(deltas, column, -2)[..., 0, :]


def roi_mask_loss(logits: Array, classes: Array, used: Array, target: Array) -> Array:
    """Mask R-CNN's mask loss [detectron2 roi_heads/mask_head.py]: mean binary cross-entropy.

    Args:
      logits: [R, H, W, C] one mask per class, or [R, H, W, 1] for all classes.
      classes: [R] int in 0..C-1, the class whose mask is trained; anything where not used.
      used: [R] bool, foreground boxes.
      target: [R, H, W] in 0..1.

    Returns:
      The mean over the pixels of all used boxes; 0 where none is used.
    """
    column = jnp.clip(classes, 0, logits.shape[-1] - 1)[:, None, None, None]
    own = jnp.take_along_axis(logits, column, -1)[..., 0]
    entropy = pixel_mean(jax.nn.softplus(own) - own * target)
    return jnp.where(used, entropy, 0.0).sum() / jnp.maximum(used.sum(), 1)


def pixel_mean(values: Array) -> Array:
    """[N, ...] -> [N]: the mean over everything but the objects."""
    return values.reshape(values.shape[0], -1).mean(1)


def squared_error(pred: Array, target: Array) -> Array:
    """[N, ...] -> [N]: mean squared error of each object."""
    return pixel_mean((pred - target) ** 2)


def sigmoid_cross_entropy(logits: Array, target: Array) -> Array:
    """[N, ...] -> [N]: mean binary cross-entropy of each object; target in 0..1."""
    return pixel_mean(jax.nn.softplus(logits) - logits * target)


def gaussian_kl(mean_p: Array, log_var_p: Array, mean_q: Array, log_var_q: Array) -> Array:
    """Elementwise KL(p || q) of two normal distributions, in nats."""
    spread = jnp.exp(log_var_p - log_var_q) + (mean_p - mean_q) ** 2 * jnp.exp(-log_var_q)
    return 0.5 * (log_var_q - log_var_p - 1.0 + spread)


def discretized_gaussian_nll(x: Array, mean: Array, log_var: Array, *, scale: float) -> Array:
    """Elementwise -log P(x) in nats; x is one of 256 gray levels between -scale and scale.

    P is the normal distribution's mass in the level's bin; the outermost bins reach to infinity. The normal
    CDF is the tanh approximation of guided-diffusion's `losses.py`.
    """

    def cdf(z):
        return 0.5 * (1.0 + jnp.tanh((2.0 / jnp.pi) ** 0.5 * (z + 0.044715 * z**3)))

    inverse = jnp.exp(-0.5 * log_var)
    above = cdf(inverse * (x - mean + scale / 255.0))
    below = cdf(inverse * (x - mean - scale / 255.0))
    mass = jnp.where(x < -0.999 * scale, above, jnp.where(x > 0.999 * scale, 1.0 - below, above - below))
    return -jnp.log(jnp.maximum(mass, 1e-12))


def variational_bound(
    x0: Array,
    true_mean: Array,
    true_log_var: Array,
    mean: Array,
    log_var: Array,
    t: Array,
    *,
    scale: float = 1.0,
) -> Array:
    """The term of the variational bound at t [Ho et al. 2020; Nichol and Dhariwal 2021], in bits per element.

    Args:
      x0: [N, ...] clean data in -scale..scale.
      true_mean, true_log_var: of q(y_{t-1} | y_t, y_0), broadcasting to [N, ...].
      mean, log_var: of the predicted p(y_{t-1} | y_t). Stop the gradient of `mean` for the hybrid loss.
      t: [N]; t = 0 (one step of noise) gives the likelihood of x0, others a KL divergence.

    Returns:
      [N].
    """
    kl = pixel_mean(jnp.broadcast_to(gaussian_kl(true_mean, true_log_var, mean, log_var), x0.shape))
    nll = pixel_mean(discretized_gaussian_nll(x0, mean, log_var, scale=scale))
    return jnp.where(t == 0, nll, kl) / jnp.log(2.0)


def mask_agreement(pred: Array, target: Array) -> tuple[Array, Array]:
    """Share of equal pixels and intersection over union, [N] each, of two bool masks [N, ...].

    Two empty masks agree: their IoU is 1.
    """
    inter, union = pixel_mean(pred & target), pixel_mean(pred | target)
    return pixel_mean(pred == target), jnp.where(union > 0, inter / jnp.where(union > 0, union, 1.0), 1.0)
