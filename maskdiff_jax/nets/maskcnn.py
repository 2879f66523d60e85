"""Mask R-CNN's convolutional mask head, which MTFA and iMTFA add to TFA's detector.

R boxes, S cells per side, F channels, C classes. Follows MaskRCNNConvUpsampleHead of detectron2
modeling/roi_heads/mask_head.py.
"""

import jax.numpy as jnp
from flax import linen as nn

from maskdiff_jax.nets.conv import Conv, Linear
from maskdiff_jax.types import Array

# torch's kaiming_normal_(mode="fan_out"), ReLU
_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ConvMaskHead(nn.Module):
    """3x3 convolutions, a transposed convolution that doubles the side, a 1x1 predictor.

    Attributes:
      num_classes: C, or 1 for one mask whatever the class.
      convs: 3x3 convolutions before the side is doubled.
      channels: F of every hidden layer.
      dtype: of the computation.
    """

    num_classes: int
    convs: int = 4
    channels: int = 256
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[R, S, S, F] pooled features -> [R, 2 S, 2 S, num_classes] logits, float32."""
        for i in range(self.convs):
            x = nn.relu(Conv(self.channels, 3, _FAN_OUT, self.dtype, name=f"mask_fcn{i + 1}")(x))
        x = nn.relu(Double(self.channels, self.dtype, name="deconv")(x))
        small = nn.initializers.normal(0.001)
        return Linear(self.num_classes, small, self.dtype, as_conv=True, name="predictor")(x)


class Double(nn.Module):
    """Transposed convolution, kernel 2, stride 2: every cell becomes 2 x 2 cells, none overlap.

    Attributes:
      features: output channels.
      dtype: of the computation.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[R, H, W, F] -> [R, 2 H, 2 W, features]."""
        r, h, w, channels = x.shape
        kernel = self.param("kernel", _FAN_OUT, (2, 2, channels, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        y = jnp.einsum("rhwc,ijcf->rhiwjf", x.astype(self.dtype), kernel.astype(self.dtype))
        return y.reshape(r, 2 * h, 2 * w, self.features) + bias.astype(self.dtype)
