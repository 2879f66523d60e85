"""Which mask head, which sampler: masks in ground-truth boxes, one factor at a time around a baseline.

    python benchmarks/studies/masks.py                    # reduced: shapes, one seed -> results/study_masks_cpu.json
    python benchmarks/studies/masks.py --full             # every question, three seeds -> results/study_masks_gpu.json
    python benchmarks/studies/masks.py --full --root=FOLDER --steps=6000      # on COCO photos, see coco_mini.py

The baseline is the shapes preset: sigmoid cross-entropy, b = 0.5, linear schedule. Base classes are trained,
novel ones have their five shots and nothing else. Each training is scored at every quarter of its steps; its rows
count as converged where the mean IoU rose by less than 0.01 over the last quarter. What is trained and scored stays
in runs/study_masks/, so that an interrupted study resumes, and two processes can share one (--trainings); the
json gathers all that is there. The scores are those of mask_scores.py. Docs: docs/mask_head.md.
"""

import argparse
import contextlib
import json
import math
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from benchmarks.studies import coco_mini
from benchmarks.studies.mask_scores import DEFAULT, Data, baselines, changed, score
from configs import base
from launch import cli
from maskdiff_jax import checkpoint, sharding
from maskdiff_jax.data import pipeline
from maskdiff_jax.data.fewshot import shots as fewshot
from maskdiff_jax.data.support import class_ids, make_support_set
from maskdiff_jax.model import build
from maskdiff_jax.training import loop, optim
from maskdiff_jax.types import TrainState

QUARTERS = 4
CONVERGED = 0.01  # of mean IoU, 0..1
MID = {"steps": 5, "guidance": 1.0}  # where several masks per object are cheap
TWO = {"steps": 2, "guidance": 1.0}
ONE = {"steps": 1, "guidance": 1.0}

# question 1 (prediction, signal scale, schedule), 4 (no diffusion)
TRAININGS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "plain UNet": {"model.mask.head": "plain_unet"},
    "eps": {"model.mask.diffusion.prediction": "eps"},
    "x0": {"model.mask.diffusion.prediction": "x0"},
    "v": {"model.mask.diffusion.prediction": "v"},
    "b=1": {"model.mask.diffusion.signal_scale": 1.0},
    "b=0.2": {"model.mask.diffusion.signal_scale": 0.2},
    "b=0.1": {"model.mask.diffusion.signal_scale": 0.1},
    "cosine": {"model.mask.diffusion.schedule": "cosine"},
    "paper: eps b=1": {"model.mask.diffusion.prediction": "eps", "model.mask.diffusion.signal_scale": 1.0},
}
# questions 7 (jitter, context), 9 (class), 10 (slots)
MORE_TRAININGS = {
    "no class": {"model.mask.class_input": False},
    "K=5 alone": {"model.mask.min_shots": 5},
    "K=1 alone": {"model.mask.slots": 1},
    "no jitter": {"data.box_jitter": 0.0},
    "context 0.08": {"data.context": 0.08},
}
# questions 2, 3, 5, 6, 7, 8: how masks are sampled from the baseline
SAMPLINGS = [
    *({"steps": s} for s in (1, 2, 4, 5, 20, 50)),
    *({"steps": s, "sampler": "dpmpp_2m"} for s in (5, 10)),
    *({"guidance": w} for w in (1.0, 3.0, 5.0)),
    *({"guidance": 5.0, "guidance_interval": g} for g in ((0.0, 0.5), (0.5, 1.0))),
    ONE,
    MID,
    *({"shots": s} for s in ("one", "other class", "none")),
    TWO,
    *({"steps": s, "guidance": 1.0} for s in (3, 20)),
    *(MID | {"samples": n} for n in (3, 5, 9)),
    *(TWO | {"samples": n} for n in (3, 5)),
    *(MID | {"averaged": n} for n in (3, 5)),
    *(MID | {"order": n} for n in (1, 2, 3)),
    *(MID | {"noise": n} for n in (1, 2, 3)),
    *(MID | {"jitter": j} for j in (0.05, 0.1)),
]
SLOW = [{"steps": 250}, {"steps": 1000}, {"steps": 1000, "sampler": "ddpm"}, {"steps": 1000, "guidance": 5.0}]
# how masks are sampled from the other trainings
OTHERS = {
    "plain UNet": [ONE, *(ONE | {"shots": s} for s in ("other class", "none")), ONE | {"jitter": 0.1}],
    "paper: eps b=1": [{}, {"guidance": 5.0}, {"guidance": 1.0}, {"steps": 50, "guidance": 1.0}, MID, TWO, ONE],
    "no class": [{"guidance": 1.0}, MID, TWO, ONE],
    "K=5 alone": [{}, MID, TWO, MID | {"shots": "one"}],
    "K=1 alone": [{}, MID, TWO],
    "no jitter": [{}, MID, *(MID | {"jitter": j} for j in (0.05, 0.1))],
    "context 0.08": [{}, MID, *(MID | {"jitter": j} for j in (0.05, 0.1))],
}


