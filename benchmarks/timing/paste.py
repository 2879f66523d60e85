"""Masks of a large photo: what pasting costs beside decoding, and how much memory a prediction takes.

    python benchmarks/timing/paste.py                                 # -> benchmarks/results/paste.json

Pasting: ten soft masks of 128 x 128 px in boxes of up to the whole photo -> RLE, by turns with decoding the photo's
JPEG. Prediction: the coco preset with narrow nets and random weights, in a separate process, which predicts a small
photo first ("the loaded model") and then small and large ones by turns: the median of the seconds, the most of the
resident memory (from Linux' /proc).
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from PIL import Image

from benchmarks import measure

HW = (4000, 6000)  # 24 megapixels
OBJECTS = 10
SMALL = (400, 600)  # the same padded size for the detector
PREDICTIONS = 5  # of each photo, by turns


def main() -> None:
    """Prints both measurements and writes the json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photo", help=argparse.SUPPRESS)  # the worker that predicts
    args = parser.parse_args()
    if args.photo:
        print(json.dumps(predict(Path(args.photo))))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        Image.fromarray(photo(HW)).save(path, quality=90)
        result = {"height": HW[0], "width": HW[1], "objects": OBJECTS, "jpeg_mb": round(path.stat().st_size / 1e6, 1)}
        result |= {"pasting": pasting(path.read_bytes(), args.rounds)}
        print(result, flush=True)
        result |= {"prediction": measure.worker("paste.py", photo=path)}
    print(result["prediction"])
    measure.write("paste", result | measure.machine())


def photo(hw: tuple[int, int]) -> np.ndarray:
    """uint8 [h, w, 3]: colors that vary over thousands of pixels, with the grain of a sensor."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 18, 3), np.uint8)).resize(hw[::-1], Image.Resampling.BICUBIC)
    grain = rng.normal(0, 4, (hw[0], hw[1], 1)).astype(np.float32)
    return np.clip(np.asarray(coarse, np.float32) + grain, 0, 255).astype(np.uint8)


def boxes() -> np.ndarray:
    """[OBJECTS, 4] xyxy: from a fiftieth of the photo's sides to the whole photo, evenly in the logarithm."""
    rng = np.random.default_rng(0)
    share = np.geomspace(0.02, 1.0, OBJECTS)[:, None]
    corner = rng.uniform(0, 1, (OBJECTS, 2)) * (1 - share)
    return (np.concatenate([corner, corner + share], 1) * [HW[1], HW[0], HW[1], HW[0]]).astype(np.float32)


def pasting(jpeg: bytes, rounds: int) -> dict:
    """Medians of seconds, the jobs taking turns; resizing makes the network's input and the regions' image."""
    from configs import fewshot
    from maskdiff_jax.data.formats.images import decode_image
    from maskdiff_jax.inference import paste, predictor

    image, data = decode_image(jpeg, "photo"), fewshot.get_config("coco,shots=5").data
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (OBJECTS, 8, 8), np.uint8)
    soft = np.stack([Image.fromarray(c).resize((128, 128), Image.Resampling.BICUBIC) for c in coarse]) / np.float32(255)
    jobs = {
        "decode": lambda: decode_image(jpeg, "photo"),
        "resize": lambda: predictor.as_batch(image, 0, data),
        "paste": lambda: [paste.paste_rle(m, b, HW, 0.5) for m, b in zip(soft, boxes(), strict=True)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - start)
    medians = {f"{name}_seconds": round(statistics.median(s[1:]), 4) for name, s in seconds.items()}
    share = statistics.median(p / d for p, d in zip(seconds["paste"][1:], seconds["decode"][1:], strict=True))
    return medians | {"paste_over_decode": round(share, 3)}


def narrow_model():
    """A predictor of the coco preset, ten objects per image, random weights and shots."""
    import jax

    from configs import fewshot
    from maskdiff_jax.data.dataset import Category
    from maskdiff_jax.inference import predictor
    from maskdiff_jax.inference.export import TrainedModel
    from maskdiff_jax.model import build
    from maskdiff_jax.types import SupportSet

    c = fewshot.get_config("coco,shots=5").unlock()
    c.model.detector.update(blocks=(1, 1, 1, 1), width=8, fpn_channels=16, fc_channels=32)
    c.model.dtype = "float32"
    c.model.detector.update(max_detections=OBJECTS, min_score=0.0, norm="group")  # no statistics to make up
    c.model.mask.unet.update(width=8, multipliers=(1, 1, 2), attention=(32,), blocks=1)
    c.eval.update(mask_top_n=OBJECTS, mask_min_score=0.0)
    rng = np.random.default_rng(0)
    like = jax.eval_shape(build(c.model).init, jax.random.key(0))
    params = jax.tree.map(lambda x: (0.1 * rng.standard_normal(x.shape)).astype(x.dtype), like)
    shape = (c.model.num_classes, c.model.mask.slots, c.model.mask.size, c.model.mask.size, 4)
    support = SupportSet(rng.integers(0, 256, shape, np.uint8), np.full(c.model.num_classes, c.model.mask.slots))
    categories = tuple(Category(i + 1, f"class {i}", False) for i in range(c.model.num_classes))
    trained = TrainedModel(params, c.lock(), categories, support)
    return predictor.Predictor(trained, noise_seed=0, samples=1, min_score=0.0, keep_samples=False)


def predict(path: Path) -> dict:
    """Memory and seconds of decoding and predicting the photo, after a small one."""
    from launch import cli
    from maskdiff_jax.data.formats.images import decode_image

    cli.set_up_jax(128)
    model = narrow_model()
    model(photo(SMALL))
    rows: dict[str, list[dict]] = {"small": [], "large": []}
    for name in ("small", "large") * PREDICTIONS:
        _reset_peak()
        before, start = _memory("VmRSS"), time.perf_counter()
        image = photo(SMALL) if name == "small" else decode_image(path.read_bytes(), "photo")
        ready = time.perf_counter()
        found = model(image)
        row = {"ready_seconds": ready - start, "predict_seconds": time.perf_counter() - ready, "gb_model": before}
        rows[name].append(row | {"gb_above_model": _memory("VmHWM") - before, "objects": len(found.rles)})
        del image
    # seconds: the median; memory: the most
    pick = {"ready_seconds": statistics.median, "predict_seconds": statistics.median}
    return {
        name: {k: round(pick.get(k, max)(r[k] for r in several), 3) for k in several[0]}
        for name, several in rows.items()
    }


def _memory(field: str) -> float:
    """GB of VmRSS (now) or VmHWM (peak since `_reset_peak`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith(field)) * 1024 / 1e9


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
