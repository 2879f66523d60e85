"""The report of a protocol as a whole: every file is written completely or not at all."""

import json

import pytest
from PIL import Image

from maskdiff_jax.reporting import charts, protocol_report
from tests.reporting.example_grid import document, write_document, write_grid
from tests.reporting.example_runs import read_page


def test_files_and_sections(tmp_path):
    root = write_grid(tmp_path / "runs", shots=(1,), seeds=3, noise_seeds=2)
    figures = root / "maskdiff/fewshot-1shot-seed1/figures"
    figures.mkdir()
    Image.new("RGB", (8, 8)).save(figures / "scenes_00.png")
    (root / "later").mkdir()
    (root / "later/config.json").write_text("{}")
    written = protocol_report.write([root], lambda: tmp_path / "out")
    names = ["tables.csv", "tables.md", "tables.tex", "index.html", "curves-coco-all-1shot.png"]
    assert [path.name for path in written.files] == [*names, "curves-coco-stage-1.png"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in written.files)
    page = read_page(tmp_path / "out/index.html")
    titles = [
        "COCO-All",
        "Differences from MaskDiff",
        "AP against the IoU threshold",
        "stage 1",
        "Spread over noise seeds",
    ]
    titles += ["Training time and speed", "A median case", "How to read the spreads", "How it was made", "Notes"]
    positions = [page.text.index(title) for title in titles[:3]] + [page.text.rindex(title) for title in titles[4:]]
    assert positions == sorted(positions)
    assert "Only 3 shot seeds shared" in page.text and "shot seed 1: the one with the median mask AP" in page.text
    assert "cannot all be correct" in page.text and all(link.startswith("data:") for link in page.links)
    assert written.notes == [f"1 run without metrics.json is not counted yet: {root / 'later'}"]
    assert written.notes[0] in page.text and written.summary[0] in page.text
    text = (tmp_path / "out/tables.tex").read_text()
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 7


def test_other_datasets_have_plain_names_and_no_published_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(charts, "panel_chart", lambda *_: b"png")
    root = write_grid(tmp_path / "runs", shots=(5,), seeds=2, noise_seeds=1, dataset="shapes")
    val = document("maskdiff", 5, 0, 0, "shapes")
    val["config"]["eval"]["split"] = "val"
    write_document(root / "val", val)
    protocol_report.write([root], lambda: tmp_path / "out")
    page = read_page(tmp_path / "out/index.html").text
    assert "shapes, all classes, masks" in (tmp_path / "out/tables.md").read_text() or "shapes, all classes" in page
    assert "of the paper" not in page and "val split (for choosing settings)" in page
    assert (tmp_path / "out/curves-shapes-all-classes-val-5shot.png").read_bytes() == b"png"


def test_a_part_of_coco_is_not_the_papers_test_set(tmp_path, monkeypatch):
    monkeypatch.setattr(charts, "panel_chart", lambda *_: b"png")
    doc = document()
    doc["config"]["data"]["counts"] = ""
    write_document(tmp_path / "runs/a", doc)
    protocol_report.write([tmp_path / "runs"], lambda: tmp_path / "out")
    assert "not evaluated on all of TFA's 5,000" in read_page(tmp_path / "out/index.html").text


def test_nothing_is_written_where_runs_cannot_be_averaged_or_read(tmp_path):
    doc = document(seed=1)
    doc["config"]["train"]["novel"]["lr"] = 0.5
    write_document(tmp_path / "runs/a", document())
    write_document(tmp_path / "runs/b", doc)
    with pytest.raises(ValueError, match="differ in more than seeds"):
        protocol_report.write([tmp_path / "runs"], lambda: tmp_path / "out")
    (tmp_path / "runs/b/metrics.json").write_text("[]")
    with pytest.raises(ValueError, match="has no 'metrics' object"):
        protocol_report.write([tmp_path / "runs"], lambda: tmp_path / "out")
    del doc["config"]["method"]
    (tmp_path / "runs/a/metrics.json").write_text(json.dumps(doc))
    (tmp_path / "runs/b/metrics.json").write_text(json.dumps(doc))
    with pytest.raises(ValueError, match="nothing to report on: 2 evaluations without config.method"):
        protocol_report.write([tmp_path / "runs"], lambda: tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_ap_of_all_classes_that_cannot_be_is_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(charts, "panel_chart", lambda *_: b"png")
    doc = document(seed=1)
    doc["metrics"]["segm/AP"] += 0.2
    write_document(tmp_path / "runs/good", document())
    write_document(tmp_path / "runs/wrong", doc)
    (note,) = protocol_report.write([tmp_path / "runs"], lambda: tmp_path / "out").notes
    assert "(60 base AP + 20 novel AP) / 80, as it must be, in 1 evaluation" in note
    assert note.endswith(f": {tmp_path / 'runs/wrong'}")
