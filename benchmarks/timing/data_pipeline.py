"""What the data loaders cost on their own, and how many cores keep a GPU busy.

    python benchmarks/timing/data_pipeline.py  # 400 generated scenes -> results/data_pipeline_shapes.json
    python benchmarks/timing/data_pipeline.py --root=FOLDER  # photos, sizes of the coco preset -> data_pipeline.json
    python benchmarks/timing/data_pipeline.py --root=FOLDER --against=CHECKOUT # beside another checkout

FOLDER holds photos as COCO does: train/ and annotations/instances_train.json. Each case runs in a process of its
own, in turn with the others, and the median over the rounds is what counts. "cpu_ms" is processor time per image or
sample, of the process and its workers, after the first batches: other programs ("load_before" over 0) change it
less than a rate, and the cores that a rate takes are rate x cpu_ms. "kshot" is what stage 2 reads: K = 10 objects
of each class (all there are of rarer ones), from plain files, after an epoch. "workers" are grain's processes.
"""

import argparse
import contextlib
import functools
import inspect
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2]
SLOTS = (5, 10)  # of the mask head
SHOTS = 10  # K of "kshot"
MASK_SAMPLES = 2600  # per second: what one H200 is expected to train on
IMAGES = 60  # per second, likewise of the detector
WARM_UP = 3  # batches
SCENES = 400
SOURCES = ("plain", "prepared", "kshot")
WORKERS = (1, 2)


