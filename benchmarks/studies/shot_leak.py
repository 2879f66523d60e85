"""Does a head of K = 1 copy the silhouette of its shot: masks in ground-truth boxes when the shot is the query itself.

    make quickstart && python benchmarks/studies/shot_leak.py     # from runs/quickstart/base -> results/shot_leak.json
    python benchmarks/studies/shot_leak.py --run=FOLDER --seeds=0,1,2,3

A shot shows its object alone, the background removed, so a shot of the query is the answer. In stage 2 with K = 1 the
only shot of a class is its only query; its pose is changed first (`data.transforms.augment_own_shot`) and it is dropped
in a share of the samples (`data.shot_drop`). A head that learned to copy all the same would gain where the shot is the
query, as it is or augmented, and lose where it is another object of the class.

Here the mask head of stage 1 is trained as configs/fewshot.py:shapes,shots=1 trains it, at the preset's length and 16
times as long, and once more with the shot in the query's own pose and never dropped, where a leak is likeliest. Each is
scored on test objects, on the region's own grid, with these shots: the query; the query, augmented; another test object
of its class; the shot that stage 2 trained on; none.
"""

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import numpy as np

from benchmarks import measure
from benchmarks.studies import masks
from benchmarks.studies.mask_scores import Data, changed
from configs import fewshot as stage_2
from launch import cli
from maskdiff_jax.data import mask_batches, pipeline, transforms
from maskdiff_jax.data.fewshot import shots as fewshot
from maskdiff_jax.data.support import make_support_set
from maskdiff_jax.model import build
from maskdiff_jax.workdir import load_weights

SHOTS = ("the query", "the query, augmented", "another object", "the shot of stage 2", "none")
BATCH = 64


class Queries(NamedTuple):
    """n test objects and, by name of SHOTS, the one shot that each is given."""

    region: np.ndarray  # uint8 [n, M, M, 3]
    mask: np.ndarray  # bool [n, M, M]
    classes: np.ndarray  # [n]
    novel: np.ndarray  # bool [n]
    shots: dict[str, np.ndarray]  # uint8 [n, 1, M, M, 4]


def main() -> None:
    """Trains and scores for each seed of the shots, writes the json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart/base"), help="a finished stage 1 on shapes")
    parser.add_argument("--seeds", default="0,1", help="of the K = 1 shots")
    args = parser.parse_args()
    if not (args.run / "checkpoints/final").is_dir():
        print(f"skipped: {args.run} holds no finished run; make quickstart leaves runs/quickstart")
        return
    cli.set_up_jax()
    rows = []
    for seed in (int(s) for s in args.seeds.split(",")):
        config = stage_2.get_config(f"shapes,shots=1,seed={seed}").unlock()
        before = load_weights(args.run, build(config.model))
        support_split, test = (pipeline.open_split(config.data, split) for split in ("support", "val"))
        shots, support = make_support_set(config, support_split)
        dataset = fewshot.shot_dataset(support_split, shots, config.data.shot_unlabeled)
        data = Data(config, pipeline.open_crops(config.data, dataset, "support"), test, support, {})
        queries = crop_queries(data, seed)
        short, long = config.train.mask.steps, 16 * config.train.mask.steps
        heads = {
            "stage 1": partial(load_weights, args.run, build(config.model)),
            f"stage 2, {short} steps": partial(trained, data, seed, short, before),
            f"stage 2, {long} steps": partial(trained, data, seed, long, before),
            f"stage 2, {long} steps, shot not augmented": partial(copying, data, seed, long, before),
        }
        for head, make in heads.items():
            params = make()
            for name in SHOTS:
                rows.append({"head": head, "shot": name, "seed": seed} | score(data, params, queries, name))
                print(rows[-1], flush=True)
    about = {"batch": config.train.mask.batch, "objects": len(queries.novel), "shot_drop": config.data.shot_drop}
    measure.write("shot_leak", about | {"summary": summary(rows), "rows": rows} | measure.machine())


def trained(data: Data, seed: int, steps: int, params: Any) -> Any:
    """The model's parameters after stage 2 of the mask head."""
    *_, (_, _, after) = masks.train(data, seed, steps, 1, params)
    return after


def copying(data: Data, seed: int, steps: int, params: Any) -> Any:
    """The same, with shots in the pose of the query and without leaving any out."""
    config = changed(data.config, {"data.shot_drop": 0.0})
    with mock.patch.object(transforms, "augment_own_shot", lambda shot, mask, rng: shot):
        return trained(data._replace(config=config), seed, steps, params)


def crop_queries(data: Data, seed: int) -> Queries:
    """The objects of the validation scenes with every kind of shot."""
    c, size = data.config, data.config.model.mask.size
    crops = pipeline.open_crops(c.data, data.test, "val")
    table = mask_batches.crop_table(crops, size, c.data.context, 2**28)
    rng = np.random.default_rng(seed)
    n = len(table.classes)
    queries = np.stack([transforms.crop_shot(table.packed(i), table.boxes[i], size, c.data.context) for i in range(n)])
    other = np.empty(n, int)
    for i, k in enumerate(table.classes):
        other[i] = rng.choice(np.setdiff1d(table.members[int(k)], i))
    of_class = data.support.shots[table.classes]
    shots = {
        "the query": queries,
        "the query, augmented": np.stack([transforms.augment_own_shot(x, x[..., 3] >= 128, rng) for x in queries]),
        "another object": queries[other],
        "the shot of stage 2": of_class[:, 0],
        "none": np.zeros_like(queries),
    }
    novel = np.array([data.test.categories[k].novel for k in table.classes])
    given = {name: x[:, None] for name, x in shots.items()}
    return Queries(queries[..., :3], queries[..., 3] >= 128, table.classes, novel, given)


def score(data: Data, params: Any, queries: Queries, name: str) -> dict[str, float]:
    """Mean IoU over all, base and novel objects."""
    segment = jax.jit(build(data.config.model).segment)
    keys = jax.random.split(jax.random.key(0), len(queries.novel))
    values = []
    for start in range(0, len(queries.novel), BATCH):
        rows = np.minimum(np.arange(start, start + BATCH), len(queries.novel) - 1)  # the last one fills the batch
        soft = segment(params, keys[rows], queries.region[rows], queries.shots[name][rows], queries.classes[rows])
        mine, true = np.asarray(soft) >= 0.5, queries.mask[rows]
        iou = (mine & true).sum((1, 2)) / (mine | true).sum((1, 2))
        values.append(iou[: len(queries.novel) - start])
    all_of = np.concatenate(values)
    parts = {"miou": all_of, "miou_base": all_of[~queries.novel], "miou_novel": all_of[queries.novel]}
    return {k: round(float(v.mean()), 4) for k, v in parts.items()}


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the seeds, and the leak: what the query itself gives more than another object of its class."""
    fields, out = ("miou", "miou_base", "miou_novel"), []
    for head in dict.fromkeys(r["head"] for r in rows):
        means = {
            name: {f: statistics.mean(r[f] for r in rows if (r["head"], r["shot"]) == (head, name)) for f in fields}
            for name in SHOTS
        }
        leak = {f: means["the query"][f] - means["another object"][f] for f in fields}
        for name, row in (means | {"leak": leak}).items():
            out.append({"head": head, "shot": name} | {f: round(v, 4) for f, v in row.items()})
    return out


if __name__ == "__main__":
    main()
