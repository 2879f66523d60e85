"""report.py as a user calls it."""

import subprocess
import sys
from pathlib import Path

from tests.reporting.example_grid import document as document_of_grid
from tests.reporting.example_grid import write_document, write_grid
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


def test_a_folder_of_runs_becomes_the_report_of_a_protocol(tmp_path):
    write_grid(tmp_path / "runs", methods=("mtfa", "maskdiff"), shots=(1,), seeds=2, noise_seeds=1)
    (tmp_path / "runs/mtfa/fewshot-1shot-seed1/noise0/metrics.json").unlink()
    done = report(tmp_path, "runs", "--output=out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("COCO-All (coco), K = 1: MaskDiff has the best mean, ")
    assert "out/index.html" in done.stdout and (tmp_path / "out/tables.csv").is_file()
    assert "report.py: MTFA, K = 1, COCO-All (coco, test) lacks shot seed 1, which others have\n" in done.stderr
    doc = document_of_grid("mtfa", 1, 1)
    doc["config"]["train"]["novel"]["lr"] = 7.0
    write_document(tmp_path / "runs/mtfa/fewshot-1shot-seed1/noise0", doc)
    done = report(tmp_path, "runs", "--output=again")
    assert done.returncode == 2 and "train.novel.lr is 0.01 and 7.0" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "again").exists()


def test_many_run_folders_are_a_protocol_too(tmp_path):
    folders = [write_document(tmp_path / str(s), document_of_grid(seed=s)) for s in range(9)]
    done = report(tmp_path, *(folder.name for folder in folders))
    assert done.returncode == 0 and (folders[-1] / "report/tables.md").is_file(), done.stderr
    done = report(tmp_path, "0", "absent")
    assert done.returncode == 2 and "absent/metrics.json is missing" in done.stderr
