"""Adds classes to an exported model by stage 2 on a few photos of yours; the base dataset is not needed.

    python launch/export.py RUN --output=exports/shapes --base_shots
    python launch/adapt.py --model=exports/shapes --images=photos --annotations=shots.json --out=adapted
    python launch/sample.py adapted/model photo.jpg

Every category of the annotations that the model does not know, by its exact name, is a new class. Objects of known
classes join the stored ones, from which K shots of each are sampled. Without --shots K is the number of objects of the
rarest new class. The same command again resumes. `--config.FIELD=VALUE` changes stage 2 (configs/fewshot.py).

Leaves OUT/model (an export), OUT/run (the run of stage 2), OUT/before_after.png and OUT/found.json: of the objects in
photos without a shot, how many were found.
"""

import hashlib
import json
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from launch import cli, run_config

CALL, FOUND, SHEET = "call.json", "found.json", "before_after.png"
SHOWN = 8  # photos of the sheet
HIT = 0.5  # mask IoU from which an object counts as found
_MODEL = flags.DEFINE_string("model", "", "Folder of the export, made with launch/export.py --base_shots.")
_IMAGES = flags.DEFINE_string("images", "", "Folder of your photos; default: beside the annotations.")
_ANNOTATIONS = flags.DEFINE_string("annotations", "", "COCO json, or a folder of LabelMe, YOLO-seg or mask files.")
_OUT = flags.DEFINE_string("out", "", "Folder to write.")
_SHOTS = flags.DEFINE_integer("shots", 0, "K; 0: as many as there are objects of the rarest new class.")


def main(overrides: list[str]) -> None:
    """Prepares, trains, exports, compares; each step that is done is not done again."""
    for name, flag in (("model", _MODEL), ("annotations", _ANNOTATIONS), ("out", _OUT)):
        if not flag.value:
            raise ValueError(f"--{name} is missing, see --help")
    out, begun = Path(_OUT.value), time.monotonic()
    call = describe_call(overrides)
    if out.exists() and not is_same_call(out, call):
        raise FileExistsError(f"{out} exists and is not of this call: give another folder with --out")
    if (out / FOUND).is_file():
        print(f"done already: {out / 'model'}")
        return
    if not out.exists():
        prepare(out, call)
    train(out, overrides)
    compare(out)
    print(f"adapted: {out / 'model'} ({time.monotonic() - begun:.0f} s); look at {out / SHEET}")


def describe_call(overrides: list[str]) -> dict[str, Any]:
    """What makes two calls the same."""
    path = Path(_ANNOTATIONS.value)
    digest = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest() if path.is_file() else ""
    files = {"model": _MODEL.value, "images": _IMAGES.value, "annotations": _ANNOTATIONS.value}
    return {k: str(Path(v).resolve()) if v else "" for k, v in files.items()} | {
        "digest": digest, "asked": _SHOTS.value, "overrides": overrides,
    }  # fmt: skip


def is_same_call(out: Path, call: dict[str, Any]) -> bool:
    """Whether a folder was begun by the same command."""
    path = out / CALL
    return path.is_file() and {k: v for k, v in json.loads(path.read_text()).items() if k in call} == call


