"""ResNet with bottleneck blocks [He et al. 2016; detectron2 modeling/backbone/resnet.py].

N images, H x W cells, C channels; stage res{l} has stride 2**l px.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskdiff_jax.nets.conv import conv
from maskdiff_jax.nets.norm import GroupNorm
from maskdiff_jax.types import Array

_MSRA = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class FrozenBatchNorm(nn.Module):
    """Batch normalization with stored statistics; its four parameters get no gradient.

    Attributes:
      act: whether a ReLU follows.
      eps: added to the variance.
    """

    act: bool
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[N, H, W, C] -> the same, scaled by scale / sqrt(var + eps) around mean, plus bias."""
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        fills = {"scale": ones, "bias": zeros, "mean": zeros, "var": ones}
        leaf = {k: jax.lax.stop_gradient(self.param(k, f, x.shape[-1:], jnp.float32)) for k, f in fills.items()}
        a = leaf["scale"] * jax.lax.rsqrt(leaf["var"] + self.eps)
        b = leaf["bias"] - leaf["mean"] * a
        y = x.astype(jnp.float32) * a + b
        return (nn.relu(y) if self.act else y).astype(x.dtype)


class ConvNorm(nn.Module):
    """Convolution without bias, symmetric zero padding, norm and optional ReLU.

    Attributes:
      features: output channels.
      kernel: side of the kernel, odd.
      stride: of the convolution.
      norm: "frozen_bn" or "group" (min(32, C / 4) groups).
      act: whether a ReLU follows the norm.
    """

    features: int
    kernel: int
    stride: int
    norm: str
    act: bool = True

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        """[N, H, W, C] -> [N, H / stride, W / stride, features].

        `mask` [N, h, w, 1] of the output: 1 where the image is. The statistics of a group norm see that
        part only.
        """
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", _MSRA, shape, jnp.float32)
        y = conv(x, kernel.astype(x.dtype), stride=self.stride)
        if self.norm == "frozen_bn":
            return FrozenBatchNorm(self.act, name="norm")(y)
        if self.norm == "group":
            groups = max(1, min(32, self.features // 4))
            return GroupNorm(groups, nn.relu if self.act else None, name="norm")(y, mask=mask)
        raise ValueError(f"unknown norm '{self.norm}' of the backbone: choose frozen_bn or group")


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut.

    Attributes:
      features: output channels, four times those inside.
      stride: of the block; it sits in the first 1x1 (`stride_in_1x1`) or in the 3x3 convolution.
    """

    features: int
    stride: int
    stride_in_1x1: bool
    norm: str

    @nn.compact
    def __call__(self, x: Array, mask_in: Array | None, mask_out: Array | None) -> Array:
        """[N, H, W, C] -> [N, H / stride, W / stride, features]; masks as in `ConvNorm`."""
        inner = self.features // 4
        s1, s3 = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
        mask1 = mask_out if self.stride_in_1x1 else mask_in
        y = ConvNorm(inner, 1, s1, self.norm, name="conv1")(x, mask1)
        if mask1 is not None:
            y = y * mask1  # the 3x3 convolution must see zeros outside the image
        y = ConvNorm(inner, 3, s3, self.norm, name="conv2")(y, mask_out)
        y = ConvNorm(self.features, 1, 1, self.norm, act=False, name="conv3")(y, mask_out)
        if x.shape[-1] != self.features or self.stride != 1:
            shortcut = ConvNorm(self.features, 1, self.stride, self.norm, act=False, name="shortcut")
            x = shortcut(x, mask_out)
        return nn.relu(y + x)


class Stage(nn.Module):
    """Bottleneck blocks of one resolution, the first with the stage's stride."""

    features: int
    blocks: int
    stride: int
    stride_in_1x1: bool
    norm: str

    @nn.compact
    def __call__(self, x: Array, mask_in: Array | None, mask_out: Array | None) -> Array:
        """[N, H, W, C] -> [N, H / stride, W / stride, features]; masks as in `ConvNorm`."""
        for i in range(self.blocks):
            stride = 1 if i else self.stride
            block = Bottleneck(self.features, stride, self.stride_in_1x1, self.norm, name=f"block{i}")
            x = block(x, mask_out if i else mask_in, mask_out)
        return x


class ResNet(nn.Module):
    """Stem and the stages res2..res5.

    Attributes:
      blocks: bottleneck blocks of each stage; ResNet-50 has (3, 4, 6, 3).
      width: channels of the stem; stage i has 4 * width * 2**i.
      norm: "frozen_bn" or "group".
      stride_in_1x1: where a stage's stride sits, see `Bottleneck`.
    """

    blocks: tuple[int, ...]
    width: int
    norm: str
    stride_in_1x1: bool

    @nn.compact
    def __call__(self, x: Array, masks: dict[int, Array] | None = None) -> dict[int, Array]:
        """Features of every stage.

        Args:
          x: [N, H, W, 3] normalized pixels, H and W multiples of 32.
          masks: level -> [N, H / 2**level, W / 2**level, 1] in the dtype of `x` for levels 1..5, 1 where the
            image is and 0 in the padding around it; None for images without padding. With masks the result does
            not depend on the padded size.

        Returns:
          level 2..5 -> [N, H / 2**level, W / 2**level, 4 * width * 2**(level - 2)]. Values outside the masks have
          no meaning.
        """
        at = dict.fromkeys(range(1, 6)) if masks is None else masks
        x = Stem(self.width, self.norm, name="stem")(x, at[1])
        out = {}
        for i, count in enumerate(self.blocks):
            level = i + 2
            features = 4 * self.width * 2**i
            stage = Stage(features, count, 2 if i else 1, self.stride_in_1x1, self.norm, name=f"res{level}")
            x = out[level] = stage(x, at[level - 1 if i else level], at[level])
        return out


class Stem(nn.Module):
    """7x7 convolution of stride 2, norm, ReLU and 3x3 max-pooling of stride 2."""

    width: int
    norm: str

    @nn.compact
    def __call__(self, x: Array, mask: Array | None) -> Array:
        """[N, H, W, 3] -> [N, H / 4, W / 4, width]; `mask` [N, H / 2, W / 2, 1]."""
        x = ConvNorm(self.width, 7, 2, self.norm, name="conv1")(x, mask)
        if mask is not None:
            x = x * mask
        return _max_pool(x)


def _max_pool(x: Array) -> Array:
    """3x3, stride 2, padding 1 of features >= 0 (so that zeros serve as padding), H and W even.

    Written with slices: on a CPU the gradient of XLA's window reduction is many times slower.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        pad = [(0, 0)] * 4
        pad[axis] = (1, 0)
        padded = jnp.pad(x, pad)
        first, middle, last = (jax.lax.slice_in_dim(padded, i, i + size - 1, 2, axis) for i in range(3))
        x = jnp.maximum(jnp.maximum(first, middle), last)
    return x
