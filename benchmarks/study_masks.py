"""Which mask head, which sampler: masks in true boxes, one factor at a time around a centre.

    python benchmarks/study_masks.py                    # reduced: shapes, one seed -> results/study_masks_cpu.json
    python benchmarks/study_masks.py --full             # every question, three seeds -> results/study_masks_gpu.json
    python benchmarks/study_masks.py --full --root=FOLDER --steps=6000      # on COCO photos, see coco_mini.py

The centre is the shapes preset: sigmoid cross-entropy, b = 0.5, linear schedule. Base classes are trained,
novel ones have their five shots and nothing else. Each training is scored at every quarter of its steps; its rows
count as converged where the mean IoU rose by less than 0.01 over the last quarter. Scores: mean IoU, boundary IoU
[Cheng et al. 2021], share of objects above each IoU of 0.50..0.95. Docs: docs/mask_head.md.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageFilter

from benchmarks import coco_mini, timing
from configs import base
from launch import cli
from maskdiff_jax import evaluate, loop, optim, segment, sharding, stages
from maskdiff_jax.data import coco, fewshot, pipeline
from maskdiff_jax.model import build
from maskdiff_jax.types import Support, TrainState

QUARTERS = 4
CONVERGED = 0.01  # of mean IoU, 0..1
THRESHOLDS = np.arange(0.5, 1.0, 0.05)

# question 1 (prediction, signal scale, schedule), 4 (no diffusion), 7 (jitter, context)
TRAININGS: dict[str, dict[str, Any]] = {
    "centre": {},
    "eps": {"model.mask.diffusion.prediction": "eps"},
    "x0": {"model.mask.diffusion.prediction": "x0"},
    "v": {"model.mask.diffusion.prediction": "v"},
    "b=1": {"model.mask.diffusion.signal_scale": 1.0},
    "b=0.2": {"model.mask.diffusion.signal_scale": 0.2},
    "b=0.1": {"model.mask.diffusion.signal_scale": 0.1},
    "cosine": {"model.mask.diffusion.schedule": "cosine"},
    "paper (eps, b=1)": {"model.mask.diffusion.prediction": "eps", "model.mask.diffusion.signal_scale": 1.0},
    "plain UNet": {"model.mask.head": "plain_unet"},
}
ONLY_FULL = {
    "no jitter": {"data.box_jitter": 0.0},
    "context 0.1": {"data.context": 0.1},
}
DEFAULT = {"steps": 10, "guidance": 2.0, "samples": 1, "shots": "real", "jitter": 0.0, "sampler": "ddim"}
# questions 2, 3, 5, 6: how the centre is drawn from
SAMPLINGS = [
    *({"steps": s} for s in (1, 2, 4, 5, 20, 50)),
    *({"steps": s, "sampler": "dpmpp_2m"} for s in (5, 10)),
    *({"guidance": w} for w in (1.0, 3.0, 5.0)),
    {"steps": 1, "guidance": 1.0},
    *({"shots": s} for s in ("other class", "none")),
    *({"samples": n} for n in (3, 5, 9)),
    *({"jitter": j} for j in (0.05, 0.1)),
]
SLOW = [{"steps": 250}, {"steps": 1000}, {"steps": 1000, "sampler": "ddpm"}, {"steps": 1000, "guidance": 5.0}]


class Data(NamedTuple):
    """What every training and every scoring reads."""

    config: ConfigDict
    crops: Any  # base objects of the training split
    test: coco.Records
    support: Support
    truth: dict[int, list]  # image id -> annotations


def main() -> None:
    """Trains, scores, prints a row as soon as it is known, writes the json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--root", type=Path, help="folder of COCO photos instead of shapes")
    parser.add_argument("--steps", type=int, default=2400, help="of each training")
    parser.add_argument("--trainings", help="comma-separated names; default: all")
    args = parser.parse_args()
    cli.set_up_jax()
    data = open_data(args.root)
    trainings = TRAININGS | (ONLY_FULL if args.full else {})
    if args.trainings:
        trainings = {name: trainings[name] for name in args.trainings.split(",")}
    name = f"study_masks_{'coco_mini_' if args.root else ''}{'gpu' if args.full else 'cpu'}"
    rows: list[dict] = []
    curves: dict[str, list[float]] = {}
    for seed in range(3 if args.full else 1):
        for training, changes in trainings.items():
            config = changed(data.config, changes)
            mine = data._replace(config=config)
            start = time.monotonic()
            params, curve = train(mine, seed, args.steps)
            curves[f"{training}, seed {seed}"] = curve
            about = {"training": training, "seed": seed, "converged": bool(curve[-1] - curve[-2] < CONVERGED)}
            about["train_s"] = round(time.monotonic() - start, 1)
            settings = [{}, {"steps": 1, "guidance": 1.0}]
            if training == "centre":
                settings = [{}, *SAMPLINGS, *(SLOW if args.full else [])]
            elif training == "plain UNet":
                settings = [{"steps": 1, "guidance": 1.0}]
            elif training.startswith("paper"):
                settings = [{}, {"guidance": 5.0}, {"guidance": 1.0}, {"steps": 50}, {"steps": 1, "guidance": 1.0}]
            elif training in ONLY_FULL:
                settings = [{}, {"jitter": 0.05}, {"jitter": 0.1}]
            for setting in settings:
                rows.append(about | DEFAULT | setting | score(mine, params, DEFAULT | setting))
                print(json.dumps({k: v for k, v in rows[-1].items() if k not in ("curve", "calibration")}), flush=True)
            # after each training, so that an interrupted study keeps what it has
            result = {"steps": args.steps, "rows": rows, "curves": curves, "objects": objects(data)}
            timing.write(name, result | timing.machine())


