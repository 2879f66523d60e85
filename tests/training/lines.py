"""A net of three numbers that fits a line: what tests of the loop train."""

import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from maskdiff_jax.training import loop, optim


class Counter:
    """A loader whose batches depend on nothing but its position."""

    def __init__(self):
        self.n, self.closed = 0, False

    def __next__(self):
        self.n += 1
        x = np.random.default_rng(self.n).normal(size=(8, 2)).astype(np.float32)
        return {"x": x, "y": x @ np.array([2.0, -1.0], np.float32)}

    def get_state(self):
        return {"n": self.n}

    def set_state(self, state):
        self.n = state["n"]

    def close(self):
        self.closed = True


def squares(params, key, batch):
    """The squared error of the line, with noise, so that resuming must replay the keys."""
    noise = 0.01 * jax.random.normal(key, batch["y"].shape)
    error = batch["x"] @ params["a"]["w"] + params["b"]["w"] + noise - batch["y"]
    return jnp.mean(error**2), {"error": jnp.mean(jnp.abs(error))}


def phase(steps=12, loss=squares, ema=0.9, loader=None, name="line"):
    """A phase that trains params["a"] and leaves params["b"]."""
    fields = base._phase(steps, batch=8, optimizer="adamw", lr=0.1, weight_decay=0.0, warmup=0)
    fields.ema, fields.schedule = ema, "constant"
    patterns = [("b/.*", optim.FROZEN), ("a/.*", "line")]
    return loop.Phase(name, steps, loss, loader or Counter(), patterns, {"line": fields})


def params():
    """The parameters that a phase starts from."""
    return {"a": {"w": jnp.zeros(2)}, "b": {"w": jnp.full((1,), 0.5)}}
