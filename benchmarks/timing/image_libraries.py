"""Pillow, OpenCV and TurboJPEG decode photos and resize them for the detector: time per image, and what differs.

    python benchmarks/timing/image_libraries.py --root=FOLDER --python=PYTHON     # -> results/image_libraries.json

FOLDER holds JPEG files, as COCO's train2017/. PYTHON is an interpreter with numpy, pillow and
opencv-python-headless, perhaps PyTurboJPEG (--turbojpeg=PATH of its library, where that is not found); none of them
but Pillow is needed by anything else here. Images become 800 px at their shorter side, as the coco preset tests
them, on one thread. Differences are in levels of 0..255 against Pillow, which detectron2 reads and resizes with.
"""

import argparse
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2]
SHORT_SIDE, LONG_SIDE = 800, 1333


def main() -> None:
    """Measures in the other interpreter, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of JPEG files")
    parser.add_argument("--python", default="", help="interpreter that has the libraries")
    parser.add_argument("--turbojpeg", default="", help="path of libturbojpeg")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if not args.python:
        print(json.dumps(_measure(args)))
        return
    sys.path.insert(0, str(HERE))
    from benchmarks import measure

    options = {"root": args.root, "turbojpeg": args.turbojpeg, "images": args.images, "rounds": args.rounds}
    found = measure.worker("image_libraries.py", python=args.python, **options)
    if "error" in found:
        raise SystemExit(found["error"])
    print(json.dumps(found, indent=1))
    command = "python benchmarks/timing/image_libraries.py --root=FOLDER --python=PYTHON"
    machine = measure.machine()
    machine["versions"] = found.pop("versions")
    measure.write("image_libraries", {"command": command, **found, **machine})


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    """Median CPU ms per image of each step, in turn; differences between the libraries."""
    import cv2
    import numpy as np
    from PIL import Image

    cv2.setNumThreads(1)
    paths = sorted(p for p in Path(args.root).iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))[: args.images]
    files = [p.read_bytes() for p in paths]

    def pillow(data: bytes) -> Any:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))

    def opencv(data: bytes) -> Any:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)

    images = [pillow(data) for data in files]
    sides = [_width_height(*image.shape[:2]) for image in images]
    pairs = list(zip(images, sides, strict=True))

    def resize_pillow(pair: Any) -> Any:
        return np.asarray(Image.fromarray(pair[0]).resize(pair[1], Image.Resampling.BILINEAR))

    def resize_opencv(pair: Any) -> Any:
        return cv2.resize(pair[0], pair[1], interpolation=cv2.INTER_LINEAR)

    steps: dict[str, tuple[Callable, list]] = {
        "decode, Pillow": (pillow, files), "decode, OpenCV": (opencv, files),
        "resize, Pillow": (resize_pillow, pairs), "resize, OpenCV": (resize_opencv, pairs),
    }  # fmt: skip
    names = {"pillow": Image, "opencv-python-headless": cv2, "numpy": np}
    versions = {name: module.__version__ for name, module in names.items()}
    try:
        import turbojpeg

        decoder = turbojpeg.TurboJPEG(args.turbojpeg or None)
        steps["decode, TurboJPEG"] = lambda data: decoder.decode(data, turbojpeg.TJPF_RGB), files
        versions["PyTurboJPEG"] = turbojpeg.__version__
    except (ImportError, RuntimeError, OSError) as error:
        print(f"without TurboJPEG: {error}", file=sys.stderr)
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.rounds):
        for name, (step, inputs) in steps.items():
            start = time.process_time()
            for x in inputs:
                step(x)
            taken[name].append(1000 * (time.process_time() - start) / len(inputs))
    decoded = [np.abs(a.astype(int) - opencv(data)) for a, data in zip(images, files, strict=True)]
    resized = [np.abs(resize_pillow(p).astype(int) - resize_opencv(p)) for p in pairs]
    return {
        "images": len(files),
        "enlarged": sum(w > image.shape[1] for image, (w, _) in pairs),
        "cpu_ms": {name: round(float(np.median(ms)), 2) for name, ms in taken.items()},
        "decode_difference": {"max": int(max(d.max() for d in decoded)), "mean": _mean(decoded)},
        "resize_difference": {"max": int(max(d.max() for d in resized)), "mean": _mean(resized)},
        "versions": versions,
    }


def _mean(differences: list) -> float:
    return round(float(sum(d.mean() for d in differences)) / len(differences), 4)


def _width_height(height: int, width: int) -> tuple[int, int]:
    """As `maskdiff_jax.data.transforms.resized_hw`, in Pillow's order; this interpreter may lack its imports."""
    scale = min(SHORT_SIDE / min(height, width), LONG_SIDE / max(height, width))
    return int(scale * width + 0.5), int(scale * height + 0.5)


if __name__ == "__main__":
    main()