def open_data(root: Path | None) -> Data:
    """Shapes, or COCO photos at the sizes of coco_mini.py."""
    config = base.get_config("custom" if root else "shapes").unlock()
    if root:
        changes = coco_mini.NET | coco_mini.SMALL | coco_mini.STEPS["base"]
        changes |= {"data.novel_classes": coco_mini.NOVEL, "data.root": str(root), "model.num_classes": 80}
        for split, folder in (("train", "train"), ("test", "val")):
            changes[f"data.{split}_json"] = f"annotations/instances_{folder}.json"
            changes[f"data.{split}_images"] = folder
        config = changed(config, changes)
    config.eval.images = 0
    records = pipeline.open_split(config.data, "train")
    known = fewshot.restrict(records, stages.class_ids(records, novel=False))
    test = pipeline.open_split(config.data, "test")
    _, support = evaluate.make_support(config)
    truth = {
        i.id: [a for a in i.annotations if not a.crowd and a.area >= config.eval.min_gt_area] for i in test.infos
    }
    return Data(config, pipeline.open_crops(config.data, known, "train"), test, support, truth)


def changed(config: ConfigDict, changes: dict[str, Any]) -> ConfigDict:
    """A copy with fields replaced; names as "a.b.c"."""
    copy = ConfigDict(config.to_dict())
    copy.update_from_flattened_dict(changes)
    return copy


def objects(data: Data) -> dict[str, int]:
    """How many test objects are scored."""
    novel = [data.test.categories[a.class_id].novel for v in data.truth.values() for a in v]
    return {"base": len(novel) - sum(novel), "novel": sum(novel)}


