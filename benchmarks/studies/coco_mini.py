"""Real photos through the whole pipeline on a CPU: prepare, stage 1, stage 2 with K = 1 and 5, evaluation, report.

    python benchmarks/studies/coco_mini.py --root=FOLDER              # -> benchmarks/results/coco_mini.json
    python benchmarks/studies/coco_mini.py --root=FOLDER --overfit    # memorizes 8 photos -> coco_mini_overfit.json

FOLDER holds a few hundred COCO photos: train/, val/, annotations/instances_train.json, instances_val.json.
The net is a reduced ResNet-50 from scratch on small images. So few photos teach little: the numbers say that
every part works on real data, not how good the method is.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import measure

ROOT = measure.ROOT
NOVEL = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "boat", "bird", "cat", "dog", "horse",
    "sheep", "cow", "bottle", "chair", "couch", "potted plant", "dining table", "tv",
)  # fmt: skip
KEPT = ("shots", "seed", "metrics", "seconds", "device", "versions", "date")

NET = {
    "model.dtype": "float32", "model.detector.blocks": (3, 4, 6, 3), "model.detector.width": 16,
    "model.detector.fpn_channels": 64, "model.detector.fc_channels": 256, "model.detector.rpn_samples": 128,
    "model.detector.rpn_pre_nms_train": 300, "model.detector.rpn_pre_nms_test": 300,
    "model.detector.proposals_train": 200, "model.detector.proposals_test": 200, "model.detector.roi_samples": 64,
    "model.detector.roi_canonical": (80.0, 4), "model.detector.class_agnostic_boxes": True,
    "model.mask.size": 32, "model.mask.unet.width": 32, "model.mask.unet.multipliers": (1, 2, 2),
    "model.mask.unet.blocks": 1, "model.mask.unet.attention": (8,), "model.mask.unet.stem_patch": 2,
    "model.mask.diffusion.steps": 5, "model.mask.diffusion.guidance": 2.0,
    "data.workers": 0, "data.cache_mb": 2000, "train.save_every": 0, "eval.mask_batch": 16,
    "eval.mask_top_n": 10, "eval.mask_min_score": 0.1,
}  # fmt: skip
SMALL = {
    "model.detector.fpn_min_level": 3,
    "model.detector.anchor_sizes": (20, 44, 96, 200),
    "data.short_sides": (192, 208, 224, 240, 256),
    "data.test_short_side": 224,
    "data.long_side": 384,
    "data.buckets": ((256, 384), (384, 256)),
    "data.region_long_side": 320,
}
STEPS = {
    "base": {
        "train.detector.steps": 700, "train.detector.batch": 4, "train.detector.optimizer": "adamw",
        "train.detector.lr": 1e-3, "train.detector.schedule": "cosine", "train.detector.warmup": 100,
        "train.detector.ema": 0.99, "train.mask.steps": 800, "train.mask.batch": 16, "train.mask.lr": 2e-3,
        "train.mask.schedule": "cosine", "train.mask.warmup": 50, "train.mask.ema": 0.99,
    },
    "fewshot": {
        "train.novel.steps": 60, "train.novel.batch": 4, "train.novel.optimizer": "adamw", "train.novel.lr": 3e-3,
        "train.novel.schedule": "cosine", "train.detector.steps": 100, "train.detector.batch": 4,
        "train.detector.lr": 1e-3, "train.detector.schedule": "cosine", "train.detector.ema": 0.9,
        "train.mask.steps": 100, "train.mask.batch": 16, "train.mask.lr": 2e-4, "train.mask.schedule": "cosine",
        "train.mask.ema": 0.98,
    },
}  # fmt: skip
OVERFIT = SMALL | {
    "data.short_sides": (256,), "data.test_short_side": 256, "data.long_side": 384, "data.flip": 0.0,
    "train.detector.steps": 700, "train.detector.batch": 4, "train.detector.optimizer": "adamw",
    "train.detector.lr": 1.5e-3, "train.detector.schedule": "cosine", "train.detector.warmup": 50,
    "train.detector.ema": 0.98, "train.mask.steps": 0, "data.novel_classes": (),
}  # fmt: skip
PHOTOS = 8
MOST_OBJECTS = 12


def main() -> None:
    """Runs the scripts a user would call, gathers their metrics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT / "datasets" / "coco_mini", help="folder of the photos")
    parser.add_argument("--workdir", type=Path, help="where runs are kept; default: a temporary folder")
    parser.add_argument("--overfit", action="store_true", help=f"memorize {PHOTOS} photos")
    args = parser.parse_args()
    if not args.root.is_dir():
        print(f"skipped: there is no {args.root}; give a folder of COCO photos with --root")
        return
    root = args.root.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.workdir or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        name, result = overfit(root, folder) if args.overfit else whole(root, folder)
    measure.write(name, result)


