"""The blocks of the UNet: residual and attention blocks of guided-diffusion, `guided_diffusion/unet.py`.

N objects, H x W pixels, F channels, E channels of the time embedding, C classes. Parameters are float32; `dtype` is
what convolutions compute in. Norm statistics, softmax, the time and the class stay float32.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskdiff_jax.nets.norm import GroupNorm, silu
from maskdiff_jax.nets.resample import KERNEL, bias_of, mean_pool, upsample
from maskdiff_jax.types import Array


def conv(x: Array, features: int, side: int, name: str, *, dtype=None, stride=1, zero=False, precision=None):
    """A convolution inside a compact module: [N, H, W, F] -> [N, H / stride, W / stride, features]."""
    fan_in = x.shape[-1] * side * side
    pad = (side // 2, side // 2)  # "SAME" would pad a stride of 2 on the other side than PyTorch
    return nn.Conv(
        features, (side, side), (stride, stride), (pad, pad), dtype=dtype, name=name, precision=precision,
        kernel_init=nn.initializers.zeros if zero else KERNEL,
        bias_init=nn.initializers.zeros if zero else bias_of(fan_in),
    )(x)  # fmt: skip


def dense(x: Array, features: int, name: str, *, dtype=jnp.float32, zero=False, precision=None):
    """A dense layer inside a compact module: [..., F] -> [..., features]."""
    return nn.Dense(
        features, dtype=dtype, name=name, precision=precision,
        kernel_init=nn.initializers.zeros if zero else KERNEL,
        bias_init=nn.initializers.zeros if zero else bias_of(x.shape[-1]),
    )(x)  # fmt: skip


def norm_groups(channels: int) -> int:
    """Groups of a norm: 32, or fewer so that each has at least 4 channels: a norm of one channel erases its mean."""
    return next(g for g in range(min(32, max(channels // 4, 1)), 0, -1) if channels % g == 0)


class ResBlock(nn.Module):
    """Norm, convolution, norm with time and class, convolution, and the input added.

    Attributes:
      features: channels out.
      groups: of the norms; None: `norm_groups`.
      scale_shift: the time embedding scales and shifts after the second norm; else it is added before it.
      num_classes: rows of the class table; 0: no class input.
      resample: "up" or "down": the block also doubles or halves the side; "": it does not.
      dropout: probability, active where a key is given.
    """

    features: int
    groups: int | None = None
    scale_shift: bool = True
    num_classes: int = 0
    resample: str = ""
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, emb: Array | None, classes: Array | None = None, key: Array | None = None,
        vectors: tuple[Array, Array] | None = None,
    ) -> Array:  # fmt: skip
        """Applies the block.

        Args:
          x: [N, H, W, F]. emb: [N, E]. classes: [N, C] one-hot rows, zero for no class; None: no class.
          key: for dropout; None: none.
          vectors: this block's entry of `unet.block_vectors`; it replaces emb and classes.

        Returns:
          [N, H', W', features]; H' = H, or 2 H or H / 2 as `resample` says.
        """
        h = GroupNorm(self.groups or norm_groups(x.shape[-1]), silu, name="norm1")(x)
        if self.resample:
            move = {"up": upsample, "down": mean_pool}[self.resample]
            h, x = move(h), move(x)
        h = conv(h, self.features, 3, "conv1", dtype=self.dtype)

        if vectors is None:
            time = dense(nn.silu(emb), self.features * (2 if self.scale_shift else 1), "time")
        else:
            time = vectors[0]
        scale = shift = None
        if self.scale_shift:
            scale, shift = jnp.split(time, 2, -1)
        else:
            h = h + time[:, None, None].astype(h.dtype)
        if self.num_classes and vectors is not None:
            shift = vectors[1] if shift is None else shift + vectors[1]
        elif self.num_classes:
            # a vector per class, added at every pixel. It is added after the norm, which would subtract the mean of
            # every group; the paper only says that it is added in each block.
            table = self.param("class_table", nn.initializers.zeros, (self.num_classes, self.features))
            if classes is not None:
                row = jnp.matmul(classes, table, precision="highest")
                shift = row if shift is None else shift + row
        h = GroupNorm(self.groups or norm_groups(self.features), silu, name="norm2")(h, scale, shift)
        if self.dropout and key is not None:
            kept = jax.random.bernoulli(key, 1 - self.dropout, h.shape)
            h = jnp.where(kept, h / (1 - self.dropout), 0).astype(h.dtype)
        h = conv(h, self.features, 3, "conv2", dtype=self.dtype, zero=True)
        if x.shape[-1] != self.features:
            x = conv(x, self.features, 1, "skip", dtype=self.dtype)
        return x + h


class Attention(nn.Module):
    """Self-attention over all pixels, the input added.

    Attributes:
      heads: must divide the channels.
      groups: of the norm; None: `norm_groups`.
    """

    heads: int
    groups: int | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[N, H, W, F] -> [N, H, W, F].

        Raises:
          ValueError: `heads` does not divide F.
        """
        n, height, width, f = x.shape
        if f % self.heads:
            raise ValueError(f"unet.heads is {self.heads}, which does not divide the {f} channels of a block")
        h = GroupNorm(self.groups or norm_groups(f), name="norm")(x).reshape(n, height * width, f)
        qkv = dense(h, 3 * f, "qkv", dtype=self.dtype)
        # the 3 F channels are [head, (q, k, v), d], as in guided-diffusion's QKVAttentionLegacy
        q, k, v = jnp.moveaxis(qkv.reshape(n, -1, self.heads, 3, f // self.heads), 3, 0)
        # half of the scale on either side keeps the products in range in 16 bits
        half = (f // self.heads) ** -0.25
        logits = jnp.einsum("nqhd,nkhd->nhqk", q * half, k * half, preferred_element_type=jnp.float32)
        weight = jax.nn.softmax(logits, -1).astype(v.dtype)
        h = jnp.einsum("nhqk,nkhd->nqhd", weight, v).reshape(n, height * width, f)
        return x + dense(h, f, "proj_out", dtype=self.dtype, zero=True).reshape(x.shape)