def train(data: Data, seed: int, steps: int) -> tuple[Any, list[float]]:
    """The mask head's parameters (running mean), and its mean IoU over all classes after each quarter."""
    c, r, k = data.config, data.config.train.mask, data.config.model.mask
    model = build(c.model)
    params = jax.jit(model.init)(jax.random.key(seed))
    labels = optim.label_parameters(params, [("detector/.*", optim.FROZEN), ("mask_head/.*", "mask")])
    keys = ("optimizer", "lr", "schedule", "decay_at", "warmup", "weight_decay", "betas", "clip_norm")
    rule = optim.combine({"mask": optim.make_optimizer(steps=steps, **{f: r[f] for f in keys})}, labels)
    mesh = sharding.make_mesh(1)
    trainable, _ = optim.split(params, labels)
    state = TrainState(jnp.zeros((), jnp.int32), params, rule.init(trainable), jax.tree.map(jnp.copy, trainable))
    state, key = jax.device_put((state, jax.random.key(seed)), sharding.replicated(mesh))
    step = loop.make_step(model.mask_loss, rule, labels, {"mask": r.ema}, mesh)
    loader = pipeline.mask_loader(
        data.crops, c.data, slots=k.slots, min_shots=k.min_shots, size=k.size, batch=r.batch, seed=seed
    )
    curve = []
    for i in range(1, steps + 1):
        state, _ = step(state, sharding.put_batch(next(loader), mesh), key)
        if i % max(steps // QUARTERS, 1) == 0:
            mean = optim.overlay(state.params, state.ema)
            curve.append(round(score(data, mean, DEFAULT)["miou"], 4))
    return jax.tree.map(np.asarray, optim.overlay(state.params, state.ema)), curve


def score(data: Data, params: Any, setting: dict[str, Any]) -> dict[str, Any]:
    """Draws a mask for every true object (class and shots given) and compares it with the truth."""
    changes = {f"model.mask.diffusion.{k}": setting[k] for k in ("steps", "guidance", "sampler")}
    c = changed(data.config, changes)
    model, support = build(c.model), shown(data.support, setting["shots"])
    canvas = segment.canvas_of([(i.height, i.width) for i in data.test.infos])
    segmenter = segment.make_segmenter(
        model, support, size=c.model.mask.size, context=c.data.context, top_n=1, mask_batches=(c.eval.mask_batch,),
        canvas=canvas, threshold=0.5, samples=setting["samples"], noise_seed=0,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    boxes = {}
    for image_id, annotations in data.truth.items():
        if annotations:
            tight = np.array([a.box for a in annotations], np.float64)
            moved = loosened(tight, setting["jitter"], rng)
            boxes[image_id] = moved.astype(np.float32), np.array([a.class_id for a in annotations])
    batches = pipeline.eval_batches(data.test, c.data, batch=c.eval.batch)
    stream = segment.true_objects(segmenter, batches, boxes)
    ious, edges, novel, spread = [], [], [], []
    bins = np.zeros((10, 3))  # by predicted probability: pixels, sum of predictions, sum of truth
    start = time.monotonic()
    for found, hw, soft, pasted in segment.draw_masks(segmenter, params, stream):
        for i, (h, w) in enumerate(hw):
            a = data.truth[int(found.image_id[i])][found.rank[i]]
            true, drawn = coco.decode_mask(a.rle).astype(bool), pasted[i, :h, :w]
            ious.append(iou(true, drawn))
            edges.append(iou(edge(true), edge(drawn)))
            novel.append(data.test.categories[a.class_id].novel)
            spread.append(float((4 * soft[i] * (1 - soft[i])).mean()))
            count_pixels(bins, soft[i], true, found.box[i])
    values, edges, novel = np.array(ious), np.array(edges), np.array(novel)
    return {
        "miou": float(values.mean()),
        "miou_base": float(values[~novel].mean()),
        "miou_novel": float(values[novel].mean()) if novel.any() else None,
        "boundary_iou": float(edges.mean()),
        "curve": [round(float((values > t).mean()), 4) for t in THRESHOLDS],
        # does an unsure mask tell that it is wrong? rank correlation of the mean of 4 p (1 - p) with 1 - IoU
        "uncertainty_vs_error": rank_correlation(np.array(spread), 1 - values),
        "calibration": [[round(v, 4) for v in (p / n, t / n, n / bins[:, 0].sum())] for n, p, t in bins if n],
        "score_s": round(time.monotonic() - start, 1),
    }


def count_pixels(bins: np.ndarray, soft: np.ndarray, true: np.ndarray, box: np.ndarray) -> None:
    """Adds a soft mask's pixels [M, M] to the bins of their value, beside the truth in the same region."""
    area = (*np.maximum(box[:2], 0), *np.minimum(box[2:], true.shape[::-1]))
    region = Image.fromarray(true.astype(np.uint8) * 255).resize(soft.shape, Image.Resampling.BILINEAR, box=area)
    which = np.minimum((soft * len(bins)).astype(int), len(bins) - 1)
    for column, values in enumerate((np.ones_like(soft), soft, np.asarray(region) >= 128)):
        bins[:, column] += np.bincount(which.ravel(), np.asarray(values, float).ravel(), len(bins))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; ties in the order they come."""
    ranks = [np.argsort(np.argsort(v)) for v in (a, b)]
    return round(float(np.corrcoef(*ranks)[0, 1]), 3)


def shown(support: Support, what: str) -> Support:
    """The Support bank as it is, every class with another's shots, or without any."""
    if what == "none":
        return Support(np.zeros_like(support.shots), np.zeros_like(support.count))
    if what == "other class":
        have = np.flatnonzero(support.count)
        shots = support.shots.copy()
        shots[have] = support.shots[np.roll(have, 1)]
        return support._replace(shots=shots)
    return support


def loosened(boxes: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Each side moved by up to `amount` of the box's side; not clipped to the image."""
    size = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return np.maximum(boxes + amount * rng.uniform(-1, 1, boxes.shape) * size, 0.0)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two bool masks; two empty ones agree."""
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def edge(mask: np.ndarray, share: float = 0.02) -> np.ndarray:
    """The pixels of a mask that lie within `share` of the image's diagonal from its outline."""
    reach = max(1, round(share * float(np.hypot(*mask.shape))))
    # beyond the image is background
    padded = Image.fromarray(np.pad(mask, reach).astype(np.uint8) * 255)
    for _ in range(reach):
        padded = padded.filter(ImageFilter.MinFilter(3))
    inner = np.asarray(padded)[reach:-reach, reach:-reach] > 0
    return mask & ~inner


if __name__ == "__main__":
    main()
