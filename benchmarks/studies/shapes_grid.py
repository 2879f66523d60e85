"""Every method on shapes, K = 1, 5, 10, several sets of shots and seeds of noise: the results table and figures.

    python benchmarks/studies/shapes_grid.py               # what `make results` runs: hours on two cores
    python benchmarks/studies/shapes_grid.py --seeds=2     # the short form
    python benchmarks/studies/shapes_grid.py --methods=maskdiff,mtfa --dry-run

Runs the public commands (launch/train.py, protocol.py, report.py) and prints each. A command that was interrupted
resumes, one that is finished computes nothing. All methods see the same scenes, the same shots and equally many
training steps: 3,000 of the detector and, where it is a net of its own, 3,000 of the mask head. The mask heads of
MaskDiff and of the plain UNet use the same trained detector, so their difference is that of the masks alone.
"""

import argparse
import csv
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import measure

ROOT = Path(__file__).resolve().parents[2]
SHOTS = (1, 5, 10)
METRICS = [f"{kind}/{group}AP" for kind in ("bbox", "segm") for group in ("", "base/", "novel/")]
METRICS += [f"mask_iou/{group}" for group in ("all", "base", "novel")]
STATISTICS = (
    "mean", "std_over_shot_seeds", "std_over_noise_seeds", "ci95_half_width_student_t", "difference",
    "difference_ci95_half_width_student_t", "p_paired_t_holm",
)  # fmt: skip
SLOTS = max(SHOTS)  # one mask head serves every K
# the programs are small: two of them, each on one core, get more done than one on both
ONE_CORE = "--xla_cpu_multi_thread_eigen=false"


class Run(NamedTuple):
    """A run of stage 1."""

    folder: str  # below the output folder
    config: str  # of --config
    options: tuple[str, ...] = ()


class Method(NamedTuple):
    """A row of the table."""

    stage1: tuple[Run, ...]  # in this order
    config: str  # --config of stage 2
    options: tuple[str, ...] = ()


def methods(folder: Path, paper_steps: int, shots: Sequence[int] = SHOTS) -> dict[str, Method]:
    """The methods by the name of their folder.

    Args:
      folder: holds the runs.
      shots: each K; the paper's mask head is built for one.
      paper_steps: of the 1,000 that the paper's sampler has.
    """
    slots = f"--config.model.mask.slots={SLOTS}"
    detector = f"--config.detector_from={folder}/maskdiff/base"
    # stage 2 of the mask heads that share a detector also shares its classifier and regressor
    tuned = f"--config.detector_from={folder}/maskdiff/fewshot-{{shots}}shot-seed{{seed}}"
    baselines, unet = "configs/baselines", "configs/ablations/plain_unet.py:shapes"
    mask_rcnn = Run("mtfa/base", f"{baselines}/mtfa.py:shapes,stage=base")
    fc = Run("imtfa/fc", f"{baselines}/imtfa_fc.py:shapes")
    paper = [
        Run(f"maskdiff_paper/base-{k}shot", f"configs/base.py:shapes,paper=true,shots={k}", (detector,)) for k in shots
    ]
    sampler = f"--config.model.mask.diffusion.steps={paper_steps}"

    def start(of: str) -> str:
        return f"--config.init_from={folder}/{of}"

    return {
        "maskdiff": Method(
            (Run("maskdiff/base", "configs/base.py:shapes", (slots, "--config.train.side_by_side=true")),),
            "configs/fewshot.py:shapes",
            (start("maskdiff/base"),),
        ),
        "plain_unet": Method(
            (Run("plain_unet/base", f"{unet},stage=base", (slots, detector)),),
            unet,
            (start("plain_unet/base"), tuned),
        ),
        "mtfa": Method((mask_rcnn,), f"{baselines}/mtfa.py:shapes", (start("mtfa/base"),)),
        "mrcn_ft_full": Method((mask_rcnn,), f"{baselines}/mrcn_ft_full.py:shapes", (start("mtfa/base"),)),
        "imtfa": Method(
            (fc, Run("imtfa/base", f"{baselines}/imtfa.py:shapes,stage=base", (start("imtfa/fc"),))),
            f"{baselines}/imtfa.py:shapes",
            (start("imtfa/base"),),
        ),
        "ifs_rcnn": Method(
            (Run("ifs_rcnn/base", f"{baselines}/ifs_rcnn.py:shapes,stage=base"),),
            f"{baselines}/ifs_rcnn.py:shapes",
            (start("ifs_rcnn/base"),),
        ),
        "maskdiff_paper": Method(
            tuple(paper),
            "configs/fewshot.py:shapes,paper=true",
            (start("maskdiff_paper/base-{shots}shot"), tuned, sampler),
        ),
    }


