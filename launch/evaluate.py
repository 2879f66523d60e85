"""Scores a trained run: AP of boxes and masks, IoU of masks in ground-truth boxes; renders figures.

    python launch/evaluate.py runs/fewshot-shapes-5shot-seed0
    python launch/evaluate.py runs/fewshot-shapes-5shot-seed0 --config.eval.noise_seed=1 --config.eval.samples=5
    python launch/evaluate.py runs/fewshot-coco-1shot-seed0 --config.eval.source=voc
    python launch/evaluate.py /read-only/run --output=results

Takes the folder of the run and reads the config in it. `--config.FIELD=VALUE` changes what trained weights do not
depend on: eval.*, the sampler in model.mask.diffusion.*, data.root, data.test_* and the like. Writes metrics.json,
predictions.json (COCO results) and figures/ into the run's folder; with eval.source=voc into voc/ in it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags
from ml_collections import ConfigDict

from launch import cli

_OUTPUT = flags.DEFINE_string("output", "", "Output folder; default: the run folder, or voc/ in it.")


def main(config: ConfigDict, workdir: Path) -> None:
    """Evaluates and prints the table."""
    from maskdiff_jax.evaluation import evaluate
    from maskdiff_jax.reporting import report

    output = Path(_OUTPUT.value) if _OUTPUT.value else evaluate.default_output(config, workdir)
    document = evaluate.run(config, workdir, output)
    print(report.text_table([document]))
    _print_gt_classes_only(document["metrics"])
    if document["images_per_second"]:
        print(f"{document['images_per_second']:.2f} images per second, from loading to masks")
    print(f"evaluated: {output / 'metrics.json'}")


def _print_gt_classes_only(metrics: dict[str, float]) -> None:
    """The AP and AP50 of ``eval.gt_classes_only``, where they were asked for."""
    prefix = "gt_classes_only/"
    found = {k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)}
    named = [f"{k} {v:.1f}" for k, v in found.items() if k.endswith(("/AP", "/AP50"))]
    if named:
        print(f"only classes in the ground truth of each image: {', '.join(named)}")


if __name__ == "__main__":
    cli.run_trained(main)
