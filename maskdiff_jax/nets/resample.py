"""How the UNet changes the side of a map: nearest upsampling, mean pooling, space to depth, upsampling convolution.

N objects, H x W pixels, F channels, channels last.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskdiff_jax.types import Array

# PyTorch's default initialization: variance 1 / (3 fan_in), a third of flax's
KERNEL = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def bias_of(fan_in: int):
    """PyTorch's default initialization of the bias of a layer with this many inputs."""
    limit = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -limit, limit)


def upsample(x: Array) -> Array:
    """[N, H, W, F] -> [N, 2H, 2W, F], each pixel repeated."""
    n, h, w, f = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, f)).reshape(n, 2 * h, 2 * w, f)


class UpConv(nn.Module):
    """A 3x3 convolution of the `upsample`d input, without building it.

    Of an output pixel's 3x3 taps several fall on the same input pixel. Adding their weights first makes it four
    2x2 convolutions, one per row and column parity: 4/9 of the products. Parameters may hold the result of
    `fold_kernel` as "folded" in place of "kernel".
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[N, H, W, F] -> [N, 2H, 2W, features]."""
        n, h, w, f = x.shape
        bias = self.param("bias", bias_of(9 * f), (self.features,))
        if self.has_variable("params", "folded"):
            folded: Any = self.get_variable("params", "folded")
        else:
            folded = fold_kernel(self.param("kernel", KERNEL, (3, 3, f, self.features)))

        def part(i, j):
            pad = ((1 - i, i), (1 - j, j))
            layout = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(
                x, folded[i][j].astype(self.dtype), (1, 1), pad, dimension_numbers=layout
            )

        out = jnp.stack([jnp.stack([part(i, 0), part(i, 1)], 3) for i in (0, 1)], 2)
        return out.reshape(n, 2 * h, 2 * w, self.features) + bias.astype(self.dtype)


def fold_kernel(kernel: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """[3, 3, F, features] -> the four [2, 2, F, features] kernels of `UpConv`, by row and column parity."""
    # an even output row depends on rows (-1, 0) of the input, with weights (k0, k1 + k2); an odd one on rows (0, 1)
    rows = (jnp.stack([kernel[0], kernel[1] + kernel[2]]), jnp.stack([kernel[0] + kernel[1], kernel[2]]))

    def by_column(k):
        even = jnp.stack([k[:, 0], k[:, 1] + k[:, 2]], 1)
        return even, jnp.stack([k[:, 0] + k[:, 1], k[:, 2]], 1)

    return by_column(rows[0]), by_column(rows[1])


def mean_pool(x: Array) -> Array:
    """[N, H, W, F] -> [N, H/2, W/2, F], the mean of 2 x 2 pixels."""
    n, h, w, f = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, f).mean((2, 4))


def space_to_depth(x: Array, patch: int) -> Array:
    """[N, H, W, F] -> [N, H/p, W/p, p p F]."""
    n, h, w, f = x.shape
    x = x.reshape(n, h // patch, patch, w // patch, patch, f)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h // patch, w // patch, -1)


def depth_to_space(x: Array, patch: int) -> Array:
    """The inverse of `space_to_depth`."""
    n, h, w, f = x.shape
    x = x.reshape(n, h, w, patch, patch, f // patch**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h * patch, w * patch, -1)
