"""The heads of Faster R-CNN: proposals, box features, classifier and box regression.

C classes (background is class C), N images, F channels, A anchors per cell, R boxes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from maskdiff_jax.nets.conv import Conv, Linear, matmul_f32
from maskdiff_jax.nets.fpn import XAVIER
from maskdiff_jax.types import Array

NORM_EPS = 1e-5  # added to the norms of the cosine classifier [TFA]


class RPNHead(nn.Module):
    """A shared 3x3 convolution, objectness and box deltas per anchor [detectron2 proposal_generator/rpn.py].

    Attributes:
      anchors: A, per cell.
      dtype: of the computation.
    """

    anchors: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, features: dict[int, Array]) -> tuple[dict[int, Array], dict[int, Array]]:
        """Scores every anchor.

        Args:
          features: level -> [N, H, W, F].

        Returns:
          level -> logits [N, H W A] and level -> deltas [N, H W A, 4], float32; the order is row, column,
          ratio.
        """
        channels = next(iter(features.values())).shape[-1]
        small = nn.initializers.normal(0.01)
        shared = Conv(channels, 3, small, self.dtype, name="conv")
        cells = [nn.relu(shared(x)) for x in features.values()]
        # the 1x1 layers take the cells of all levels at once. Their results stay float32: in bfloat16 many of the
        # some 200,000 logits that are ranked are equal, and a large anchor's corner is off by a pixel
        joined = jnp.concatenate([x.reshape(x.shape[0], -1, channels) for x in cells], 1)
        logits = Linear(self.anchors, small, self.dtype, as_conv=True, name="objectness")(joined)
        deltas = Linear(4 * self.anchors, small, self.dtype, as_conv=True, name="deltas")(joined)
        logits, deltas = logits.reshape(len(joined), -1), deltas.reshape(len(joined), -1, 4)
        ends = np.cumsum([x.shape[1] * x.shape[2] * self.anchors for x in cells])[:-1]
        split = (jnp.split(v, ends, 1) for v in (logits, deltas))
        logits, deltas = (dict(zip(features, parts, strict=True)) for parts in split)
        return logits, deltas


class BoxHead(nn.Module):
    """Two fully connected layers on pooled features [detectron2 roi_heads/box_head.py].

    Attributes:
      features: width of both layers.
      dtype: of the computation.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., S, S, F] -> [..., features], after a ReLU."""
        x = x.reshape(*x.shape[:-3], -1)
        for name in ("fc1", "fc2"):
            x = nn.relu(nn.Dense(self.features, dtype=self.dtype, kernel_init=XAVIER, name=name)(x))
        return x


class BoxPredictor(nn.Module):
    """Class logits and box deltas of each box.

    Attributes:
      num_classes: C.
      classifier: "cosine" or "linear".
      cosine_scale: factor of the cosine.
      agnostic: one box per RoI instead of one per class.
      dtype: of the factors of the matrix products; the results are float32.
    """

    num_classes: int
    classifier: str
    cosine_scale: float
    agnostic: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """[..., F] -> logits [..., C + 1] and deltas [..., C or 1, 4], float32."""
        if self.classifier == "linear":
            small = nn.initializers.normal(0.01)
            logits = Linear(self.num_classes + 1, small, self.dtype, name="cls_score")(x)
        elif self.classifier == "cosine":
            logits = Cosine(self.num_classes + 1, self.cosine_scale, self.dtype, name="cls_score")(x)
        else:
            raise ValueError(f"unknown detector.classifier '{self.classifier}': choose cosine or linear")
        boxes = 1 if self.agnostic else self.num_classes
        tiny = nn.initializers.normal(0.001)
        deltas = Linear(4 * boxes, tiny, self.dtype, name="bbox_pred")(x)
        return logits, deltas.reshape(*x.shape[:-1], boxes, 4)


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
