"""The attention UNet of guided-diffusion (ADM) [Dhariwal and Nichol 2021], channels last, with a class input.

N objects, H x W pixels, F channels, C classes. Level 0 is the finest; each further one halves the side.
Blocks are numbered as in guided-diffusion (input0 is the stem), so that its weights map by name. Parameters
are float32; `dtype` is what convolutions compute in. Norm statistics, softmax, everything about the time and
the class, and the output convolution stay float32.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskdiff_jax.nets.norm import GroupNorm, silu
from maskdiff_jax.nets.resample import (
    KERNEL,
    UpConv,
    bias_of,
    depth_to_space,
    fold_kernel,
    mean_pool,
    space_to_depth,
    upsample,
)  # fmt: skip
from maskdiff_jax.types import Array, PyTree


def _conv(x: Array, features: int, side: int, name: str, *, dtype=None, stride=1, zero=False, precision=None):
    fan_in = x.shape[-1] * side * side
    pad = (side // 2, side // 2)  # spelt out: "SAME" pads a stride of 2 on the other side than PyTorch
    return nn.Conv(
        features, (side, side), (stride, stride), (pad, pad), dtype=dtype, name=name, precision=precision,
        kernel_init=nn.initializers.zeros if zero else KERNEL,
        bias_init=nn.initializers.zeros if zero else bias_of(fan_in),
    )(x)  # fmt: skip


def _dense(x: Array, features: int, name: str, *, dtype=jnp.float32, zero=False, precision=None):
    return nn.Dense(
        features, dtype=dtype, name=name, precision=precision,
        kernel_init=nn.initializers.zeros if zero else KERNEL,
        bias_init=nn.initializers.zeros if zero else bias_of(x.shape[-1]),
    )(x)  # fmt: skip


def norm_groups(channels: int) -> int:
    """Groups of a norm: 32, but at least 4 channels in each, so that small nets keep what norms compare."""
    return next(g for g in range(min(32, max(channels // 4, 1)), 0, -1) if channels % g == 0)


def timestep_embedding(t: Array, features: int) -> Array:
    """[N] times -> [N, features]: cosines first, then sines; an odd last feature is zero."""
    half = features // 2
    frequency = jnp.exp(-jnp.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    phase = t.astype(jnp.float32)[:, None] * frequency
    out = jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], -1)
    return jnp.pad(out, ((0, 0), (0, features % 2)))


class ResBlock(nn.Module):
    """Norm, conv, norm with time and class, conv, and the input added.

    Attributes:
      features: channels out.
      groups: of the norms; None: `norm_groups`.
      scale_shift: the time scales and shifts after the second norm; else it is added before it.
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
        """x [N, H, W, F], emb [N, E], classes [N, C] one-hot rows (zero: no class) -> [N, H, W, features].

        `vectors`, if given, stand for emb and classes: this block's rows of `block_vectors`.
        """
        h = GroupNorm(self.groups or norm_groups(x.shape[-1]), silu, name="norm1")(x)
        if self.resample:
            move = {"up": upsample, "down": mean_pool}[self.resample]
            h, x = move(h), move(x)
        h = _conv(h, self.features, 3, "conv1", dtype=self.dtype)

        if vectors is None:
            time = _dense(nn.silu(emb), self.features * (2 if self.scale_shift else 1), "time")
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
            # a vector per class, spread over the map. It stands behind the norm, which would take the mean
            # of every group out of it again; the paper only says that it is added in each block.
            table = self.param("class_table", nn.initializers.zeros, (self.num_classes, self.features))
            if classes is not None:
                row = jnp.matmul(classes, table, precision="highest")
                shift = row if shift is None else shift + row
        h = GroupNorm(self.groups or norm_groups(self.features), silu, name="norm2")(h, scale, shift)
        if self.dropout and key is not None:
            kept = jax.random.bernoulli(key, 1 - self.dropout, h.shape)
            h = jnp.where(kept, h / (1 - self.dropout), 0).astype(h.dtype)
        h = _conv(h, self.features, 3, "conv2", dtype=self.dtype, zero=True)
        if x.shape[-1] != self.features:
            x = _conv(x, self.features, 1, "skip", dtype=self.dtype)
        return x + h


