"""What distillation costs in quality: masks of the teacher and its students in ground-truth boxes, by NFE.

    python launch/quickstart.py && python benchmarks/studies/distill.py  # -> benchmarks/results/distill.json
    python benchmarks/studies/distill.py --run=runs/quickstart_3x/fewshot --guidance=2

Takes a finished run of stage 2 on shapes as the teacher, trains configs/distill.py from it and scores every
student. NFE is the number of network evaluations per mask; guidance takes two per step.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import measure
from benchmarks.studies import masks
from benchmarks.studies.mask_scores import score
from configs import distill
from launch import cli
from maskdiff_jax import sharding
from maskdiff_jax.model import build
from maskdiff_jax.training import loop, side_by_side, stages
from maskdiff_jax.workdir import load_weights


def main() -> None:
    """Distils, scores, prints a row as soon as it is known, writes the json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart/fewshot"), help="the teacher")
    parser.add_argument("--guidance", type=float, default=2.0, help="of the teacher")
    parser.add_argument("--steps", type=int, help="of each round of training; default: the config's")
    args = parser.parse_args()
    if not (args.run / "checkpoints/final").is_dir():
        print(f"skipped: {args.run} holds no finished run; make quickstart leaves runs/quickstart")
        return
    cli.set_up_jax()
    config = distill.get_config("shapes").unlock()
    config.init_from = str(args.run)
    config.distill.guidance = args.guidance
    config.distill.rounds = (4, 2, 1)
    config.model.mask.diffusion.steps = 1
    if args.steps:
        config.train.mask.steps = args.steps
    data = masks.open_data(None)
    rows = []

    def scored(who: str, params, steps: int, guidance: float) -> None:
        found, _ = score(data, params, {"steps": steps, "guidance": guidance})
        nfe = steps * (1 if guidance == 1 else 2)
        row = {"who": who, "steps": steps, "guidance": guidance, "nfe": nfe}
        rows.append(row | {k: found[k] for k in ("miou", "miou_base", "miou_novel", "boundary_iou")})
        print(rows[-1], flush=True)

    teacher = load_weights(args.run, build(config.model))
    for steps in (8, 4, 2, 1):
        for guidance in (args.guidance, 1.0):
            scored("teacher", teacher, steps, guidance)

    def train_and_score(phase, params, train):
        params = train(phase, params)
        for steps in (8, 4, 2, 1):
            scored(f"student, {phase.name}", params, steps, 1.0)
        return params

    with tempfile.TemporaryDirectory() as workdir:
        train = partial(loop.run_phase, config=config, workdir=Path(workdir), mesh=sharding.make_mesh(1))
        parts = stages.distill_stage(config, Path(workdir))
        side_by_side.train_parts(parts, [partial(train_and_score, train=train)])
    phase = config.train.mask
    about = {"training_steps": phase.steps, "batch": 2 * phase.batch, "rounds": config.distill.rounds}
    measure.write("distill", about | {"objects": masks.objects(data), "rows": rows} | measure.machine())


if __name__ == "__main__":
    main()
