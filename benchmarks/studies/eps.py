"""Can the paper's own head learn: predicting the noise on shapes, what prevents it, what helps.

    python benchmarks/studies/eps.py                            # every training of TRAININGS, on validation scenes
    python benchmarks/studies/eps.py --trainings=logit --steps=3000 --points=5     # shapes,paper=true unchanged
    python benchmarks/studies/eps.py --trainings=logit --steps=3000 --final        # the paper's samplers, split val

Trainings are compared on validation scenes: `shapes` of another seed, which no training and no table of
docs/mask_head.md sees. Each is trained alone, on base classes, and scored with a cheap form of the paper's sampler.
Beside the mean IoU it lists, per t, the mean squared error of the predicted noise and that of three guesses that know
no image: y_0 = 0, y_0 = -1 ("no mask"), and the best of each pixel alone. -> results/study_eps.json.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from benchmarks.studies import masks
from benchmarks.studies.mask_scores import Data, baselines, changed, score
from benchmarks.studies.masks import slug
from configs import base
from launch import cli
from maskdiff_jax import checkpoint
from maskdiff_jax import diffusion as df
from maskdiff_jax.data import pipeline
from maskdiff_jax.data.fewshot import shots as fewshot
from maskdiff_jax.data.support import class_ids, make_support_set
from maskdiff_jax.model import build

TIMES = (0, 9, 49, 99, 199, 299, 399, 499, 599, 699, 799, 899, 999)
CHEAP = {"sampler": "ddpm", "steps": 50, "guidance": 1.0}
SETTINGS = [
    CHEAP,
    *({"sampler": "ddpm", "steps": s, "guidance": w} for s, w in ((250, 1.0), (250, 5.0), (1000, 1.0), (1000, 5.0))),
    {"steps": 2, "guidance": 1.0},
]
FIELDS = ("miou", "miou_base", "miou_novel", "boundary_iou")
D, U, R = "model.mask.diffusion.", "model.mask.unet.", "train.mask."
# changes to configs/base.py:shapes,paper=true
TRAININGS: dict[str, dict[str, Any]] = {
    "logit": {},
    "literal": {D + "precondition": "none"},
    "literal, no patches": {D + "precondition": "none", U + "stem_patch": 1},
    "skip": {D + "precondition": "skip"},
    "edm": {D + "precondition": "edm"},
    "literal, min-SNR": {D + "precondition": "none", D + "loss_weight": "min_snr"},
    "edm, min-SNR": {D + "precondition": "edm", D + "loss_weight": "min_snr"},
    "edm, truncated SNR": {D + "precondition": "edm", D + "loss_weight": "truncated_snr"},
    "logit, truncated SNR": {D + "loss_weight": "truncated_snr"},
    "literal, width 64": {D + "precondition": "none", U + "width": 64, U + "stem_patch": 1, R + "lr": 5e-4},
    "logit, width 64": {U + "width": 64, U + "stem_patch": 1, R + "lr": 5e-4},
}


def main() -> None:
    """Trains, scores, prints a row as soon as it is known, writes the json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", help="names of TRAININGS, separated by semicolons; default: all")
    parser.add_argument("--steps", type=int, default=600, help="of each training; the preset has 3000")
    parser.add_argument("--points", type=int, default=2, help="how often each is scored")
    parser.add_argument("--scenes", type=int, default=24, help="that are scored")
    parser.add_argument("--final", action="store_true", help="score what was trained on split val, SETTINGS by turns")
    args = parser.parse_args()
    cli.set_up_jax()
    data = open_data("test" if args.final else "validation", args.scenes)
    print(json.dumps(baselines(data)), flush=True)
    for name in args.trainings.split(";") if args.trainings else TRAININGS:
        mine = data._replace(config=changed(data.config, TRAININGS[name]))
        folder = Path("runs/study_eps") / slug(name, args.steps)
        if args.final:
            final(mine, folder, name)
        else:
            study(mine, folder, name, args.steps, args.points)
        measure.write("study_eps", measure.machine() | {"runs": gather(folder.parent)})


