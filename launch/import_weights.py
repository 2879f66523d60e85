"""Imports pretrained weights of other projects into a run folder that training or evaluation starts from.

    python launch/import_weights.py --config configs/base.py:coco,weights=msra --workdir=runs/msra R-50.pkl
    python launch/train.py --config configs/base.py:coco,weights=msra --config.init_from=runs/msra

Reads detectron2's pickles (ImageNet backbones, detectors of the model zoo), ResNet-50 of torchvision and timm, TFA's
detectors and UNets of guided-diffusion, as .pkl, .pth, .pt or .safetensors, and prints which it is. Writes
WORKDIR/config.json, checkpoints/final and weights.json; WORKDIR is runs/weights-<weights> unless it is given.
docs/paper_recipe.md lists where to download the files. With weights=detector the classes of the detector in the file
do not matter (docs/own_data.md, "A base model from public weights").
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ml_collections import ConfigDict

from launch import cli, run_config

SHOWN = 12  # unused names that are printed


def main(config: ConfigDict, workdir: Path, files: list[str]) -> None:
    """Imports; prints what each file filled, its unused keys, and which parameters are still new."""
    from maskdiff_jax.pretrained import convert

    if not files:
        raise ValueError(
            "name the weight file, for example: import_weights.py --config configs/base.py:coco,weights=msra R-50.pkl"
        )
    if config.weights != "detector":  # which takes the classes from the file: no dataset is needed yet
        run_config.complete(config)
    document = convert.run(config, workdir, files)
    for file in document["files"]:
        size = f"{file['tensors']} tensors with {file['parameters']:,} parameters"
        print(f"{file['file']}: {file['kind']}, {size}; round trip: equal")
        if names := file["unused"]:
            more = f" and {len(names) - SHOWN} more, see weights.json" if len(names) > SHOWN else ""
            print(f"  unused keys: {', '.join(names[:SHOWN])}{more}")
    print(f"loaded from the files: {', '.join(convert.summary(document['filled']))}")
    print(f"new weights, to be trained: {', '.join(convert.summary(document['new'])) or 'nothing'}")
    print(f"imported: {workdir}")
    found = config.weights == "detector" and workdir == run_config.weights_workdir(config)  # by launch/train.py
    start = "" if found else f" and --config.init_from={workdir}"
    print(f"to start training from these weights: launch/train.py with the same --config{start}")


if __name__ == "__main__":
    cli.run(main, takes_files=True, folder=run_config.weights_workdir, completes=False)
