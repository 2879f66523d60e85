"""Every orbax call: states of a running phase, finished weights.

A phase's checkpoints hold the TrainState and, as metadata, the position of the data iterator, so that a run
that was cut off goes on exactly where it was. Weights are parameters only. Orbax writes to a
temporary name and renames, so what is there is whole.
"""

import threading
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from maskdiff_jax.types import TrainState

# orbax mixes up two saves that one process makes at the same time, as phases do that are trained side by side
_ONE_AT_A_TIME = threading.Lock()


def _abstract(tree: Any) -> Any:
    """Shapes, dtypes and shardings of a tree, for orbax to restore onto."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def _broken(path: Path, error: Exception) -> ValueError:
    first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return ValueError(f"the checkpoint {path} is damaged or of another model ({first}); delete it to go on without")


class PhaseCheckpoints:
    """The checkpoints of one phase, newest kept; saving runs in the background. A context manager."""

    def __init__(self, folder: str | Path, keep: int):
        """``folder`` is made when missing; ``keep`` newest steps stay."""
        self._folder = Path(folder).absolute()
        policy = ocp.training.preservation_policies.LatestN(keep)
        self._manager = ocp.training.Checkpointer(
            self._folder, preservation_policy=policy, cleanup_tmp_directories=True
        )

    def save(self, state: TrainState, data: Any) -> None:
        """Saves a state and the data iterator's position (anything json holds)."""
        step = int(jax.device_get(state.step))
        with _ONE_AT_A_TIME:
            saving = self._manager.save_async(step, state._asdict(), custom_metadata={"data": data}, force=True)
            if threading.current_thread() is not threading.main_thread():  # another phase may save at any moment
                saving.result()

    def restore(self, template: TrainState) -> tuple[TrainState, Any] | None:
        """The newest state and data position, on the shardings of ``like``; None where nothing was saved.

        Raises:
          ValueError: the files are damaged or belong to another model.
        """
        latest = self._manager.latest
        if latest is None:
            return None
        try:
            state = self._manager.load(latest.step, _abstract(template._asdict()))
            data = self._manager.metadata(latest.step).custom_metadata["data"]
        except Exception as error:  # orbax raises many kinds
            raise _broken(self._folder / str(latest.step), error) from error
        return TrainState(**state), data

    def __enter__(self) -> "PhaseCheckpoints":
        return self

    def __exit__(self, *exc) -> None:
        """Waits until what was asked to be saved is on disk, also when the run breaks off."""
        self._manager.close()


def save_params(folder: str | Path, params: Any) -> None:
    """Writes a parameter tree; an older one at the same place is replaced once the new one is whole."""
    ocp.save(Path(folder).absolute(), params, overwrite=True)


def load_params(folder: str | Path, template: Any) -> Any:
    """Reads a parameter tree.

    Args:
      folder: as given to ``save_params``.
      template: tree of arrays or ShapeDtypeStructs with the names, shapes and dtypes wanted.

    Raises:
      FileNotFoundError: nothing there.
      ValueError: damaged, or of another model.
    """
    path = Path(folder).absolute()
    if not path.is_dir():
        raise FileNotFoundError(f"there are no weights in {path}: train first, or give the folder that holds them")
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    want = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), template)
    try:
        return ocp.load(path, want)
    except Exception as error:
        raise _broken(path, error) from error
