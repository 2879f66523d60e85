"""What `make quickstart` gives and takes: runs it afresh in its own folder, writes the numbers down.

    python benchmarks/timing/quickstart.py               # -> benchmarks/results/quickstart.json, docs/quickstart.png
    python benchmarks/timing/quickstart.py --scale=3     # three times the training steps -> quickstart_3x.json

Seconds are wall-clock from the start of the script to its end, scenes, compilation and evaluation included,
installation not; the compilation cache is empty at the start. The picture shows the scenes of stage 2's report, ground
truth beside prediction: the first eight test images with novel objects, then the first four without, whatever the
predictions are.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ACROSS, GAP = 3, 24  # scenes in a row of the picture, px between them

ROOT = Path(__file__).resolve().parents[2]
KEPT = ("preset", "shots", "seed", "noise_seed", "split", "metrics", "per_class", "device", "versions", "date")


def main() -> None:
    """Runs, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="times the preset's training steps")
    parser.add_argument("--keep", type=Path, help="folder, empty or new, that the run is left in")
    args = parser.parse_args()
    scale = args.scale
    name = "quickstart" if scale == 1 else f"quickstart_{scale:g}x"
    with contextlib.nullcontext(args.keep.resolve()) if args.keep else tempfile.TemporaryDirectory() as folder:
        os.makedirs(folder, exist_ok=True)
        env = os.environ | {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
        start = time.monotonic()
        # from an empty folder, so that the scenes are rendered again too
        subprocess.run(
            [sys.executable, str(ROOT / "launch/quickstart.py"), f"--scale={scale}"], cwd=folder, env=env, check=True
        )
        seconds = time.monotonic() - start
        runs = Path(folder) / "runs/quickstart"
        if scale == 1:
            picture(sorted((runs / "fewshot" / "figures").glob("scenes_*.png")), ROOT / "docs" / "quickstart.png")
        first, last = (json.loads((runs / stage / "metrics.json").read_text()) for stage in ("base", "fewshot"))
    result = {
        "command": f"python benchmarks/timing/quickstart.py --scale={scale:g}",
        **{k: last[k] for k in KEPT},
        "steps": {"stage 1": first["step"], "stage 2": last["step"]},
        "metrics_stage_1": first["metrics"],
        "seconds": {"stage 1": first["seconds"], "stage 2": last["seconds"], "all": round(seconds, 1)},
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2),
    }
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{path.relative_to(ROOT)}: {seconds:.0f} s, {result['peak_memory_gb']} GB")


def picture(scenes: list[Path], path: Path) -> None:
    """Writes the scenes, which are of one size, in rows of `ACROSS`."""
    tiles = [Image.open(scene).convert("RGB") for scene in scenes]
    width, height = (side + GAP for side in tiles[0].size)
    page = Image.new("RGB", (ACROSS * width - GAP, -(-len(tiles) // ACROSS) * height - GAP), "white")
    for i, tile in enumerate(tiles):
        page.paste(tile, (i % ACROSS * width, i // ACROSS * height))
    page.resize((page.width // 2, page.height // 2), Image.Resampling.LANCZOS).quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main()
