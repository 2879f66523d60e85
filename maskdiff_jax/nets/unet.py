"""The attention UNet of guided-diffusion (ADM) [Dhariwal and Nichol 2021], channels last, with a class input.

N objects, H x W pixels, F channels, C classes, S sampling steps. Level 0 is the finest; each further one halves the
side. Blocks are numbered as in guided-diffusion (input0 is the stem), so that its weights map by name. Parameters are
float32; `dtype` is what convolutions compute in. Norm statistics, softmax, everything about the time and the class, and
the output convolution stay float32.
"""

from collections.abc import Callable, Sequence
from itertools import count

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskdiff_jax.nets.norm import GroupNorm, silu
from maskdiff_jax.nets.resample import UpConv, depth_to_space, fold_kernel, space_to_depth
from maskdiff_jax.nets.unet_blocks import Attention, ResBlock, conv, dense, norm_groups
from maskdiff_jax.types import Array, PyTree

# (features [N, H, W, F], channels out, name, "up", "down" or "") -> [N, H', W', channels out]
Block = Callable[..., Array]


def timestep_embedding(t: Array, features: int) -> Array:
    """[N] times -> [N, features]: cosines first, then sines; an odd last feature is zero."""
    half = features // 2
    frequency = jnp.exp(-jnp.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    phase = t.astype(jnp.float32)[:, None] * frequency
    out = jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], -1)
    return jnp.pad(out, ((0, 0), (0, features % 2)))


