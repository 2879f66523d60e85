"""Tables and the page: from files alone, grouped by seed, one clear sentence on bad input."""

import html.parser
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.reporting import html as page
from maskdiff_jax.reporting import report


def document(stage: str = "fewshot", seed: int = 0, shift: float = 0.0) -> dict:
    groups = ("", "base/", "novel/") if stage == "fewshot" else ("", "base/")
    metrics = {
        f"{kind}/{g}{name}": base + shift
        for kind, base in (("bbox", 30.0), ("segm", 20.0))
        for g in groups
        for name in ("AP", "AP50", "AP75")
    }
    iou = [0.5, 0.75, 0.95]
    return {
        "config": {
            "seed": seed, "init_from": f"runs/{seed}", "fewshot": {"seed": seed, "shots": 5},
            "eval": {"noise_seed": seed}, "data": {"novel_classes": ["star"]},
        },
        "preset": "shapes", "stage": stage, "dataset": "shapes", "split": "test", "shots": 5, "seed": seed,
        "noise_seed": seed, "step": {"detector": 9}, "versions": {"jax": "0.10.2"}, "device": "a CPU",
        "date": "2026-11-22", "novel_classes": ["star"],
        "metrics": metrics | {"mask_iou/all": 80.0 + shift, "images": 4},
        "per_class": {"segm": {"circle": 40.0, "star": 10.0}, "mask_iou": {"circle": 81.0}},
        "curves": {"iou": iou, "segm/all": [50.0, 30.0, 5.0], "segm/novel": [None, None, None]},
        "seconds": {"mask": 12.4, "evaluation": 3.0},
    }  # fmt: skip


def workdir(folder: Path, doc: dict, figures: tuple[str, ...] = ()) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(doc))
    lines = [{"phase": "mask", "step": s, "time": 0.1 * s, "loss": 3.0 / s} for s in range(1, 40)]
    lines[3] |= {"detector/loss_cls": 0.5, "mask/loss": 0.7}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines) + '{"phase": "jo')
    (folder / "figures").mkdir()
    for name in figures:
        Image.new("RGB", (8, 8)).save(folder / "figures" / name)
    return folder


class Reader(html.parser.HTMLParser):
    """Checks that tags close in order; keeps text and links."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.links = [], "", []

    def handle_starttag(self, tag, attrs):
        self.links += [v for k, v in attrs if k in ("src", "href")]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read_page(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text())
    assert not reader.open
    return reader


def test_page_has_every_section_and_needs_no_network(tmp_path):
    figures = ("scenes_00.png", "support.png", "forward.png", "denoising.png", "samples.png")
    runs = [
        workdir(tmp_path / "base", document("base")),
        workdir(tmp_path / "few", document(), figures),
    ]
    path = report.write(runs, tmp_path / "report" / "index.html")
    got = read_page(path)
    titles = ("Results", "Time", "Test images", "The shots", "Forward process", "From noise to a mask")
    titles += ("Several samples of one object", "AP against IoU threshold", "Losses", "Classes")
    for title in titles:
        assert title in got.text
    assert all(link.startswith("data:") for link in got.links) and len(got.links) > 6
    assert not list(tmp_path.glob("**/*.partial"))


def test_absent_figures_and_logs_leave_their_sections_out(tmp_path):
    run = workdir(tmp_path / "few", document())
    (run / "metrics.jsonl").unlink()
    got = read_page(report.write([run], tmp_path / "r.html"))
    assert "Test images" not in got.text and "The shots" not in got.text and "Losses" not in got.text
    assert "Results" in got.text


def test_a_page_of_the_barest_metrics(tmp_path):
    (tmp_path / "metrics.json").write_text('{"metrics": {"segm/AP": 1.0}, "stage": "<b>"}')
    got = read_page(report.write([tmp_path], tmp_path / "r.html"))
    assert "<b>" in got.text  # as text, not as a tag


def test_runs_that_differ_in_seeds_become_one_row(tmp_path):
    runs = [workdir(tmp_path / f"s{s}", document(seed=s, shift=v)) for s, v in enumerate((-1.0, 0.0, 1.0))]
    other = document()
    other["shots"] = 1
    runs.append(workdir(tmp_path / "k1", other))
    groups = report.group([report.read(r) for r in runs])
    assert [len(g) for g in groups] == [3, 1]
    text = read_page(report.write(runs[:3], tmp_path / "r.html")).text
    assert "mean of 3 seeds" in text and "± 2.5" in text  # 4.303 x 1 / sqrt(3) = 2.48


def test_estimate_by_hand():
    e = report.estimate([1.0, 2.0, 3.0, 4.0])
    assert (e.mean, e.n) == (2.5, 4)
    assert e.std == pytest.approx(math.sqrt(5 / 3))
    assert e.half == pytest.approx(3.182 * math.sqrt(5 / 3) / 2, rel=1e-3)
    one = report.estimate([7.0])
    assert one.mean == 7.0 and math.isnan(one.half)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "is missing: run launch/evaluate.py"),
        ("{", "is no valid json"),
        ("[]", "has no 'metrics' object"),
        ('{"metrics": 3}', "has no 'metrics' object"),
        ('{"metrics": {"segm/AP": "high"}}', "metrics['segm/AP'] is no number"),
    ],
)
def test_bad_metrics_give_one_sentence(tmp_path, content, expected):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    with pytest.raises((FileNotFoundError, ValueError)) as error:
        report.write([tmp_path], tmp_path / "r.html")
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value) and not (tmp_path / "r.html").exists()


def test_text_table():
    lines = report.text_table([document("base"), document()]).splitlines()
    rows = lines[3 : lines.index("")]
    assert len(rows) == 5  # novel classes only in stage 2
    assert rows[-1].split()[:5] == ["novel", "30.0", "30.0", "20.0", "20.0"]
    assert "mask head 12 s, evaluation 3 s; together 15 s" in lines[-1]


def test_running_mean_by_hand():
    np.testing.assert_allclose(page.running_mean(np.array([1.0, 3.0, 5.0, 7.0]), 2), [1, 2, 4, 6])


def test_chart_survives_nan_and_one_point():
    data = page.chart("t", "x", "y", [([1], [math.nan], "a", "red", "raw"), ([1, 2], [3, 4], "", "blue", "-")])
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
