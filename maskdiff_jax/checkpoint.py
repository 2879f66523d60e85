"""Every orbax call: the states of a running phase, and finished weights.

A phase's checkpoints hold the TrainState and, as metadata, the position of the data iterator, so that a run resumes
exactly where it stopped. Weights are parameters only. Both carry the shape and the CRC-32 of every array, which are
compared when they are read. Orbax writes to a temporary name and renames, so a checkpoint is complete or absent.
"""

import shutil
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from maskdiff_jax import atomic
from maskdiff_jax.types import TrainState

# Orbax 0.12 numbers the saves of a process and mixes up two that overlap: one waits for the other's signals, minutes
# later "Timeout waiting for key". Phases that are trained side by side, in separate threads, therefore save one at
# a time and wait for the end.
_ORBAX = threading.Lock()
NAMED = 4  # arrays that a message names

# name of an array -> its type and shape, "float32[3,4]", and the CRC-32 of its bytes
Contents = dict[str, tuple[str, int]]


class PhaseCheckpoints:
    """The checkpoints of one phase, newest kept; the main thread saves in the background. A context manager."""

    def __init__(self, folder: str | Path, keep: int):
        """``folder`` is made when missing; the ``keep`` newest steps stay."""
        self._folder = Path(folder).absolute()
        policy = ocp.training.preservation_policies.LatestN(keep)
        self._manager = ocp.training.Checkpointer(
            self._folder, preservation_policy=policy, cleanup_tmp_directories=True
        )

    def save(self, state: TrainState, data: Any) -> None:
        """Saves a state and the data iterator's position (anything json holds).

        Raises:
          FloatingPointError: the state has a NaN or an infinity; nothing is saved, so that an earlier checkpoint stays
            the newest.
          OSError: this one or an earlier one could not be written, because the disk is full for example.
        """
        step, tree = int(jax.device_get(state.step)), state._asdict()
        contents = _contents(tree, f"the state after step {step} of phase '{self._folder.name}'")
        try:
            with _ORBAX:
                self._manager.save_async(step, tree, custom_metadata={"data": data, "contents": contents}, force=True)
                if threading.current_thread() is not threading.main_thread():
                    self._manager.wait()
        except Exception as error:  # orbax raises many kinds
            raise _cannot_save(self._folder, error) from error

    def restore(self, template: TrainState) -> tuple[TrainState, Any] | None:
        """The newest state and data position, with the shardings of ``template``; None if nothing was saved.

        Raises:
          ValueError: the files are damaged, or of another model; names what differs.
        """
        latest = self._manager.latest
        if latest is None:
            return None
        path, want = self._folder / str(latest.step), template._asdict()
        fix = (
            "move that folder away: then the same command resumes from the checkpoint before it, or starts this "
            "phase again"
        )
        try:
            metadata = self._manager.metadata(latest.step).custom_metadata
            contents, data = metadata["contents"], metadata["data"]
        except Exception as error:
            raise _damaged(path, _reason(error), fix) from error
        _check_model(path, want, contents)
        try:
            with _ORBAX:
                tree = self._manager.load(latest.step, jax.tree.map(_abstract, want))
        except Exception as error:
            raise _damaged(path, _reason(error), fix) from error
        _check_sums(path, tree, contents, fix)
        return TrainState(**tree), data

    def __enter__(self) -> "PhaseCheckpoints":
        return self

    def __exit__(self, kind: type | None, *exc) -> None:
        """Waits until everything is on the disk, also if the run stops early."""
        try:
            self._manager.close()
        except Exception as error:
            if kind is None:  # else that error is the one to show
                raise _cannot_save(self._folder, error) from error


MARKER = "commit_success.txt"  # of orbax: that it is there says that the checkpoint is whole


def save_params(folder: str | Path, params: Any) -> None:
    """Writes a parameter tree; an older one in the same folder is replaced when the new one is complete.

    Raises:
      FloatingPointError: a parameter is NaN or infinite; nothing is written.
      OSError: the disk is full, or the folder cannot be written to; nothing is left behind.
    """
    folder = Path(folder).absolute()
    new, old = (folder.with_name(f"{folder.name}.{name}") for name in ("new", "old"))
    contents = _contents(params, f"the weights for {folder}")
    try:
        ocp.save(new, params, overwrite=True, custom_metadata={"contents": contents})
        if (new / MARKER).is_file():
            (new / MARKER).write_text("whole\n")  # orbax writes this machine's path, and exports travel
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except Exception as error:
        for partial in folder.parent.glob(f"{new.name}*"):
            shutil.rmtree(partial, ignore_errors=True)
        raise _cannot_save(folder, error) from error
    shutil.rmtree(old, ignore_errors=True)


