"""Masks in the ground-truth boxes of real photos: MaskDiff, the plain UNet and a conv head beside filling the box.

    python benchmarks/studies/photos.py --root=FOLDER             # -> benchmarks/results/photos.json, docs/photos.png
    python benchmarks/studies/photos.py --root=FOLDER --steps=20000    # with more time

FOLDER holds a few hundred COCO photos, see coco_mini.py. Four fifths of the training photos are trained on, base
classes alone; the others are held out: signal scale, sampling steps and threshold were chosen on them, and the
learning curve shows them beside objects that are trained on. The validation photos are scored at the end alone. Novel
classes have their five shots and nothing else. What is trained stays in the folder of --runs: an interrupted study
resumes, and one of more steps continues that of fewer steps, because the learning rate is constant. The conv head is
that of a Mask R-CNN, which sees features of a detector: the whole of it is trained on the same photos.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import numpy as np

from benchmarks import measure
from benchmarks.studies import masks, photos_conv, photos_figure
from benchmarks.studies.mask_scores import Data, baselines, changed, mean_ious
from launch import cli
from maskdiff_jax import atomic
from maskdiff_jax.data.crops import CropInfos
from maskdiff_jax.data.dataset import Annotation, Dataset, large_enough

HELD_OUT = 5  # every fifth training photo, by id, is held out; every fifth of the others is scored in the curve
CURVES = ("training", "held out")
THRESHOLDS = (0.3, 0.4, 0.5)  # of the soft mask; 0.5 is the default
SAMPLING = {"steps": 2, "guidance": 1.0}  # the default of configs/base.py
# against overfitting: a few hundred photos are memorized otherwise
REGULARIZED = {"data.region_augment": 1.0, "model.mask.unet.dropout": 0.2, "train.mask.weight_decay": 0.05}
LESS = {"data.region_augment": 0.5}
MASKDIFF, PLAIN_UNET = {"model.mask.diffusion.signal_scale": 0.1}, {"model.mask.head": "plain_unet"}
METHODS: dict[str, dict[str, Any]] = {
    "MaskDiff": MASKDIFF | REGULARIZED,
    "plain UNet": PLAIN_UNET | REGULARIZED,
    "MaskDiff, less regularized": MASKDIFF | LESS,
    "plain UNet, less regularized": PLAIN_UNET | LESS,
    "MaskDiff, b = 0.5, less regularized": LESS,
}
CONV = "conv head"  # see photos_conv.py
# how masks of the trained methods are sampled: name in the table -> method, settings
SAMPLINGS = {
    "MaskDiff, 2 steps": ("MaskDiff", SAMPLING),
    "MaskDiff, 2 steps, 5 samples": ("MaskDiff", SAMPLING | {"samples": 5}),
    "MaskDiff, 1 step": ("MaskDiff", SAMPLING | {"steps": 1}),
    "plain UNet": ("plain UNet", SAMPLING),
    CONV: (CONV, SAMPLING),  # samples nothing
}
MAIN = ("MaskDiff", "plain UNet")  # the others were trained until they could be dropped
# beside those of coco_mini.py
SETTINGS = {
    "model.mask.size": 64, "model.mask.unet.stem_patch": 4, "model.mask.unet.width": 32,
    "model.mask.unet.multipliers": (1, 2, 2), "model.mask.slots": 5, "model.mask.class_input": False,
    "data.region_long_side": 640, "data.box_jitter": 0.0, "eval.mask_batch": 32,
    "train.mask.batch": 16, "train.mask.lr": 3.75e-4, "train.mask.schedule": "constant", "train.mask.clip_norm": 1.0,
    "train.mask.ema": 0.995,
}  # fmt: skip


def main() -> None:
    """Trains and scores each method, writes the json after each, then the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the photos")
    parser.add_argument("--runs", type=Path, default=Path("runs/photos"), help="where trainings are kept")
    parser.add_argument(
        "--steps", type=int, default=8000, help="of each training; more than before continues from there"
    )
    parser.add_argument("--every", type=int, default=1000, help="steps between two points of the learning curve")
    parser.add_argument("--conv-steps", type=int, default=2000, help="of the conv head and its detector; 0: without")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=MAIN)
    args = parser.parse_args()
    cli.set_up_jax()
    result = study(args.root.resolve(), args.runs, args.steps, args.every, args.methods, SETTINGS, args.conv_steps)
    measure.write("photos", result)


