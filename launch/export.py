"""Writes a trained model as a folder of its own: parameters, config, categories, the shots of every class.

    python launch/export.py --config configs/fewshot.py:shots=5,seed=0 --output=exports/mine
    python launch/sample.py --model=exports/mine photo.jpg

The data set must still be there, since the shots are cut from it; whoever uses the export needs it no more.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags
from ml_collections import ConfigDict

from launch import cli

_OUTPUT = flags.DEFINE_string("output", "", "Folder to write; default: WORKDIR/export.")


def main(config: ConfigDict, workdir: Path) -> None:
    """Exports and says where."""
    from maskdiff_jax.inference import export

    folder = Path(_OUTPUT.value) if _OUTPUT.value else workdir / "export"
    count = export.run(config, workdir, folder)
    print(f"exported: {folder} ({count / 1e6:.1f} million parameters)")


if __name__ == "__main__":
    cli.run_trained(main)
