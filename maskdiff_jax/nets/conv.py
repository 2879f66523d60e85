"""Convolutions of the detector: symmetric zero padding, 1x1 ones as matrix products.

N images, H x W cells, C input channels, F output channels.
"""

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


@jax.custom_vjp
def matmul_f32(x: Array, kernel: Array) -> Array:
    """[..., F] by [F, C] of one dtype -> [..., C] float32: the sums of the products are not rounded to 16 bits.

    For the outputs of a network: a logit of 10 in bfloat16 is off by up to 0.03. The gradient of the result is rounded
    to the dtype of `x`, as that of any other layer; the sums of both products of the gradient are float32.
    """
    return jnp.matmul(x, kernel, preferred_element_type=jnp.float32)


def _matmul_f32_fwd(x, kernel):
    return matmul_f32(x, kernel), (x, kernel)


def _matmul_f32_bwd(saved, grad):
    x, kernel = saved
    rows, grad = x.reshape(-1, x.shape[-1]), grad.astype(x.dtype)
    to_kernel = jnp.matmul(rows.T, grad.reshape(-1, grad.shape[-1]), preferred_element_type=jnp.float32)
    return grad @ kernel.T, to_kernel.astype(kernel.dtype)


matmul_f32.defvjp(_matmul_f32_fwd, _matmul_f32_bwd)


class Linear(nn.Module):
    """A matrix product with bias whose float32 result is not rounded, see `matmul_f32`.

    Attributes:
      features: output channels.
      kernel_init: of the kernel.
      dtype: of the factors.
      as_conv: the kernel has the shape [1, 1, F, features] of a 1x1 convolution.
      bias: where the bias starts.
    """

    features: int
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype
    as_conv: bool = False
    bias: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., F] -> [..., features] float32."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, (1, 1, *shape) if self.as_conv else shape, jnp.float32)
        bias = self.param("bias", nn.initializers.constant(self.bias), (self.features,), jnp.float32)
        return matmul_f32(x.astype(self.dtype), kernel.reshape(shape).astype(self.dtype)) + bias


class Conv(nn.Module):
    """Convolution with bias, stride 1.

    Attributes:
      features: output channels.
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
