"""Makes the folder that the commands run in and runs them, as a user would: COCO is in datasets/coco."""

import json
import math
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from tests.rehearsal import coco_layout, commands, voc_layout, weights
from tests.rehearsal.commands import Command

ROOT = Path(__file__).resolve().parents[2]
SHOWN = 8000  # characters of the output of a command that failed


def set_up(folder: Path) -> None:
    """Writes the datasets, the weights that a user downloads, and two photos."""
    coco, width = folder / "datasets/coco", commands.WIDTH
    coco_layout.write(coco)
    voc_layout.write(folder / "datasets/VOCdevkit")
    weights.write_msra(folder / "R-50.pkl", width)
    weights.write_zoo(folder / "model_final_b275ba.pkl", width, commands.FPN, commands.FC)
    photo = Image.open(min((coco / "train2014").iterdir())).convert("RGB")
    photo.save(folder / "photo.jpg")
    photo.convert("L").save(folder / "gray.jpg")


def run(command: Command, folder: Path) -> float:
    """Runs a command in ``folder`` and looks at what it leaves; its seconds. Its output goes to ``output.txt``.

    Raises:
      AssertionError: it failed, or left something else than it should; with its output.
    """
    script, *arguments = shlex.split(command.line)
    arguments = [str(ROOT / a) if a.startswith("configs/") else a for a in arguments]
    small = [f"--config.{k}={v}" for k, v in (command.small or {}).items()]
    env = dict(os.environ)
    if script == "import_weights.py":  # initial weights are computed once: not worth a minute of optimization
        env["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    start = time.monotonic()
    out = subprocess.run(
        [sys.executable, str(ROOT / "launch" / script), *arguments, *small],
        cwd=folder, env=env, capture_output=True, text=True,
    )  # fmt: skip
    seconds = time.monotonic() - start
    with open(folder / "output.txt", "a") as file:
        file.write(f"$ {command.line}\n{out.stdout}{out.stderr}\n")
    if out.returncode:
        raise AssertionError(f"exit code {out.returncode} of {command.line}\n{(out.stdout + out.stderr)[-SHOWN:]}")
    problem = _problem(command, folder) if command.says in out.stdout else f"no '{command.says}'"
    if problem:
        raise AssertionError(f"{problem} after {command.line}\n{(out.stdout + out.stderr)[-SHOWN:]}")
    return seconds


def _problem(command: Command, folder: Path) -> str:
    """What is wrong with what a command left; "" if nothing."""
    path = folder / command.leaves
    if not path.exists():
        return f"no {command.leaves}"
    if not command.metrics:
        return ""
    metrics = json.loads(path.read_text())["metrics"]
    wrong = [f"{m} is {metrics.get(m)}" for m in command.metrics if not math.isfinite(metrics.get(m, math.nan))]
    found = json.loads((path.parent / "predictions.json").read_text())
    if not command.boxes_only and not any("segmentation" in p for p in found):
        wrong.append("no mask was sampled")
    return ", ".join(wrong)
