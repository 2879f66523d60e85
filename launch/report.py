"""Makes a report of evaluated runs: one HTML page (a single file, no network), and for many runs the paper's tables.

    python launch/report.py runs/base-shapes runs/fewshot-shapes-5shot-seed0
    python launch/report.py runs/base-coco runs/fewshot-coco-5shot-seed* --output=report
    python launch/report.py runs/protocol --output=report      # all methods, K, settings and seeds below a folder

A few run folders make a page of these runs: metrics, losses, pictures of the last. Runs that differ only in seeds
become one row (mean and 95 % confidence interval).

A folder that holds runs, or more than 8 run folders, makes the report of a protocol: tables of all methods
(config.method), paired tests, curves, times, and the paper's numbers beside those of COCO, as index.html, tables.csv,
tables.md, tables.tex and PNG files. Runs that differ in more than seeds are never averaged.

Reads only metrics.json, metrics.jsonl and figures/*.png.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from launch import cli

_WORKDIR = flags.DEFINE_string("workdir", "", "A run folder; the same as naming it as an argument.")
_OUTPUT = flags.DEFINE_string("output", "", "Output folder; default: report in the last folder.")
MOST_RUNS = 8  # of a page of runs; more make the report of a protocol


def main(argv: list[str]) -> None:
    """Writes the report and prints its main numbers; notes on skipped files are printed to stderr."""
    folders = [Path(x) for x in argv[1:] + [_WORKDIR.value] if x]
    if not folders:
        raise ValueError("name the folders of the runs, for example: report.py runs/base-shapes runs/fewshot-shapes-*")
    holds_runs = any(folder.is_dir() and not (folder / "metrics.json").is_file() for folder in folders)
    if holds_runs or len(folders) > MOST_RUNS:
        _protocol(folders)
    else:
        _page_of_runs(folders)


def _page_of_runs(folders: list[Path]) -> None:
    from maskdiff_jax.reporting import report, runs

    documents = [runs.read_metrics(folder) for folder in folders]
    output = _output(folders)
    notes = report.write(folders, output / "index.html")
    print(report.text_table(documents, folders))
    _print_notes(notes)
    print(f"\nreport: {output / 'index.html'}")


def _protocol(folders: list[Path]) -> None:
    from maskdiff_jax.reporting import protocol_report

    written = protocol_report.write(folders, lambda: _output(folders))
    print("\n".join(written.summary))
    _print_notes(written.notes)
    print(f"\nreport: {', '.join(map(str, written.files))}")


def _output(folders: list[Path]) -> Path:
    """The output folder; prints a note if the last folder is read-only and another one is used."""
    from maskdiff_jax.reporting import report

    if _OUTPUT.value:
        return Path(_OUTPUT.value)
    output = report.output_folder(folders[-1])
    if output.parent != folders[-1]:
        print(f"report.py: {folders[-1]} is read-only, so the report is in {output}", file=sys.stderr)
    return output


def _print_notes(notes: list[str]) -> None:
    for note in notes:
        print(f"report.py: {note}", file=sys.stderr)


if __name__ == "__main__":
    cli.guarded(main)
