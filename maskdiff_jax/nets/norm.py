"""Group normalisation with its affine and activation folded into one pass over the features.

C channels in G groups; N objects of a batch; the spatial axes are the ones between N and C.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskdiff_jax.types import Array


class GroupNorm(nn.Module):
    """Group normalisation [Wu and He 2018], optionally modulated and followed by an activation.

    On a CPU the norm costs more than a small convolution beside it, so the features are read once for
    per-channel sums and once to be scaled; the groups are combined on arrays of shape [N, C].

    Attributes:
      groups: G, must divide C.
      act: activation after the affine map, or None.
      eps: added to the variance.
    """

    groups: int
    act: Callable[[Array], Array] | None = None
    eps: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Array, scale: Array | None = None, shift: Array | None = None, *, mask: Array | None = None
    ) -> Array:
        """Normalises each object's groups over space and channels.

        Args:
          x: [N, ..., C] features.
          scale, shift: [N, C] or None; the result becomes norm * (1 + scale) + shift before `act`.
          mask: [N, ..., 1] or None; statistics are taken where it is 1 (0 elsewhere), all is normalised.

        Returns:
          [N, ..., C] in the dtype of `x`; statistics are taken in float32.

        Raises:
          ValueError: the channels cannot be split into `groups`.
        """
        n, c = x.shape[0], x.shape[-1]
        if c % self.groups:
            raise ValueError(f"GroupNorm cannot split {c} channels into {self.groups} groups: change width")
        gamma = self.param("scale", nn.initializers.ones, (c,), jnp.float32)
        beta = self.param("bias", nn.initializers.zeros, (c,), jnp.float32)

        space = tuple(range(1, x.ndim - 1))
        f = x.astype(jnp.float32)
        if mask is None:
            seen, cells = f, x[0, ..., 0].size
        else:
            mask = mask.astype(jnp.float32)
            seen, cells = f * mask, jnp.maximum(mask.sum(space), 1.0)[..., None]
        sums = jnp.stack([seen.sum(space), (seen * f).sum(space)]).reshape(2, n, self.groups, -1)
        mean, square = sums.sum(-1, keepdims=True) / (cells * (c // self.groups))
        # rounding may push a constant group's variance below zero
        inv = jax.lax.rsqrt(jnp.maximum(square - mean * mean, 0.0) + self.eps)
        inv, mean = (
            jnp.broadcast_to(v, (n, self.groups, c // self.groups)).reshape(n, c) for v in (inv, mean)
        )
        a = inv * gamma
        b = beta - mean * a
        if scale is not None:
            a, b = a * (1.0 + scale), b * (1.0 + scale)
        if shift is not None:
            b = b + shift
        wide = (n,) + (1,) * len(space) + (c,)
        y = f * a.reshape(wide) + b.reshape(wide)
        return (y if self.act is None else self.act(y)).astype(x.dtype)
