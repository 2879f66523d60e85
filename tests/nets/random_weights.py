"""Weights for tests of the UNet that leave no part of it without effect."""

import jax
import jax.numpy as jnp
import numpy as np


def randomized(params, seed=0):
    """Weights with no zeros left, of a size that keeps activations near 1."""
    rng = np.random.default_rng(seed)

    def fill(path, p):
        if p.ndim < 2:
            return jnp.asarray(1.0 * (path[-1].key == "scale") + 0.1 * rng.standard_normal(p.shape), jnp.float32)
        # a class weighs as much as a channel: N(0, 1)
        fan_in = 1 if path[-1].key == "class_table" else np.prod(p.shape[:-1])
        return jnp.asarray(rng.standard_normal(p.shape) / np.sqrt(fan_in), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, params)
