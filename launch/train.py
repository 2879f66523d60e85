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
    from maskdiff_jax.training import preflight
    from maskdiff_jax.training import run as train
    from maskdiff_jax.workdir import flat, is_trained

    for name, value in flat(config.to_dict()).items():
        print(f"{name} = {value!r}")
    if not is_trained(workdir):  # else there is nothing left to do
        for note in preflight.check(config, workdir):
            print(f"note: {note}")
    if config.stage == "base" and config.weights != "zoo":
        tell_stage_2(config)
    seconds = train.run(config, workdir)
    phases = ", ".join(f"{name} {s:.0f} s" for name, s in seconds.items())
    print(f"trained: {workdir} ({phases})")


def tell_stage_2(config: ConfigDict) -> None:
    """Before hours of stage 1: what stage 2 will have to be given to start from it, for each K of its preset."""
    from configs import fewshot
    from maskdiff_jax.training import compatibility
    from maskdiff_jax.workdir import as_json

    before = as_json(config)
    several = (1, 5) if config.preset.startswith("shapes") else (1, 5, 10)  # shapes have 5 slots
    found: dict[str, list[str]] = {}
    for shots in (config.fewshot.shots,) if config.paper else several:
        after = fewshot.get_config(
            f"{config.preset},shots={shots},paper={str(config.paper).lower()},weights={config.weights}"
        )
        after.model.num_classes = config.model.num_classes  # 0 where the data set says
        for problem in compatibility.stage2_problems(after, before):
            found.setdefault(problem, []).append(str(shots))
    for problem, shots in found.items():
        print(f"note: stage 2 (shots={' or '.join(shots)}) will not start from this run as it is: {problem}")


if __name__ == "__main__":
    cli.run(main)
