"""From functions of ONE image to a batch of B images, on one device or several."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

DATA = "data"  # the mesh axis over which batches are divided


def per_image(f: Callable[..., Any], in_axes: int | tuple[int | None, ...] = 0) -> Callable[..., Any]:
    """`jax.vmap(f)`; under a mesh each device computes its own images alone.

    Left to the compiler, a loop over a batch that is divided over devices synchronizes all of them in every iteration,
    and sorting or indexing gathers all images on each device. So where a mesh with an axis "data" is in scope
    (`jax.set_mesh`, or `jax.sharding.use_abstract_mesh` while a function is traced), the vmapped function runs under
    `jax.shard_map`. Arguments that B images share must not be differentiated.

    Args:
      f: arrays of one image -> arrays of one image. It must not close over traced arrays: they are arguments.
      in_axes: 0, or for each argument 0 (it has a leading axis B) or None (all images share it), as in `jax.vmap`.

    Returns:
      The function of the batch; every result has a leading axis B. B must be a multiple of the mesh axis.
    """
    batched = jax.vmap(f, in_axes)
    mesh = jax.sharding.get_abstract_mesh()
    if DATA not in mesh.axis_names:
        return batched
    spec = PartitionSpec(DATA)
    specs = tuple(PartitionSpec() if a is None else spec for a in in_axes) if isinstance(in_axes, tuple) else spec
    # the loops inside start from constants, which the check of varying types would refuse
    return jax.shard_map(batched, in_specs=specs, out_specs=spec, check_vma=False)
