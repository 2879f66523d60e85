"""Every method on shapes, K = 1, 5, 10, several sets of shots and seeds of noise: the results table and figures.

    python benchmarks/studies/shapes_grid.py               # what `make results` runs: hours on two cores
    python benchmarks/studies/shapes_grid.py --seeds=2     # the short form
    python benchmarks/studies/shapes_grid.py --methods=maskdiff,mtfa --dry-run

Runs the public commands (launch/train.py, protocol.py, report.py), as many at the same time as there are cores, and
prints each. Its output goes to OUTPUT/logs/. A command that was interrupted resumes, one that is finished computes
nothing. All methods see the same scenes, the same shots and equally many training steps: 3,000 of the detector and,
where it is a separate net, 3,000 of the mask head. The mask heads of MaskDiff, of the plain UNet and of the ablations
use the same trained detector, so their differences are those of the masks alone. Ablations have K = 5 alone.
"""

import argparse
import csv
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import measure

ROOT = Path(__file__).resolve().parents[2]
SHOTS = (1, 5, 10)
APS = {"bbox": ("AP",), "segm": ("AP", "AP50", "AP75")}
METRICS = [f"{kind}/{g}{ap}" for kind, aps in APS.items() for g in ("", "base/", "novel/") for ap in aps]
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
    needs: tuple[str, ...] = ()  # folders of runs that must be finished


class Method(NamedTuple):
    """A row of the table."""

    stage1: tuple[Run, ...]
    config: str  # --config of stage 2
    options: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()  # beside its own runs of stage 1: folders of runs, and names of methods
    shots: tuple[int, ...] = SHOTS


class Task(NamedTuple):
    """A command, and the tasks that must be finished before it starts."""

    name: str
    command: list[str]
    needs: frozenset[str]


def methods(folder: Path, paper_steps: int, shots: Sequence[int] = SHOTS) -> dict[str, Method]:
    """The methods by the name of their folder, in the order in which they run.

    Args:
      folder: holds the runs.
      paper_steps: of the 1,000 that the paper's sampler has.
      shots: each K; the paper's mask head is built for one.
    """
    base = "maskdiff/base"
    slots = f"--config.model.mask.slots={SLOTS}"
    detector = f"--config.detector_from={folder}/{base}"
    # stage 2 of the mask heads that share a detector also shares its classifier and regressor
    tuned = f"--config.detector_from={folder}/maskdiff/fewshot-{{shots}}shot-seed{{seed}}"
    baselines, ablations = "configs/baselines", "configs/ablations"
    mask_rcnn = Run("mtfa/base", f"{baselines}/mtfa.py:shapes,stage=base")
    paper = [
        Run(f"maskdiff_paper/base-{k}shot", f"configs/base.py:shapes,paper=true,shots={k}", (detector,), (base,))
        for k in shots
    ]
    sampler = f"--config.model.mask.diffusion.steps={paper_steps}"

    def start(of: str) -> str:
        return f"--config.init_from={folder}/{of}"

    def mask_head(name: str, shots: tuple[int, ...] = SHOTS) -> Method:
        """A mask head with its own stage 1."""
        config = f"{ablations}/{name}.py:shapes"
        first = Run(f"{name}/base", f"{config},stage=base", (slots, detector), (base,))
        return Method((first,), config, (start(f"{name}/base"), tuned), ("maskdiff",), shots)

    def same_start(name: str) -> Method:
        """A stage 2 that starts from stage 1 of MaskDiff."""
        return Method((), f"{ablations}/{name}.py:shapes", (start(base), tuned), (base, "maskdiff"), (5,))

    return {
        "maskdiff": Method(
            (Run(base, "configs/base.py:shapes", (slots,)),), "configs/fewshot.py:shapes", (start(base),)
        ),
        "mtfa": Method((mask_rcnn,), f"{baselines}/mtfa.py:shapes", (start("mtfa/base"),)),
        "plain_unet": mask_head("plain_unet"),
        "mrcn_ft_full": Method((mask_rcnn,), f"{baselines}/mrcn_ft_full.py:shapes", (start("mtfa/base"),)),
        "imtfa": Method(
            (
                Run("imtfa/fc", f"{baselines}/imtfa_fc.py:shapes"),
                Run("imtfa/base", f"{baselines}/imtfa.py:shapes,stage=base", (start("imtfa/fc"),), ("imtfa/fc",)),
            ),
            f"{baselines}/imtfa.py:shapes",
            (start("imtfa/base"),),
        ),
        "ifs_rcnn": Method(
            (Run("ifs_rcnn/base", f"{baselines}/ifs_rcnn.py:shapes,stage=base"),),
            f"{baselines}/ifs_rcnn.py:shapes",
            (start("ifs_rcnn/base"),),
        ),
        "guided": same_start("guidance"),
        "no_shots": mask_head("no_shots", (5,)),
        "no_class": mask_head("no_class", (5,)),
        "one_stage": same_start("one_stage"),
        "maskdiff_paper": Method(
            tuple(paper),
            "configs/fewshot.py:shapes,paper=true",
            (start("maskdiff_paper/base-{shots}shot"), tuned, sampler),
            ("maskdiff",),
        ),
    }  # fmt: skip


