"""Real photos through the whole pipeline on a CPU: prepare, stage 1, stage 2 with K = 1 and 5, evaluation, report.

    python benchmarks/studies/coco_mini.py --root=FOLDER              # -> benchmarks/results/coco_mini.json
    python benchmarks/studies/coco_mini.py --root=FOLDER --overfit    # memorizes 8 photos -> coco_mini_overfit.json

FOLDER holds a few hundred COCO photos: train/, val/, annotations/instances_train.json, instances_val.json.
The net is that of size=tiny: a reduced ResNet-50 from scratch on small images. So few photos teach little: the
numbers say that every part works on real data, not how good the method is.
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
    "model.mask.diffusion.steps": 5, "model.mask.diffusion.guidance": 2.0, "train.save_every": 0,
}  # fmt: skip
STEPS = {
    "base": {"train.detector.steps": 700, "train.mask.steps": 800},
    "fewshot": {"train.novel.steps": 60, "train.detector.steps": 100, "train.mask.steps": 100},
}
OVERFIT = {
    "data.short_sides": (256,), "data.test_short_side": 256, "data.flip": 0.0, "train.detector.steps": 700,
    "train.detector.lr": 3.75e-4, "train.detector.warmup": 50, "train.detector.ema": 0.98, "train.mask.steps": 0,
    "data.novel_classes": (),
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
    common = NET | source
    launch(folder, "prepare_data", "base.py:custom,size=tiny", common | STEPS["base"])
    runs = []
    # stage 2 takes the size from the run of stage 1
    stages = (("base.py:custom,size=tiny", "base"), *((f"fewshot.py:custom,shots={k}", "fewshot") for k in (1, 5)))
    for config, stage in stages:
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
        launch(folder, script, "base.py:custom,size=tiny", NET | OVERFIT | source)
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
