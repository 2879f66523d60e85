"""Convolutions as the detector uses them: symmetric zero padding, and 1x1 ones as a matrix product."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskdiff_jax.types import Array


def conv(x: Array, kernel: Array, *, stride: int = 1) -> Array:
    """[N, H, W, C] by [k, k, C, F], k odd -> [N, ceil(H / stride), ceil(W / stride), F].

    Padded by k // 2 on every side, as PyTorch does; XLA's "SAME" pads stride-2 layers on one side only.
    On a CPU a 1x1 convolution trains 2x faster as a plain matrix product.
    """
    k = kernel.shape[0]
    if k == 1:
        x = x[:, ::stride, ::stride]
        y = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
        return y.reshape(*x.shape[:-1], -1)
    pad = (k // 2, k // 2)
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (pad, pad), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


class Conv(nn.Module):
    """Convolution with bias, stride 1.

    Attributes:
      features: channels put out.
      size: side of the kernel, odd.
      kernel_init: of the kernel; the bias starts at 0.
      dtype: of the computation.
    """

    features: int
    size: int
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[N, H, W, C] -> [N, H, W, features] in `dtype`."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return conv(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)
