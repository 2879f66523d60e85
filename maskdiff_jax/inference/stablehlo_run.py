"""Segments images with an exported model; `run.py` in the folder of an export is a copy of this file.

    pip install jax flatbuffers pillow          # with an NVIDIA GPU jax[cuda12]; jax reads programs with flatbuffers
    python run.py photo.jpg --output=found      # found/photo.jpg.npz: boxes, scores, class_ids, names, masks

In Python: `run.Model(FOLDER)(run.read("photo.jpg"))`. The first image of each padded size compiles a program.
"""

import argparse
import functools
import json
import sys
from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageOps


class Model:
    """An exported model on jax's first device."""

    def __init__(self, folder, min_score=None):
        """Opens an export. Detections below `min_score` (0..1) are dropped; None: the value that was exported."""
        read_bytes = lambda name: Path(folder, name).read_bytes()
        self.options = options = json.loads(read_bytes("serving.json"))
        check_jax(options)
        self.min_score = options["min_score"] if min_score is None else min_score
        weights = jax.device_put(dict(np.load(Path(folder, "weights.npz"))))
        self.shots = weights.pop("support/shots")  # [C, K, M, M, 4] uint8
        self.detector = {name: x for name, x in weights.items() if name.startswith("detector/")}
        self.mask_head = {name: x for name, x in weights.items() if name.startswith("mask_head/")}
        self.active = np.isin(np.arange(len(options["categories"])), options["active"])
        self.program = functools.cache(lambda name: jax.jit(jax.export.deserialize(bytearray(read_bytes(name))).call))

    def __call__(self, image, image_id=0):
        """Detects the n objects of an image, uint8 [h, w, 3] RGB; `image_id` selects the noise of the sampler.

        Returns a dict, best first: boxes [n, 4] (x0, y0, x1, y1 in pixels of the image), scores [n], class_ids [n],
        names [n], masks [n, h, w] bool, and soft [n, M, M], the sampled masks of the boxes with their margin, 0..1.
        """
        options, (h, w) = self.options, image.shape[:2]
        boxes, scores, classes, regions = (np.asarray(x)[0] for x in self.detect(image))
        chosen = np.flatnonzero((classes >= 0) & (scores >= self.min_score) & (np.arange(len(scores)) < len(regions)))
        boxes, scores, classes = boxes[chosen], scores[chosen], classes[chosen]
        soft = self.sample_masks(chosen.astype(np.int32), classes, regions[chosen], image_id)
        margin = np.float32(options["context"]) * (boxes[:, 2:] - boxes[:, :2])
        covered = np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], 1)
        masks = np.zeros((len(chosen), h, w), bool)
        for mask, values, box in zip(masks, soft, covered.clip(0, np.float32([w, h, w, h])), strict=True):
            mask[:] = paste(values, box, (h, w)) >= options["threshold"]
        names = np.array([options["categories"][c]["name"] for c in classes], str)
        return {"boxes": boxes, "scores": scores, "class_ids": classes, "names": names, "masks": masks, "soft": soft}

    def detect(self, image):
        """The detector's boxes, scores, classes and regions. The image is resized as detectron2 does and padded."""
        options, (h, w) = self.options, image.shape[:2]
        short, long, crops = options["short_side"], options["long_side"], options["region_long_side"]
        hw = [side * (short / min(h, w)) if side > min(h, w) else short for side in (h, w)]
        hw = [max(int(side * min(1, long / max(hw)) + 0.5), 1) for side in hw]
        sizes = [size for size in options["padded_sizes"] if size[0] >= hw[0] and size[1] >= hw[1]]
        if not sizes:
            raise ValueError(
                f"an image of {h} x {w} px becomes {hw[0]} x {hw[1]} px, which is larger than every padded size "
                "of this model"
            )
        size = min(sizes, key=np.prod)
        region_hw = [max(int(side * min(1, crops / max(h, w)) + 0.5), 1) for side in (h, w)]
        images = padded(image, hw, size), padded(image, region_hw, (crops, crops))
        hw, original_hw, region_hw = (np.array([x], np.int32) for x in (hw, (h, w), region_hw))
        arguments = self.detector, images[0], hw, original_hw, images[1], region_hw, self.active
        return self.program(f"detect_{size[0]}x{size[1]}.jax_export")(*arguments)

    def sample_masks(self, rank, classes, regions, image_id):
        """Soft masks [n, M, M] of n objects, in batches; the last one is filled up with copies of its first object."""
        side, batches = self.options["mask_side"], self.options["mask_batches"]
        parts, key = [np.zeros((0, side, side), np.float32)], np.array(self.options["noise_key"], np.uint32)
        for start in range(0, len(rank), batches[-1]):
            n = min(len(rank) - start, batches[-1])
            full = next(size for size in batches if size >= n)
            index = np.r_[start : start + n, [start] * (full - n)].astype(int)
            objects = np.full(full, image_id, np.int32), rank[index], classes[index], regions[index]
            parts.append(self.program(f"masks_{full}.jax_export")(self.mask_head, self.shots, key, *objects)[:n])
        return np.concatenate(parts)