def main() -> None:
    """Measures, prints a table, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="", help="folder of photos; default: generated scenes")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", default="", help="folder of another version of this repository")
    parser.add_argument("--work", default="", help=argparse.SUPPRESS)  # a worker: its folder of data ...
    parser.add_argument("--checkout", default=str(HERE), help=argparse.SUPPRESS)  # ... the version it runs ...
    parser.add_argument("--case", default="", help=argparse.SUPPRESS)  # ... and what it measures; none: it prepares
    args = parser.parse_args()
    if args.work:
        sys.path.insert(0, args.checkout)
        source = args.case.split(",")[1] if args.case else "prepared"
        folder = Path(args.work) / ("prepared" if source == "prepared" else "plain")
        folder.mkdir(exist_ok=True)
        config = _photos(Path(args.root), folder) if args.root else _scenes(folder)
        print(json.dumps(_case(config, args.case, args.seconds) if args.case else _prepare(config)))
        return
    sys.path.insert(0, str(HERE))
    from benchmarks import measure

    os.environ["JAX_PLATFORMS"] = "cpu"  # no GPU takes part; `machine` then names the processor
    load = [round(v, 2) for v in os.getloadavg()]  # before the start: what else is running
    versions = {"this": str(HERE)} | ({"other": args.against} if args.against else {})
    with tempfile.TemporaryDirectory() as folder:
        jobs, prepared = {}, {}
        for name, checkout in versions.items():
            (Path(folder) / name).mkdir()
            run = functools.partial(
                measure.worker, "data_pipeline.py", work=f"{folder}/{name}", checkout=checkout, root=args.root,
                seconds=args.seconds,
            )  # fmt: skip
            prepared[name] = run()
            if "error" in prepared[name]:
                raise SystemExit(prepared[name]["error"])
            jobs |= {f"{name}: {case}": functools.partial(run, case=case) for case in _cases(name)}
        # one round after the other, and in each of them the versions beside each other
        order = sorted(jobs, key=lambda job: job.split(": ")[1])
        measured = measure.rounds({job: jobs[job] for job in order}, args.rounds)
    rows = [_row(job, result) for job, result in measured.items()]
    flags = [*(["--root=FOLDER"] if args.root else []), *(["--against=CHECKOUT"] if args.against else [])]
    machine = measure.machine()
    machine["versions"] |= {p: version(p) for p in ("grain", "tensorflow-datasets", "array-record", "pillow")}
    measure.write(
        "data_pipeline" if args.root else "data_pipeline_shapes",
        {
            "command": " ".join(["python benchmarks/timing/data_pipeline.py", *flags, f"--seconds={args.seconds:g}"]),
            "rounds": args.rounds, "load_before": load, "preparing": prepared, "measured": rows,
            "times_less_than_other": _ratios(rows),
            "cores": {
                f"{MASK_SAMPLES} mask samples per s": _cores(rows, "mask", MASK_SAMPLES),
                f"{IMAGES} images per s": _cores(rows, "detector", IMAGES),
            },
            **machine,
        },
    )  # fmt: skip
    for row in rows:
        print("  ".join(f"{v!s:>10}" for v in row.values()))
    print("times less than the other version:", _ratios(rows))


def _cases(version_name: str) -> list[str]:
    """Loader, source, slots, workers of each measurement."""
    cases = [f"mask,{s},{k},0" for s in SOURCES for k in SLOTS] + [f"detector,{s},0,0" for s in SOURCES]
    if version_name == "this":
        cases += [f"{loader},prepared,{k},{w}" for loader, k in (("mask", SLOTS[0]), ("detector", 0)) for w in WORKERS]
    return cases


def _row(job: str, result: dict) -> dict[str, Any]:
    name, case = job.split(": ")
    loader, source, slots, workers = case.split(",")
    row = {"version": name, "loader": loader, "source": source, "slots": int(slots), "workers": int(workers)}
    if "error" in result:
        return row | {"cpu_ms": None, "per_s": result["error"]}
    return row | {"cpu_ms": round(1000 * result["seconds"], 2), "per_s": round(result["per_s"], 1)}


def _named(case: str, slots: int) -> str:
    return f"{case}, {slots} slots" if slots else case


def _ratios(rows: list[dict]) -> dict[str, float]:
    """How many times less CPU each case takes than in the other version."""
    at = {(r["version"], r["loader"], r["source"], r["slots"]): r["cpu_ms"] for r in rows if not r["workers"]}
    return {
        _named(f"{loader} {source}", slots): round(at["other", loader, source, slots] / ms, 2)
        for (name, loader, source, slots), ms in at.items()
        if name == "this" and ms and at.get(("other", loader, source, slots))
    }


def _cores(rows: list[dict], loader: str, rate: float) -> dict[str, float]:
    """Cores that `rate` images or samples per second take."""
    return {
        _named(r["source"], r["slots"]): round(rate * r["cpu_ms"] / 1000, 2)
        for r in rows
        if r["loader"] == loader and r["version"] == "this" and r["cpu_ms"] and not r["workers"]
    }


def _photos(root: Path, folder: Path) -> Any:
    """Config of the coco preset for the photos in `root`; what is prepared goes to `folder`."""
    from configs import base

    config = base.get_config("coco").unlock()
    for name in ("train", "annotations"):
        if not (root / name).is_dir():
            raise SystemExit(f"no folder {root}/{name}: --root must hold train/ and annotations/instances_train.json")
        if not (folder / name).exists():
            (folder / name).symlink_to((root / name).resolve())
    config.data.update(root=str(folder), train_json="annotations/instances_train.json", train_images="train")
    config.data.update(counts="", more_images=(), workers=0)  # not the published files
    return config


def _scenes(folder: Path) -> Any:
    """Config of the shapes preset with its scenes as plain json and png."""
    from configs import base
    from maskdiff_jax.data.formats import coco
    from maskdiff_jax.data.synthetic import scenes

    config = base.get_config().unlock()
    config.data.update(source="custom", root=str(folder), train_json="train.json", train_images="train")
    config.data.update(cache_mb=0, workers=0)
    if not (folder / "train.json").exists():
        coco.save(scenes.scenes("shapes", "train", 0, SCENES), folder / "train.json", folder / "train")
    return config


def _prepare(config: Any) -> dict[str, Any]:
    """Writes the prepared sets; what they hold and take."""
    from maskdiff_jax.data import buckets, pipeline

    dataset = pipeline.open_split(config.data, "train")
    start, options = time.process_time(), {}
    if "shot_size" in inspect.signature(pipeline.prepare_split).parameters:  # versions before it prepare no shots
        options["shot_size"] = config.model.mask.size
    folders = pipeline.prepare_split(config.data, "train", **options)
    sizes = [(i.height, i.width) for i in dataset.infos]
    return {
        "preset": config.preset, "images": len(sizes), "objects": sum(len(i.annotations) for i in dataset.infos),
        "padded sizes": buckets.describe(buckets.padding(sizes, config.data)),
        "cpu_seconds": round(time.process_time() - start, 1), "mb": {Path(f).name[:-11]: _mb(f) for f in folders},
    }  # fmt: skip


def _case(config: Any, case: str, seconds: float) -> dict[str, float]:
    """CPU seconds per sample or image, and how many per second."""
    from maskdiff_jax.data import pipeline
    from maskdiff_jax.data.fewshot import shots as fewshot

    loader, source, slots, workers = case.split(",")
    data, size = config.data, config.model.mask.size
    data.workers = int(workers)
    if source != "kshot" and hasattr(pipeline, "SMALL_SET"):
        pipeline.SMALL_SET = 0  # these photos stand for a set that does not fit into memory
    dataset = pipeline.open_split(data, "train")
    if source == "kshot":
        shots = fewshot.sample(dataset, SHOTS, 0, short_classes="take_all", min_box_side=data.min_box_side)
        dataset = fewshot.shot_dataset(dataset, shots, data.shot_unlabeled)
    if loader == "detector":
        batch = config.train.detector.batch
        batches = pipeline.detector_loader(dataset, data, batch=batch, seed=0)
        epoch = len(dataset.infos)
    else:
        batch = config.train.mask.batch
        crops = pipeline.open_crops(data, dataset, "train")
        options = {"slots": int(slots), "min_shots": 1, "size": size, "batch": batch, "seed": 0}
        batches, epoch = pipeline.mask_loader(crops, data, **options), len(crops.infos)
    warm_up = WARM_UP if source != "kshot" else WARM_UP + -(-epoch // batch)
    per_second, cpu = _rate(batches, warm_up, seconds)
    return {"seconds": cpu, "per_s": per_second}


def _rate(batches: Iterator, warm_up: int, seconds: float) -> tuple[float, float]:
    """Images or samples per second, and CPU seconds for each."""
    for _ in range(warm_up):
        next(batches)
    count, start, cpu = 0, time.monotonic(), _cpu_seconds()
    while time.monotonic() - start < seconds:
        count += len(next(batches)[0])
    return count / (time.monotonic() - start), (_cpu_seconds() - cpu) / count


def _cpu_seconds() -> float:
    """What this process and those that it started have computed so far (Linux)."""
    parent_of, ticks = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # a process that ended meanwhile
            fields = stat.read_text().rpartition(")")[2].split()
            pid = int(stat.parent.name)
            parent_of[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    family = {os.getpid()}
    while more := {p for p, parent in parent_of.items() if parent in family} - family:
        family |= more
    return sum(ticks.get(p, 0) for p in family) / os.sysconf("SC_CLK_TCK")


def _mb(folder: str) -> float:
    """Size on the disk."""
    return round(sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file()) / 1e6, 1)


if __name__ == "__main__":
    main()
