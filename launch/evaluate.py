"""Scores a trained stage: AP of boxes and masks, IoU of masks in true boxes; draws pictures.

    python launch/evaluate.py --config configs/fewshot.py:shots=5,seed=0
    python launch/evaluate.py --config configs/fewshot.py --config.eval.noise_seed=1 --config.eval.samples=5
    python launch/evaluate.py --config configs/fewshot.py:coco,shots=1 --config.eval.source=voc

Leaves WORKDIR/metrics.json, predictions.json (COCO results) and figures/; with eval.source=voc in WORKDIR/voc/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ml_collections import ConfigDict

from launch import cli


def main(config: ConfigDict, workdir: Path) -> None:
    """Evaluates and prints the table."""
    from maskdiff_jax.evaluation import evaluate
    from maskdiff_jax.reporting import report

    document = evaluate.run(config, workdir)
    print(report.text_table([document]))
    given = {
        k: v
        for k, v in document["metrics"].items()
        if k.startswith("gt_classes_only/") and k.endswith(("/AP", "/AP50"))
    }
    if given:
        print("classes of the truth given: " + ", ".join(f"{k} {v:.1f}" for k, v in given.items()))
    if document["images_per_second"]:
        print(f"{document['images_per_second']:.2f} images per second, loading to masks")
    print(f"evaluated: {evaluate.default_output(config, workdir) / 'metrics.json'}")


if __name__ == "__main__":
    cli.run_trained(main)
