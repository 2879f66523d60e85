"""Writes a dataset's images and cropped objects once, so that training need not crop them in every step.

    python launch/prepare_data.py --config configs/base.py:coco            # writes below config.data.root
    python launch/prepare_data.py --config configs/base.py:custom --check  # prints the contents and the problems
    python launch/prepare_data.py --config configs/base.py:coco --check --config.eval.source=voc  # VOC's as well
    python launch/prepare_data.py --convert=photos --output=datasets/custom  # LabelMe, YOLO-seg, masks or COCO json

With --check the exit code is 1 if something would stop training, and 2 if the dataset cannot be opened, because a file
is missing or is not a json; stderr says what, one line each.

Every source works without this: shapes are rendered on first use, COCO-format json and images are read as they are.
Where a prepared set of the same json and settings exists it is read instead: training starts sooner, and mask-head
batches take a sixth of the time. Several processes write (config.data.workers); an interrupted run resumes and writes
only what is missing.
"""

import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags
from ml_collections import ConfigDict

from launch import cli

_CHECK = flags.DEFINE_bool("check", False, "Write nothing; read everything and print classes, counts and problems.")
_CONVERT = flags.DEFINE_string(
    "convert", None, "Folder or file of annotated photos to convert into the layout of the preset custom."
)
_OUTPUT = flags.DEFINE_string("output", "datasets/custom", "Output folder of --convert; must be new or empty.")
_TEST_SHARE = flags.DEFINE_float(
    "test_share", 0.2, "Fraction of the images for the test set, if --convert finds a single set."
)
_SPLITS = flags.DEFINE_list("splits", ["train", "support", "test"], "What to prepare or check.")


def main(config: ConfigDict, workdir: Path) -> None:
    """Prepares or checks each split once; coco and custom sample their shots from the training split."""
    del workdir  # datasets belong to config.data.root, not to a run
    from maskdiff_jax.data import pipeline, sources

    if not _SPLITS.value or set(_SPLITS.value) - set(sources.SPLITS):
        raise ValueError(f"--splits={','.join(_SPLITS.value)}: choose from {', '.join(sources.SPLITS)}")
    if _CHECK.value:
        stopped = False
        for data, splits in _datasets(config):
            for text in _check(data, splits):  # at once: the next split may not open at all
                print(f"prepare_data.py: {text}", file=sys.stderr)
                stopped = True
        sys.exit(1 if stopped else 0)
    for data, splits in _datasets(config):
        for split in splits:
            size = None if split == "test" else config.model.mask.size  # shots are for training
            for folder in pipeline.prepare_split(data, split, shot_size=size):
                print(f"prepared: {folder}")


def convert(argv: list[str]) -> None:
    """Writes annotated photos of any format as the dataset of the preset custom."""
    from maskdiff_jax.data.formats import convert, recognize

    cli.reject_arguments(argv)
    print(convert.write(recognize.read_annotations(_CONVERT.value), _OUTPUT.value, _TEST_SHARE.value))
    print("check it: python launch/prepare_data.py --config configs/base.py:custom --check", end="")
    print("" if Path(_OUTPUT.value) == Path("datasets/custom") else f" --config.data.root={_OUTPUT.value}")


def _datasets(config: ConfigDict) -> list[tuple[ConfigDict, list[str]]]:
    """The dataset of training and, where there is one, that of ``eval.source``; each with its splits."""
    splits = list(_SPLITS.value)
    if "train" in splits and not config.data.source.startswith("shapes"):
        splits = [s for s in splits if s != "support" and (s != "test" or config.data.test_json)]
    tested = [s for s in _SPLITS.value if s == "test"]  # VOC is only tested on
    found = [(config.data, tested if config.data.source == "voc" else splits)]
    if config.eval.source:
        other = config.data.copy_and_resolve_references()
        other.update(source=config.eval.source, root=config.eval.root)
        found.append((other, tested))
    return found


def _check(data: ConfigDict, splits: list[str]) -> Iterator[str]:
    """Reads everything and prints the contents and the problems; gives what would stop training."""
    from maskdiff_jax.data import buckets, checks, sources

    has_json = data.source in ("coco", "custom")
    limits = {key: data[key] for key in ("min_box_side", "min_mask_area")}
    for split in splits:
        progress = functools.partial(sources.progress_line, what=f"reading the {split} images of {data.source}")
        examples: dict[str, str] = {}
        dataset, problems = checks.check(data, split, progress=progress, examples=examples)
        print(checks.describe(dataset, problems, examples=examples, **limits))
        print("  " + buckets.describe(buckets.padding([(i.height, i.width) for i in dataset.infos], data)))
        needs_shots = split == "support" or (split == "train" and has_json)
        for text in checks.stops(dataset, problems, **limits, needs_shots=needs_shots):
            yield f"{data.source} {split}: {text}"
    if has_json and "train" in splits:
        test = sources.files(data, "test")[0] if data.test_json else None
        yield from checks.json_stops(sources.files(data, "train")[0], test)


if __name__ == "__main__":
    if any(re.match(r"--?convert\b", argument) for argument in sys.argv[1:]):  # no config: it trains nothing
        cli.guarded(convert)
    else:
        cli.run(main)
