"""The ablations of configs/ablations/ that need no training, on a trained stage 2: guidance, steps, shots, oracles.

    python benchmarks/studies/ablations.py runs/quickstart/fewshot     # -> benchmarks/results/ablations.json

Scores the split "val" of the generated scenes. `--root` is the folder of the dataset, if not the one in the config.
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import measure

# file in configs/ablations/ and its own options; "": the run as it is
ROWS = (
    ("", ""), ("guidance", "guidance=2"), ("guidance", "guidance=5"), ("steps", "steps=1"), ("steps", "steps=4"),
    ("steps", "steps=8"), ("support_none", ""), ("support_other", ""), ("gt_boxes", ""), ("gt_classes", ""),
)  # fmt: skip
KEPT = ("bbox/", "segm/", "mask_iou/", "tightened/bbox/")  # metrics; of AP, AP and AP50 alone


def main() -> None:
    """Evaluates the run once for each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", nargs="?", type=Path, default=measure.ROOT / "runs/quickstart/fewshot")
    parser.add_argument("--root", default="", help="folder of the dataset")
    parser.add_argument("--images", type=int, default=0, help="of the split; 0 = all")
    args = parser.parse_args()
    from launch import cli
    from maskdiff_jax.evaluation import evaluate
    from maskdiff_jax.workdir import read_config

    cli.set_up_jax()
    trained = read_config(args.workdir)
    rows = []
    for name, options in ROWS:
        config = trained.copy_and_resolve_references().unlock()
        config.eval.update(split="val", figures=0, images=args.images, tighten_boxes=not name)
        config.data.root = args.root or config.data.root
        changes = changed_fields(name, options, trained)
        config.update_from_flattened_dict(changes)
        with tempfile.TemporaryDirectory() as output:
            metrics = evaluate.run(config.lock(), args.workdir, output)["metrics"]
        rows.append({"method": config.method, "changes": changes, "metrics": kept(metrics)})
        print(rows[-1], flush=True)
    fields = {"preset": trained.preset, "shots": trained.fewshot.shots, "seed": trained.fewshot.seed, "split": "val"}
    images = {"images": int(metrics["images"])}
    measure.write("ablations", fields | images | {"rows": rows} | measure.machine())


def changed_fields(name: str, options: str, trained) -> dict:
    """The fields, "a.b.c", that an ablation sets; its own options are those of the run."""
    from configs import fewshot
    from maskdiff_jax.workdir import flat

    if not name:
        return {}
    plain = f"{trained.preset},shots={trained.fewshot.shots},paper={str(trained.paper).lower()}"
    variant = importlib.import_module(f"configs.ablations.{name}").get_config(f"{plain},{options}")
    before, after = (flat(c.to_dict()) for c in (fewshot.get_config(plain), variant))
    return {k: v for k, v in after.items() if v != before[k] and k != "base_method"}


def kept(metrics: dict) -> dict:
    """The metrics that tables show, in percent."""
    return {
        k: round(v, 2)
        for k, v in metrics.items()
        if k.startswith(KEPT) and (k.startswith("mask_iou") or k.endswith(("/AP", "/AP50")))
    }


if __name__ == "__main__":
    main()