def study(
    root: Path, runs: Path, steps: int, every: int, methods: list[str], settings: dict[str, Any], conv_steps: int,
    conv_settings: dict[str, Any] | None = None, figure: Path = measure.ROOT / "docs" / "photos.png",
) -> dict[str, Any]:  # fmt: skip
    """Trains and scores the methods; returns what the json holds and renders the figure.

    Args:
      root: folder of the photos.
      runs: folder of the trainings, made where it is missing.
      steps: of each training.
      every: steps between two points of a learning curve; divides `steps`.
      methods: names in METHODS.
      settings: config fields, "a.b.c", of all methods but the conv head.
      conv_steps: of the conv head; 0: it is not trained.
      conv_settings: config fields of the conv head.
      figure: where the figure is rendered to.
    """
    if steps % every:
        raise ValueError(f"--steps is {steps}: it must be a multiple of --every, {every}")
    parts = open_parts(root, runs, settings)
    guesses = baselines(parts["val"])
    print(json.dumps(guesses), flush=True)
    crops = CropInfos.of(parts["training"].crops.infos)
    curves, weights = train(parts, methods, runs, steps, every)
    opened = {name: {key: method_data(part, name) for key, part in parts.items()} for name in methods}
    if conv_steps:
        opened[CONV], weights[CONV], curves[CONV] = conv_head(parts, runs, conv_steps, conv_settings or {})
    about = {
        name: {
            "steps": curve[-1]["step"],
            "seconds": round(sum(point["seconds"] for point in curve), 1),
            "parameters": sum(x.size for x in jax.tree.leaves(trained_part(name, weights[name]))),
            "curve": curve,
        }
        for name, curve in curves.items()
    }
    rows, scored = {}, {}
    for label, (name, sampling) in SAMPLINGS.items():
        if name in opened:
            rows[label] = {"method": name, "sampling": sampling}
            for key in ("held out", "val"):
                part = opened[name][key]
                scored[label] = objects_of(part, weights[name], sampling)
                rows[label][key] = mean_ious_of(part, scored[label])
            print(label, json.dumps(rows[label]), flush=True)
    shown = photos_figure.render(parts["val"], scored, read_images(root), figure)
    return {
        "command": f"python benchmarks/studies/photos.py --root=FOLDER --steps={steps} --every={every}"
        f" --conv-steps={conv_steps}",
        "trained_on": {"photos": len(set(crops.image_ids.tolist())), "objects": len(crops)},
        "photos": {name: len(part.test.infos) for name, part in parts.items()},  # that are scored
        "objects": {name: masks.objects(part) for name, part in parts.items()},
        "settings": settings,
        "guesses": guesses,
        "methods": about,
        "rows": rows,
        # of trainings that only the choice of settings needed; not scored on the validation photos
        "other_curves": {name: curve for name in METHODS if name not in methods and (curve := saved_curve(runs, name))},
        "figure": shown,
    } | measure.machine()


def open_parts(root: Path, runs: Path, settings: dict[str, Any]) -> dict[str, Data]:
    """The photos that are scored: "training" (some of those trained on, base objects), "held out" and "val".

    Leaves the two parts of the training annotations in ``runs``.
    """
    document = json.loads((root / "annotations/instances_train.json").read_text())
    ids = sorted(image["id"] for image in document["images"])
    held_out = set(ids[::HELD_OUT])
    files = {
        "training": write_part(runs / "training.json", document, set(ids) - held_out),
        "held out": write_part(runs / "held_out.json", document, held_out),
    }
    settings = settings | {"data.train_json": str(files["training"])}
    parts = {
        name: masks.open_data(root, settings | {"data.test_json": str(file), "data.test_images": "train"})
        for name, file in files.items()
    }
    train = parts["training"]
    few = dict(sorted(train.truth.items())[::HELD_OUT])
    truth = {i: [a for a in v if is_trained(train, a)] for i, v in few.items()}
    parts["training"] = train._replace(truth=truth, test=photos_of(train.test, set(truth)))
    return parts | {"val": masks.open_data(root, settings)}


def photos_of(dataset: Dataset, ids: set[int]) -> Dataset:
    """The photos of these ids alone."""
    where = [i for i, info in enumerate(dataset.infos) if info.id in ids]
    read = dataset.read
    return dataset._replace(infos=[dataset.infos[i] for i in where], read=lambda i: read(where[i]))