def whole(root: Path, folder: Path) -> tuple[str, dict]:
    """Both stages, K = 1 and 5."""
    start = time.monotonic()
    source = {
        "data.root": folder / "data", "data.novel_classes": NOVEL,
        "data.train_json": root / "annotations/instances_train.json", "data.train_images": root / "train",
        "data.test_json": root / "annotations/instances_val.json", "data.test_images": root / "val",
    }  # fmt: skip
    common = NET | SMALL | source
    launch(folder, "prepare_data", "base.py:custom", common | STEPS["base"])
    runs = []
    for config, stage in (("base.py:custom", "base"), *((f"fewshot.py:custom,shots={k}", "fewshot") for k in (1, 5))):
        for script in ("train", "evaluate"):
            launch(folder, script, config, common | STEPS[stage])
        runs.append(f"runs/fewshot-custom-{config[-1]}shot-seed0" if stage == "fewshot" else "runs/base-custom")
    subprocess.run(
        [sys.executable, str(ROOT / "launch/report.py"), *runs, f"--output={folder / 'report'}"], cwd=folder, check=True
    )
    documents = [json.loads((folder / run / "metrics.json").read_text()) for run in runs]
    return "coco_mini", {
        "command": "python benchmarks/studies/coco_mini.py --root=FOLDER",
        "stages": {Path(run).name: {k: d[k] for k in KEPT} for run, d in zip(runs, documents, strict=True)},
        "seconds": round(time.monotonic() - start, 1),
    }


def overfit(root: Path, folder: Path) -> tuple[str, dict]:
    """The detector on the first few photos alone; tested on the same."""
    everything = json.loads((root / "annotations/instances_train.json").read_text())
    objects = {i["id"]: [] for i in everything["images"]}
    for a in everything["annotations"]:
        objects[a["image_id"]].append(a)
    chosen = [i for i in everything["images"] if 1 <= len(objects[i["id"]]) <= MOST_OBJECTS][:PHOTOS]
    few = folder / "few.json"
    annotations = [a for i in chosen for a in objects[i["id"]]]
    few.write_text(json.dumps(everything | {"images": chosen, "annotations": annotations}))
    source = {"data.root": folder / "data"}
    for split in ("train", "test"):
        source |= {f"data.{split}_json": few, f"data.{split}_images": root / "train"}
    for script in ("train", "evaluate"):
        launch(folder, script, "base.py:custom", NET | OVERFIT | source)
    document = json.loads((folder / "runs/base-custom/metrics.json").read_text())
    return "coco_mini_overfit", {
        "command": "python benchmarks/studies/coco_mini.py --root=FOLDER --overfit",
        "photos": [i["file_name"] for i in chosen],
        "objects": len(annotations),
        **{k: document[k] for k in KEPT if k not in ("shots", "seed")},
    }


def launch(folder: Path, script: str, config: str, changes: dict) -> None:
    """One script of launch/ with a changed config, in `folder`."""
    flags = [f"--config.{k}={v}" for k, v in changes.items()]
    command = [sys.executable, str(ROOT / "launch" / f"{script}.py"), "--config", f"{ROOT}/configs/{config}", *flags]
    print("==", script, config, flush=True)
    subprocess.run(command, cwd=folder, check=True)


if __name__ == "__main__":
    main()
