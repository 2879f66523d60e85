"""launch/train.py: what it says before hours of training. Training itself: tests/end_to_end and tests/training."""

import pytest

from configs import base
from launch import train
from maskdiff_jax import checkpoint, workdir
from tests import launched, tiny


def test_stage_1_says_which_k_stage_2_cannot_have(capsys):
    train.tell_stage_2(base.get_config("shapes"))
    train.tell_stage_2(base.get_config("coco,paper=true,shots=1"))
    assert capsys.readouterr().out == ""
    config = base.get_config("coco")
    config.model.mask.slots = 4
    train.tell_stage_2(config)
    out = capsys.readouterr().out
    assert "stage 2 with 5 or 10 shots cannot start" in out and "model.mask.slots=4" in out


def test_a_trained_run_is_left_as_it_is(tmp_path):
    """The config that runs is printed, nothing is trained again."""
    config = base.get_config("shapes")
    workdir.create(tmp_path / "run", config)
    checkpoint.save_params(workdir.weights_folder(tmp_path / "run"), tiny.trained().params)
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    done = launched.run("train", f"--config={launched.ROOT}/configs/base.py:shapes", "--workdir=run", cwd=tmp_path)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert f"train.mask.lr = {config.train.mask.lr!r}" in lines and "preset = 'shapes'" in lines
    assert lines[-1].startswith("trained: run (") and "note:" not in done.out
    assert [p for p in before if not (tmp_path / p).exists()] == []


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "no config given: use --config configs/base.py (stage 1) or --config configs/fewshot.py (stage 2)"),
        (["--config=nowhere.py"], "cannot read the config file"),
        (["--config={configs}/base.py", "--config.train.mask.stepz=3"], "stepz"),
        (["--config={configs}/base.py", "runs/mine"], "unknown argument 'runs/mine'"),
        (["--config={configs}/base.py:coco", "--config.data.root=nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_sentence(arguments, words, tmp_path):
    arguments = [x.format(configs=launched.ROOT / "configs") for x in arguments]
    done = launched.run("train", *arguments, cwd=tmp_path)
    assert done.code == 2 and words in done.err and done.err.strip().count("\n") == 0, done
