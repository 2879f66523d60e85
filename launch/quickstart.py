"""Both stages, evaluation and a report on the generated scenes; `make quickstart` runs this script.

    python launch/quickstart.py            # minutes on two CPU cores; prints the result if it is there already
    python launch/quickstart.py --fresh    # trains again
    python launch/quickstart.py --scale=3 --workdir=runs/quickstart_3x    # three times the training steps

Ends with runs/quickstart/report/index.html.
"""

import json
import os
import shlex
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags
from ml_collections import ConfigDict

from launch import cli

DEVICES = 2  # on a CPU
# in the folder of the run
RUNS = ("base", "fewshot")
REPORT, MODEL, SAMPLES, EXAMPLE = "report", "model", "samples", "example.png"

_FRESH = flags.DEFINE_bool("fresh", False, "Delete the earlier result and train again.")
_SCALE = flags.DEFINE_float("scale", 0.0, "Multiplies the training steps; 0: 1 on a CPU, 2 on a GPU.")
_FOLDER = flags.DEFINE_string("workdir", "runs/quickstart", "Folder of the run.")


def main(argv: list[str]) -> None:
    """Runs what is missing, then prints the table and the path of the report."""
    cli.reject_arguments(argv)
    _use_two_cores()
    cli.set_up_jax()
    from maskdiff_jax import lock

    folder = Path(_FOLDER.value)
    with lock.owned(folder):
        if _FRESH.value:
            forget(folder)
        train_and_report(folder)


def forget(folder: Path) -> None:
    """Deletes what this script has written, and nothing else.

    Raises:
      BlockingIOError: another process trains there.
    """
    from maskdiff_jax import lock

    for run in RUNS:
        if (folder / run).is_dir():
            with lock.owned(folder / run):
                shutil.rmtree(folder / run)
    for written in (REPORT, MODEL, SAMPLES):
        shutil.rmtree(folder / written, ignore_errors=True)
    (folder / EXAMPLE).unlink(missing_ok=True)


def train_and_report(folder: Path) -> None:
    """Runs what is missing, and prints the result."""
    import jax

    from configs import base, fewshot
    from maskdiff_jax.evaluation import evaluate
    from maskdiff_jax.reporting import report
    from maskdiff_jax.reporting.runs import read_metrics
    from maskdiff_jax.training import compatibility
    from maskdiff_jax.training import run as train

    scale = _SCALE.value or (1.0 if jax.default_backend() == "cpu" else 2.0)
    start = time.monotonic()
    first, second = (folder / run for run in RUNS)
    runs = {"stage 1": (base.get_config("shapes"), first)}
    runs["stage 2"] = (fewshot.get_config("shapes,shots=5,seed=0"), second)
    runs["stage 2"][0].init_from = str(first)
    for config, _ in runs.values():
        _scale(config, scale)
        config.train.side_by_side = jax.default_backend() == "cpu" and jax.device_count() == DEVICES
    problems = compatibility.stage2_problems(runs["stage 2"][0], json.loads(runs["stage 1"][0].to_json_best_effort()))
    if problems:
        raise ValueError(f"stage 2 could not start from stage 1: {'; '.join(problems)}")
    for name, (config, workdir) in runs.items():
        if not (workdir / "checkpoints" / "final").is_dir():
            print(f"\n== {name}", flush=True)
        train.run(config, workdir)
    documents = []
    for name, (config, workdir) in runs.items():
        document = read_metrics(workdir) if (workdir / "metrics.json").is_file() else None
        if document is None:
            print(f"\n== evaluation of {name}", flush=True)
            document = evaluate.run(config, workdir)
        documents.append(document)
    page = folder / REPORT / "index.html"
    if not page.is_file():
        report.write([workdir for _, workdir in runs.values()], page)
    print()
    print(report.text_table(documents))
    print(f"\nreport: {page}   ({time.monotonic() - start:.0f} s this time)")
    print_usage(folder, *runs["stage 2"])


def _use_two_cores() -> None:
    """Lets jax see the CPU as two devices: the detector is trained on one, the mask head on the other.

    The programs are small. One that may use two cores hardly takes less time than on one, so where there are no more,
    each device gets one of them.
    """
    flags_ = os.environ.get("XLA_FLAGS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores >= DEVICES and "xla_force_host_platform_device_count" not in flags_:
        flags_ += f" --xla_force_host_platform_device_count={DEVICES}"
        if cores == DEVICES:
            flags_ += " --xla_cpu_multi_thread_eigen=false"
        os.environ["XLA_FLAGS"] = flags_.strip()


def _scale(config: ConfigDict, scale: float) -> None:
    for phase in ("detector", "mask", "novel"):
        config.train[phase].steps = round(config.train[phase].steps * scale)


def print_usage(folder: Path, config: ConfigDict, workdir: Path) -> None:
    """Saves an image, and prints the commands that segment it with the model that was trained."""
    image, model, masks = folder / EXAMPLE, folder / MODEL, folder / SAMPLES
    if not image.is_file():
        _save_example(config, image)
    print("\nsegment an image with this model:")
    print("  " + _command("export", workdir, f"--output={model}"))
    print("  " + _command("sample", model, image, f"--output={masks}"))


def _save_example(config: ConfigDict, path: Path) -> None:
    """The first test image that holds an object of a novel class."""
    from PIL import Image

    from maskdiff_jax import atomic
    from maskdiff_jax.data import pipeline

    dataset = pipeline.open_split(config.data, "test")
    novel = (i for i, x in enumerate(dataset.infos) if any(dataset.categories[a.class_id].novel for a in x.annotations))
    image = Image.fromarray(dataset.read(next(novel)))
    atomic.write(path, lambda file: image.save(file, "png"))


def _command(script: str, *arguments: object) -> str:
    """A command line that works as printed: in this folder, with this Python."""
    found = shutil.which("python")
    python = "python" if found and Path(found).absolute() == Path(sys.executable) else _from_here(sys.executable)
    return shlex.join([python, f"{_from_here(cli.ROOT / 'launch')}/{script}.py", *map(str, arguments)])


def _from_here(path: str | Path) -> str:
    """A path as short as it can be written in the current folder."""
    return min((os.path.relpath(path), str(path)), key=len)


if __name__ == "__main__":
    cli.guarded(main)
