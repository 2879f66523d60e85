"""The page and the table as a whole: from files alone, grouped by seed, written completely or not at all."""

import errno

import pytest

from maskdiff_jax.reporting import report, runs
from tests.reporting.example_runs import FIGURES, document, read_page, write_run


def test_page_has_every_section_and_needs_no_network(tmp_path):
    folders = [
        write_run(tmp_path / "base", document("base")),
        write_run(tmp_path / "fewshot", document(), FIGURES),
    ]
    path = tmp_path / "report" / "index.html"
    assert report.write(folders, path) == []
    got = read_page(path)
    titles = ("Results", "Time", "Test images", "Support set", "Forward process", "Sampling a mask")
    titles += ("Several samples of one object", "AP against the IoU threshold", "Losses", "Classes", "How it was made")
    positions = [got.text.index(title) for title in titles]
    assert positions == sorted(positions) and "Notes on the files" not in got.text
    assert all(link.startswith("data:") for link in got.links) and len(got.links) > 6
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]


def test_a_page_of_the_barest_metrics_says_what_is_missing(tmp_path):
    (tmp_path / "metrics.json").write_text('{"metrics": {"segm/AP": 1.0}, "stage": "<b>"}')
    notes = report.write([tmp_path], tmp_path / "r.html")
    got = read_page(tmp_path / "r.html")
    assert "<b>" in got.text  # as text, not as a tag
    assert "Test images" not in got.text and "Losses" not in got.text and "Results" in got.text
    assert len(notes) == 2 and all(note in got.text for note in notes)


def test_runs_that_differ_in_seeds_become_one_row(tmp_path):
    folders = [write_run(tmp_path / f"s{s}", document(seed=s, shift=v)) for s, v in enumerate((-1.0, 0.0, 1.0))]
    other = document()
    other["shots"] = other["config"]["fewshot"]["shots"] = 1
    folders.append(write_run(tmp_path / "k1", other))
    assert [len(g) for g in report.group([runs.read(f) for f in folders])] == [3, 1]
    report.write([*folders[:2], folders[3], folders[2]], tmp_path / "r.html")
    got = read_page(tmp_path / "r.html").text
    assert "mean of 3 seeds" in got and "± 2.5" in got  # the last run's group is on top


def test_repeats_of_the_same_seeds_count_once(tmp_path):
    """They are no independent runs: an interval over them would be too narrow."""
    folders = [write_run(tmp_path / f"run{i}", document(seed=s)) for i, s in enumerate((0, 1, 0))]
    notes = report.write([*folders, folders[2]], tmp_path / "r.html")
    assert "mean of 2 seeds" in read_page(tmp_path / "r.html").text
    skipped = [note for note in notes if "the same seeds" in note]
    assert len(skipped) == 2 and skipped[0].startswith(f"{folders[0]} was skipped: {folders[2]} has")


def test_bad_metrics_leave_no_page(tmp_path):
    good = write_run(tmp_path / "run", document())
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        report.write([good, tmp_path], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
    with pytest.raises(ValueError, match="give the folders of the runs"):
        report.write([], tmp_path / "r.html")


def test_output_folder(tmp_path):
    assert report.output_folder(tmp_path) == tmp_path / "report"
    assert list((tmp_path / "report").iterdir()) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_output_goes_elsewhere_where_the_run_is_read_only(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, "refused")

    monkeypatch.setattr(report.atomic, "write", refuse)  # root may write to a folder of any mode
    assert str(report.output_folder(tmp_path / "." / "")) == f"report-{tmp_path.name}"


def test_other_faults_of_the_output_folder_are_errors(tmp_path):
    (tmp_path / "report").write_text("a file")
    with pytest.raises(FileExistsError, match="cannot write to .*report"):
        report.output_folder(tmp_path)


def test_text_table(tmp_path):
    lines = report.text_table([document("base"), document()]).splitlines()
    rows = lines[3 : lines.index("")]
    assert len(rows) == 5  # novel classes only in stage 2
    assert rows[-1].split() == ["novel", "30.0", "30.0", "20.0", "20.0", "-"]
    assert rows[2].split()[-5:] == ["30.0", "30.0", "20.0", "20.0", "80.0"]
    assert {len(row) for row in rows} == {len(lines[0]), len(lines[1])}
    assert "mask head 12 s, evaluation 3 s; total 15 s" in lines[-1]
    table = report.text_table([document(), document()], [tmp_path / "a", tmp_path / "b"])
    assert "stage 2: 5 shots (a)" in table and "stage 2: 5 shots (b)" in table
