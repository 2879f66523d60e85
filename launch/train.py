"""Trains one stage, or goes on where it stopped.

    python launch/train.py --config configs/base.py                            # stage 1, embedded shapes
    python launch/train.py --config configs/fewshot.py:shots=5,seed=0          # stage 2, from it
    python launch/train.py --config configs/base.py:coco --workdir=runs/mine   # the paper's recipe
    python launch/train.py --config configs/base.py --config.train.mask.lr=1e-3

Leaves WORKDIR/config.json, metrics.jsonl, tensorboard/ and checkpoints/final.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ml_collections import ConfigDict

from launch import cli


def main(config: ConfigDict, workdir: Path) -> None:
    """Prints the config that runs, trains, says where the result is."""
    from maskdiff_jax import train

    for name, value in train.flat(config.to_dict()).items():
        print(f"{name} = {value!r}")
    seconds = train.run(config, workdir)
    phases = ", ".join(f"{name} {s:.0f} s" for name, s in seconds.items())
    print(f"trained: {workdir} ({phases})")


if __name__ == "__main__":
    cli.run(main)
