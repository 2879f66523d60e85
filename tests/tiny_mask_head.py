"""A mask head on 8 px regions, for tests: the options of a preset, shrunk; objects; parameters without zeros.

Most of a test's time is compiling the UNet. `OneBlock` replaces it in tests of what surrounds the net:
monkeypatch.setattr(mask_heads, "UNet", OneBlock).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from configs import base
from maskdiff_jax.nets.unet import UNet
from maskdiff_jax.nets.unet_blocks import ResBlock, conv
from maskdiff_jax.types import MaskBatch

M = 8


def options(unet=None, diffusion=None, **changes) -> dict:
    """The keyword arguments of a preset, shrunk."""
    config = base.get_config("shapes").model
    given = config.mask.to_dict()
    for field in ("head", "min_shots", "cnn"):  # read by others
        del given[field]
    given |= {"num_classes": 3, "dtype": "float32", "size": M, "slots": 2} | changes
    small = {"width": 8, "multipliers": (1,), "blocks": 1, "attention": (), "heads": 2, "stem_patch": 1}
    given["unet"] |= small | (unet or {})
    given["diffusion"] |= {"timesteps": 100, "steps": 3} | (diffusion or {})
    return given


def objects(n=4, seed=0) -> MaskBatch:
    """Bright squares on noise; the class is where the square lies."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((n, M, M), np.uint8)
    classes = np.arange(n, dtype=np.int32) % 3
    for i, c in enumerate(classes):
        mask[i, 1 : 5 + i % 3, c : c + 5] = 1
    region = (rng.integers(0, 100, (n, M, M, 3)) + 120 * mask[..., None]).astype(np.uint8)
    return MaskBatch(region, mask, rng.integers(0, 256, (n, 2, M, M, 4), dtype=np.uint8), classes)


def randomized(params, seed=0):
    """Every leaf moved away from its start: nothing is zero any more."""
    keys = iter(jax.random.split(jax.random.key(seed), 999))
    return jax.tree.map(lambda p: p + 0.2 * jax.random.normal(next(keys), p.shape), params)


def zero_params(head):
    return jax.tree.map(lambda p: jnp.zeros(p.shape), jax.eval_shape(head.init, jax.random.key(0)))


def some_params(head, seed=0):
    return randomized(zero_params(head), seed)


KEYS = jax.random.split(jax.random.key(7), 4)


class OneBlock(UNet):
    """A `UNet` of the stem, one residual block and the output alone, with the same arguments and names."""

    @nn.compact
    def __call__(self, x, t, classes=None, *, key=None, vectors=None):
        onehot = jax.nn.one_hot(classes, self.num_classes) if self.num_classes and classes is not None else None
        emb = self._embed(t) if vectors is None else None
        h = conv(x.astype(self.dtype), self.width, 3, "stem", dtype=self.dtype)
        options = (self.groups, self.scale_shift, self.num_classes, "", self.dropout, self.dtype)
        own = None if vectors is None else vectors["output1_res"]
        return self._out(ResBlock(self.width, *options, name="output1_res")(h, emb, onehot, key, own))
