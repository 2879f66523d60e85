"""The heads of Faster R-CNN: proposals, box features, classifier and box regression.

C classes (background is class C), N images, F channels, A anchors per cell, R boxes.
"""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from maskdiff_jax.nets.classifiers import CLASSIFIERS
from maskdiff_jax.nets.conv import Conv, Linear
from maskdiff_jax.nets.fpn import XAVIER
from maskdiff_jax.types import Array


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
      classifier: a name in `classifiers.CLASSIFIERS`.
      scale: factor of the cosine, or of the mean of the probit classifier; the others have none.
      agnostic: one box per RoI instead of one per class.
      dtype: of the factors of the matrix products; the results are float32.
      uncertain: also predicts the variance of each delta [iFS-RCNN fast_rcnn.py].
    """

    num_classes: int
    classifier: str
    scale: float
    agnostic: bool
    dtype: jnp.dtype
    uncertain: bool = False

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """[..., F] -> logits [..., C + 1] and deltas [..., C or 1, 4], float32.

        With `uncertain` the deltas are [..., C or 1, 8]: four means, then the four numbers that
        `losses.box_variance` turns into variances.
        """
        if self.classifier not in CLASSIFIERS:
            raise ValueError(f"unknown detector.classifier '{self.classifier}': choose {', '.join(CLASSIFIERS)}")
        net = CLASSIFIERS[self.classifier].net(self.num_classes, self.scale, self.dtype)
        logits = net(x)
        boxes = 1 if self.agnostic else self.num_classes
        tiny = nn.initializers.normal(0.001)
        # the variances have their own layer, so that a class has the same four columns in both
        names = ("bbox_pred", "bbox_variance") if self.uncertain else ("bbox_pred",)
        deltas = [Linear(4 * boxes, tiny, self.dtype, name=name)(x).reshape(*x.shape[:-1], boxes, 4) for name in names]
        return logits, jnp.concatenate(deltas, -1)


class RefineHead(nn.Module):
    """The second pass over predicted boxes: how well a box fits its object, and a correction of it [iFS-RCNN].

    Attributes:
      features: width of the two fully connected layers.
      dtype: of the computation; the results are float32.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, pooled: Array, variances: Array) -> tuple[Array, Array]:
        """Looks at each box once more.

        Args:
          pooled: [..., S, S, F] features of the predicted boxes.
          variances: [..., 4] of the boxes' deltas; each becomes a constant channel.

        Returns:
          IoU logits [...], see `refinement.iou_of`, and deltas [..., 4] for all classes.
        """
        planes = jnp.broadcast_to(variances[..., None, None, :], (*pooled.shape[:-1], 4)).astype(pooled.dtype)
        x = BoxHead(self.features, self.dtype, name="box_head")(jnp.concatenate([pooled, planes], -1))
        logits = Linear(1, nn.initializers.normal(0.01), self.dtype, name="iou")(x)[..., 0]
        return logits, Linear(4, nn.initializers.normal(0.001), self.dtype, name="deltas")(x)
