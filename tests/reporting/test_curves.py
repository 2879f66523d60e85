"""Curves over IoU thresholds: means by hand, one look per method."""

import io

from PIL import Image

from maskdiff_jax.reporting import charts, curves
from tests.reporting.example_grid import document, write_document, write_grid
from tests.reporting.test_tables import groups_of


def test_a_curve_is_the_mean_over_shot_seeds_of_means_over_noise_seeds(tmp_path):
    for seed, noise, y in ((0, 0, [10.0, 2.0]), (0, 1, [20.0, 4.0]), (1, 0, [25.0, 5.0])):
        doc = document(seed=seed, noise_seed=noise) | {"curves": {"iou": [0.5, 0.95], "segm/all": y}}
        write_document(tmp_path / f"{seed}{noise}", doc)
    other = document(seed=2) | {"curves": {"iou": [0.5, 0.9], "segm/all": [9.0, 9.0]}}
    write_document(tmp_path / "x", other)
    write_document(tmp_path / "y", document(seed=3) | {"curves": {"iou": [0.5, 0.95], "segm/all": [None, 1.0]}})
    ((x,),) = groups_of(tmp_path)
    thresholds, estimates = curves.mean_curve(x, "segm/all")
    assert thresholds == [0.5, 0.95] and [(e.mean, e.n) for e in estimates] == [(20.0, 2), (4.0, 2)]
    assert estimates[0].half_width > 0 and curves.mean_curve(x, "bbox/all") is None
    one = x._replace(evaluations=x.evaluations[:1])
    assert [e.half_width for e in curves.mean_curve(one, "segm/all")[1]] == [0.0, 0.0]


def test_one_figure_per_k_with_the_same_looks(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(charts, "panel_chart", lambda x, y, panels: seen.append(panels) or b"png")
    write_grid(tmp_path, shots=(1, 5), seeds=2, noise_seeds=1)
    for seed in (0, 1):
        (tmp_path / f"mtfa/fewshot-5shot-seed{seed}/noise0/metrics.json").unlink()
    got = curves.curve_figures(groups_of(tmp_path)[0], "coco-all")
    assert list(got) == ["curves-coco-all-1shot.png", "curves-coco-all-5shot.png"]
    titles = ["masks, base classes", "masks, novel classes", "boxes, base classes", "boxes, novel classes"]
    assert [title for title, _ in seen[0]] == titles
    looks = [{line.label: (line.color, line.style) for line in panels[0][1]} for panels in seen]
    assert list(looks[0]) == ["MTFA", "iMTFA", "MaskDiff"] and list(looks[1]) == ["iMTFA", "MaskDiff"]
    assert looks[1].items() <= looks[0].items() and len(set(looks[0].values())) == 3
    assert all(len(line.band) == len(line.y) == 10 for line in seen[0][0][1])


def test_figures_are_pngs_and_none_without_curves(tmp_path):
    group = groups_of(write_grid(tmp_path / "a", methods=("maskdiff",), shots=(1,), seeds=2, noise_seeds=1))[0]
    (png,) = curves.curve_figures(group, "n").values()
    assert Image.open(io.BytesIO(png)).format == "PNG"
    write_document(tmp_path / "b", document() | {"curves": None})
    assert curves.curve_figures(groups_of(tmp_path / "b")[0], "n") == {}
