"""One training run: a stage of ``config`` in a workdir, gone on with where it stopped."""

import json
import shutil
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from maskdiff_jax import checkpoint, sharding
from maskdiff_jax.training.compatibility import DRAWING, flat
from maskdiff_jax.training.loop import read_seconds, run_phase
from maskdiff_jax.training.stages import STAGES


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
    final = workdir / "checkpoints" / "final"
    claim(config, workdir)
    if final.is_dir():
        return read_seconds(workdir)
    mesh = sharding.make_mesh(config.train.devices)
    params = STAGES[config.stage](config, workdir, partial(run_phase, config=config, workdir=workdir, mesh=mesh))
    checkpoint.save_params(final, params)
    for folder in (workdir / "checkpoints").iterdir():  # their optimizer states are of no more use
        if folder != final:
            shutil.rmtree(folder)
    return read_seconds(workdir)


def claim(config: ConfigDict, workdir: Path, *, must_exist: bool = False) -> None:
    """Writes the config into the workdir, or checks that it is the one already there.

    Raises:
      FileNotFoundError: ``must_exist`` and nobody trained there.
      ValueError: the workdir holds a run of another config; names the fields.
    """
    if must_exist and not (workdir / "config.json").is_file():
        raise FileNotFoundError(f"{workdir} holds no trained run: train first, or give its folder with --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    path, text = workdir / "config.json", config.to_json_best_effort(indent=1)
    if path.exists() and (must_exist or (workdir / "checkpoints").exists()):  # else nothing was trained yet
        ours, theirs = flat(json.loads(text)), flat(json.loads(path.read_text()))
        differ = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
        # how masks are drawn and results looked at may change without another training
        free = {"train.devices", *(f"model.mask.diffusion.{k}" for k in DRAWING)}
        others = ("eval.", "distill.")
        if config.stage == "distill":
            free, others = free - {"model.mask.diffusion.spacing"}, ("eval.",)  # the steps that are taught
        differ = [k for k in differ if not k.startswith(others) and k not in free]
        if differ:
            raise ValueError(
                f"{workdir} holds a run of another config (different: {', '.join(differ[:8])}): "
                "give another --workdir, or delete it"
            )
    new = path.with_suffix(".partial")
    new.write_text(text)
    new.rename(path)
