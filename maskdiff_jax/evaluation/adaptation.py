"""The effect of adapting a model to new classes: a figure of before and after, and the objects found in photos without
a shot.

Used by launch/adapt.py, which makes the folder that is read here (`inference.adaptation`).
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskdiff_jax import atomic, workdir
from maskdiff_jax.data.dataset import Dataset
from maskdiff_jax.data.formats.segmentation import decode_mask
from maskdiff_jax.inference import adaptation, predictor
from maskdiff_jax.reporting import visualize

FOUND, SHEET = "found.json", "before_after.png"
SHOWN = 8  # photos of the sheet
HIT = 0.5  # mask IoU from which an object counts as found


def compare(out: Path, model: str | Path, names: Sequence[str], k: int) -> None:
    """Writes the sheet, and how many objects were found in photos without a shot, those of a validation or test split
    included; prints the latter.

    Args:
      out: the folder of launch/adapt.py, with run/ and model/.
      model: the export that was adapted.
      names: of the new classes.
      k: shots of each class.
    """
    data = adaptation.open_data(out)
    new = [i for i, c in enumerate(data.categories) if c.name in names]
    sampled = json.loads((out / "run" / workdir.SHOTS).read_text())
    shots = {shot for i in new for shot in sampled[str(i)]}
    adapted, instant = predictor.load(out / "model"), add_instantly(model, data, new, shots)
    rows, held_out, false = [], [], Counter()
    photos = [(data, i, shots) for i, info in enumerate(data.infos) if adaptation.is_own(info)]
    if kept := adaptation.open_held_out(out):  # its annotations have their own ids
        photos += [(kept, i, set()) for i in range(len(kept.infos))]
    for dataset, i, trained_on in photos:
        info, image = dataset.infos[i], dataset.read(i)
        objects = [a for a in info.annotations if a.class_id in new and a.is_target]
        found = {"add_class": instant(image) if instant else None, "adapted": adapted(image)}
        if objects and not trained_on & {a.id for a in info.annotations}:
            held_out += [score(a, data.categories[a.class_id].name, found) for a in objects]
            for title, detections in found.items():
                false[title] += 0 if detections is None else false_detections(objects, data.categories, new, detections)
        if len(rows) < SHOWN:
            sides = [("ground truth", truth_picture(image, objects, data.categories))]
            sides += [(title, np.asarray(f.plot())) for title, f in found.items() if f is not None]
            rows.append(visualize.strip([s for _, s in sides], [t for t, _ in sides], cell=320))
    sheet = Image.fromarray(visualize.above(rows))
    atomic.write(out / SHEET, lambda file: sheet.save(file, "png"))
    summary = {title: line | {"false": false[title]} for title, line in summarize(held_out).items()}
    for title, line in summary.items():
        print(
            f"{title}: {line['found']} of {line['objects']} objects found in photos without a shot, "
            f"mean mask IoU {line['iou']:.2f}, "
            f"{line['false']} false detections of new classes"
        )
    atomic.write_json(out / FOUND, {"held_out": summary, "photos": len(photos), "shots": k})


def add_instantly(model: str | Path, data: Dataset, new: list[int], shots: set[int]) -> Any:
    """A predictor of the export with the new classes added without training; None where that is not possible."""
    instant = predictor.load(model)
    try:
        for class_id in new:
            chosen = [
                (k, [a.rle for a in info.annotations if a.id in shots and a.class_id == class_id])
                for k, info in enumerate(data.infos)
            ]
            chosen = [(k, rles) for k, rles in chosen if rles]
            name = data.categories[class_id].name
            instant.add_class(name, [data.read(k) for k, _ in chosen], [rles for _, rles in chosen])
    except ValueError as error:
        print(f"note: the column of add_class is omitted: {error}")
        return None
    return instant


def truth_picture(image: Any, objects: list, categories: Any) -> Any:
    """A photo with the user's masks."""
    masks = np.array([decode_mask(a.rle) for a in objects], bool).reshape(-1, *image.shape[:2])
    boxes = np.array([a.box for a in objects]).reshape(-1, 4)
    labels, colors = [categories[a.class_id].name for a in objects], [visualize.color(a.class_id) for a in objects]
    return visualize.overlay(image, masks, boxes, labels, None, colors, novel=[True] * len(objects))


def score(annotation: Any, name: str, found: dict[str, Any]) -> dict[str, float]:
    """The best mask IoU, 0..1, of an object with what each model found of its class."""
    truth, best = decode_mask(annotation.rle).astype(bool), {}
    for title, detections in found.items():
        if detections is not None:
            masks = [detections.mask(i) for i, label in enumerate(detections.labels) if label == name]
            best[title] = max((float(np.sum(m & truth) / np.sum(m | truth)) for m in masks), default=0.0)
    return best


def false_detections(objects: list, categories: Any, new: list[int], detections: Any) -> int:
    """How many detections of new classes lie on no object of their class, by a mask IoU of `HIT`."""
    count = 0
    for class_id in new:
        name = categories[class_id].name
        for i in [i for i, label in enumerate(detections.labels) if label == name]:
            one = {"": detections[i]}
            count += all(score(a, name, one)[""] < HIT for a in objects if a.class_id == class_id)
    return count


def summarize(held_out: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Objects, hits and mean mask IoU of each model."""
    titles = held_out[0] if held_out else {}
    ious = {title: [x[title] for x in held_out] for title in titles}
    return {
        title: {"objects": len(v), "found": sum(x >= HIT for x in v), "iou": round(sum(v) / len(v), 4)}
        for title, v in ious.items()
    }
