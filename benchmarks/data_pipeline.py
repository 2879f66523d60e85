"""How fast the data loaders are on their own, and how many cores keep a GPU busy.

    python benchmarks/data_pipeline.py                  # 400 embedded scenes -> results/data_pipeline_shapes.json
    python benchmarks/data_pipeline.py --root=FOLDER    # photos, sizes of the coco preset -> data_pipeline.json

FOLDER holds photos as COCO does: train/ and annotations/instances_train.json. Each loader runs alone, for some
seconds after its first batches, from plain image files and from prepared records, in this process (0 workers:
two threads) and in worker processes; nothing is cached in memory. "cpu_ms" is processor time per image or
sample, taken without workers: other programs ("load_before" over 0) change it less than the rates, and the
cores that a rate takes are rate x cpu_ms.
"""

import argparse
import functools
import gc
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import timing
from configs import base
from maskdiff_jax.data import buckets, coco, pipeline, shapes

WORKERS = (0, 1, 2)
IMAGES_WANTED = 60  # per second: what a fast detector step takes in; cores for other rates follow by proportion
WARM_UP = 3  # batches
SCENES = 400


def main() -> None:
    """Measures, prints a table, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of photos; default: embedded scenes")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    args = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"  # no GPU takes part; `machine` then names the processor
    with tempfile.TemporaryDirectory() as folder:
        config = _photos(Path(args.root), Path(folder)) if args.root else _scenes(Path(folder))
        data = config.data
        load = [round(v, 2) for v in os.getloadavg()]  # before the start: what else is running
        records = pipeline.open_split(data, "train")
        sizes = [(i.height, i.width) for i in records.infos]
        rows = _measure(config, "plain files", args.seconds)
        start = time.monotonic()
        data.workers = max(WORKERS)
        folders = pipeline.prepare_split(data, "train")
        prepared = {"seconds": round(time.monotonic() - start, 1), "workers": data.workers, "mb": _mb(folders)}
        rows += _measure(config, "prepared", args.seconds)
    name = "data_pipeline" if args.root else "data_pipeline_shapes"
    machine = timing.machine()
    machine["versions"] |= {p: version(p) for p in ("grain", "tensorflow-datasets", "array-record", "pillow")}
    command = f"python benchmarks/data_pipeline.py{' --root=FOLDER' if args.root else ''} --seconds={args.seconds:g}"
    timing.write(
        name,
        {
            "command": command, "preset": config.preset, "images": len(sizes), "load_before": load,
            "objects": sum(len(i.annotations) for i in records.infos),
            "canvases": buckets.line(buckets.padding(sizes, data)), "preparing": prepared,
            "measured": rows, f"cores_for_{IMAGES_WANTED}_images_per_s": _cores(rows, "detector", IMAGES_WANTED),
            "mask_samples_per_s_and_core": {k: round(1 / v, 1) for k, v in _cores(rows, "mask", 1).items()},
            **machine,
        },
    )  # fmt: skip
    for row in rows:
        print("  ".join(f"{row[k]!s:>12}" for k in ("loader", "source", "workers", "per_s", "cpu_ms")))


def _photos(root: Path, folder: Path) -> Any:
    """Config of the coco preset for the photos in `root`; what is prepared goes to `folder`."""
    config = base.get_config("coco").unlock()
    for name in ("train", "annotations"):
        if not (root / name).is_dir():
            raise SystemExit(f"no folder {root / name}: --root must hold train/ and annotations/instances_train.json")
        (folder / name).symlink_to((root / name).resolve())
    config.data.update(root=str(folder), train_json="annotations/instances_train.json", train_images="train")
    config.data.update(counts="", more_images=())  # not the published files
    return config


def _scenes(folder: Path) -> Any:
    """Config of the shapes preset with its scenes as plain json and png."""
    config = base.get_config().unlock()
    config.data.update(source="custom", root=str(folder), cache_mb=0, train_json="train.json", train_images="train")
    coco.save(shapes.scenes("shapes", "train", 0, SCENES), folder / "train.json", folder / "train")
    return config


def _measure(config: Any, source: str, seconds: float) -> list[dict]:
    """A row for each loader and number of workers."""
    data, k, rows = config.data, config.model.mask, []
    for workers in WORKERS:
        data.workers = workers
        records = pipeline.open_split(data, "train")
        crops = pipeline.open_crops(data, records, "train")
        loaders = {
            "detector": functools.partial(
                pipeline.detector_loader, records, data, batch=config.train.detector.batch, seed=0
            ),
            "mask": functools.partial(
                pipeline.mask_loader, crops, data, slots=k.slots, min_shots=k.min_shots, size=k.size,
                batch=config.train.mask.batch, seed=0,
            ),
        }  # fmt: skip
        for name, make in loaders.items():
            per_second, cpu = _rate(make(), seconds)
            rows.append(
                {
                    "loader": name, "source": source, "workers": workers, "per_s": round(per_second, 1),
                    "cpu_ms": None if workers else round(1000 * cpu, 2),
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
            gc.collect()  # an iterator that is gone takes its processes along
    return rows


def _rate(batches: Iterator, seconds: float) -> tuple[float, float]:
    """Images or samples per second, and seconds that this process computes for each."""
    for _ in range(WARM_UP):
        next(batches)
    count, start, cpu = 0, time.monotonic(), time.process_time()
    while time.monotonic() - start < seconds:
        count += len(next(batches)[0])
    return count / (time.monotonic() - start), (time.process_time() - cpu) / count


def _cores(rows: list[dict], loader: str, rate: float) -> dict[str, float]:
    """Cores that `rate` images or samples per second take, by source."""
    return {r["source"]: round(rate * r["cpu_ms"] / 1000, 4) for r in rows if r["loader"] == loader and r["cpu_ms"]}


def _mb(folders: list[str]) -> dict[str, float]:
    """Size on the disk of each prepared folder, by what it holds."""
    return {
        Path(f).name.rsplit("-", 1)[0]: round(sum(p.stat().st_size for p in Path(f).rglob("*") if p.is_file()) / 1e6, 1)
        for f in folders
    }


if __name__ == "__main__":
    main()
