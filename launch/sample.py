"""Detects the objects in images and samples their masks, with a trained model.

    python launch/sample.py exports/shapes photo.jpg another.png
    python launch/sample.py runs/fewshot-shapes-5shot-seed0 photo.jpg        # a run: needs its dataset, for the shots
    python launch/sample.py exports/shapes images/*.jpg --output=masks --samples=5 --min_score=0.5

The first argument is the model: a folder that launch/export.py wrote, or the folder of a trained run. The others are
images, or folders of images. Writes OUTPUT/<name>.png for each image (masks, boxes, labels; novel classes are starred)
and OUTPUT/results.json: COCO results with file_name, category_name and the mask's confidence. Their image_id counts the
images from 1. `--config.FIELD=VALUE` changes what trained weights do not depend on, for example how masks are sampled:
--config.model.mask.diffusion.steps=10.
A file that is not an image is named on stderr; the others are still processed, and the exit code is 1.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags
from ml_collections import ConfigDict

from launch import cli, run_config

_MODEL = flags.DEFINE_string("model", "", "Folder of the model; the same as naming it as the first argument.")
_WORKDIR = flags.DEFINE_string("workdir", "", "A run folder; the same as --model.")
_OUTPUT = flags.DEFINE_string("output", "samples", "Output folder for the images and results.json.")
_NOISE_SEED = flags.DEFINE_integer(
    "noise_seed", None, "Noise seed of the sampled masks; default: eval.noise_seed of the model."
)
_SAMPLES = flags.DEFINE_integer("samples", None, "Masks sampled per object and averaged; default: eval.samples.")
_RESCORE = flags.DEFINE_bool("rescore", False, "Multiply scores by the masks' confidence.")
_ONE_CLASS = flags.DEFINE_bool(
    "class_agnostic_nms",
    False,
    "Report each object once: of overlapping detections of different classes keep the best.",
)
_MIN_SCORE = flags.DEFINE_float("min_score", 0.3, "Minimum score of a detection, 0..1.")

USAGE = (
    "usage: sample.py MODEL image.jpg ...; MODEL is an export or the folder of a trained run, images may be folders of "
    "images (see --help)"
)


def main(argv: list[str], overrides: list[str]) -> int:
    """Samples the masks of every image; 1 if an image could not be read."""
    named = [x for x in (_MODEL.value, _WORKDIR.value) if x]
    folder, *given = [*named, *argv[1:]] or [""]
    if not folder or not given or len(named) > 1:
        raise ValueError(USAGE)
    config = _config(Path(folder), overrides)
    from maskdiff_jax import atomic
    from maskdiff_jax.inference import inputs, predictor

    if not any(Path(image).exists() for image in given):  # before the model is built, which takes seconds
        raise FileNotFoundError(f"there is no file or folder {', '.join(given)}: check the name")
    model = predictor.load(
        folder, config=config, noise_seed=_NOISE_SEED.value, samples=_SAMPLES.value, min_score=_MIN_SCORE.value,
        class_agnostic_nms=_ONE_CLASS.value,
    )  # fmt: skip
    files = [str(file) for file in inputs.several(given)]
    output, results = Path(_OUTPUT.value), []
    atomic.check_writable(output)
    names = _output_names(files)
    failed = 0
    for image_id, file in enumerate(files, 1):
        try:
            found = model(file)
        except (ValueError, FileNotFoundError) as error:  # names the file
            print(f"sample.py: {error}", file=sys.stderr)
            failed += 1
            continue
        if _RESCORE.value:
            found = found.rescored()
        found.save(output / names[image_id - 1])
        results += found.to_coco(image_id)
        print(f"{output / names[image_id - 1]}: {', '.join(found.labels) or 'no object found'}")
    atomic.write_json(output / "results.json", results)
    print(f"{output / 'results.json'}: {_count(len(results), 'object')} in {_count(len(files) - failed, 'image')}")
    return 1 if failed else 0


def _config(folder: Path, overrides: list[str]) -> ConfigDict:
    """The config of an export or a run, with changed fields; sets up jax for it."""
    from maskdiff_jax import workdir
    from maskdiff_jax.inference import predictor

    theirs = predictor.read_config(folder)
    config = run_config.override(theirs, overrides)
    workdir.check_changes(theirs, config, folder, fix=workdir.AFTER)
    cli.set_up_jax(config.model.mask.size)
    return config


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _output_names(files: list[str]) -> list[str]:
    """One name for each file; those of the same name in several folders are numbered."""
    names: list[str] = []
    for number, file in enumerate(files, 1):
        name = stem = Path(file).stem
        while f"{name}.png" in names:
            name, number = f"{stem}_{number}", number + 1
        names.append(f"{name}.png")
    return names


if __name__ == "__main__":
    overridden: list[str] = []
    cli.guarded(lambda argv: main(argv, overridden), overridden)
