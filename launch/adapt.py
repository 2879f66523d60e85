"""Adds classes to an exported model by stage 2 on a few photos of yours; the base dataset is not needed.

    python launch/export.py RUN --output=exports/shapes --base_shots
    python launch/adapt.py --model=exports/shapes --images=photos --annotations=shots.json --out=adapted
    python launch/sample.py adapted/model photo.jpg

Every category of the annotations that the model does not know, by its exact name, is a new class. Objects of known
classes join the stored ones, from which K shots of each are sampled. Without --shots K is the number of objects of the
rarest new class. Photos of a validation or test split (YOLO's val, for example) are not trained on: they are photos to
check on. The same command again resumes. `--config.FIELD=VALUE` changes stage 2 (configs/fewshot.py), the steps of each
phase too, which are those of a few photos.

Leaves OUT/model (an export), OUT/run (the run of stage 2), OUT/before_after.png and OUT/found.json: of the objects in
photos without a shot, how many were found.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags
from ml_collections import ConfigDict

from launch import cli, run_config

CALL = "call.json"
ANOTHER = "give another folder with --out"
_MODEL = flags.DEFINE_string("model", "", "Folder of the export, made with launch/export.py --base_shots.")
_IMAGES = flags.DEFINE_string("images", "", "Folder of your photos; default: the folder of the annotations.")
_ANNOTATIONS = flags.DEFINE_string("annotations", "", "COCO json, or a folder of LabelMe, YOLO-seg or mask files.")
_OUT = flags.DEFINE_string("out", "", "Output folder.")
_SHOTS = flags.DEFINE_integer(
    "shots", 0, "Number of shots per class, K; 0: the number of objects of the rarest new class."
)


def main(overrides: list[str]) -> None:
    """Prepares, trains, exports, compares; each step that is done is not done again."""
    for name, flag in (("model", _MODEL), ("annotations", _ANNOTATIONS), ("out", _OUT)):
        if not flag.value:
            raise ValueError(f"--{name} is missing, see --help")
    from maskdiff_jax.evaluation import adaptation as comparison
    from maskdiff_jax.inference import adaptation, export

    out, begun = Path(_OUT.value), time.monotonic()
    if out.exists() and not (out / CALL).is_file():
        raise FileExistsError(f"{out} exists and is not of this call: {ANOTHER}")
    photos, held_out = adaptation.read_splits(_ANNOTATIONS.value, _IMAGES.value or None)
    call = describe_call(overrides, adaptation.fingerprint(photos, held_out))
    if out.exists() and (differ := differences(json.loads((out / CALL).read_text()), call)):
        raise FileExistsError(f"{out} exists and is not of this call (other {', '.join(differ)}): {ANOTHER}")
    if (out / comparison.FOUND).is_file():
        print(f"already done: {out / 'model'}")
        return
    cli.set_up_jax(export.read_document(_MODEL.value)[0].model.mask.size)
    if not out.exists():
        prepare(out, call, overrides, photos, held_out)
    train(out, overrides)
    written = json.loads((out / CALL).read_text())
    print(f"trained: {out / 'model'}; next, your photos before and after", flush=True)
    comparison.compare(out, written["model"], written["new"], written["shots"])
    print(f"adapted: {out / 'model'} ({time.monotonic() - begun:.0f} s); look at {out / comparison.SHEET}")


def describe_call(overrides: list[str], photos: str) -> dict[str, Any]:
    """What makes two calls the same; ``photos`` is the fingerprint of images and annotations."""
    files = {"model": _MODEL.value, "images": _IMAGES.value, "annotations": _ANNOTATIONS.value}
    paths = {k: str(Path(v).resolve()) if v else "" for k, v in files.items()}
    return paths | {"photos": photos, "asked": _SHOTS.value, "overrides": overrides}


def differences(before: dict[str, Any], call: dict[str, Any]) -> list[str]:
    """What two calls do not share, in words."""
    words = {"asked": "--shots", "photos": "contents of the photos or annotations", "overrides": "--config fields"}
    return [words.get(k, f"--{k}") for k, v in call.items() if before.get(k) != v]


def prepare(out: Path, call: dict[str, Any], overrides: list[str], photos: Any, held_out: Any) -> None:
    """Writes the dataset and the run that stage 2 starts from; the folder is complete or absent."""
    from maskdiff_jax import atomic
    from maskdiff_jax.inference import adaptation, export
    from maskdiff_jax.training import preflight

    partial = out.absolute().with_name(out.name + ".partial")
    atomic.check_writable(partial.parent)
    trained = export.read(_MODEL.value)
    adaptation.check_can_adapt(trained)
    new, notes = adaptation.new_classes(trained, photos)
    mask = trained.config.model.mask
    shots = adaptation.choose_shots(new, _SHOTS.value, mask.slots, mask.min_shots)
    for note in notes:
        print(f"note: {note}")
    print(f"new: {', '.join(f'{name} ({n} objects)' for name, n in new.items())}; K = {shots}")
    if held_out is not None:
        checked = min(len(held_out.infos), adaptation.HELD_OUT_PHOTOS)
        print(
            f"note: photos of a validation or test split are not trained on; {checked} of {len(held_out.infos)} check "
            "what is found"
        )
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        adaptation.write(partial, out, trained, photos, list(new), held_out)
        config = stage_2(partial, shots, overrides)
        with config.unlocked():
            config.data.root = str(partial / adaptation.DATA)
        for note in preflight.check(config, partial / "run"):
            print(f"note: {note}")
        for line in plan(config):
            print(f"plan: {line}")
        atomic.write_json(partial / CALL, call | {"shots": shots, "new": list(new)})
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def plan(config: ConfigDict) -> list[str]:
    """What stage 2 trains and for how long, and why for so long."""
    from configs import fewshot
    from maskdiff_jax.training import preflight

    lines = preflight.plan(config)
    if fewshot.few_photos_steps(config):
        objects = config.fewshot.shots * config.model.num_classes
        lines.append(
            f"steps are for {objects} shots, {config.fewshot.shots} of each class: a benchmark such as COCO takes many "
            "times as many; change them with --config.train.PHASE.steps=N"
        )
    return lines


def stage_2(folder: Path, shots: int, overrides: list[str]) -> ConfigDict:
    """The config of stage 2 with K shots that starts from the run in ``folder``."""
    from configs import fewshot
    from configs.baselines import mtfa
    from maskdiff_jax import workdir
    from maskdiff_jax.inference import adaptation
    from maskdiff_jax.model import WITH_DETECTOR

    start = folder.absolute() / adaptation.START
    before = workdir.read_config(start)
    argument = f"{before.preset},shots={shots},weights={before.weights}" + (",paper=true" if before.paper else "")
    if not before.preset.startswith("shapes"):
        argument += f",size={before.size},classes={before.model.num_classes}"
    config, given = run_config.read_config(f"{cli.ROOT / 'configs' / 'fewshot.py'}:{argument}", overrides)
    # the user's photos: any number of objects; other objects in a photo are neither background nor shots
    photos = {
        "fewshot.sampler": "instances", "fewshot.short_classes": "take_all", "data.shot_unlabeled": "ignore",
    }  # fmt: skip
    with config.unlocked():
        config.init_from = str(start)
        config.update_from_flattened_dict({name: value for name, value in photos.items() if name not in given})
    config = run_config.complete(config, given | {"init_from"}, say=lambda line: None)
    steps = {name: n for name, n in fewshot.few_photos_steps(config).items() if name not in given}
    with config.unlocked():
        config.update_from_flattened_dict(steps)
    if config.model.mask.head in WITH_DETECTOR and "train.frozen" not in given:
        with config.unlocked():
            config.train.frozen = mtfa.FROZEN  # of such a mask head the last layer alone is trained on a few shots
    return config


def train(out: Path, overrides: list[str]) -> None:
    """Stage 2 in OUT/run, then its export in OUT/model."""
    from maskdiff_jax.inference import export
    from maskdiff_jax.training import run as stage2

    config = stage_2(out, json.loads((out / CALL).read_text())["shots"], overrides)
    stage2.run(config, out / "run")
    if not (out / "model" / export.DOCUMENT).is_file():
        export.run(config, out / "run", out / "model", photos=True)


if __name__ == "__main__":
    given: list[str] = []

    def start(argv: list[str]) -> None:
        cli.reject_arguments(argv)
        main(given)

    cli.guarded(start, given)
