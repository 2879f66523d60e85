"""The rule that gives every golden model its weights: a tensor follows from its name and shape."""

import zlib

import numpy as np


def recipe(name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """Float32 values of the tensor called `name` in the original model; None: it keeps what it has."""
    f = np.float32
    z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(f)
    if name.endswith("num_batches_tracked"):
        return None
    if name.endswith("running_var"):
        return f(0.5) + f(0.5) * np.abs(z)
    if name.endswith("running_mean"):
        return f(0.1) * z
    if len(shape) == 1 and name.endswith(".weight"):
        return f(1) + f(0.1) * z
    if len(shape) == 1 and name.endswith(".bias"):
        return f(0.05) * z
    if len(shape) >= 2:
        return z / f(np.sqrt(np.prod(shape[1:])))
    return None