def prepare(out: Path, call: dict[str, Any]) -> None:
    """Writes the dataset and the run that stage 2 starts from; the folder is whole or not there."""
    from maskdiff_jax import atomic
    from maskdiff_jax.inference import adaptation, export

    trained = export.read(_MODEL.value)
    partial = out.absolute().with_name(out.name + ".partial")
    atomic.check_writable(partial.parent)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        photos = adaptation.read_photos(_ANNOTATIONS.value, _IMAGES.value or None, partial / "annotations.json")
        new, notes = adaptation.new_classes(trained, photos)
        mask = trained.config.model.mask
        shots = adaptation.choose_shots(new, _SHOTS.value, mask.slots, mask.min_shots)
        for note in notes:
            print(f"note: {note}")
        print(f"new: {', '.join(f'{name} ({n} objects)' for name, n in new.items())}; K = {shots}")
        adaptation.write(partial, out, trained, photos, list(new))
        atomic.write_json(partial / CALL, call | {"shots": shots, "new": list(new)})
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def train(out: Path, overrides: list[str]) -> None:
    """Stage 2 in OUT/run, then its export in OUT/model."""
    from maskdiff_jax import workdir
    from maskdiff_jax.inference import adaptation, export
    from maskdiff_jax.training import preflight
    from maskdiff_jax.training import run as stage2

    start = out.absolute() / adaptation.START
    before = workdir.read_config(start)
    argument = f"{before.preset},shots={json.loads((out / CALL).read_text())['shots']}"
    argument += f",weights={before.weights}" + (",paper=true" if before.paper else "")
    argument += f",size={before.size}" if before.size != "paper" else ""
    config, given = run_config.read_config(f"{cli.ROOT / 'configs' / 'fewshot.py'}:{argument}", overrides)
    with config.unlocked():
        config.init_from = str(start)
        # somebody's photos: any number of objects, the others in a photo are neither background nor shots
        config.fewshot.update(sampler="instances", short_classes="take_all")
        config.data.shot_unlabeled = "ignore"
    config = run_config.complete(config, given | {"init_from"})
    cli.set_up_jax(config.model.mask.size)
    if not workdir.is_trained(out / "run"):
        for note in preflight.check(config, out / "run"):
            print(f"note: {note}")
    stage2.run(config, out / "run")
    if not (out / "model" / export.DOCUMENT).is_file():
        export.run(config, out / "run", out / "model", photos=True)


def compare(out: Path) -> None:
    """Writes the sheet, and how many objects of photos without a shot were found."""
    import numpy as np
    from PIL import Image

    from maskdiff_jax import atomic, workdir
    from maskdiff_jax.inference import adaptation, predictor
    from maskdiff_jax.reporting import visualize

    document = json.loads((out / CALL).read_text())
    data = adaptation.open_data(out)
    new = [k for k, c in enumerate(data.categories) if c.name in document["new"]]
    sampled = json.loads((out / "run" / workdir.SHOTS).read_text())
    shots = {i for k in new for i in sampled[str(k)]}
    adapted, instant = predictor.load(out / "model"), add_instantly(document["model"], data, new, shots)
    rows, held_out, false = [], [], Counter()
    own = [k for k, info in enumerate(data.infos) if adaptation.is_own(info)]
    for k in own:
        info, image = data.infos[k], data.read(k)
        objects = [a for a in info.annotations if a.class_id in new and a.is_target]
        found = {"instant addition": instant(image) if instant else None, "adapted": adapted(image)}
        if objects and not shots & {a.id for a in info.annotations}:
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
    atomic.write_json(out / FOUND, {"held_out": summary, "photos": len(own), "shots": document["shots"]})


def add_instantly(model: str, data: Any, new: list[int], shots: set[int]) -> Any:
    """A predictor of the export with the new classes added without training; None where that is not possible."""
    from maskdiff_jax.inference import predictor

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
        print(f"note: without a column of instant addition: {error}")
        return None
    return instant


def truth_picture(image: Any, objects: list, categories: Any) -> Any:
    """A photo with the user's masks."""
    import numpy as np

    from maskdiff_jax.data.formats.segmentation import decode_mask
    from maskdiff_jax.reporting import visualize

    masks = np.array([decode_mask(a.rle) for a in objects], bool).reshape(-1, *image.shape[:2])
    boxes = np.array([a.box for a in objects]).reshape(-1, 4)
    labels, colors = [categories[a.class_id].name for a in objects], [visualize.color(a.class_id) for a in objects]
    return visualize.overlay(image, masks, boxes, labels, None, colors, novel=[True] * len(objects))


def score(annotation: Any, name: str, found: dict[str, Any]) -> dict[str, float]:
    """The best mask IoU, 0..1, of an object with what each model found of its class."""
    import numpy as np

    from maskdiff_jax.data.formats.segmentation import decode_mask

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


if __name__ == "__main__":
    given: list[str] = []

    def start(argv: list[str]) -> None:
        cli.reject_arguments(argv)
        cli.quiet()
        main(given)

    cli.guarded(start, given)
