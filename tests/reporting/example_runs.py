"""Small evaluated runs on disk, as training and evaluation leave them."""

import html.parser
import json
from pathlib import Path

from PIL import Image

FIGURES = ("scenes_00.png", "support.png", "forward.png", "denoising.png", "samples.png")


def document(stage: str = "fewshot", seed: int = 0, shift: float = 0.0) -> dict:
    """A metrics.json; ``shift`` is added to every percentage."""
    groups = ("", "base/", "novel/") if stage == "fewshot" else ("", "base/")
    metrics = {
        f"{kind}/{g}{name}": base + shift
        for kind, base in (("bbox", 30.0), ("segm", 20.0))
        for g in groups
        for name in ("AP", "AP50", "AP75")
    }
    return {
        "config": {
            "seed": seed, "init_from": f"runs/{seed}", "fewshot": {"seed": seed, "shots": 5},
            "eval": {"noise_seed": seed}, "data": {"source": "shapes", "novel_classes": ["star"]},
            "train": {"side_by_side": False},
        },
        "preset": "shapes", "stage": stage, "dataset": "shapes", "split": "test", "shots": 5, "seed": seed,
        "noise_seed": seed, "step": {"detector": 9}, "versions": {"jax": "0.10.2"}, "device": "a CPU",
        "date": "2026-11-22", "novel_classes": ["star"],
        "metrics": metrics | {"mask_iou/all": 80.0 + shift, "images": 4},
        "per_class": {"segm": {"circle": 40.0, "star": 10.0}, "mask_iou": {"circle": 81.0}},
        "curves": {"iou": [0.5, 0.75, 0.95], "segm/all": [50.0, 30.0, 5.0], "segm/novel": [None, None, None]},
        "seconds": {"mask": 12.4, "evaluation": 3.0},
    }  # fmt: skip


def log_lines() -> list[dict]:
    lines = [{"phase": "mask", "step": s, "time": 0.1 * s, "loss": 3.0 / s} for s in range(1, 40)]
    lines[0] |= {"loss_cls": 0.5, "loss_box": 0.7}
    return lines


def write_run(folder: Path, doc: dict, figures: tuple[str, ...] = ()) -> Path:
    """A run's folder, its log without a line that is cut off."""
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(doc))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in log_lines()))
    (folder / "figures").mkdir()
    for name in figures:
        Image.new("RGB", (8, 8)).save(folder / "figures" / name)
    return folder


class PageReader(html.parser.HTMLParser):
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


def parse_page(page: str) -> PageReader:
    reader = PageReader()
    reader.feed(page)
    assert not reader.open
    return reader


def read_page(path: Path) -> PageReader:
    return parse_page(path.read_text(encoding="utf-8"))
