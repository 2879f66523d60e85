"""First weights of a network, all sampled by one loop.

flax samples each parameter with separate code, so a program that makes 60 random kernels takes far longer to compile
than to run. The initializers here note key and distribution beside the sample, and `initialize` samples all of them in
one `lax.map` over chunks of equal size. The weights are those of `net.init(...)`, bit for bit.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jax.extend.random import threefry_2x32

from maskdiff_jax.types import Array, PyTree

CHUNK = 1 << 14  # numbers that one round of the loop samples
# below what `jax.random.normal` takes the inverse error function of
_LOWEST = np.nextafter(np.float32(-1), np.float32(0))


class Distribution(NamedTuple):
    """Of the numbers of one parameter: uniform in low..high, or normal; times a factor."""

    normal: bool
    low: float
    high: float
    factor: float


class Sampled(struct.PyTreeNode, nn.meta.AxisMetadata):
    """A parameter with what it was sampled from; flax takes it out of this box for the forward pass.

    Attributes:
      value: the parameter, float32.
      key: what it was sampled with.
      distribution: of the numbers.
    """

    value: Array
    key: Array
    distribution: Distribution = struct.field(pytree_node=False)

    def unbox(self) -> Array:
        """The parameter."""
        return self.value

    def replace_boxed(self, val: Array) -> "Sampled":
        """The box with another parameter in it."""
        return self.replace(value=val)

    def add_axis(self, index: int, params: dict[Any, Any]) -> "Sampled":
        """The box has no names of axes."""
        return self

    def remove_axis(self, index: int, params: dict[Any, Any]) -> "Sampled":
        """The box has no names of axes."""
        return self


# ---------------------------------------------------------------------------------- initializers
def normal(stddev: float) -> nn.initializers.Initializer:
    """Normal with mean 0."""
    plain = nn.initializers.normal(stddev)

    def sample(key, shape, dtype=jnp.float32, out_sharding=None):
        return Sampled(plain(key, shape, dtype), key, _normal(stddev))

    return sample


def uniform(limit: float) -> nn.initializers.Initializer:
    """Uniform in -limit..limit."""

    def sample(key, shape, dtype=jnp.float32, out_sharding=None):
        value = jax.random.uniform(key, shape, dtype, -limit, limit)
        return Sampled(value, key, Distribution(False, -limit, limit, 1.0))

    return sample


def variance_scaling(scale: float, mode: str, distribution: str) -> nn.initializers.Initializer:
    """As flax's: the variance is `scale` / fan, of `mode` "fan_in" or "fan_out"; "normal" or "uniform"."""
    plain = nn.initializers.variance_scaling(scale, mode, distribution)

    def sample(key, shape, dtype=jnp.float32, out_sharding=None):
        fan = np.prod(shape[:-2]) * shape[{"fan_in": -2, "fan_out": -1}[mode]]
        variance = np.float32(scale / fan)
        if distribution == "normal":
            return Sampled(plain(key, shape, dtype), key, _normal(np.sqrt(variance)))
        factor = float(np.sqrt(np.float32(3) * variance))
        return Sampled(plain(key, shape, dtype), key, Distribution(False, -1.0, 1.0, factor))

    return sample


def _normal(stddev: float) -> Distribution:
    return Distribution(True, float(_LOWEST), 1.0, float(np.float32(np.sqrt(2)) * np.float32(stddev)))


# ---------------------------------------------------------------------------------- all at once
def initialize(net: nn.Module, key: Array, *inputs: Array) -> PyTree:
    """The parameters that `net.init` gives for these inputs."""
    return sample_all(net.init(key, *inputs)["params"])


def sample_all(params: PyTree) -> PyTree:
    """Parameters as `net.init` gives them -> without boxes, all random ones sampled together."""
    leaves, tree = jax.tree.flatten(params, is_leaf=nn.meta.is_axis_metadata)
    boxes = [x for x in leaves if isinstance(x, Sampled)]
    if boxes and boxes[0].key.dtype != jax.random.key(0, impl="threefry2x32").dtype:
        return nn.unbox(params)  # the loop knows threefry alone
    samples = iter(_sample(boxes) if boxes else ())
    return jax.tree.unflatten(tree, [next(samples) if isinstance(x, Sampled) else x for x in leaves])


def _sample(boxes: list[Sampled]) -> list[Array]:
    """The parameter of each box, from `CHUNK` numbers at a time."""
    keys = jnp.stack([jax.random.key_data(x.key) for x in boxes])
    table = np.array([x.distribution for x in boxes], np.float32)
    chunks = [-(-x.value.size // CHUNK) for x in boxes]
    which = np.repeat(np.arange(len(boxes)), chunks)
    starts = np.concatenate([CHUNK * np.arange(n, dtype=np.uint32) for n in chunks])
    flat = jax.lax.map(lambda given: _chunk(*given), (keys[which], starts, *table[which].T)).reshape(-1)
    out, start = [], 0
    for box, n in zip(boxes, chunks, strict=True):
        out.append(flat[start : start + box.value.size].reshape(box.value.shape))
        start += n * CHUNK
    return out


def _chunk(key: Array, start: Array, normal: Array, low: Array, high: Array, factor: Array) -> Array:
    """Numbers start..start + CHUNK of a parameter, computed as `jax.random.uniform` and `normal` do."""
    count = start + jax.lax.iota(jnp.uint32, CHUNK)
    # a number's bits come from its 64-bit position in the parameter, whose upper half is 0
    first, second = jnp.split(threefry_2x32((key[0], key[1]), jnp.concatenate([jnp.zeros_like(count), count])), 2)
    mantissa = (first ^ second) >> 9
    unit = jax.lax.bitcast_convert_type(mantissa | jnp.uint32(0x3F800000), jnp.float32) - 1.0  # 1.mantissa - 1
    x = jnp.maximum(low, unit * (high - low) + low)
    return factor * jnp.where(normal > 0, jax.lax.erf_inv(x), x)
