"""Makes one HTML page (a single file, no network) of evaluated runs, and prints their table.

    python launch/report.py runs/base-shapes runs/fewshot-shapes-5shot-seed0
    python launch/report.py runs/base-coco runs/fewshot-coco-5shot-seed* --output=report

Reads metrics.json, metrics.jsonl and figures/*.png in each folder and nothing else. Runs that differ only in seeds
become one row (mean and 95 % confidence interval). The last run's pictures are shown.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from launch import cli

_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of a run; the same as naming it as an argument.")
_OUTPUT = flags.DEFINE_string("output", "", "Folder for index.html; default: report in the last run's folder.")


def main(argv: list[str]) -> None:
    """Writes the page, prints the table; what was skipped goes to stderr."""
    from maskdiff_jax.reporting import report, runs

    folders = [Path(x) for x in argv[1:] + [_WORKDIR.value] if x]
    if not folders:
        raise ValueError("name the folders of the runs, for example: report.py runs/base-shapes runs/fewshot-shapes-*")
    documents = [runs.read_metrics(folder) for folder in folders]
    output = Path(_OUTPUT.value) if _OUTPUT.value else report.output_folder(folders[-1])
    notes = report.write(folders, output / "index.html")
    print(report.text_table(documents, folders))
    for note in notes:
        print(f"report.py: {note}", file=sys.stderr)
    if not _OUTPUT.value and output.parent != folders[-1]:
        print(f"report.py: {folders[-1]} is read-only, so the page is in {output}", file=sys.stderr)
    print(f"\nreport: {output / 'index.html'}")


if __name__ == "__main__":
    cli.guarded(main)
