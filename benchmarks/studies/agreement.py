"""Do masks stay the same in bfloat16, and in another batch? Measured on the study's trained baseline.

    python benchmarks/studies/masks.py --trainings=baseline && python benchmarks/studies/agreement.py
    # -> benchmarks/results/agreement.json

Every true object of the test split is sampled twice from the same key; the mean IoU of the two masks is printed. The
bars are 0.995 between float32 and bfloat16, and 0.999 between batches.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import numpy as np

from benchmarks import measure
from benchmarks.studies import masks as study_masks
from benchmarks.studies.mask_scores import changed, in_image, iou, sampled
from launch import cli
from maskdiff_jax import checkpoint
from maskdiff_jax.inference import paste
from maskdiff_jax.model import build

SETTINGS = {"5 steps": {"steps": 5, "guidance": 1.0}, "10 steps, w = 5": {"steps": 10, "guidance": 5.0}}
CHANGES = {"bfloat16": {"model.dtype": "bfloat16"}, "one by one": {"eval.mask_batch": 1}}


def main() -> None:
    """Samples, compares, prints, writes the json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    newest = sorted(Path("runs/study_masks").glob("*/baseline-seed0/params"), key=lambda p: p.stat().st_mtime)
    parser.add_argument("--params", type=Path, default=newest[-1] if newest else None)
    args = parser.parse_args()
    if args.params is None:
        print("skipped: there is no trained baseline, run benchmarks/studies/masks.py --trainings=baseline first")
        return
    cli.set_up_jax()
    data = study_masks.open_data(None)
    params = checkpoint.load_params(args.params, jax.eval_shape(build(data.config.model).init, jax.random.key(0)))
    rows = []
    for name, setting in SETTINGS.items():
        ours = masks(data, params, setting)
        for change, fields in CHANGES.items():
            theirs = masks(data._replace(config=changed(data.config, fields)), params, setting)
            values = np.array([iou(a, b) for a, b in zip(ours, theirs, strict=True)])
            same = {"mean_iou": values.mean(), "lowest_iou": values.min(), "share_above_0.995": (values > 0.995).mean()}
            row = {"sampled": name, "against": change} | {k: round(float(v), 5) for k, v in same.items()}
            rows.append(row)
            print(row, flush=True)
    measure.write("agreement", {"objects": len(ours), "rows": rows} | measure.machine())


def masks(data, params, setting) -> list[np.ndarray]:
    """The masks of all true objects, in the order of images and objects."""
    found = {}
    for objects, hw, soft, _ in sampled(data, params, setting):
        for i, size in enumerate(hw):
            around = paste.context_box(objects.box[i], data.config.data.context, size)
            found[int(objects.image_id[i]), int(objects.rank[i])] = in_image(soft[i], around, size)
    return [found[key] for key in sorted(found)]


if __name__ == "__main__":
    main()