def load_params(folder: str | Path, template: Any) -> Any:
    """Reads a parameter tree.

    Args:
      folder: as given to ``save_params``.
      template: tree of arrays or ShapeDtypeStructs with the names, shapes and dtypes wanted.

    Raises: FileNotFoundError: nothing there.
      ValueError: the weights are damaged, or of another model; names the parameters that differ.
    """
    path = Path(folder).absolute()
    if not path.is_dir():
        raise FileNotFoundError(f"there are no weights in {path}: train first, or give the folder of a trained run")
    fix = "restore the folder from a backup, or train that run again in another folder"
    try:
        contents = dict(ocp.metadata(path).custom_metadata or {}).get("contents")
    except Exception as error:
        raise _damaged(path, _reason(error), fix) from error
    if contents is None:
        print(f"note: {path} has no checksums, because an older version wrote it", file=sys.stderr)
    else:
        _check_model(path, template, contents)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    try:
        params = ocp.load(path, jax.tree.map(lambda x: _abstract(x, sharding), template))
    except Exception as error:
        raise _damaged(path, _reason(error), fix) from error
    if contents is not None:
        _check_sums(path, params, contents, fix)
    return params


def _abstract(x: Any, sharding: Any = None) -> jax.ShapeDtypeStruct:
    """Shape, dtype and sharding of an array, for orbax to restore onto."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding)


def _named(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def _kind(x: Any) -> str:
    return f"{np.dtype(x.dtype).name}[{','.join(map(str, x.shape))}]"


def _contents(tree: Any, what: str) -> Contents:
    """Types, shapes and checksums of a tree of arrays.

    Raises:
      FloatingPointError: an array is not finite; names the array and ``what`` it belongs to.
    """
    contents = {}
    for name, x in _named(tree).items():
        x = np.asarray(jax.device_get(x))
        if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
            raise FloatingPointError(
                f"{what} cannot be saved: {name} has a NaN or an infinity. Earlier checkpoints are kept. Train into "
                "another --workdir with a lower learning rate, or with clip_norm"
            )
        contents[name] = (_kind(x), _checksum(x))
    return contents


def _checksum(x: np.ndarray) -> int:
    """CRC-32 of the bytes of an array."""
    return zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8))


def _check_model(path: Path, template: Any, contents: Contents) -> None:
    """Raises ValueError if names, types or shapes differ from those of the template; names them."""
    ours, theirs = {k: _kind(x) for k, x in _named(template).items()}, {k: v[0] for k, v in contents.items()}
    differ = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
    if differ:
        named = [f"{k} is {theirs.get(k, 'missing')} there, {ours.get(k, 'missing')} here" for k in differ[:NAMED]]
        more = f" and {len(differ) - NAMED} more" if len(differ) > NAMED else ""
        raise ValueError(
            f"{path} is of another model ({'; '.join(named)}{more}): use the config that it was trained with"
        )


def _check_sums(path: Path, tree: Any, contents: Contents, fix: str) -> None:
    """Raises ValueError if the bytes of an array differ from the saved ones."""
    for name, x in _named(tree).items():
        if _checksum(np.asarray(jax.device_get(x))) != contents[name][1]:
            raise _damaged(path, f"the checksum of {name} is wrong", fix)


def _damaged(path: Path, reason: str, fix: str) -> ValueError:
    return ValueError(f"{path} is damaged ({reason}): {fix}")


def _cannot_save(path: Path, error: Exception) -> OSError:
    """An error of orbax as one sentence; tensorstore reports a full disk only in its text."""
    full = "No space left" in str(error) or "quota exceeded" in str(error)
    return atomic.cannot_write(path, error, full=full)


def _reason(error: Exception) -> str:
    """The reason of an orbax error in a few words."""
    text = str(error).strip()
    if "TensorStore" in text:  # its first line is indices and addresses
        return "an array cannot be read: its file is missing, cut off or damaged"
    return text.splitlines()[0][:200] if text else type(error).__name__