def main() -> int:
    """Trains what is missing, runs the grids, writes the report; 1 if a command failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/shapes_grid"), help="folder of all runs")
    parser.add_argument("--seeds", type=int, default=5, help="of the shots, and of the noise")
    parser.add_argument("--shots", default=",".join(map(str, SHOTS)), help="numbers of shots, of 1, 5, 10")
    parser.add_argument("--methods", default="", help="names, with commas between; default: all")
    parser.add_argument("--split", default="test", choices=("val", "test"), help="scenes that are scored")
    parser.add_argument("--data", default="datasets/shapes", help="folder of the scenes, rendered on first use")
    parser.add_argument("--processes", type=int, default=0, help="commands at the same time; default: one per core,"
                        " of up to 8, and one alone where there is a GPU")  # fmt: skip
    parser.add_argument(
        "--paper-steps", type=int, default=50, help="of 1,000, of the paper's sampler: hours for each 100"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    args = parser.parse_args()
    args.shots = [int(k) for k in args.shots.split(",")]
    args.processes = args.processes or (1 if shutil.which("nvidia-smi") else min(8, os.cpu_count() or 1))
    known = methods(args.output, args.paper_steps, args.shots)
    names = args.methods.split(",") if args.methods else list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown method {', '.join(unknown)}: choose {', '.join(known)}")
    names = [name for name in names if set(known[name].shots) & set(args.shots)]  # ablations have one K
    tasks = [task for name in names for task in tasks_of(args, name, known[name])]
    tasks = list({task.name: task for task in tasks}.values())  # two methods may have one stage 1
    # the figures show the methods, not their ablations: so many curves cannot be told apart
    shown = [name for name in names if known[name].shots == SHOTS]
    reports = {"report": names} | ({"figures": shown} if shown else {})
    commands = {
        folder: ["launch/report.py", *(str(args.output / name) for name in of), f"--output={args.output / folder}"]
        for folder, of in reports.items()
    }
    if args.dry_run:
        every = (*(task.command for task in tasks), *commands.values())
        print("\n".join(shlex.join(["python", *command]) for command in every))
        return 0
    failed = work(tasks, args.processes, args.output / "logs")
    for folder, command in commands.items():
        print(shlex.join(["python", *command]), flush=True)
        if subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode:
            failed.append(folder)
    if not failed:
        save(args.output / "report", args.output / "figures")
    if failed:
        print(f"failed: {', '.join(failed)}; the same command resumes", file=sys.stderr)
    return int(bool(failed))


def tasks_of(args: argparse.Namespace, name: str, method: Method) -> list[Task]:
    """The commands of a method: stage 1 where it has not finished; stage 2 and evaluation, in as many shards as
    there are processes."""
    tasks = []
    for first in method.stage1:
        workdir = args.output / first.folder
        if not (workdir / "checkpoints" / "final").is_dir():
            options = [f"--config.data.root={args.data}", *first.options, f"--workdir={workdir}"]
            command = ["launch/train.py", "--config", first.config, *options]
            tasks.append(Task(first.folder, command, frozenset(first.needs)))
    seeds, shots = f"0:{args.seeds}", [k for k in args.shots if k in method.shots]
    command = [
        "launch/protocol.py", "--config", method.config, f"--shots={','.join(map(str, shots))}",
        f"--shot_seeds={seeds}", f"--noise_seeds={seeds}", f"--config.data.root={args.data}",
        f"--config.eval.split={args.split}", *method.options, f"--output={args.output / name}",
    ]  # fmt: skip
    needs = frozenset((*method.needs, *(first.folder for first in method.stage1)))
    n = min(args.processes, len(shots) * args.seeds)
    return tasks + [Task(f"{name} {i + 1}/{n}", [*command, f"--shard={i + 1}/{n}"], needs) for i in range(n)]


def work(
    tasks: Sequence[Task], processes: int, logs: Path, run: Callable[[Task, Path], bool] | None = None
) -> list[str]:
    """Runs tasks, several at the same time, each after those that it needs; earlier ones first.

    Args:
      tasks: what one needs is the name of a task, or of all tasks "NAME 1/2", "NAME 2/2"; names of no task are ready.
      processes: at the same time.
      logs: folder for what each prints.
      run: runs one; whether it succeeded. For tests.

    Returns:
      Names of the tasks that failed, and of those that need one of them.
    """
    run = run or execute
    logs.mkdir(parents=True, exist_ok=True)
    waiting, failed = list(tasks), list[str]()
    running: dict[Future[bool], Task] = {}

    def blocked_by(task: Task, names: Iterable[str]) -> bool:
        return any(name in task.needs or name.rpartition(" ")[0] in task.needs for name in names)

    with ThreadPoolExecutor(processes) as pool:
        while waiting or running:
            for task in list(waiting):
                if blocked_by(task, failed):
                    waiting.remove(task)
                    failed.append(task.name)
                elif len(running) < processes and not blocked_by(
                    task, [x.name for x in (*waiting, *running.values()) if x is not task]
                ):
                    waiting.remove(task)
                    print(f"{shlex.join(['python', *task.command])}  # {log_of(task, logs)}", flush=True)
                    running[pool.submit(run, task, log_of(task, logs))] = task
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                task = running.pop(future)
                if not future.result():
                    failed.append(task.name)
                left = len(waiting) + len(running)
                print(f"{'finished' if future.result() else 'FAILED'}: {task.name}; {left} to go", flush=True)
    return failed


def log_of(task: Task, logs: Path) -> Path:
    """The file of what a task prints."""
    return logs / f"{task.name.replace('/', '-').replace(' ', '-')}.log"


def execute(task: Task, log: Path) -> bool:
    """Runs a command in a separate process; whether it succeeded."""
    env = dict(os.environ)
    env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {ONE_CORE}".strip()
    start = time.monotonic()
    with log.open("a") as file:
        code = subprocess.run(
            [sys.executable, *task.command], cwd=ROOT, env=env, stdout=file, stderr=file, check=False
        ).returncode
        print(f"exit code {code} after {(time.monotonic() - start) / 60:.1f} min", file=file)
    return code == 0


def save(report: Path, figures: Path) -> None:
    """Leaves benchmarks/results/shapes_grid.json, what the tables of docs/results.md are made of, and the figures.

    Args:
      report: folder of the report of all methods.
      figures: folder of the report whose curves are shown.
    """
    with (report / "tables.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "this report"]
    measure.write("shapes_grid", {"shots": by_shots(rows)} | measure.machine())
    for shots in SHOTS:
        for figure in figures.glob(f"curves-shapes-all-classes-*{shots}shot.png"):
            shutil.copyfile(figure, ROOT / "docs" / f"shapes_grid_{shots}shot.png")


def by_shots(rows: Iterable[Mapping[str, str]]) -> dict[str, Any]:
    """K -> method -> "shot_seeds" and metric -> statistic -> value, from the rows of a report's tables.csv."""
    out: dict[str, Any] = {}
    for row in rows:
        if row["metric"] in METRICS and row["statistic"] in STATISTICS and row["setting"] == "all classes":
            method = out.setdefault(row["shots"], {}).setdefault(row["method"], {})
            if row["statistic"] == "mean":
                method["shot_seeds"] = int(row["n"])
            method.setdefault(row["metric"], {})[row["statistic"]] = round(float(row["value"]), 4)
    return out


if __name__ == "__main__":
    sys.exit(main())
