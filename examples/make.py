"""Makes what is in this folder: example photos of a class that the model has never seen, and the model.

    python examples/make.py --only=photos                             # seconds
    python examples/make.py --only=picture                            # a minute or two: docs/five_photos.png
    python examples/make.py --only=model --steps=20000 --split=val    # a trial: an hour on two cores, scored on val
    python examples/make.py --only=model --steps=20000                # scored on test, leaves examples/model

Photos are scenes of the generated dataset with a seed that no split of it has. The model is stage 1 of the preset
shapes: the detector and the mask head learn the eight base classes, side by side on one CPU core each, for --steps
steps each (--mask-steps=N: another number for the mask head). The run, its export and its scores go to --output, by
default runs/example/STEPS; the same command resumes there, and what is done is not done again.

How long it pays to train is chosen on the scenes of val: train several lengths with --split=val and compare; each
leaves OUTPUT/val.json. The length that is chosen is run again without --split: that scores on test and writes
examples/model and benchmarks/results/example_model.json. `--config.FIELD=VALUE` changes fields of configs/base.py, for
example --config.data.shapes_train=2000 for fewer scenes to learn from; give another --output then. Scores are those of
the model as it is shipped, with float16 weights: of the base classes alone, and after the four novel classes are added
without training from five shots each (`Predictor.add_class`), for several sets of shots.

The picture shows scenes with a star as the model in --publish finds them: as it is, after `Predictor.add_class`, and
after launch/adapt.py. `--only=picture --config.FIELD=VALUE` changes the training of adapt.py.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from benchmarks import measure
from launch import cli, run_config
from maskdiff_jax.data.formats.segmentation import decode_mask

FOLDER = ROOT / "examples"
MODEL, RESULT = FOLDER / "model", "example_model"
STEPS = 9_000
# beside the preset's: more scenes, so that less is memorized; half of the training objects come without their
# class, because the mask head has no input for a class that is added
SETTINGS = ("--config.data.shapes_train=8000", "--config.model.mask.diffusion.p_uncond=0.5")
SHOTS = 5
NEW, SEED = "star", 2026  # the class of the photos; the seed of the scenes, which that of every split is not
PHOTOS = 6
PICTURE = ROOT / "docs" / "five_photos.png"
MIN_SCORE = 0.3  # of the objects in the picture, as in launch/sample.py
ROWS = 3  # of the picture: scene.png and the first of photos/
SCENE = 2  # of the photos, the one that is scene.png


def main(arguments: list[str] | None = None) -> None:
    """Makes the photos, the model and the picture, or one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )  # fmt: skip
    parser.add_argument("--only", choices=("photos", "model", "picture"), help="default: all")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the detector and of the mask head")
    parser.add_argument("--mask-steps", type=int, default=0, help="of the mask head; 0: as many")
    parser.add_argument("--output", type=Path, help="folder of the run; default: runs/example/STEPS")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="scenes that are scored")
    parser.add_argument("--seeds", type=int, default=5, help="of the shots that novel classes are added from")
    parser.add_argument("--publish", type=Path, default=MODEL, help="where the model goes that was scored on test")
    parser.add_argument("--images", type=int, default=0, help="scenes that are scored, the first ones; 0: all")
    args, overrides = parser.parse_known_args(arguments)
    if unknown := [x for x in overrides if not x.startswith("--config.")]:
        parser.error(f"unknown argument {unknown[0]}")
    args.mask_steps = args.mask_steps or args.steps
    default = str(args.steps) if args.mask_steps == args.steps else f"{args.steps}_{args.mask_steps}"
    args.output = (args.output or ROOT / "runs" / "example" / default).absolute()
    args.publish = args.publish.absolute()
    os.chdir(ROOT)  # the place of the scenes is part of the exported config: datasets/shapes
    if args.only in (None, "photos"):
        make_photos(FOLDER)
    if args.only in (None, "model"):
        make_model(args, overrides)
    if args.only in (None, "picture"):
        make_picture(args.publish, FOLDER, PICTURE, overrides if args.only else [])