def check_jax(options):
    """Raises ValueError if the installed jax cannot run the programs."""
    wanted, here = (tuple(map(int, version.split(".")[:2])) for version in (options["jax"], jax.__version__))
    if here < wanted or not hasattr(jax, "export"):
        raise ValueError(f"jax {jax.__version__} is too old for this model: pip install 'jax>={options['jax']}'")
    platform, known = jax.devices()[0].platform.replace("gpu", "cuda"), options["platforms"]
    if platform not in known:
        fix = f"set JAX_PLATFORMS={known[0]}, or export it again with --platforms={','.join([*known, platform])}"
        raise ValueError(f"this model was exported for {', '.join(known)}, but jax runs on {platform} here: {fix}")


def padded(image, hw, size):
    """uint8 [1, *size, 3]: the image resized to `hw`, top left, zeros around it."""
    out, same = np.zeros((1, *size, 3), np.uint8), list(image.shape[:2]) == hw
    out[0, : hw[0], : hw[1]] = image if same else Image.fromarray(image).resize(hw[::-1], Image.Resampling.BILINEAR)
    return out


def paste(soft, box, hw):
    """[h, w]: the M x M soft values of a box in an image of zeros, interpolated as in detectron2."""
    values, spans = np.pad(soft, 1).T, []
    for start, end, length in ((box[0], box[2], hw[1]), (box[1], box[3], hw[0])):
        start, end, size = float(start), float(end), len(soft)
        low, high = max(int(np.floor(start)) - 1, 0), min(int(np.ceil(end)) + 1, length) if end > start else 0
        at = (np.arange(low, high) + 0.5 - start) / max(end - start, 1e-6) * size - 0.5
        below = np.floor(at).astype(int)
        share = (at - below).astype(np.float32)[:, None]
        before, after = (values[np.clip(below + k, 0, size + 1)] for k in (1, 2))
        values = (before * (1 - share) + after * share).T
        spans.append(slice(low, max(low, high)))
    out = np.zeros(hw, np.float32)
    out[spans[1], spans[0]] = values.T
    return out


def read(path):
    """The image in a file, uint8 [h, w, 3] RGB, rotated as its EXIF says."""
    with Image.open(path) as image:
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
        return np.asarray(image.convert("RGB"))


def main():
    parser = argparse.ArgumentParser(description="Segments images with the model in this folder.")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--output", default="found", type=Path, help="folder for a .npz file of each image")
    parser.add_argument("--min_score", type=float, help="minimum score of a detection, 0..1")
    options = parser.parse_args()
    try:
        model = Model(Path(__file__).resolve().parent, options.min_score)
        options.output.mkdir(parents=True, exist_ok=True)
        for path in options.images:
            found = model(read(path))
            np.savez_compressed(options.output / f"{path.name}.npz", **found)
            for name, score, box in zip(found["names"], found["scores"], found["boxes"], strict=True):
                print(f"{path}: {name} {score:.2f} at {box.astype(float).round(1).tolist()}")
    except (OSError, ValueError, ImportError, Image.DecompressionBombError) as error:
        sys.exit(f"run.py: {error}")


if __name__ == "__main__":
    main()
