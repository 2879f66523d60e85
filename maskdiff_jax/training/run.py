"""One training run: a stage of ``config`` in a workdir, gone on with where it stopped."""

import shutil
import threading
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from maskdiff_jax import checkpoint
from maskdiff_jax.training.loop import run_phase
from maskdiff_jax.training.side_by_side import make_meshes, train_parts
from maskdiff_jax.training.stages import STAGES
from maskdiff_jax.workdir import create, is_trained, read_seconds, weights_folder


def run(config: ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Trains the stage that ``config`` describes; what is done already is not done again.

    Leaves ``WORKDIR/config.json``, ``metrics.jsonl``, ``checkpoints/final`` (weights), ``seconds.json`` and, in
    later stages, ``shots.json``.

    Returns:
      Seconds per phase.

    Raises:
      FileNotFoundError: the data set or the weights to start from are missing.
      ValueError: a workdir of another config, a damaged checkpoint, shots that cannot be drawn.
      FloatingPointError: the loss is no longer finite.
    """
    workdir = Path(workdir)
    create(workdir, config)
    if is_trained(workdir):
        return read_seconds(workdir)
    stop = threading.Event()
    train = partial(run_phase, config=config, workdir=workdir, stop=stop)
    trains = [partial(train, mesh=mesh) for mesh in make_meshes(config)]
    params = train_parts(STAGES[config.stage](config, workdir), trains, stop)
    final = weights_folder(workdir)
    checkpoint.save_params(final, params)
    for folder in final.parent.iterdir():  # their optimizer states are of no more use
        if folder != final:
            shutil.rmtree(folder)
    return read_seconds(workdir)
