"""Sharding over one mesh axis, ``data``: states are on every device, batches are split over the devices."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(devices: int = 0) -> Mesh:
    """A mesh over the first ``devices`` devices, 0 = all.

    Raises:
      ValueError: there are fewer devices.
    """
    have = jax.devices()
    if devices > len(have):
        raise ValueError(f"train.devices={devices}, but there are only {len(have)}: lower it or use 0 for all")
    # Auto: since jax 0.9 make_mesh defaults to Explicit axes, which ordinary array code does not support
    return jax.make_mesh(
        (devices or len(have),), ("data",), axis_types=(AxisType.Auto,), devices=have[: devices or len(have)]
    )


def divide(mesh: Mesh, count: int) -> list[Mesh]:
    """The devices of a mesh, divided among ``count`` meshes of equal size.

    Raises:
      ValueError: they cannot be divided equally.
    """
    if mesh.size % count:
        raise ValueError(
            f"train.side_by_side needs a multiple of {count} devices, but {mesh.size} are used: set "
            "train.side_by_side=False, or train.devices"
        )
    groups = np.split(mesh.devices, count)
    return [Mesh(devices, mesh.axis_names, axis_types=mesh.axis_types) for devices in groups]


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of an array that every device has completely."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Sharding of an array whose first axis is divided over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Host arrays -> device arrays divided over the mesh; the transfer runs in the background."""
    return jax.device_put(batch, split(mesh))
