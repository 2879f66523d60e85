"""What a fixed number of RoIAlign samples costs in box AP, on a trained run: adaptive, 1 x 1, 2 x 2, 4 x 4.

    python benchmarks/studies/roi_sampling.py runs/quickstart/base ...   # -> benchmarks/results/roi_sampling.json

Adaptive is detectron2's rule (as many samples as the cell has rows and columns of the map) and what the runs
were trained with; fixed numbers are cheaper on large maps. Only inference changes.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import measure

SAMPLINGS = (0, 1, 2, 4)


def main() -> None:
    """Evaluates the boxes of each run with each number of samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", nargs="*", type=Path, default=[measure.ROOT / "runs/quickstart/base"])
    parser.add_argument("--images", type=int, default=0, help="of the test split; 0 = all")
    args = parser.parse_args()
    from launch import cli
    from maskdiff_jax.workdir import is_trained, read_config

    cli.set_up_jax()
    rows = []
    for workdir in args.workdirs:
        if not is_trained(workdir):
            print(f"skipped: {workdir} holds no finished run; make quickstart leaves runs/quickstart")
            continue
        for sampling in SAMPLINGS:
            config = read_config(workdir).unlock()
            config.eval.images = args.images
            config.model.detector.roi_sampling = sampling
            rows.append({"dataset": config.data.source, "roi_sampling": sampling} | box_ap(config, workdir))
            print(rows[-1], flush=True)
    if rows:
        measure.write("roi_sampling", {"rows": rows} | measure.machine())


def box_ap(config, workdir: Path) -> dict:
    """Box AP and AP50 of the weights in ``workdir``, in percent; no mask is sampled."""
    from maskdiff_jax.evaluation import coco_eval, evaluate

    config.eval.mask_min_score = 2.0  # no score reaches it
    setup = evaluate.open_run(config, workdir)
    predictions = evaluate.predict(config, setup, evaluate.find_objects(config, setup))
    metrics = coco_eval.score(setup.dataset, predictions.results, setup.class_ids).metrics
    return {"images": len(setup.dataset.infos)} | {
        k: round(metrics[k], 2) for k in ("bbox/AP", "bbox/AP50", "bbox/AP75")
    }


if __name__ == "__main__":
    main()