def main() -> None:
    """Trains, scores, prints a row as soon as it is known, writes the json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--root", type=Path, help="folder of COCO photos instead of shapes")
    parser.add_argument("--steps", type=int, default=3000, help="of each training")
    parser.add_argument("--trainings", help="comma-separated names; default: all of this form of the study")
    parser.add_argument("--seeds", help="of the trainings, comma-separated; default: 0, in full 0,1,2")
    parser.add_argument("--guesses", action="store_true", help="only add to the json what looking at no image scores")
    args = parser.parse_args()
    cli.set_up_jax()
    data = open_data(args.root)
    trainings = TRAININGS | MORE_TRAININGS
    names = args.trainings.split(",") if args.trainings else list(trainings if args.full else TRAININGS)
    form = f"{'coco_mini_' if args.root else ''}{'gpu' if args.full else 'cpu'}"
    folder = Path("runs/study_masks") / f"{form}-{args.steps}"
    about = {"objects": objects(data), "guesses": baselines(data)} | measure.machine()
    print(json.dumps(about["guesses"]), flush=True)
    if args.guesses:
        known = json.loads((measure.RESULTS / f"study_masks_{form}.json").read_text())
        measure.write(f"study_masks_{form}", known | {"guesses": about["guesses"]})
        return
    seeds = [int(s) for s in (args.seeds or ("0,1,2" if args.full else "0")).split(",")]
    for seed in seeds:
        for name in names:
            settings = OTHERS.get(name, [{}, {"guidance": 1.0}, MID, TWO, ONE])
            if name == "baseline":
                settings = [{}, *SAMPLINGS, *(SLOW if args.full else [])]
            mine = data._replace(config=changed(data.config, trainings[name]))
            study(mine, name, seed, args.steps, settings, folder)
            # after each training, so that an interrupted study has its json too
            measure.write(f"study_masks_{form}", about | gather(folder, list(trainings)))


def open_data(root: Path | None, changes: dict[str, Any] | None = None) -> Data:
    """Shapes, or COCO photos at the sizes of coco_mini.py; `changes` of config fields as "a.b.c"."""
    config = base.get_config("custom,size=tiny" if root else "shapes").unlock()
    if root:
        photos = coco_mini.NET | coco_mini.STEPS["base"]
        photos |= {"data.novel_classes": coco_mini.NOVEL, "data.root": str(root), "model.num_classes": 80}
        for split, folder in (("train", "train"), ("test", "val")):
            photos[f"data.{split}_json"] = f"annotations/instances_{folder}.json"
            photos[f"data.{split}_images"] = folder
        config = changed(config, photos)
    config = changed(config, changes or {})
    config.eval.images = 0
    dataset = pipeline.open_split(config.data, "train")
    known = fewshot.restrict(dataset, class_ids(dataset.categories, novel=False))
    test = pipeline.open_split(config.data, "val" if config.data.source.startswith("shapes") else "test")
    _, support = make_support_set(config)
    truth = {i.id: [a for a in i.annotations if not a.crowd and a.area >= config.eval.min_gt_area] for i in test.infos}
    return Data(config, pipeline.open_crops(config.data, known, "train"), test, support, truth)


def objects(data: Data) -> dict[str, int]:
    """How many test objects are scored."""
    novel = [data.test.categories[a.class_id].novel for v in data.truth.values() for a in v]
    return {"base": len(novel) - sum(novel), "novel": sum(novel)}


def study(data: Data, name: str, seed: int, steps: int, settings: list[dict[str, Any]], folder: Path) -> None:
    """Trains once and scores every setting, unless `folder` has them already."""
    mine = folder / slug(name, seed)
    about = mine / "training.json"
    model = build(data.config.model)
    if about.is_file():
        like = jax.eval_shape(model.init, jax.random.key(0))
        params = checkpoint.load_params(mine / "params", like)
    else:
        start = time.monotonic()
        curve = []
        for i, _, params in train(data, seed, steps):
            curve.append(score(data, params, MID)[0]["miou"])
            print(f"step {i}: mean IoU {curve[-1]}", flush=True)
        params = jax.tree.map(np.asarray, params)
        checkpoint.save_params(mine / "params", params)
        took = round(time.monotonic() - start, 1)
        about.write_text(json.dumps({"training": name, "seed": seed, "steps": steps, "curve": curve, "train_s": took}))
    done = mine / "rows.json"
    rows = json.loads(done.read_text()) if done.is_file() else []
    for setting in settings:
        asked = json.loads(json.dumps(DEFAULT | setting))
        if any(all(row[k] == v for k, v in asked.items()) for row in rows):
            continue
        start = time.monotonic()
        scores, ious = score(data, params, setting)
        rows.append(asked | scores | {"ious": ious.round(4).tolist(), "score_s": round(time.monotonic() - start, 1)})
        done.write_text(json.dumps(rows))
        print(name, seed, json.dumps(setting), {k: scores[k] for k in ("miou", "miou_base", "miou_novel")}, flush=True)


def slug(name: str, seed: int) -> str:
    """The folder of a training."""
    return f"{re.sub('[^a-z0-9.]+', '-', name.lower()).strip('-')}-seed{seed}"


def train(
    data: Data, seed: int, steps: int, points: int = QUARTERS, params: Any = None, folder: Path | None = None
) -> Iterator[tuple[int, float, Any]]:
    """Trains a mask head alone.

    Args:
      data: the crops and the config are read.
      seed: of the initial weights, the order of the data and the noise.
      points: how many times in `steps`, evenly spaced, the parameters are yielded.
      params: of the model, to start from; default: fresh ones.
      folder: keeps the training's state at the last point, from which a later call resumes; the points before are not
        yielded again, the last one is. None: nothing is kept.

    Yields:
      the step, the mean training loss since the last point (NaN where a call resumes), the model's parameters (EMA).
    """
    c, r, k = data.config, data.config.train.mask, data.config.model.mask
    model = build(c.model)
    params = jax.tree.map(jnp.copy, params) if params else jax.jit(model.init)(jax.random.key(seed))
    labels = optim.label_parameters(params, [("detector/.*", optim.FROZEN), ("mask_head/.*", "mask")])
    keys = ("optimizer", "schedule", "decay_at", "warmup", "weight_decay", "betas", "clip_norm")
    rate = r.lr * r.batch / r.base_batch
    rule = optim.combine({"mask": optim.make_optimizer(steps=steps, lr=rate, **{f: r[f] for f in keys})}, labels)
    mesh = sharding.make_mesh(1)
    trainable, _ = optim.split(params, labels)
    state = TrainState(jnp.zeros((), jnp.int32), params, rule.init(trainable), jax.tree.map(jnp.copy, trainable))
    state, key = jax.device_put((state, jax.random.key(seed)), sharding.replicated(mesh))
    step = loop.make_step(model.mask_loss, rule, labels, {"mask": r.ema}, mesh)
    loader = pipeline.mask_loader(
        data.crops, c.data, slots=k.slots, min_shots=k.min_shots, size=k.size, batch=r.batch, seed=seed
    )
    with contextlib.ExitStack() as stack:
        saved = stack.enter_context(checkpoint.PhaseCheckpoints(folder, keep=1)) if folder else None
        restored = saved.restore(state) if saved else None
        if restored:
            state, position = restored
            loader.set_state(position)
            yield int(state.step), math.nan, optim.overlay(state.params, state.ema)
        seen = []
        for i in range(int(state.step) + 1, steps + 1):
            state, metrics = step(state, sharding.put_batch(next(loader), mesh), key)
            seen.append(metrics["loss"])
            if i % max(steps // points, 1) == 0:
                if saved:
                    saved.save(state, loader.get_state())
                yield i, float(np.mean(jax.device_get(seen))), optim.overlay(state.params, state.ema)
                seen = []


def gather(folder: Path, names: list[str]) -> dict[str, Any]:
    """All that was trained and scored, trainings in the order of `names`; lists of IoUs become their spread."""
    trainings, rows = [], []
    for about in folder.glob("*/training.json"):
        training = json.loads(about.read_text())
        curve = training["curve"]
        training["converged"] = curve[-1] - curve[-2] < CONVERGED
        trainings.append(training)
        scored = about.parent / "rows.json"
        found = json.loads(scored.read_text()) if scored.is_file() else []
        training["spread"] = {what: spread(found, what) for what in ("order", "noise")}
        for row in found:
            del row["ious"]
            rows.append({"training": training["training"], "seed": training["seed"]} | row)

    def place(entry: dict) -> tuple[int, int]:
        return names.index(entry["training"]), entry["seed"]

    return {"trainings": sorted(trainings, key=place), "rows": sorted(rows, key=place)}


def spread(rows: list[dict], what: str) -> float | None:
    """Mean over objects of the standard deviation of IoU over the values of a field, the others as in `MID`."""
    base = json.loads(json.dumps(DEFAULT | MID))
    same = [r["ious"] for r in rows if all(r[k] == v for k, v in base.items() if k != what)]
    return round(float(np.std(same, 0, ddof=1).mean()), 4) if len(same) > 1 else None


if __name__ == "__main__":
    main()
