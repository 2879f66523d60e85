"""The classifiers of the second stage, a table: their nets, their scores, their losses.

C classes; class C is background. F channels of the box features.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskdiff_jax import losses
from maskdiff_jax.nets.conv import Linear, matmul_f32
from maskdiff_jax.types import Array, PyTree

NORM_EPS = 1e-5  # added to the norms of the cosine classifier [TFA]
SMALL = nn.initializers.normal(0.01)  # of class weights [detectron2]
# rho of a class whose weights have no variance: softplus gives exactly 0, as anything below -104
NO_VARIANCE = -1e4
RHO = math.log(math.e - 1.0)  # where rho starts for a class with variances: softplus gives 1 [iFS-RCNN]


class Classifier(NamedTuple):
    """What tells one classifier from another."""

    # num_classes, scale, dtype -> module "cls_score" [..., F] -> logits [..., C + 1] float32; called inside a module
    net: Callable[[int, float, Any], nn.Module]
    scores: Callable[[Array], Array]  # logits [..., C + 1] -> [..., C] in 0..1
    loss: Callable[[Array, Array, Array], Array]  # logits, labels [...], used [...] bool -> scalar
    bias: Callable[[int], float]  # number of classes that are trained -> what their biases start from
    # params of "cls_score", active [C] bool -> scalar that joins the loss; None: nothing does
    penalty: Callable[[PyTree, Array], Array] | None = None


class Cosine(nn.Module):
    """scale * x / (|x| + eps) . w / (|w| + eps), without bias [TFA fast_rcnn.py, CosineSimOutputLayers].

    Columns start as unit vectors of random direction: TFA normalizes its N(0, 0.01) weights in the first call.

    Attributes:
      features: columns, C + 1.
      scale: factor of the cosine.
      dtype: of the matrix product.
    """

    features: int
    scale: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., F] -> [..., features] float32 in -scale..scale."""
        kernel = self.param("kernel", _unit_columns, (x.shape[-1], self.features), jnp.float32)
        return cosine_logits(x, kernel, self.scale, dtype=self.dtype)


def cosine_logits(x: Array, kernel: Array, scale: float, *, dtype: jnp.dtype = jnp.float32) -> Array:
    """The cosine classifier as a pure function.

    TFA overwrites the weight by its normalized version before each call, so the norm is outside the gradient and a
    step of descent moves unit vectors. The training step does this after every update: see
    `training.optim.unit_columns`. Without it the columns would grow or shrink without end.

    Args:
      x: [..., F].
      kernel: [F, C + 1], columns of length 1 in training; otherwise of any length, e.g. the EMA of unit columns.
      scale: factor of the cosine.
      dtype: of the matrix product.

    Returns:
      [..., C + 1] float32. Gradients stay finite where x is zero: the gradient of its norm counts as 0.
    """
    x = x.astype(jnp.float32)
    squares = (x * x).sum(-1, keepdims=True)
    full = squares > 0
    norm = jnp.where(full, jnp.sqrt(jnp.where(full, squares, 1.0)), 0.0)
    unit = kernel / jax.lax.stop_gradient(jnp.sqrt((kernel * kernel).sum(0)) + NORM_EPS)
    return scale * matmul_f32((x / (norm + NORM_EPS)).astype(dtype), unit.astype(dtype))


def _unit_columns(key: Array, shape: tuple[int, int], dtype: jnp.dtype) -> Array:
    w = jax.random.normal(key, shape, dtype)
    return w / jnp.linalg.norm(w, axis=0)


class Probit(nn.Module):
    """A Bayesian linear classifier: each weight is normal, its mean and variance are learned [iFS-RCNN fast_rcnn.py].

    Every class starts without variance; `training.novel_classes` gives variances to the novel classes. Where a class
    has none its logit is that of a linear classifier.

    Attributes:
      num_classes: C.
      scale: factor of the mean where a class has variances.
      dtype: of the factors of the mean.
    """

    num_classes: int
    scale: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., F] -> [..., C + 1] float32."""
        shape = (x.shape[-1], self.num_classes + 1)
        kernel = self.param("kernel", SMALL, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.constant(prior_bias(self.num_classes)), shape[1:], jnp.float32)
        rho = self.param("rho", nn.initializers.constant(NO_VARIANCE), shape, jnp.float32)
        mean = matmul_f32(x.astype(self.dtype), kernel.astype(self.dtype))
        return probit_logits(x, mean, rho, self.scale) + bias


def probit_logits(x: Array, mean: Array, rho: Array, scale: float) -> Array:
    """The logit whose sigmoid is about the mean sigmoid over normal weights [MacKay 1992; iFS-RCNN fast_rcnn.py].

    Args:
      x: [..., F].
      mean: [..., C] mean of w . x for each class.
      rho: [F, C]; softplus gives the variance of each weight.
      scale: factor of the mean, for classes with a variance.

    Returns:
      [..., C] float32: scale mean / sqrt(1 + pi q / 8) with q the variance of w . x; the mean alone where q is 0.
    """
    x = x.astype(jnp.float32)
    q = matmul_f32(x * x, jax.nn.softplus(rho))
    return jnp.where(q > 0, scale, 1.0) * mean / jnp.sqrt(1.0 + jnp.pi * q / 8.0)


def variance_penalty(params: PyTree, active: Array) -> Array:
    """The mean variance of the active classes' weights, which the variances could otherwise grow without end."""
    variance = jnp.where(active, jax.nn.softplus(params["rho"][:, :-1]), 0.0)
    return variance.sum() / jnp.maximum(active.sum() * variance.shape[0], 1)


def prior_bias(classes: int) -> float:
    """The logit of 1 / classes, at most of 1 / 2, at least of 1 / 100 [iFS-RCNN, after RetinaNet's prior]."""
    return -math.log(min(100, max(classes, 2)) - 1.0)


def softmax_scores(logits: Array) -> Array:
    """[..., C + 1] -> [..., C] probabilities, that of background dropped."""
    return jax.nn.softmax(logits)[..., :-1]


def sigmoid_scores(logits: Array) -> Array:
    """[..., C + 1] -> [..., C] probabilities, one class alone each; the logit of background is not used."""
    return jax.nn.sigmoid(logits[..., :-1])


def _cosine(num_classes: int, scale: float, dtype: Any) -> nn.Module:
    return Cosine(num_classes + 1, scale, dtype, name="cls_score")


def _linear(num_classes: int, scale: float, dtype: Any) -> nn.Module:
    return Linear(num_classes + 1, SMALL, dtype, name="cls_score")


def _sigmoid(num_classes: int, scale: float, dtype: Any) -> nn.Module:
    return Linear(num_classes + 1, SMALL, dtype, bias=prior_bias(num_classes), name="cls_score")


def _probit(num_classes: int, scale: float, dtype: Any) -> nn.Module:
    return Probit(num_classes, scale, dtype, name="cls_score")


def _zero(classes: int) -> float:
    return 0.0


CLASSIFIERS = {
    "cosine": Classifier(_cosine, softmax_scores, losses.cross_entropy, _zero),
    "linear": Classifier(_linear, softmax_scores, losses.cross_entropy, _zero),
    "sigmoid": Classifier(_sigmoid, sigmoid_scores, losses.focal_loss, prior_bias),
    "probit": Classifier(_probit, sigmoid_scores, losses.focal_loss, prior_bias, variance_penalty),
}
