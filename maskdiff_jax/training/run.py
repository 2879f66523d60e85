"""One training run: a stage of ``config`` in a workdir, resumed where it stopped."""

import contextlib
import shutil
import threading
from functools import partial
from pathlib import Path

import jax
from ml_collections import ConfigDict

from maskdiff_jax import checkpoint
from maskdiff_jax.lock import owned
from maskdiff_jax.shared import Shared
from maskdiff_jax.training import interrupts, preflight
from maskdiff_jax.training.loop import Interrupted, run_phase
from maskdiff_jax.training.side_by_side import make_meshes, train_parts
from maskdiff_jax.training.stages import STAGES
from maskdiff_jax.types import PyTree
from maskdiff_jax.workdir import IMPORTED, create, is_trained, read_seconds, weights_folder


def run(config: ConfigDict, workdir: str | Path, shared: Shared | None = None) -> dict[str, float]:
    """Trains the stage that ``config`` describes; what is done already is not done again.

    Leaves ``WORKDIR/config.json``, ``metrics.jsonl``, ``checkpoints/final`` (weights), ``seconds.json`` and, in
    later stages, ``shots.json``.

    Args:
      config: of the run.
      workdir: its folder.
      shared: what this run has in common with others of the same process.

    Returns:
      Seconds per phase.

    Raises:
      FileNotFoundError: the dataset or the weights to start from are missing.
      ValueError: a workdir of another config or of imported weights, a damaged checkpoint, shots that cannot be
        sampled, or that are not those before an interruption.
      FloatingPointError: the loss or a weight is no longer finite.
      OSError: the disk is full, or another process trains in the workdir.
      KeyboardInterrupt: Ctrl-C or SIGTERM; the step was finished and saved.
    """
    workdir = Path(workdir)
    if (workdir / IMPORTED).is_file():  # they would look like a finished run
        raise ValueError(
            f"{workdir} holds imported weights: give --config.init_from={workdir}, and another --workdir to train in"
        )
    # one process of a distributed run writes, and only it holds the lock
    with owned(workdir) if jax.process_index() == 0 else contextlib.nullcontext():
        create(workdir, config)
        if not is_trained(workdir):
            final = weights_folder(workdir)
            checkpoint.save_params(final, _train(config, workdir, shared or Shared()))
            for folder in final.parent.iterdir():  # their optimizer states are of no more use
                if folder != final and folder.is_dir():
                    shutil.rmtree(folder)
    return read_seconds(workdir)


def _train(config: ConfigDict, workdir: Path, shared: Shared) -> PyTree:
    """Runs the phases of a stage; returns its weights."""
    stop = threading.Event()
    following = partial(preflight.following, config)
    train = partial(run_phase, config=config, workdir=workdir, stop=stop, once=shared.once, following=following)
    trains = [partial(train, mesh=mesh) for mesh in make_meshes(config)]
    parts = STAGES[config.stage](config, workdir, shared)
    try:
        with interrupts.deferred(stop):
            return train_parts(parts, trains, stop)
    except Interrupted as error:
        raise KeyboardInterrupt(f"stopped: {error}; the same command resumes from there") from error