def attention_levels(sides: Sequence[int], size: int, stem_patch: int, levels: int) -> tuple[int, ...]:
    """The levels that have attention blocks.

    Level l of an input of `size` px has a side of size / stem_patch / 2**l px; it has attention blocks if `sides` holds
    that number. For 128 px, patch 1 and sides (16,) that is level 3, guided-diffusion's "16".

    Raises:
      ValueError: no level has one of the sides.
    """
    at = {size // stem_patch // 2**level: level for level in range(levels)}
    unknown = [s for s in sides if s not in at]
    if unknown:
        raise ValueError(f"unet.attention has sides {tuple(unknown)} px, which no level has: choose from {tuple(at)}")
    return tuple(sorted(at[s] for s in sides))


class UNet(nn.Module):
    """Predicts an image from an image, a time and a class.

    Attributes:
      out_channels: of the prediction.
      width: channels of the stem.
      multipliers: channels of each level, in units of `width`.
      blocks: residual blocks per level going down; going up one more.
      attention: levels with attention blocks, see `attention_levels`; the middle always has one.
      heads, head_channels: heads of an attention block, or, if not -1, the channels of each head.
      scale_shift: see ResBlock.
      stem_patch: p; p x p pixels become one (space to depth, and its inverse at the end).
      resblock_updown: residual blocks change the side; False: single convolutions do.
      dropout: see ResBlock.
      num_classes: C; 0: no class input.
      groups: of every norm; None: `norm_groups`. guided-diffusion's own nets have 32, whatever their width.
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
        """Evaluates the network.

        Args:
          x: [N, H, W, F]; H and W are multiples of stem_patch * 2**(levels - 1).
          t: [N] times, as guided-diffusion counts them: 0..T-1.
          classes: [N] in 0..C-1, anything else (-1, C): no class, the same as None.
          key: for dropout; None: none.
          vectors: rows of `block_vectors`, [N or 1, ...] each; they replace t and classes.

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
        emb = self._embed(t) if vectors is None else None
        options = (self.groups, self.scale_shift, self.num_classes)
        number = count()

        def block(h: Array, features: int, name: str, resample: str = "") -> Array:
            own_key = jax.random.fold_in(key, next(number)) if key is not None and self.dropout else None
            own_vectors = None if vectors is None else vectors[name]
            module = ResBlock(features, *options, resample, self.dropout, self.dtype, name=name)
            return module(h, emb, onehot, own_key, own_vectors)

        h, skips = self._down(x, block)
        h = block(h, h.shape[-1], "middle0_res")
        h = self._attend(h, "middle1_attention")
        h = block(h, h.shape[-1], "middle2_res")
        return self._out(self._up(h, skips, block))

    def _embed(self, t: Array) -> Array:
        """[N] times -> [N, 4 width]."""
        emb = timestep_embedding(t, self.width)
        emb = nn.silu(dense(emb, 4 * self.width, "time1", precision="highest"))
        return dense(emb, 4 * self.width, "time2", precision="highest")

    def _attend(self, h: Array, name: str) -> Array:
        heads = self.heads if self.head_channels == -1 else h.shape[-1] // self.head_channels
        return Attention(heads, self.groups, dtype=self.dtype, name=name)(h)

    def _down(self, x: Array, block: Block) -> tuple[Array, list[Array]]:
        """Features of the coarsest level, and the skip connections from the finest to the coarsest."""
        h = space_to_depth(x, self.stem_patch) if self.stem_patch > 1 else x
        h = conv(h.astype(self.dtype), self.width, 3, "stem", dtype=self.dtype)
        skips = [h]
        for level, multiplier in enumerate(self.multipliers):
            features = self.width * multiplier
            for _ in range(self.blocks):
                h = block(h, features, f"input{len(skips)}_res")
                if level in self.attention:
                    h = self._attend(h, f"input{len(skips)}_attention")
                skips.append(h)
            if level != len(self.multipliers) - 1:
                if self.resblock_updown:
                    h = block(h, features, f"input{len(skips)}_res", "down")
                else:
                    h = conv(h, features, 3, f"input{len(skips)}_down", dtype=self.dtype, stride=2)
                skips.append(h)
        return h, skips

    def _up(self, h: Array, skips: list[Array], block: Block) -> Array:
        """The features of the finest level; takes `skips` from the last to the first."""
        i = 0
        for level in reversed(range(len(self.multipliers))):
            features = self.width * self.multipliers[level]
            for j in range(self.blocks + 1):
                h = block(jnp.concatenate([h, skips.pop()], -1), features, f"output{i}_res")
                if level in self.attention:
                    h = self._attend(h, f"output{i}_attention")
                if level and j == self.blocks:
                    if self.resblock_updown:
                        h = block(h, features, f"output{i}_up", "up")
                    else:
                        h = UpConv(features, self.dtype, name=f"output{i}_up")(h)
                i += 1
        return h

    def _out(self, h: Array) -> Array:
        h = h.astype(jnp.float32)
        h = GroupNorm(self.groups or norm_groups(h.shape[-1]), silu, name="out_norm")(h)
        channels = self.out_channels * self.stem_patch**2
        h = conv(h, channels, 3, "out", dtype=jnp.float32, zero=True, precision="highest")
        return depth_to_space(h, self.stem_patch) if self.stem_patch > 1 else h


def block_vectors(params: PyTree, t: Array, classes: Array) -> dict[str, tuple[Array, Array | None]]:
    """What time and class add in each residual block: it does not depend on the pixels.

    Sampling uses the same few times for all objects and the same class at all times: with these tables a sampling step
    is free of some sixty tiny layers.

    Args:
      params: of a `UNet`.
      t: [S] times. classes: [N], outside 0..C-1: no class.

    Returns:
      block -> (time [S, ...], class [N, features], or None for a net without classes).
    """

    def affine(x, layer, precision=None):
        return jnp.matmul(x, layer["kernel"], precision=precision) + layer["bias"]

    emb = timestep_embedding(t, params["time1"]["kernel"].shape[0])
    emb = affine(nn.silu(affine(emb, params["time1"], "highest")), params["time2"], "highest")
    rows = {}
    for name, block in params.items():
        if "norm2" not in block:
            continue
        row = None
        if "class_table" in block:
            known = (classes >= 0) & (classes < len(block["class_table"]))
            row = jnp.where(known[:, None], block["class_table"][jnp.where(known, classes, 0)], 0.0)
        rows[name] = (affine(nn.silu(emb), block["time"]), row)
    return rows


def cast_weights(params: PyTree, dtype: jnp.dtype) -> PyTree:
    """The weights that a `UNet` of this dtype casts in every evaluation, cast once: sampling evaluates it many times.

    Norms, the time and the class, and the output convolution stay float32, as the net computes them. The net's results
    stay bit-equal.

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
