"""Findings in words: what is best, by how much, and whether that is more than chance."""

from PIL import Image

from maskdiff_jax.reporting import findings
from tests.reporting.example_grid import document, write_document, write_grid
from tests.reporting.test_tables import groups_of


def test_sentences_name_the_best_and_the_next_with_a_test(tmp_path):
    group, stage_1 = groups_of(write_grid(tmp_path, shots=(1,), seeds=6, noise_seeds=1))
    (text,) = findings.sentences(group)
    assert text.startswith("COCO-All (coco), K = 1: MaskDiff has the best mean, ")
    assert "mask AP on novel classes, n = 6 shot seeds. Next is iMTFA, " in text
    assert text.endswith("after Holm's correction: significant).")
    assert findings.sentences(stage_1) == []


def test_few_or_no_shared_seeds_conclude_nothing(tmp_path):
    group = groups_of(write_grid(tmp_path / "a", shots=(1,), seeds=3, noise_seeds=1))[0]
    assert findings.sentences(group)[0].endswith("n = 3 is too few to conclude anything.")
    write_document(tmp_path / "b/1", document("maskdiff", seed=0))
    write_document(tmp_path / "b/2", document("mtfa", seed=1))
    assert "share no shot seed" in findings.sentences(groups_of(tmp_path / "b")[0])[0]


def test_one_method_alone_and_metrics_without_novel_classes(tmp_path):
    write_document(tmp_path / "a", document() | {"metrics": {"segm/AP": 3.0}})
    group = groups_of(tmp_path)[0]
    assert findings.sentences(group) == ["COCO-All (coco), K = 1: MaskDiff has 3.00 mask AP, n = 1 shot seed."]
    write_document(tmp_path / "a", document() | {"metrics": {"images": 3}})
    group = groups_of(tmp_path)[0]
    assert findings.sentences(group) == [] == findings.tiles([group]) and findings.median_case(group) is None


def test_tiles_show_the_best_maskdiff_and_their_difference(tmp_path):
    write_grid(tmp_path, methods=("mtfa", "maskdiff", "imtfa"), shots=(1,), seeds=5, noise_seeds=1)
    best, difference = findings.tiles(groups_of(tmp_path))
    assert best[1].startswith("± ") and best[1].endswith(" %") and best[2].endswith("COCO-All (best of 3 methods)")
    assert difference[0].startswith("+") and difference[1].endswith(" points")
    assert difference[2].startswith("MaskDiff minus iMTFA, the best other, K = 1 (p")
    for seed in range(3):
        doc = document("imtfa", seed=seed)
        doc["metrics"]["segm/novel/AP"] = 90.0
        write_document(tmp_path / f"imtfa/fewshot-1shot-seed{seed}/noise0", doc)
    for seed in (3, 4):
        (tmp_path / f"imtfa/fewshot-1shot-seed{seed}/noise0/metrics.json").unlink()
    best, own, difference = findings.tiles(groups_of(tmp_path))
    assert own[2].startswith("MaskDiff") and own[2].endswith("(rank 2 of 3)")
    assert best[0] == "90.00" and best[1] == "± 0.00 %"
    assert difference[0].startswith("−8") and "n = 3: too few to conclude anything" in difference[2]


def test_where_maskdiff_is_second_the_sentence_has_the_test_of_the_tile(tmp_path):
    write_grid(tmp_path, methods=("mtfa", "maskdiff", "imtfa"), shots=(1,), seeds=5, noise_seeds=1)
    for seed in range(5):
        doc = document("imtfa", seed=seed)
        doc["metrics"]["segm/novel/AP"] = 90.0 + seed
        write_document(tmp_path / f"imtfa/fewshot-1shot-seed{seed}/noise0", doc)
    groups = groups_of(tmp_path)
    (*_, difference), (text,) = findings.tiles(groups), findings.sentences(groups[0])
    points, half_width = difference[0].lstrip("−"), difference[1].split()[1]
    trust = difference[2].rpartition("(")[2].rstrip(")")
    assert f"Next is MaskDiff, {points} points behind (± {half_width}, {trust} after Holm" in text


def test_the_median_case_is_of_maskdiff_and_by_rule(tmp_path):
    for seed, value in ((0, 5.0), (1, 9.0), (2, 6.0), (3, 1.0)):
        doc = document(seed=seed)
        doc["metrics"]["segm/novel/AP"] = value
        write_document(tmp_path / f"run{seed}" / "noise0", doc)
        if seed != 3:
            (tmp_path / f"run{seed}" / "figures").mkdir()
            Image.new("RGB", (8, 8)).save(tmp_path / f"run{seed}" / "figures/scenes_00.png")
    x, evaluation, folder = findings.median_case(groups_of(tmp_path)[0])
    assert (x.key.method, evaluation.repeat, folder) == ("maskdiff", 2, tmp_path / "run2")
    assert findings.figure_folder(tmp_path / "run3" / "noise0") is None
