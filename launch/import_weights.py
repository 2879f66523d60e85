"""Turns weights of other projects into a run that training or evaluation starts from.

    python launch/import_weights.py --config configs/base.py:coco,weights=msra --workdir=runs/msra R-50.pkl
    python launch/train.py --config configs/base.py:coco,weights=msra --config.init_from=runs/msra

Reads detectron2's pickles (ImageNet backbones, detectors of the model zoo), ResNet-50 of torchvision and timm,
TFA's detectors and UNets of guided-diffusion, as .pkl, .pth, .pt or .safetensors, and says which it was. Leaves
WORKDIR/config.json, checkpoints/final and weights.json. README, "The paper's recipe", says where to get them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ml_collections import ConfigDict

from launch import cli


def main(config: ConfigDict, workdir: Path, files: list[str]) -> None:
    """Imports and says what was filled, what was left out, what is still fresh."""
    from maskdiff_jax.pretrained import convert

    if not files:
        raise ValueError("which file? usage: import_weights.py --config configs/base.py:coco,weights=msra R-50.pkl")
    document = convert.run(config, workdir, files)
    for x in document["files"]:
        print(f"{x['file']}: {x['kind']}, {x['tensors']} tensors, {x['parameters']:,} parameters; exported back: equal")
        if names := x["left_out"]:
            more = f" and {len(names) - 12} more, see weights.json" if len(names) > 12 else ""
            print(f"  left out: {', '.join(names[:12])}{more}")
    for what in ("filled", "fresh"):
        print(f"{what}: {', '.join(convert.summary(document[what])) or 'nothing'}")
    print(f"imported: {workdir}")


if __name__ == "__main__":
    cli.run(main, takes_files=True, folder=lambda config: Path("runs") / f"weights-{config.weights}")