def is_trained(data: Data, annotation: Annotation) -> bool:
    """Whether a mask head is trained on an object."""
    fields = data.config.data
    large = large_enough(annotation, fields.min_box_side, fields.min_mask_area)
    return large and not data.test.categories[annotation.class_id].novel


def write_part(path: Path, document: dict[str, Any], ids: set[int]) -> Path:
    """Writes the photos `ids` of a COCO document, with their annotations; returns the absolute path."""
    images = [image for image in document["images"] if image["id"] in ids]
    annotations = [a for a in document["annotations"] if a["image_id"] in ids]
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(path, document | {"images": images, "annotations": annotations})
    return path.resolve()


def read_images(root: Path) -> dict[int, dict[str, Any]]:
    """The entries of all photos in COCO's json, by image id."""
    documents = [json.loads((root / f"annotations/instances_{split}.json").read_text()) for split in ("train", "val")]
    return {image["id"]: image for document in documents for image in document["images"]}


def method_data(data: Data, name: str) -> Data:
    """The same photos with the config of a method."""
    return data._replace(config=changed(data.config, METHODS[name]))


def objects_of(data: Data, params: Any, sampling: dict[str, Any]) -> dict[int, photos_figure.Shown]:
    """Samples a mask for each object that is scored, by annotation id."""
    return photos_figure.sampled_objects(data, params, sampling, THRESHOLDS)


def mean_ious_of(data: Data, objects: dict[int, photos_figure.Shown]) -> dict[str, Any]:
    """By threshold of the soft mask: mean IoU (0..1) over all, base and novel objects."""
    novel = np.array([data.test.categories[x.class_id].novel for x in objects.values()])
    return {str(t): mean_ious(np.array([x.ious[t] for x in objects.values()]), novel) for t in THRESHOLDS}


def train(parts: dict[str, Data], methods: list[str], runs: Path, steps: int, every: int) -> tuple[dict, dict]:
    """Trains the methods in turn, so that those of an interrupted study are trained about equally long.

    Returns:
      method -> learning curve, of IoUs in 0..1; method -> weights.
    """
    mine = {name: {key: method_data(part, name) for key, part in parts.items()} for name in methods}
    folders = {name: runs / masks.slug(name, 0) for name in methods}
    curves = {name: saved_curve(runs, name) for name in methods}
    running = {
        name: masks.train(mine[name]["training"], 0, steps, steps // every, folder=folders[name] / "state")
        for name in methods
    }
    reached, weights = dict.fromkeys(methods, 0), {}
    while running:
        name = min(running, key=lambda name: reached[name])  # the one that is behind
        start = time.monotonic()
        point = next(running[name], None)
        if point is None:
            del running[name]
            continue
        reached[name], loss, weights[name] = point
        # where a training resumes, its last point is known already, unless scoring it was interrupted
        if not any(known["step"] == reached[name] for known in curves[name]):
            about = {"step": reached[name], "seconds": round(time.monotonic() - start, 1)}
            about["loss"] = None if math.isnan(loss) else round(loss, 4)
            for key in CURVES:
                part = mine[name][key]
                about[key] = mean_ious_of(part, objects_of(part, weights[name], SAMPLING))
            curves[name].append(about)
            atomic.write_json(folders[name] / "curve.json", curves[name])
            print(name, json.dumps(about), flush=True)
    return curves, weights


def conv_head(parts: dict[str, Data], runs: Path, steps: int, settings: dict[str, Any]) -> tuple[dict, Any, list]:
    """The photos with the config of the conv head, its weights, and its curve, which has the last step alone."""
    config, params, seconds = photos_conv.train(parts["training"], runs / "conv-head", steps, settings)
    opened = {key: part._replace(config=config) for key, part in parts.items()}
    scores = {key: mean_ious_of(opened[key], objects_of(opened[key], params, SAMPLING)) for key in CURVES}
    return opened, params, [{"step": steps, "seconds": round(seconds, 1), "loss": None} | scores]


def trained_part(name: str, params: Any) -> Any:
    """The weights that a method trains: the mask head, or all of a Mask R-CNN."""
    return params if name == CONV else params["mask_head"]


def saved_curve(runs: Path, name: str) -> list[dict[str, Any]]:
    """The learning curve that `train` left of a method; empty where there is none."""
    path = runs / masks.slug(name, 0) / "curve.json"
    return json.loads(path.read_text()) if path.is_file() else []


if __name__ == "__main__":
    main()
