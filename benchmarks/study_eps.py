"""Can the paper's own head learn: predicting the noise on shapes, what stands in its way, what helps.

    python benchmarks/study_eps.py                            # every training of TRAININGS, on validation scenes
    python benchmarks/study_eps.py --trainings=edm --steps=600
    python benchmarks/study_eps.py --final                    # configs/base.py:shapes,paper=true as it stands, the
                                                              # paper's samplers, on test scenes

Trainings are compared on validation scenes: `shapes` of another seed, which no training and no table of
docs/mask_head.md sees. Each is trained alone, on base classes, and scored with a cheap form of the paper's sampler.
Beside the mean IoU stands, per t, the mean squared error of the predicted noise and that of three guesses that know
no image: y_0 = 0, y_0 = -1 ("no mask"), and the best of each pixel alone. -> results/study_eps.json.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import study_masks, timing
from benchmarks.mask_scores import Data, changed, score
from benchmarks.study_masks import slug
from configs import base
from launch import cli
from maskdiff_jax import checkpoint, evaluate
from maskdiff_jax import diffusion as df
from maskdiff_jax.data import coco, fewshot, pipeline
from maskdiff_jax.model import build
from maskdiff_jax import stages

TIMES = (0, 9, 49, 99, 199, 299, 399, 499, 599, 699, 799, 899, 999)
CHEAP = {"sampler": "ddpm", "steps": 50, "guidance": 1.0}
D, U, R = "model.mask.diffusion.", "model.mask.unet.", "train.mask."
SMALL = {U + "width": 32, U + "stem_patch": 2, R + "lr": 1e-3, R + "batch": 16, D + "precondition": "none",
         D + "loss_weight": "none", R + "clip_norm": 1.0}  # fmt: skip
TRAININGS: dict[str, dict[str, Any]] = {
    "literal": {},
    "skip": {D + "precondition": "skip"},
    "edm": {D + "precondition": "edm"},
    "edm, min-SNR": {D + "precondition": "edm", D + "loss_weight": "min_snr"},
    "edm, truncated SNR": {D + "precondition": "edm", D + "loss_weight": "truncated_snr"},
    "logit": {D + "precondition": "logit"},
    "logit, min-SNR": {D + "precondition": "logit", D + "loss_weight": "min_snr"},
    "logit, truncated SNR": {D + "precondition": "logit", D + "loss_weight": "truncated_snr"},
    "literal, min-SNR": {D + "loss_weight": "min_snr"},
}


def main() -> None:
    """Trains, scores, prints a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", help="comma-separated names")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--points", type=int, default=2)
    parser.add_argument("--set", default="{}", help="json of config fields to change")
    parser.add_argument("--scenes", type=int, default=32)
    args = parser.parse_args()
    cli.set_up_jax()
    data = open_data("validation", args.scenes)
    for name in args.trainings.split(";") if args.trainings else TRAININGS:
        mine = data._replace(config=changed(data.config, SMALL | TRAININGS[name] | json.loads(args.set)))
        start = time.monotonic()
        for step, loss, params in study_masks.train(mine, 0, args.steps, args.points):
            print(name, step, f"loss {loss:.4f}", f"{time.monotonic() - start:.0f}s", flush=True)
            found, _ = score(mine, params, CHEAP)
            print("   ", {k: found[k] for k in ("miou", "miou_base", "miou_novel")}, f"{time.monotonic() - start:.0f}s", flush=True)
        for row in errors(mine, params):
            print("   ", row, flush=True)
        checkpoint.save_params(Path("runs/study_eps") / slug(name + args.set, args.steps), jax.tree.map(np.asarray, params))


def open_data(split: str, scenes: int) -> Data:
    """Training crops of `shapes`, and the scenes to score on with their shots.

    Args:
      split: "validation" (scenes of another seed) or "test".
      scenes: how many.
    """
    config = base.get_config("shapes,paper=true").unlock()
    config.eval.update(images=0, mask_batch=32)
    records = pipeline.open_split(config.data, "train")
    known = fewshot.restrict(records, stages.class_ids(records, novel=False))
    crops = pipeline.open_crops(config.data, known, "train")
    if split == "validation":
        config.data.shapes_seed = 1
    test = pipeline.open_split(config.data, "test")
    test = test._replace(infos=test.infos[:scenes])
    _, support = evaluate.make_support(config)
    truth = {i.id: [a for a in i.annotations if not a.crowd and a.area >= config.eval.min_gt_area] for i in test.infos}
    return Data(config, crops, test, support, truth)


def errors(data: Data, params: Any) -> list[dict[str, float]]:
    """Per t: eps-MSE of the net and of guesses, and the IoU of the net's estimate of y_0."""
    c, k = data.config, data.config.model.mask
    f = k.diffusion
    head = build(c.model)
    schedule = df.make_schedule(f.schedule, f.timesteps)
    weights = df.loss_weights(schedule, f.loss_weight, f.prediction, gamma=f.snr_gamma, scale=f.signal_scale)
    records = fewshot.restrict(data.test, stages.class_ids(data.test, novel=False))
    crops = pipeline.open_crops(c.data, records, "test")
    loader = pipeline.mask_loader(crops, c.data, slots=k.slots, min_shots=k.min_shots, size=k.size, batch=32, seed=1)
    batches = [next(loader) for _ in range(3)]
    at = jax.jit(head.mask_loss)
    rows = []
    for t in TIMES:
        abar = schedule.alphas_cumprod[t]
        snr = f.signal_scale**2 * abar / (1 - abar)
        found = [at(params, jax.random.key(i), b, jnp.full(32, t)) for i, b in enumerate(batches)]
        mse = np.mean([v for v, _ in found]) / weights[t]
        share = np.mean([b.mask.mean() for b in batches])
        rows.append({
            "t": t, "eps_mse": float(f"{mse:.4g}"), "y0_zero": float(f"{snr:.4g}"),
            "no_mask": float(f"{4 * share * snr:.4g}"), "in_y0": float(f"{mse / snr:.4g}"),
            "iou": round(float(np.mean([m["iou"] for _, m in found])), 4),
        })
    return rows


if __name__ == "__main__":
    main()
