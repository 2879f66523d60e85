"""Trains one stage, or resumes it where it stopped.

    python launch/train.py --config configs/base.py                            # stage 1, generated shapes
    python launch/train.py --config configs/fewshot.py:shots=5,seed=0          # stage 2, from it
    python launch/train.py --config configs/base.py:coco --workdir=runs/mine   # the paper's recipe
    python launch/train.py --config configs/base.py --config.train.mask.lr=1e-3

Writes WORKDIR/config.json, metrics.jsonl, tensorboard/ and checkpoints/final.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ml_collections import ConfigDict

from launch import cli


def main(config: ConfigDict, workdir: Path) -> None:
    """Prints the config, trains, and prints where the result is."""
    from maskdiff_jax.training import preflight
    from maskdiff_jax.training import run as train
    from maskdiff_jax.workdir import flat, is_trained

    for name, value in flat(config.to_dict()).items():
        print(f"{name} = {value!r}")
    if not is_trained(workdir):  # else there is nothing left to do
        for note in preflight.check(config, workdir):
            print(f"note: {note}")
        for line in preflight.plan(config):
            print(f"plan: {line}")
    if config.stage == "base" and config.weights != "zoo":
        tell_stage_2(config)
    seconds = train.run(config, workdir)
    phases = (
        ", ".join(f"{name} {s:.0f} s" for name, s in seconds.items()) or "every phase has 0 steps: set train.*.steps"
    )
    print(f"trained: {workdir} ({phases})")


def tell_stage_2(config: ConfigDict) -> None:
    """Before hours of stage 1, names each K of the preset's stage 2 that its mask head cannot be used for."""
    usual = (1, 5) if config.preset.startswith("shapes") else (1, 5, 10)
    slots = config.model.mask.slots
    too_many = [str(shots) for shots in usual if shots > slots]
    if too_many and not config.paper:  # the literal mask head is built for one K
        print(
            f"note: stage 2 with {' or '.join(too_many)} shots cannot start from this run, whose mask head has "
            f"model.mask.slots={slots}"
        )


if __name__ == "__main__":
    cli.run(main)
