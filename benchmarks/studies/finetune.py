"""How many steps the mask head needs in stage 2, by K: mean IoU in ground-truth boxes on validation scenes.

    python benchmarks/studies/finetune.py --base=runs/base-shapes --output=benchmarks/results/study_finetune.json

Starts from a finished stage 1 of the shapes preset. Validation scenes are those of the support split (what K shots are
sampled from) that hold none of the sampled shots: they show base and novel objects, and no table reports them. Only
the mask head is trained, at a constant learning rate, with the batch and rate of configs/fewshot.py.
"""

import argparse
import datetime
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ml_collections import ConfigDict

from benchmarks.studies import mask_scores
from configs import fewshot
from launch import cli

STEPS = (0, 25, 100, 400)


def main() -> None:
    """Trains and scores every combination, prints a table, writes json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=Path("runs/base-shapes"), help="finished stage 1")
    parser.add_argument("--output", type=Path, default=Path("runs/study_finetune.json"))
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5], help="K")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the K shots")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="of the mask head")
    args = parser.parse_args()
    cli.set_up_jax()
    from maskdiff_jax import atomic
    from maskdiff_jax.evaluation import metrics_document

    rows = []
    for shots in args.shots:
        for seed in args.seeds:
            for steps in args.steps:
                row = {"shots": shots, "seed": seed, "steps": steps} | trained_and_scored(args.base, shots, seed, steps)
                rows.append(row)
                print(json.dumps(row), flush=True)
    packages = {p: version(p) for p in ("jax", "flax", "optax", "numpy")}
    result = {"device": metrics_document.device_name(), "versions": packages, "date": datetime.date.today().isoformat()}
    atomic.write_json(args.output, result | {"rows": rows})


def trained_and_scored(base: Path, shots: int, seed: int, steps: int) -> dict[str, Any]:
    """Mean IoU (0..1) of base and novel objects after so many steps, and how often each shot was seen."""
    from maskdiff_jax.training import run as train

    config = configured(base, shots, seed, steps)
    with tempfile.TemporaryDirectory() as folder:
        train.run(config, folder)
        scores, _ = mask_scores.score(*validation(config, Path(folder)), setting(config))
    return {
        "epochs": round(steps * config.train.mask.batch / (shots * config.model.num_classes), 1),
        **{k: scores[k] for k in ("miou", "miou_base", "miou_novel")},
    }


def configured(base: Path, shots: int, seed: int, steps: int) -> ConfigDict:
    """Stage 2 of the shapes preset with the mask head alone."""
    config = fewshot.get_config(f"shapes,shots={shots},seed={seed}")
    config.init_from = str(base)
    config.train.novel.steps = config.train.detector.steps = 0
    config.train.mask.update(steps=steps, schedule="constant")
    return config


def setting(config: ConfigDict) -> dict[str, Any]:
    """Masks are sampled as the preset does."""
    f = config.model.mask.diffusion
    return {k: f[k] for k in ("steps", "guidance", "guidance_interval", "sampler", "averaged")}


def validation(config: ConfigDict, workdir: Path) -> tuple[mask_scores.Data, Any]:
    """The held-out scenes with the support set of the run, and the run's weights."""
    from maskdiff_jax.data import pipeline
    from maskdiff_jax.data.support import make_support_set
    from maskdiff_jax.model import build
    from maskdiff_jax.workdir import load_weights

    support_split = pipeline.open_split(config.data, "support")
    shots, support = make_support_set(config, support_split)
    used = {i for ids in shots.values() for i in ids}
    unseen = [k for k, info in enumerate(support_split.infos) if not used & {a.id for a in info.annotations}]
    read = support_split.read
    dataset = support_split._replace(infos=[support_split.infos[k] for k in unseen], read=lambda i: read(unseen[i]))
    truth = {
        info.id: [a for a in info.annotations if not a.crowd and a.area >= config.eval.min_gt_area]
        for info in dataset.infos
    }
    params = load_weights(workdir, build(config.model))
    return mask_scores.Data(config, None, dataset, support, truth), params


if __name__ == "__main__":
    main()
