"""Blocks of the UNet; their values are checked in tests/parity/test_parity_mask.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from maskdiff_jax.nets import unet_blocks
from tests.compiling import jit
from tests.nets.random_weights import randomized


def test_norm_groups():
    assert [unet_blocks.norm_groups(c) for c in (4, 8, 16, 32, 48, 64, 96, 128, 144, 384, 1024)] == [
        1, 2, 4, 8, 12, 16, 24, 32, 24, 32, 32,
    ]  # fmt: skip


@pytest.mark.parametrize("preset", ["shapes", "shapes_hard", "custom", "coco"])
@pytest.mark.parametrize("groups", [None, 32])
def test_norm_cannot_cancel_the_class(preset, groups):
    """One block of each width that a preset uses: two classes differ, even with one channel per group."""
    u = base.get_config(preset).model.mask.unet
    for features in {u.width * m for m in u.multipliers}:
        if groups and features % groups:
            continue
        for scale_shift in (True, False):
            block = unet_blocks.ResBlock(features, groups, scale_shift, num_classes=2)
            x, emb = jax.random.normal(jax.random.key(0), (1, 4, 4, features)), jnp.ones((1, 16))
            params = randomized(jax.eval_shape(block.init, jax.random.key(0), x, emb, jnp.eye(2)[:1])["params"])
            x, emb = (jnp.concatenate([v, v]) for v in (x, emb))
            one, two = jit(block.apply)({"params": params}, x, emb, jnp.eye(2))
            assert np.abs(one - two).mean() > 0.1
