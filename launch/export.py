"""Writes a trained model into one folder: parameters, config, categories, the shots of every class.

It includes box features of some objects of each class, so that `Predictor.add_class` can add a class later.

    python launch/export.py runs/fewshot-shapes-5shot-seed0 --output=exports/shapes
    python launch/sample.py exports/shapes photo.jpg

`--half` stores weights as float16, which halves the folder and hardly changes the masks.

`--format=stablehlo` writes programs and weights that run where maskdiff_jax and flax are not installed, by a script in
the folder; it needs jax, flatbuffers, numpy and Pillow (maskdiff_jax/inference/stablehlo.py).

    python launch/export.py runs/fewshot-shapes-5shot-seed0 --output=exports/serving --format=stablehlo
    python exports/serving/run.py photo.jpg --output=found

Takes the folder of the run and reads the config in it. The dataset must be there, because the shots are cropped from
it; the export needs neither the run nor the dataset. `--config.FIELD=VALUE` changes what trained weights do not depend
on, for example how masks are sampled: --config.model.mask.diffusion.steps=10.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags
from ml_collections import ConfigDict

from launch import cli

_FEATURES = flags.DEFINE_bool(
    "features", True, "Store box features of known classes, which Predictor.add_class needs; reads about 240 images."
)
_BASE_SHOTS = flags.DEFINE_bool(
    "base_shots", False, "Copy photos of the base dataset into the export, up to model.mask.slots objects of each "
    "class, so that stage 2 can add a class without the dataset. Everyone who gets the export gets these photos."
)  # fmt: skip
_HALF = flags.DEFINE_bool(
    "half",
    False,
    "Store parameters and features as float16, in half the space. The model still computes in its own dtype.",
)
FORMATS = ("orbax", "stablehlo")
_OUTPUT = flags.DEFINE_string("output", "", "Output folder; default: export, or export-stablehlo, in the run folder.")
_FORMAT = flags.DEFINE_string(
    "format", FORMATS[0], "orbax: for maskdiff_jax.load; stablehlo: for jax without maskdiff_jax."
)
_PLATFORMS = flags.DEFINE_list(
    "platforms", "cpu,cuda", "Platforms of the programs of --format=stablehlo: cpu, cuda, tpu."
)


def main(config: ConfigDict, workdir: Path) -> None:
    """Exports and says where."""
    from maskdiff_jax.inference import export, stablehlo
    from maskdiff_jax.workdir import EXPORT

    if _FORMAT.value not in FORMATS:
        raise ValueError(f"unknown --format={_FORMAT.value}: choose {' or '.join(FORMATS)}")
    if _FORMAT.value == "stablehlo" and _BASE_SHOTS.value:
        raise ValueError("--base_shots needs --format=orbax, the format that stage 2 can start from")
    if _FORMAT.value == "stablehlo" and _HALF.value:
        raise ValueError("--half needs --format=orbax")
    if _FORMAT.value == "stablehlo":
        output = Path(_OUTPUT.value) if _OUTPUT.value else workdir / f"{EXPORT}-stablehlo"
        count = stablehlo.run(config, workdir, output, _PLATFORMS.value)
    else:
        output = Path(_OUTPUT.value) if _OUTPUT.value else workdir / EXPORT
        options = {"features": _FEATURES.value, "photos": _BASE_SHOTS.value, "half": _HALF.value}
        count = export.run(config, workdir, output, **options)
    print(f"exported: {output} ({count / 1e6:.1f} million parameters)")


if __name__ == "__main__":
    cli.run_trained(main)
