"""Ablations: every file gives valid configs that differ from the plain ones in what it says, and in nothing else."""

import importlib
import re

import pytest

from configs import base, fewshot
from launch import run_config
from maskdiff_jax import config_fields, workdir
from maskdiff_jax.data import transforms
from maskdiff_jax.model import build
from maskdiff_jax.training.compatibility import stage2_problems
from maskdiff_jax.workdir import as_json, flat
from tests.docs.documents import ROOT

NAMED = {"guidance": "guided", "steps": "steps8"}  # files whose row has another name
# what each file changes
AT_TEST = {
    "guidance": {"model.mask.diffusion.guidance": 5.0},
    "no_guidance": {"model.mask.diffusion.guidance": 1.0},
    "steps": {"model.mask.diffusion.steps": 8},
    "support_none": {"eval.support": "none"},
    "support_other": {"eval.support": "other"},
    "gt_boxes": {"eval.oracle": "boxes"},
    "gt_classes": {"eval.oracle": "classes"},
}
TRAINED = {
    "no_shots": {"data.shot_drop": 1.0, "eval.support": "none"},
    "no_class": {"model.mask.class_input": False},
    "tightened": {"data.context": 0.1, "data.crop_margin": 0.3, "eval.tighten_boxes": True},
}
ARGUMENTS = ["shapes", "shapes,shots=1,seed=3", "coco,shots=10", "coco,shots=1,paper=true"]


def get(name, arg):
    return importlib.import_module(f"configs.ablations.{name}").get_config(arg)


def check(config, plain, name, changes):
    before = flat(plain.to_dict())
    expected = {k: v for k, v in changes.items() if before[k] != v} | {"method": NAMED.get(name, name)}
    expected |= {"base_method": "maskdiff"} if name in AT_TEST else {}
    after = flat(config.to_dict())
    assert {k: v for k, v in after.items() if v != before[k]} == expected
    assert config.is_locked and config_fields.find_problem(config.to_dict()) == ""
    build(config.model)


@pytest.mark.parametrize("arg", ARGUMENTS)
@pytest.mark.parametrize("name", [*AT_TEST, *TRAINED])
def test_stage_2_differs_in_what_the_ablation_names(name, arg):
    config = get(name, arg)
    check(config, fewshot.get_config(arg), name, (AT_TEST | TRAINED)[name])
    method = "maskdiff" if name in AT_TEST else NAMED.get(name, name)
    suffix = "" if method == "maskdiff" else f"-{method}"
    assert re.fullmatch(rf"runs/base-(shapes|coco){suffix}(-paper-1shot)?", run_config.complete(config).init_from)


@pytest.mark.parametrize("arg", ["shapes", "coco", "coco,paper=true,shots=1"])
@pytest.mark.parametrize("name", TRAINED)
def test_stage_1_of_those_that_train_one(name, arg):
    first = get(name, f"{arg},stage=base")
    check(first, base.get_config(arg), name, TRAINED[name])
    second = get(name, f"{arg},shots=1" if "shots" not in arg else arg)
    assert stage2_problems(second, as_json(first)) == []
    for data in (first.data, second.data):
        assert data.crop_margin >= transforms.needed_margin(data.box_jitter, data.context)


@pytest.mark.parametrize("name", AT_TEST)
def test_ablations_at_test_share_the_trained_runs_of_maskdiff(name):
    """Neither stage is trained again: what differs may be changed after training."""
    with pytest.raises(ValueError, match="starts from stage 1 of maskdiff: train that stage 1"):
        get(name, "shapes,stage=base")
    differ = workdir.different_fields(
        as_json(get(name, "shapes,paper=true")), as_json(fewshot.get_config("paper=true"))
    )
    assert differ and all(workdir.covers((*workdir.AFTER_TRAINING, "base_method"), k) for k in differ)


def test_the_commands_in_the_files_give_their_rows():
    for name in AT_TEST:
        text = (ROOT / "configs/ablations" / f"{name}.py").read_text()
        command = re.findall(r"^    python launch/evaluate\.py RUN (.*) --output=FOLDER$", text, re.M)
        assert len(command) == 1, name
        config = run_config.override(fewshot.get_config("shapes"), command[0].split())
        differ = workdir.different_fields(as_json(config), as_json(get(name, "shapes")))
        assert differ == ["base_method"], name


def test_every_file_is_tested():
    """Here, or where methods that share a file's name are."""
    files = {path.stem for path in (ROOT / "configs/ablations").glob("*.py")} - {"__init__"}
    assert files >= {*AT_TEST, *TRAINED}


@pytest.mark.parametrize("arg, steps", [("shapes,steps=1", 1), ("coco,steps=10,shots=1", 10), (None, 8)])
def test_the_number_of_steps(arg, steps):
    config = get("steps", arg)
    assert (config.method, config.model.mask.diffusion.steps) == (f"steps{steps}", steps)


def test_the_weight_of_guidance():
    config = get("guidance", "shapes,guidance=2,shots=1")
    assert (config.method, config.model.mask.diffusion.guidance, config.fewshot.shots) == ("guided2", 2.0, 1)
    assert get("guidance", "guidance=5").method == "guided"


@pytest.mark.parametrize("value", ["", "0", "few", "1.5"])
@pytest.mark.parametrize("name", ["steps", "guidance"])
def test_wrong_options(name, value):
    with pytest.raises(ValueError, match=f"option '{name}={value}' must be a whole number of at least 1"):
        get(name, f"shapes,{name}={value}")