def study(data: Data, folder: Path, name: str, steps: int, points: int) -> None:
    """Trains once and stores the learning curve, the errors and the parameters in `folder`."""
    r, start, curve = data.config.train.mask, time.monotonic(), []
    about = {"training": name, "changes": TRAININGS[name], "steps": steps, "batch": r.batch, "lr": r.lr}
    for step, loss, params in masks.train(data, 0, steps, points):
        found, _ = score(data, params, CHEAP)
        curve.append({"step": step, "loss": float(f"{loss:.4g}")} | {k: found[k] for k in FIELDS})
        print(name, curve[-1], f"{time.monotonic() - start:.0f} s", flush=True)
    rows = errors(data, params)
    for row in rows:
        print("   ", row, flush=True)
    about |= {"validation_objects": masks.objects(data), "validation": baselines(data)}
    checkpoint.save_params(folder / "params", jax.tree.map(np.asarray, params))
    (folder / "training.json").write_text(json.dumps(about | {"curve": curve, "errors": rows}))


def final(data: Data, folder: Path, name: str) -> None:
    """Scores a training on the scenes of split val, each setting once; an interrupted run resumes."""
    params = checkpoint.load_params(folder / "params", jax.eval_shape(build(data.config.model).init, jax.random.key(0)))
    path = folder / "test.json"
    rows = json.loads(path.read_text()) if path.is_file() else []
    about = {"scenes": len(data.test.infos), "objects": masks.objects(data), "guesses": baselines(data)}
    for setting in SETTINGS:
        if any(all(r.get(k) == v for k, v in setting.items()) and r["scenes"] == about["scenes"] for r in rows):
            continue
        found, _ = score(data, params, setting)
        rows.append(setting | about | {k: found[k] for k in FIELDS})
        print(name, rows[-1], flush=True)
        path.write_text(json.dumps(rows))


def gather(folder: Path) -> list[dict[str, Any]]:
    """All that was trained and scored, in the order of TRAININGS."""
    runs = []
    for path in folder.glob("*/training.json"):
        test = path.parent / "test.json"
        runs.append(json.loads(path.read_text()) | {"test": json.loads(test.read_text()) if test.is_file() else []})
    names = list(TRAININGS)
    return sorted(runs, key=lambda run: (-run["steps"], names.index(run["training"])))


def open_data(split: str, scenes: int) -> Data:
    """Training crops of `shapes`, and the scenes to score on with their shots.

    Args:
      split: "validation" (scenes of another seed) or "test".
      scenes: how many.
    """
    config = base.get_config("shapes,paper=true").unlock()
    config.eval.update(images=0, mask_batch=32)
    dataset = pipeline.open_split(config.data, "train")
    known = fewshot.restrict(dataset, class_ids(dataset.categories, novel=False))
    crops = pipeline.open_crops(config.data, known, "train")
    if split == "validation":
        config.data.shapes_seed = 1
    test = pipeline.open_split(config.data, "val")
    test = test._replace(infos=test.infos[:scenes])
    _, support = make_support_set(config)
    truth = {i.id: [a for a in i.annotations if not a.crowd and a.area >= config.eval.min_gt_area] for i in test.infos}
    return Data(config, crops, test, support, truth)


def errors(data: Data, params: Any) -> list[dict[str, float]]:
    """Per t: eps-MSE of the net and of guesses, and the IoU of the net's estimate of y_0."""
    c, k = data.config, data.config.model.mask
    f = k.diffusion
    head = build(c.model)
    schedule = df.make_schedule(f.schedule, f.timesteps)
    weights = df.loss_weights(schedule, f.loss_weight, f.prediction, gamma=f.snr_gamma, scale=f.signal_scale)
    dataset = fewshot.restrict(data.test, class_ids(data.test.categories, novel=False))
    crops = pipeline.open_crops(c.data, dataset, "val")
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
        rows.append(
            {
                "t": t,
                "eps_mse": float(f"{mse:.4g}"),
                "y0_zero": float(f"{snr:.4g}"),
                "no_mask": float(f"{4 * share * snr:.4g}"),
                "in_y0": float(f"{mse / snr:.4g}"),
                "iou": round(float(np.mean([m["iou"] for _, m in found])), 4),
            }
        )
    return rows


if __name__ == "__main__":
    main()
