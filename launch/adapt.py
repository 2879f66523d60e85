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
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from launch import cli, run_config

CALL = "call.json"
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
    from maskdiff_jax.evaluation import adaptation

    out, begun = Path(_OUT.value), time.monotonic()
    call = describe_call(overrides)
    if out.exists() and not is_same_call(out, call):
        raise FileExistsError(f"{out} exists and is not of this call: give another folder with --out")
    if (out / adaptation.FOUND).is_file():
        print(f"done already: {out / 'model'}")
        return
    if not out.exists():
        prepare(out, call)
    train(out, overrides)
    written = json.loads((out / CALL).read_text())
    adaptation.compare(out, written["model"], written["new"], written["shots"])
    print(f"adapted: {out / 'model'} ({time.monotonic() - begun:.0f} s); look at {out / adaptation.SHEET}")


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


if __name__ == "__main__":
    given: list[str] = []

    def start(argv: list[str]) -> None:
        cli.reject_arguments(argv)
        cli.quiet()
        main(given)

    cli.guarded(start, given)
