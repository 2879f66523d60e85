"""One HTML page (a single file, no network) of evaluated runs.

    python launch/report.py runs/base-shapes runs/fewshot-shapes-5shot-seed0
    python launch/report.py runs/base-coco runs/fewshot-coco-5shot-seed* --output=report
    python launch/report.py --config configs/fewshot.py      # that run and the one it started from

Reads WORKDIR/metrics.json, metrics.jsonl and figures/ of each. Runs that differ only in seeds become one row
(mean and 95 % confidence interval); the last workdir's pictures are shown.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from launch import cli

_OUTPUT = flags.DEFINE_string("output", "", "Folder for index.html; default: report in the last workdir.")


def main(argv: list[str]) -> None:
    """Writes the page and prints the table."""
    from maskdiff_jax.reporting import report

    workdirs = [Path(x) for x in argv[1:]] or _workdirs_of_config()
    folder = Path(_OUTPUT.value) if _OUTPUT.value else workdirs[-1] / "report"
    path = report.write(workdirs, folder / "index.html")
    print(report.text_table([report.read_metrics(w) for w in workdirs]))
    print(f"\nreport: {path}")


def _workdirs_of_config() -> list[Path]:
    """The run of --config and --workdir, behind the stage-1 run it started from if that was evaluated."""
    config, workdir = flags.FLAGS.config, flags.FLAGS.workdir
    if config is None:
        if not workdir:
            raise ValueError("which runs? name their folders, or give --config")
        return [Path(workdir)]
    own = Path(workdir) if workdir else cli.default_workdir(config)
    first = Path(cli.complete(config).init_from or own)
    return [first, own] if first != own and (first / "metrics.json").is_file() else [own]


if __name__ == "__main__":
    cli.define_flags()
    cli.guarded(main)