class Attention(nn.Module):
    """Self-attention over all pixels, the input added.

    Attributes:
      heads: must divide the channels.
      groups: of the norm; None: `norm_groups`.
      legacy: the 3F channels of `qkv` are [head, (q, k, v), d]; else [(q, k, v), head, d].
    """

    heads: int
    groups: int | None = None
    legacy: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[N, H, W, F] -> [N, H, W, F]."""
        n, height, width, f = x.shape
        if f % self.heads:
            raise ValueError(f"unet.heads is {self.heads}, which does not divide the {f} channels of a block")
        h = GroupNorm(self.groups or norm_groups(f), name="norm")(x).reshape(n, height * width, f)
        qkv = _dense(h, 3 * f, "qkv", dtype=self.dtype)
        if self.legacy:
            q, k, v = jnp.moveaxis(qkv.reshape(n, -1, self.heads, 3, f // self.heads), 3, 0)
        else:
            q, k, v = jnp.moveaxis(qkv.reshape(n, -1, 3, self.heads, f // self.heads), 2, 0)
        # half of the scale on either side keeps the products in range in 16 bits
        half = (f // self.heads) ** -0.25
        logits = jnp.einsum("nqhd,nkhd->nhqk", q * half, k * half, preferred_element_type=jnp.float32)
        weight = jax.nn.softmax(logits, -1).astype(v.dtype)
        h = jnp.einsum("nhqk,nkhd->nqhd", weight, v).reshape(n, height * width, f)
        return x + _dense(h, f, "proj_out", dtype=self.dtype, zero=True).reshape(x.shape)


def attention_levels(sides: Sequence[int], size: int, stem_patch: int, levels: int) -> tuple[int, ...]:
    """Which levels attend.

    Level l of an input of `size` px has a side of size / stem_patch / 2**l px; it attends where that number
    is in `sides`. For 128 px, patch 1 and sides (16,) that is level 3, guided-diffusion's "16".

    Raises:
      ValueError: no level has one of the sides.
    """
    at = {size // stem_patch // 2**level: level for level in range(levels)}
    unknown = [s for s in sides if s not in at]
    if unknown:
        raise ValueError(
            f"unet.attention asks for sides {tuple(unknown)} px, the levels have {tuple(at)}: choose of these"
        )
    return tuple(sorted(at[s] for s in sides))


class UNet(nn.Module):
    """Predicts an image from an image, a time and a class.

    Attributes:
      out_channels: of the prediction.
      width: channels of the stem.
      multipliers: channels of each level, in units of `width`.
      blocks: residual blocks per level going down; going up one more.
      attention: levels that attend, see `attention_levels`; the middle always does.
      heads, head_channels: heads of an attention block, or, if not -1, the channels of each head.
      scale_shift: see ResBlock.
      stem_patch: p; p x p pixels are one for the net (space to depth, and back at the end).
      resblock_updown: residual blocks change the side, else single convolutions do.
      dropout: see ResBlock.
      num_classes: C; 0: no class input.
      groups: of every norm; None: `norm_groups`. Imported nets with fewer than 128 channels want 32.
      dtype: of the convolutions.
    """

    out_channels: int = 1
    width: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 3, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (3,)
    heads: int = 4
    head_channels: int = -1
    scale_shift: bool = True
    stem_patch: int = 1
    resblock_updown: bool = False
    dropout: float = 0.0
    num_classes: int = 0
    groups: int | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, t: Array | None, classes: Array | None = None, *, key: Array | None = None,
        vectors: dict[str, tuple[Array, Array]] | None = None,
    ) -> Array:  # fmt: skip
        """One pass.

        Args:
          x: [N, H, W, F]; H and W are multiples of stem_patch * 2**(levels - 1).
          t: [N] times, as guided-diffusion counts them: 0..T-1.
          classes: [N] in 0..C-1, anything else (-1, C): no class, the same as None.
          key: for dropout; None: none.
          vectors: stand for t and classes: rows of `block_vectors`, [N or 1, ...] each.

        Returns:
          [N, H, W, out_channels] float32.

        Raises:
          ValueError: a side or a number of channels cannot be divided as asked.
        """
        unit = self.stem_patch * 2 ** (len(self.multipliers) - 1)
        if x.shape[1] % unit or x.shape[2] % unit:
            raise ValueError(f"the UNet needs sides that are multiples of {unit} px, not {x.shape[1:3]}")
        onehot = None
        if self.num_classes and classes is not None:
            onehot = jax.nn.one_hot(classes, self.num_classes, dtype=jnp.float32)
        emb = None
        if vectors is None:
            emb = timestep_embedding(t, self.width)
            emb = nn.silu(_dense(emb, 4 * self.width, "time1", precision="highest"))
            emb = _dense(emb, 4 * self.width, "time2", precision="highest")

        drawn = iter(jax.random.split(key, 99) if key is not None and self.dropout else ())

        def res(h, features, name, resample=""):
            own = (self.groups, self.scale_shift, self.num_classes, resample, self.dropout, self.dtype)
            mine = None if vectors is None else vectors[name]
            return ResBlock(features, *own, name=name)(h, emb, onehot, next(drawn, None), mine)

        def attend(h, name):
            heads = self.heads if self.head_channels == -1 else h.shape[-1] // self.head_channels
            return Attention(heads, self.groups, dtype=self.dtype, name=name)(h)

        levels = range(len(self.multipliers))
        h = space_to_depth(x, self.stem_patch) if self.stem_patch > 1 else x
        h = _conv(h.astype(self.dtype), self.width, 3, "stem", dtype=self.dtype)
        skips = [h]
        for level in levels:
            features = self.width * self.multipliers[level]
            for _ in range(self.blocks):
                h = res(h, features, f"input{len(skips)}_res")
                if level in self.attention:
                    h = attend(h, f"input{len(skips)}_attention")
                skips.append(h)
            if level != levels[-1]:
                if self.resblock_updown:
                    h = res(h, features, f"input{len(skips)}_res", "down")
                else:
                    h = _conv(h, features, 3, f"input{len(skips)}_down", dtype=self.dtype, stride=2)
                skips.append(h)

        h = res(h, h.shape[-1], "middle0_res")
        h = attend(h, "middle1_attention")
        h = res(h, h.shape[-1], "middle2_res")

        i = 0
        for level in reversed(levels):
            features = self.width * self.multipliers[level]
            for block in range(self.blocks + 1):
                h = res(jnp.concatenate([h, skips.pop()], -1), features, f"output{i}_res")
                if level in self.attention:
                    h = attend(h, f"output{i}_attention")
                if level and block == self.blocks:
                    if self.resblock_updown:
                        h = res(h, features, f"output{i}_up", "up")
                    else:
                        h = UpConv(features, self.dtype, name=f"output{i}_up")(h)
                i += 1

        h = h.astype(jnp.float32)
        h = GroupNorm(self.groups or norm_groups(h.shape[-1]), silu, name="out_norm")(h)
        out = self.out_channels * self.stem_patch**2
        h = _conv(h, out, 3, "out", dtype=jnp.float32, zero=True, precision="highest")
        return depth_to_space(h, self.stem_patch) if self.stem_patch > 1 else h


def block_vectors(params: PyTree, t: Array, classes: Array) -> dict[str, tuple[Array, Array | None]]:
    """What time and class bring into each residual block, apart from the pixels.

    Drawing takes the same few times for all objects and the same class at all times: with these tables a step
    of drawing is free of some sixty tiny layers.

    Args:
      params: of a `UNet`.
      t: [S] times. classes: [N], outside 0..C-1: no class.

    Returns:
      block -> (time [S, ...], class [N, features], or None for a net without classes).
    """

    def dense(x, layer, precision=None):
        return jnp.matmul(x, layer["kernel"], precision=precision) + layer["bias"]

    emb = timestep_embedding(t, params["time1"]["kernel"].shape[0])
    emb = dense(nn.silu(dense(emb, params["time1"], "highest")), params["time2"], "highest")
    rows = {}
    for name, block in params.items():
        if "norm2" not in block:
            continue
        row = None
        if "class_table" in block:
            known = (classes >= 0) & (classes < len(block["class_table"]))
            row = jnp.where(known[:, None], block["class_table"][jnp.where(known, classes, 0)], 0.0)
        rows[name] = (dense(nn.silu(emb), block["time"]), row)
    return rows


def cast_weights(params: PyTree, dtype: jnp.dtype) -> PyTree:
    """What a `UNet` of this dtype casts in every pass, cast once: sampling takes many passes with the same weights.

    Norms, the time and the class, and the output convolution stay float32, as the net computes them. The net gives
    bit for bit the same with these weights.

    Args:
      params: of a `UNet`.
      dtype: of its convolutions.
    """
    float32 = ("time", "time1", "time2", "norm", "norm1", "norm2", "out_norm", "out")

    def cast(name, module):
        if name in float32 or not isinstance(module, dict):
            return module
        if "kernel" not in module:
            return {k: cast(k, v) for k, v in module.items()}
        if name.endswith("_up"):
            module = {"folded": fold_kernel(module["kernel"]), "bias": module["bias"]}
        return jax.tree.map(lambda x: x.astype(dtype), module)

    return cast("", params)
