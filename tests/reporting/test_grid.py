"""Finding, checking and grouping evaluations: what is averaged, what is refused, what is named."""

import json
import os

import pytest

from maskdiff_jax.reporting import grid
from tests.reporting.example_grid import base_document, document, write_document, write_grid


def grouped(folders):
    found, notes = grid.read(grid.find(folders).evaluated)
    experiments, more = grid.experiments(found)
    return experiments, notes + more


def test_find_takes_runs_and_folders_of_runs_in_natural_order(tmp_path):
    for name in ("seed10", "seed9"):
        write_document(tmp_path / name / "noise0", {})
    for skipped in ("checkpoints/final", ".trash", "report"):
        write_document(tmp_path / "seed9" / skipped, {})
    found = grid.find([tmp_path, tmp_path / "seed9" / "noise0"])
    assert found.evaluated == [tmp_path / "seed9/noise0", tmp_path / "seed10/noise0"]
    assert grid.natural("a10") > grid.natural("a9")


def test_a_link_to_a_folder_above_ends(tmp_path):
    write_document(tmp_path / "a", {})
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    assert grid.find([tmp_path]).evaluated == [tmp_path / "a"]


def test_folders_without_evaluations_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*/absent"):
        grid.find([tmp_path / "absent"])
    with pytest.raises(FileNotFoundError, match="no metrics.json in or below .*: run launch/evaluate.py"):
        grid.find([tmp_path])


def test_runs_in_construction_are_counted_and_named_once(tmp_path):
    run = write_document(tmp_path / "run" / "noise0", {}).parent
    (run / "config.json").write_text("{}")  # of a run whose noise seeds were evaluated
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "config.json").write_text("{}")
    (run / "noise1").mkdir()
    (run / "noise1" / "predictions.json").write_text("[]")
    (note,) = grid.unfinished_note(grid.find([tmp_path]).unfinished)
    assert note.startswith("2 runs without metrics.json are not counted yet: ")
    assert str(tmp_path / "later") in note and str(run / "noise1") in note
    assert grid.unfinished_note([]) == []
    assert "1 run without metrics.json is" in grid.unfinished_note([run])[0]


def test_keys_name_settings_in_the_papers_words():
    def setting(*, dataset="coco", **fields):
        doc = document(dataset=dataset)
        for path, value in fields.items():
            node = doc["config"]
            *parents, name = path.split("__")
            for parent in parents:
                node = node[parent]
            node[name] = value
        return grid._key(doc)

    assert setting().setting == "COCO-All"
    assert setting(fewshot__classes="novel").setting == "COCO-Novel"
    assert setting(fewshot__classes="novel", eval__source="voc")[:3] == ("voc", "test", "COCO2VOC")
    assert setting(eval__source="voc").setting == "COCO2VOC, model of all classes"
    assert setting(dataset="shapes").setting == "all classes"
    assert setting(dataset="shapes", fewshot__classes="novel").setting == "novel classes only"
    assert setting(dataset="custom", eval__source="voc").setting == "all classes, trained on custom"
    assert setting(paper=True).method == "maskdiff+paper"
    assert setting(stage="distill").method == "maskdiff+distilled"
    assert setting(stage="base")[2:4] == ("stage 1", 0)
    assert setting(stage="base", paper=True)[2:4] == ("stage 1", 1)  # one stage 1 per K


def test_evaluations_that_differ_in_seeds_and_machine_become_one_experiment(tmp_path):
    root = write_grid(tmp_path, methods=("mtfa", "maskdiff"), shots=(1, 5), seeds=2, noise_seeds=2)
    path = root / "mtfa/fewshot-1shot-seed1/noise1/metrics.json"
    doc = json.loads(path.read_text())
    doc["config"]["data"] |= {"root": "/elsewhere", "workers": 0}
    doc["config"]["init_from"] = "runs/copy"
    path.write_text(json.dumps(doc))
    experiments, notes = grouped([root])
    assert notes == []
    keys = [(x.key.setting, x.key.shots, x.key.method, len(x.evaluations)) for x in experiments]
    assert keys == [
        ("COCO-All", 1, "mtfa", 4), ("COCO-All", 1, "maskdiff", 4), ("COCO-All", 5, "mtfa", 4),
        ("COCO-All", 5, "maskdiff", 4), ("stage 1", 0, "mtfa", 1), ("stage 1", 0, "maskdiff", 1),
    ]  # fmt: skip
    assert [len(group) for group in grid.groups(experiments)] == [4, 2]


def test_ablations_stand_between_baselines_and_maskdiff(tmp_path):
    write_grid(tmp_path, methods=("maskdiff", "no_shots", "mtfa"), shots=(1,), seeds=1, noise_seeds=1)
    assert [x.key.method for x in grouped([tmp_path])[0]][:3] == ["mtfa", "no_shots", "maskdiff"]


def test_runs_that_differ_in_more_than_seeds_are_refused(tmp_path):
    root = write_grid(tmp_path, methods=("mtfa",), shots=(1,), seeds=2, noise_seeds=1)
    folder = root / "mtfa/fewshot-1shot-seed1/noise0"
    doc = document("mtfa", 1, 1)
    doc["config"]["train"]["novel"] = {"lr": 0.02, "steps": 500, "ema": 0.9}
    write_document(folder, doc)
    with pytest.raises(ValueError) as error:
        grouped([root])
    text = str(error.value)
    assert text.startswith("evaluations of MTFA, K = 1, COCO-All (coco, test) differ in more than seeds")
    assert "train.novel.lr is 0.01 and 0.02" in text and "train.novel.ema is absent and 0.9" in text
    assert f"in {root}/mtfa/fewshot-1shot-seed0/noise0 and in {folder}" in text
    assert "another config.method" in text and "run report.py once for each" in text


