"""Samples K-shot sets as TFA does and writes them in TFA's file format.

    python launch/shots.py --config configs/fewshot.py:coco --config.fewshot.sampler=imtfa --output=datasets/coco/imtfa
    python launch/train.py --config configs/fewshot.py:coco,shots=1,seed=4 \
        --config.fewshot.shots_from=datasets/coco/imtfa

Writes OUTPUT/seed{s}/full_box_{K}shot_{class}_trainval.json for every class, for seeds 0 to 9 and for every K that
fewshot.sampler (tfa or imtfa) has. Training needs no such files: without fewshot.shots_from it samples the same shots.
"""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags
from ml_collections import ConfigDict

from launch import cli

_OUTPUT = flags.DEFINE_string("output", "", "Output folder; it gets one folder per seed.")
_SEEDS = flags.DEFINE_list("seeds", [str(s) for s in range(10)], "Seeds to sample.")


def main(config: ConfigDict, workdir: Path) -> None:
    """Samples from the annotations that config.data names and prints where the files are."""
    del workdir  # shots belong to a dataset, not to a run
    from maskdiff_jax.data import sources
    from maskdiff_jax.data.fewshot import tfa
    from maskdiff_jax.data.formats import coco_splits
    from maskdiff_jax.data.synthetic import scenes

    if not _OUTPUT.value:
        raise ValueError("no output folder given: use --output=FOLDER")
    if not all(s.isdecimal() for s in _SEEDS.value):
        raise ValueError(f"--seeds={','.join(_SEEDS.value)} must be whole numbers, e.g. --seeds=0,1,2")
    if config.data.source in scenes.LEVELS:
        raise ValueError("the generated scenes have no json to sample from: use a config of coco or custom")
    json_path, _ = sources.files(config.data, "support")
    if config.data.counts:
        coco_splits.check_counts(json_path, config.data.counts, "train")
    progress = functools.partial(sources.progress_line, what="sampling, seeds")
    seeds = [int(s) for s in _SEEDS.value]
    count = tfa.write(json_path, _OUTPUT.value, seeds, config.fewshot.sampler, progress=progress)
    print(f"wrote {count} files to {_OUTPUT.value}")


if __name__ == "__main__":
    cli.run(main)