def make_photos(folder: Path) -> None:
    """Writes scene.png and photos/ (the new class among others), shots/ (it alone) and shots.json (its outlines)."""
    from maskdiff_jax import atomic
    from maskdiff_jax.data.synthetic import scenes

    mixed, alone = [], []
    for index in itertools.count():
        image, info = scenes.scene("shapes", "test", SEED, index)
        names = [scenes.NAMES[a.class_id] for a in info.annotations]
        if NEW not in names or set(names) & set(scenes.NOVEL) != {NEW}:
            continue
        if len(mixed) <= PHOTOS and len(names) >= 3 and len(set(names)) == len(names):
            mixed.append(image)
        elif len(alone) < SHOTS and len(names) == 1:
            alone.append((image, info))
        if len(mixed) > PHOTOS and len(alone) == SHOTS:
            break
    for name in ("photos", "shots"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
    _write_png(folder / "scene.png", mixed.pop(SCENE))
    for i, image in enumerate(mixed, 1):
        _write_png(folder / "photos" / f"{i}.png", image)
    images, annotations = [], []
    for i, (image, info) in enumerate(alone, 1):
        name = f"{NEW}_{i}.png"
        _write_png(folder / "shots" / name, image)
        images.append({"id": i, "file_name": name, "width": info.width, "height": info.height})
        outline = outlines_of(decode_mask(info.annotations[0].rle))
        annotations.append({"id": i, "image_id": i, "category_id": 1, "segmentation": outline})
    document = {"categories": [{"id": 1, "name": NEW}], "images": images, "annotations": annotations}
    atomic.write_json(folder / "shots.json", document, indent=None)
    print(f"photos: {folder}")


def outlines_of(mask: np.ndarray) -> list[list[float]]:
    """The outlines of a mask [h, w] without holes, x, y, x, y ... in px, as COCO's polygons are."""
    from contourpy import contour_generator

    lines = contour_generator(z=np.pad(mask, 1).astype(float)).lines(0.5)  # of the centers of pixels
    return [np.round(np.asarray(line)[:-1] - 1 + 0.5, 1).flatten().tolist() for line in lines]


def _write_png(path: Path, image: np.ndarray) -> None:
    Image.fromarray(image).save(path, optimize=True)


def make_model(args: argparse.Namespace, overrides: list[str]) -> None:
    """Trains, exports, scores; on the test scenes it also leaves the model and its metrics in the repository."""
    use_two_devices()
    cli.set_up_jax()
    from maskdiff_jax import atomic
    from maskdiff_jax.inference import export
    from maskdiff_jax.training import run as train

    config, model = model_config(args, overrides), args.output / "model"
    export.check_output(args.publish)
    print(f"stage 1 in {args.output / 'base'}: {args.steps} and {args.mask_steps} steps", flush=True)
    seconds = train.run(config, args.output / "base")
    if not (model / export.DOCUMENT).is_file():
        export.run(config, args.output / "base", model, photos=True, half=True)
    document = (
        {
            "steps": {"detector": args.steps, "mask": args.mask_steps},
            "overrides": [*SETTINGS, *overrides],
            "training_seconds": {name: round(s) for name, s in seconds.items()},
            "megabytes": round(sum(f.stat().st_size for f in model.rglob("*") if f.is_file()) / 1e6, 2),
            "split": args.split,
        }
        | scores(args, model)
        | measure.machine()
    )
    if args.split == "test":
        document["validation"] = trials(args.output.parent)
    atomic.write_json(args.output / f"{args.split}.json", document)
    print(f"scores: {args.output / f'{args.split}.json'}")
    if args.split == "test":
        publish(model, args.publish)
        if args.publish == MODEL:
            measure.write(RESULT, document)


def use_two_devices() -> None:
    """Lets jax see the CPU as two devices of one thread each; before jax is imported.

    The detector is trained on one, the mask head on the other: the programs are small, and two of them on a core each
    get more done than one on both.
    """
    flags = "--xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    os.environ["JAX_PLATFORMS"] = "cpu"


def model_config(args: argparse.Namespace, overrides: list[str]) -> ConfigDict:
    """Stage 1 of the preset shapes, for as long as was asked for."""
    config, _ = run_config.read_config(f"{ROOT / 'configs' / 'base.py'}:shapes", [*SETTINGS, *overrides])
    config.train.update(side_by_side=True, save_every=1000)
    config.train.detector.steps, config.train.mask.steps = args.steps, args.mask_steps
    return config


def scores(args: argparse.Namespace, model: Path) -> dict[str, Any]:
    """AP in percent: of the base classes alone, and with the novel classes added without training.

    Args:
      args: of the command.
      model: the export, whose weights are scored.
    """
    from benchmarks.studies.instant_classes import METRICS, Study
    from maskdiff_jax.inference import export

    study = Study(args.output / "base", split=args.split, images=args.images, model=export.read(model))
    alone = study.base_alone()
    print(f"{args.split}, base classes alone: {alone}", flush=True)
    rows = []
    for seed in range(args.seeds):
        rows.append({"seed": seed} | study.added(SHOTS, seed))
        print(f"{args.split}, novel classes added: {rows[-1]}", flush=True)
    mean = {m: round(statistics.fmean(row[m] for row in rows), 2) for m in METRICS if all(m in row for row in rows)}
    print(f"{args.split}, novel classes added, mean: {mean}", flush=True)
    return {"images": study.images, "base": alone, "shots": SHOTS, "added": mean, "by_shot_seed": rows}


def trials(folder: Path) -> list[dict[str, Any]]:
    """What the lengths that were tried scored on val, the shortest training first."""
    found = [json.loads(path.read_text()) for path in folder.glob("*/val.json")]
    rows = [{k: t[k] for k in ("steps", "overrides", "base", "added")} for t in found]
    return sorted(rows, key=lambda row: (*row["steps"].values(), row["overrides"]))


def make_picture(model: Path, folder: Path, path: Path, overrides: list[str]) -> None:
    """Writes a picture of some scenes with what the model finds in them before and after the new class is added.

    Args:
      model: the export.
      folder: with what `make_photos` writes.
      path: of the picture.
      overrides: arguments ``--config.FIELD=VALUE`` of launch/adapt.py.
    """
    import maskdiff_jax
    from maskdiff_jax import atomic
    from maskdiff_jax.inference import adaptation
    from maskdiff_jax.reporting import visualize

    files = [folder / "scene.png", *sorted((folder / "photos").iterdir())][:ROWS]
    shots = adaptation.read_photos(folder / "shots.json", folder / "shots")
    outlines = [[outline.rle for outline in photo.annotations] for photo in shots.infos]
    with tempfile.TemporaryDirectory() as scratch:
        names = {"model": model, "images": folder / "shots", "annotations": folder / "shots.json"}
        command = [sys.executable, str(ROOT / "launch" / "adapt.py"), f"--out={scratch}/adapted"]
        subprocess.run([*command, *(f"--{k}={v}" for k, v in names.items()), *overrides], check=True)
        cli.set_up_jax()
        before, adapted = (
            maskdiff_jax.load(place, min_score=MIN_SCORE, class_agnostic_nms=True)
            for place in (model, f"{scratch}/adapted/model")
        )
    columns = {"the model": before(files)}
    before.add_class(NEW, [shots.read(i) for i in range(len(shots.infos))], outlines)
    columns |= {f"after add_class, {NEW} is new": before(files), "after adapt.py": adapted(files)}
    rows = [
        visualize.strip([np.asarray(found[i].plot()) for found in columns.values()], list(columns), cell=288)
        for i in range(len(files))
    ]
    sheet = Image.fromarray(visualize.above(rows)).quantize(128)
    atomic.write(path, lambda file: sheet.save(file, "png", optimize=True))
    print(f"picture: {path}")


def publish(model: Path, folder: Path) -> None:
    """Copies an export; an older one there is replaced once the copy is whole."""
    from maskdiff_jax.inference import export

    export.check_output(folder)
    new = folder.with_name(folder.name + ".partial")
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(model, new)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    print(f"model: {folder}")


if __name__ == "__main__":
    main()
