"""launch/evaluate.py: which run. What it writes: tests/evaluation/test_evaluate.py."""

import pytest

from tests import launched, tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny.write_run(tmp_path_factory.mktemp("evaluate_script") / "run")


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "no run given: name its folder"),
        (["nowhere"], "nowhere"),
        (["{run}", "{run}"], "2 run folders given, but one is needed"),
        (["{run}", "--config.model.mask.size=32"], "model.mask.size"),
        (["{run}", "--config.eval.sampels=2"], "sampels"),
    ],
)
def test_mistakes_are_one_sentence(run, arguments, words, tmp_path):
    done = launched.run("evaluate", *(x.format(run=run) for x in arguments), cwd=tmp_path)
    assert done.code == 2 and words in done.err and done.err.strip().count("\n") == 0, done


def test_ap_of_ground_truth_classes_is_printed_where_asked_for(capsys):
    write = launched.load("evaluate")["_print_gt_classes_only"]
    write({"bbox/AP": 1.0})
    assert capsys.readouterr().out == ""
    write({"bbox/AP": 1.0, "gt_classes_only/segm/AP50": 2.25, "gt_classes_only/segm/APs": 3.0})
    assert capsys.readouterr().out == "only classes in the ground truth of each image: segm/AP50 2.2\n"
