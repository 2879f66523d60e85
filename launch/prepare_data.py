"""Writes a data set's images and pre-cut objects once, so that training need not cut them out each time.

    python launch/prepare_data.py --config configs/base.py:coco            # writes below config.data.root
    python launch/prepare_data.py --config configs/base.py:custom --check  # says what the data set holds

Every source works without this: shapes are drawn on first use, COCO-format json and images are read
as they are. Where the prepared set exists and was made from the same json and settings it is read
instead; training then starts sooner, and mask-head batches are several times faster.
"""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags
from ml_collections import ConfigDict

from launch import cli

_CHECK = flags.DEFINE_bool("check", False, "Write nothing; read everything, print classes, counts, problems.")
_SPLITS = flags.DEFINE_list("splits", ["train", "pool", "test"], "What to prepare or check.")


def main(config: ConfigDict, workdir: Path) -> None:
    """Prepares or checks each split once; coco and custom draw their shots from the training split."""
    del workdir  # data sets belong to config.data.root, not to a run
    from maskdiff_jax.data import checks, pipeline, sources

    for split in _SPLITS.value:
        if split == "pool" and "train" in _SPLITS.value and not config.data.source.startswith("shapes"):
            continue
        if _CHECK.value:
            progress = functools.partial(sources.progress_line, what=f"reading the {split} images")
            print(checks.describe(*checks.check(config.data, split, progress=progress)))
        else:
            for folder in pipeline.prepare_split(config.data, split):
                print(f"prepared: {folder}")


if __name__ == "__main__":
    cli.run(main)
