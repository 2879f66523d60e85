"""report.py as a user calls it."""

import subprocess
import sys
from pathlib import Path

from tests.reporting.example_runs import FIGURES, document, read_page, write_run

ROOT = Path(__file__).resolve().parents[2]


def report(folder, *arguments):
    command = [sys.executable, f"{ROOT}/launch/report.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_script_from_folders_to_page(tmp_path):
    write_run(tmp_path / "base", document("base"))
    write_run(tmp_path / "fewshot", document(), FIGURES)
    with (tmp_path / "base/metrics.jsonl").open("a") as file:
        file.write('{"phase": "jo')
    done = report(tmp_path, "base", "--workdir=fewshot")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[3].startswith("stage 1: base classes  all") and "stage 2: 5 shots" in done.stdout
    assert done.stdout.endswith("\nreport: fewshot/report/index.html\n")
    assert done.stderr == "report.py: base/metrics.jsonl: skipped 1 damaged line\n"
    assert "Results" in read_page(tmp_path / "fewshot/report/index.html").text


def test_without_folders_it_says_what_to_give(tmp_path):
    done = report(tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("report.py: name the folders of the runs")
    assert done.stderr.count("\n") == 1