def test_a_field_that_one_run_lacks_is_a_difference_even_if_the_other_has_it_empty(tmp_path):
    root = write_grid(tmp_path, methods=("mtfa",), shots=(1,), seeds=2, noise_seeds=1)
    doc = document("mtfa", 1, 1)
    doc["config"]["detector_notes"] = ""
    write_document(root / "mtfa/fewshot-1shot-seed1/noise0", doc)
    with pytest.raises(ValueError, match="detector_notes is absent and ''"):
        grouped([root])


def test_another_split_is_another_table(tmp_path):
    write_document(tmp_path / "a", document(seed=0))
    val = document(seed=1)
    val["config"]["eval"]["split"] = "val"
    write_document(tmp_path / "b", val)
    assert [x.key.split for x in grouped([tmp_path])[0]] == ["test", "val"]


def test_evaluations_that_are_there_twice_count_once(tmp_path):
    write_document(tmp_path / "a", document())
    write_document(tmp_path / "b", document())
    other = document(seed=1)
    write_document(tmp_path / "c", other)
    other["metrics"]["segm/AP"] += 1
    write_document(tmp_path / "d", other)
    (experiment,), notes = grouped([tmp_path])
    assert [e.folder.name for e in experiment.evaluations] == ["b", "d"]
    assert notes == [
        f"1 evaluation repeats others with the same seeds and are not counted: {tmp_path / 'a'}",
        f"{tmp_path / 'c'} was skipped: {tmp_path / 'd'} has the same config and seeds, but other metrics",
    ]


def test_evaluations_without_a_method_are_skipped_and_named(tmp_path):
    old = document()
    del old["config"]["method"]
    write_document(tmp_path / "old", old)
    found, notes = grid.read([tmp_path / "old"])
    assert found == [] and notes[0].startswith("1 evaluation without config.method")
    assert str(tmp_path / "old") in notes[0]


@pytest.mark.parametrize(
    ("path", "value"),
    [("fewshot.shots", "5"), ("eval.noise_seed", None), ("eval.split", 3), ("fewshot.seed", -1), ("stage", None)],
)
def test_a_config_field_of_another_type_is_an_error_with_its_fix(tmp_path, path, value):
    doc = document()
    *parents, name = path.split(".")
    node = doc["config"]
    for parent in parents:
        node = node[parent]
    node[name] = value
    folder = write_document(tmp_path / "run", doc)
    with pytest.raises(ValueError, match=rf"run/metrics.json: config.{path} is not .*: run launch/evaluate.py again"):
        grid.read([folder])


def test_damaged_files_are_errors(tmp_path):
    write_document(tmp_path / "a", document())
    (tmp_path / "a" / "metrics.json").write_text('{"metrics": {')
    with pytest.raises(ValueError, match="metrics.json is not valid JSON"):
        grouped([tmp_path])


def test_missing_seeds_are_named(tmp_path):
    root = write_grid(tmp_path, methods=("mtfa", "maskdiff"), shots=(1,), seeds=5, noise_seeds=2)
    for seed in (1, 2, 4):
        for noise in (0, 1):
            (root / f"mtfa/fewshot-1shot-seed{seed}/noise{noise}/metrics.json").unlink()
    (root / "mtfa/fewshot-1shot-seed3/noise1/metrics.json").unlink()
    group = grid.groups(grouped([root])[0])[0]
    assert grid.missing(group) == [
        "MTFA, K = 1, COCO-All (coco, test) lacks shot seeds 1-2, 4, which others have",
        "MTFA, K = 1, COCO-All (coco, test) does not have the same noise seeds for every shot seed: 0-1 for 0; 0 for 3",
    ]
    assert grid.missing([x for x in group if x.key.method == "maskdiff"]) == []


def test_a_mask_head_without_noise_needs_one_noise_seed(tmp_path):
    write_grid(tmp_path, methods=("maskdiff",), shots=(1,), seeds=2, noise_seeds=3)
    write_grid(tmp_path, methods=("mtfa",), shots=(1,), seeds=2, noise_seeds=1)
    assert grid.missing(grid.groups(grouped([tmp_path])[0])[0]) == []


def test_variants_of_the_metrics_are_settings_of_their_own(tmp_path):
    doc = document()
    doc["metrics"]["gt_classes_only/segm/AP"] = 50.0
    write_document(tmp_path / "a", doc)
    plain, variant = grouped([tmp_path])[0]
    assert (plain.variant, variant.variant) == ("", "gt_classes_only")
    assert variant.key.setting == "COCO-All, gt_classes_only"


def test_several_versions_are_noted(tmp_path):
    write_document(tmp_path / "a", document())
    write_document(tmp_path / "b", document(seed=1) | {"versions": {"jax": "0.11"}})
    write_document(tmp_path / "c", base_document() | {"versions": None})
    experiments, _ = grouped([tmp_path])
    assert grid.version_notes(experiments) == ["evaluations were made with several versions: jax 0.10.2, 0.11"]
    assert grid.version_notes(experiments[1:]) == []
