"""Detects objects in images and draws their masks, with an exported model.

    python launch/sample.py --model=exports/mine photo.jpg another.png
    python launch/sample.py --model=exports/mine --output=out --samples=5 --min_score=0.5 images/*.jpg

Writes OUTPUT/<name>.png (the image with masks, boxes, labels; novel classes are starred) for each image, and
OUTPUT/results.json: COCO results with file_name, category_name and the mask's confidence, image_id counting the
arguments from 1.
A file that is no image is named on stderr, the others are still done, and the exit code is 1.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from launch import cli

_MODEL = flags.DEFINE_string("model", None, "Folder written by launch/export.py. Required.")
_OUTPUT = flags.DEFINE_string("output", "samples", "Folder for overlays and results.json.")
_NOISE_SEED = flags.DEFINE_integer("noise_seed", None, "Seed of the masks' noise; default: as evaluated.")
_SAMPLES = flags.DEFINE_integer("samples", None, "Masks drawn per object and averaged; default: as evaluated.")
_RESCORE = flags.DEFINE_bool("rescore", False, "Multiply scores by the masks' confidence.")
_MIN_SCORE = flags.DEFINE_float("min_score", 0.3, "Detections that score less are left out, 0..1.")


def _mask_size(folder: Path) -> int:
    """Of an exported model; 0 where there is none, which ``predictor.load`` will say."""
    try:
        return json.loads((folder / "export.json").read_text())["config"]["model"]["mask"]["size"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def main(argv: list[str]) -> int:
    """Samples every image; 1 if one could not be read."""
    if not _MODEL.value or len(argv) < 2:
        raise ValueError("usage: sample.py --model=FOLDER image.jpg ... (see --help)")
    cli.set_up_jax(_mask_size(Path(_MODEL.value)))
    from PIL import Image

    from maskdiff_jax.data.formats.images import decode_image
    from maskdiff_jax.inference import predictor
    from maskdiff_jax.reporting import visualize

    model = predictor.load(
        _MODEL.value, noise_seed=_NOISE_SEED.value, samples=_SAMPLES.value, min_score=_MIN_SCORE.value
    )
    output = Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    results, taken, failed = [], set(), 0
    for image_id, name in enumerate(argv[1:], 1):
        try:
            image = decode_image(Path(name).read_bytes(), name)
        except (ValueError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no image, or damaged"
            print(f"sample.py: cannot read {name}: {reason}", file=sys.stderr)
            failed += 1
            continue
        found = model(image)
        if _RESCORE.value:
            found = found._replace(scores=found.scores * found.confidence)
        picture = visualize.overlay(
            image,
            found.masks,
            found.boxes,
            found.labels,
            found.scores,
            [visualize.color(i) for i in found.class_ids],
            novel=[model.categories[i].novel for i in found.class_ids],
        )
        stem = Path(name).stem
        if stem in taken:  # images of the same name in several folders
            stem = f"{stem}_{image_id}"
        taken.add(stem)
        Image.fromarray(picture).save(output / f"{stem}.png")
        for i, mask in enumerate(found.rles):
            x0, y0, x1, y1 = (round(float(v), 2) for v in found.boxes[i])
            category = model.categories[found.class_ids[i]]
            results.append({
                "image_id": image_id, "file_name": name, "category_id": category.id,
                "category_name": category.name, "score": round(float(found.scores[i]), 5),
                "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)], "segmentation": mask,
                "confidence": round(float(found.confidence[i]), 5),
            })  # fmt: skip
        print(f"{output / f'{stem}.png'}: {', '.join(found.labels) or 'nothing found'}")
    new = output / "results.json.partial"
    new.write_text(json.dumps(results, indent=1))
    new.replace(output / "results.json")
    print(f"{output / 'results.json'}: {len(results)} objects in {len(argv) - 1 - failed} images")
    return 1 if failed else 0


if __name__ == "__main__":
    cli.guarded(main)