def main() -> int:
    """Trains what is missing, runs the grids, writes the report; 1 if a command failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/shapes_grid"), help="folder of all runs")
    parser.add_argument("--seeds", type=int, default=5, help="of the shots, and of the noise")
    parser.add_argument("--shots", default=",".join(map(str, SHOTS)), help="numbers of shots, of 1, 5, 10")
    parser.add_argument("--methods", default="", help="names, with commas between; default: all")
    parser.add_argument("--split", default="test", choices=("val", "test"), help="scenes that are scored")
    parser.add_argument("--data", default="datasets/shapes", help="folder of the scenes, rendered on first use")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1), help="that share a grid")
    parser.add_argument(
        "--paper-steps", type=int, default=50, help="of 1,000, of the paper's sampler: hours for each 100"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    args = parser.parse_args()
    known = methods(args.output, args.paper_steps, [int(k) for k in args.shots.split(",")])
    names = args.methods.split(",") if args.methods else list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown method {', '.join(unknown)}: choose {', '.join(known)}")
    execute = show if args.dry_run else run
    failed = []
    for name in names:
        method = known[name]
        done = all(execute(train_commands(args, run_)) for run_ in method.stage1)
        if not (done and execute(protocol_commands(args, name, method))):
            failed.append(name)
    report = ["launch/report.py", *(str(args.output / name) for name in names), f"--output={args.output / 'report'}"]
    if not execute([report]):
        failed.append("report")
    elif not args.dry_run:
        save(args.output / "report")
    if failed:
        print(f"failed: {', '.join(failed)}; the same command resumes", file=sys.stderr)
    return int(bool(failed))


def train_commands(args: argparse.Namespace, first: Run) -> list[list[str]]:
    """Stage 1: one command, or none where it has finished."""
    workdir = args.output / first.folder
    if (workdir / "checkpoints" / "final").is_dir():
        return []
    options = [f"--config.data.root={args.data}", *first.options]
    return [["launch/train.py", "--config", first.config, *options, f"--workdir={workdir}"]]


def protocol_commands(args: argparse.Namespace, name: str, method: Method) -> list[list[str]]:
    """Stage 2 and evaluation of every cell: as many commands as processes share them."""
    seeds = f"0:{args.seeds}"
    command = [
        "launch/protocol.py", "--config", method.config, f"--shots={args.shots}", f"--shot_seeds={seeds}",
        f"--noise_seeds={seeds}", f"--config.data.root={args.data}", f"--config.eval.split={args.split}",
        *method.options, f"--output={args.output / name}",
    ]  # fmt: skip
    n = args.processes
    return [[*command, f"--shard={i + 1}/{n}"] for i in range(n)] if n > 1 else [command]


def save(report: Path) -> None:
    """Leaves benchmarks/results/shapes_grid.json, what the tables of docs/results.md are made of, and the figures."""
    with (report / "tables.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "this report"]
    measure.write("shapes_grid", {"shots": by_shots(rows)} | measure.machine())
    for shots in SHOTS:
        for figure in report.glob(f"curves-shapes-all-classes-*{shots}shot.png"):
            shutil.copyfile(figure, ROOT / "docs" / f"shapes_grid_{shots}shot.png")


def by_shots(rows: Iterable[Mapping[str, str]]) -> dict[str, Any]:
    """K -> method -> metric -> statistic -> [value, n], from the rows of a report's tables.csv."""
    out: dict[str, Any] = {}
    for row in rows:
        if row["metric"] in METRICS and row["statistic"] in STATISTICS and row["setting"] == "all classes":
            metrics = out.setdefault(row["shots"], {}).setdefault(row["method"], {})
            metrics.setdefault(row["metric"], {})[row["statistic"]] = [round(float(row["value"]), 4), int(row["n"])]
    return out


def show(commands: Sequence[Sequence[str]]) -> bool:
    """Prints commands."""
    for command in commands:
        print(shlex.join(["python", *command]), flush=True)
    return True


def run(commands: Sequence[Sequence[str]]) -> bool:
    """Runs commands at the same time; whether all succeeded."""
    show(commands)
    env = dict(os.environ)
    flags = env.get("XLA_FLAGS", "")
    if len(commands) > 1:
        flags += f" {ONE_CORE}"
    elif "--config.train.side_by_side=true" in [x for command in commands for x in command]:
        flags += f" --xla_force_host_platform_device_count=2 {ONE_CORE}"
    env["XLA_FLAGS"] = flags.strip()
    started = [subprocess.Popen([sys.executable, *command], cwd=ROOT, env=env) for command in commands]
    try:
        codes = [process.wait() for process in started]
    except KeyboardInterrupt:  # the processes got it too: they save and end
        for process in started:
            process.wait()
        raise
    return not any(codes)


if __name__ == "__main__":
    sys.exit(main())
