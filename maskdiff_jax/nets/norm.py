"""Group normalization with its affine and activation computed in one pass over the features.

C channels in G groups; N objects of a batch; the spatial axes are the ones between N and C. On a CPU a norm costs
more than the small convolution beside it, so the features are read twice going forward (per-channel sums, then
scaling) and twice going back, where the gradient is written out; groups are combined on arrays of shape [N, C].
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskdiff_jax.types import Array

Activation = Callable[[Array], Array] | None


def silu(x: Array) -> Array:
    """x sigmoid(x), elementwise; through tanh, on a CPU twice as fast in XLA as jax.nn.silu's logistic."""
    return 0.5 * x * (1.0 + jnp.tanh(0.5 * x))


def _over_group(per_channel: Array, groups: int) -> Array:
    """[N, C] -> [N, C]: each channel gets the sum of its group."""
    n, c = per_channel.shape
    total = per_channel.reshape(n, groups, -1).sum(-1, keepdims=True)
    return jnp.broadcast_to(total, (n, groups, c // groups)).reshape(n, c)


def _wide(per_channel: Array, like: Array) -> Array:
    return jnp.expand_dims(per_channel, tuple(range(1, like.ndim - 1)))


def _forward(x: Array, a: Array, b: Array, mask: Array | None, groups: int, eps: float, act: Activation) -> Any:
    space, f = tuple(range(1, x.ndim - 1)), x.astype(jnp.float32)
    seen, cells = f, jnp.float32(x[0, ..., 0].size)
    if mask is not None:
        seen, cells = f * mask, jnp.maximum(mask.sum(space), 1.0)
    count = cells * (x.shape[-1] // groups)
    # both sums over groups at once: one kernel fewer on a GPU. Joined along C, because devices share N
    sums = jnp.concatenate([seen.sum(space), (seen * f).sum(space)], -1)
    mean, square = jnp.split(_over_group(sums, 2 * groups), 2, -1)
    mean = mean / count
    variance = square / count - mean * mean
    # rounding may push a constant group's variance below zero
    inv = jax.lax.rsqrt(jnp.maximum(variance, 0.0) + eps)
    y = f * _wide(inv * a, x) + _wide(b - mean * inv * a, x)
    return (y if act is None else act(y)).astype(x.dtype), (x, a, b, mask, mean, variance, inv, count)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def norm_act(x: Array, a: Array, b: Array, mask: Array | None, groups: int, eps: float, act: Activation) -> Array:
    """act(a norm(x) + b) with statistics of each object's groups; the gradient takes two passes over `x`.

    Args:
      x: [N, ..., C]. a, b: [N, C] float32.
      mask: [N, ..., 1] float32 or None; statistics are taken where it is 1. It gets no gradient.
      groups: G. eps: added to the variance. act: elementwise, or None.

    Returns:
      [N, ..., C] in the dtype of `x`.
    """
    return _forward(x, a, b, mask, groups, eps, act)[0]


def _backward(groups: int, eps: float, act: Activation, saved: Any, dy: Array) -> tuple:
    x, a, b, mask, mean, variance, inv, count = saved
    space, gain = tuple(range(1, x.ndim - 1)), inv * a
    # 16 bits mean an accelerator, whose limit is memory bandwidth. The compiler would store the float32 gradient
    # between its three uses; behind a barrier on its inputs each use computes it again
    fresh = jax.lax.optimization_barrier if x.dtype.itemsize == 2 else lambda values: values

    def widened(x, dy):
        """Features and the gradient in front of the activation, float32."""
        f, d = x.astype(jnp.float32), dy.astype(jnp.float32)
        if act is not None:
            d = jax.vjp(act, f * _wide(gain, x) + _wide(b - mean * gain, x))[1](d)[0]
        return f, d

    d_b = widened(x, dy)[1].sum(space)
    f, d = widened(*fresh((x, dy)))
    # a later sum over the objects would read everything once more, if it could be merged with these
    d_b, d_f = fresh((d_b, (d * f).sum(space)))
    d_gain = d_f - d_b * mean
    # through the statistics: x moves its group's mean and variance
    d_variance = jnp.where(variance > 0, -0.5 * _over_group(d_gain * a, groups) * inv**3, 0.0)
    d_mean = -_over_group(d_b * gain, groups) - 2.0 * mean * d_variance
    f, d = widened(*fresh((x, dy, d_b))[:2])
    through = f * _wide(2.0 * d_variance / count, x) + _wide(d_mean / count, x)
    dx = d * _wide(gain, x) + (through if mask is None else through * mask)
    return dx.astype(x.dtype), d_gain * inv, d_b, None if mask is None else jnp.zeros_like(mask)


norm_act.defvjp(_forward, _backward)


class GroupNorm(nn.Module):
    """Group normalization [Wu and He 2018], optionally modulated and followed by an activation.

    Attributes:
      groups: G, must divide C.
      act: activation after the affine map, or None.
      eps: added to the variance.
    """

    groups: int
    act: Activation = None
    eps: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Array, scale: Array | None = None, shift: Array | None = None, *, mask: Array | None = None
    ) -> Array:
        """Normalizes each object's groups over space and channels.

        Args:
          x: [N, ..., C] features.
          scale, shift: [N, C] or None; the result becomes norm * (1 + scale) + shift before `act`.
          mask: [N, ..., 1] or None; statistics are taken where it is 1 (0 elsewhere), all is normalized.

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
        a, b = jnp.broadcast_to(gamma, (n, c)), jnp.broadcast_to(beta, (n, c))
        if scale is not None:
            a, b = a * (1.0 + scale), b * (1.0 + scale)
        if shift is not None:
            b = b + shift
        return norm_act(x, a, b, None if mask is None else mask.astype(jnp.float32), self.groups, self.eps, self.act)
