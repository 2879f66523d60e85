"""Methods and ablations that are trained: every file gives valid configs of both stages that fit together."""

import importlib
import re

import jax
import pytest
from flax.traverse_util import flatten_dict

from configs import base, fewshot
from launch import run_config
from maskdiff_jax import config_fields
from maskdiff_jax.model import build
from maskdiff_jax.training import preflight
from maskdiff_jax.training.compatibility import reset_fields, stage2_problems
from maskdiff_jax.workdir import as_json, flat, model_differences
from tests.docs.documents import ROOT

# files without a stage 2, which another one's stage 1 starts from; and files that are evaluations of other rows' runs
STAGE_1_ONLY = ("imtfa_fc",)
FILES = sorted(
    f"{folder}.{path.stem}"
    for folder in ("ablations", "baselines")
    for path in (ROOT / "configs" / folder).glob("*.py")
    if path.stem not in ("__init__", *STAGE_1_ONLY)
)
ARGUMENTS = ["shapes", "shapes_hard,shots=1,seed=3", "coco,shots=10", "coco,shots=1,weights=scratch", "custom"]


def get(file, arg):
    return importlib.import_module(f"configs.{file}").get_config(arg)


def stage_1(file, arg):
    """The config of stage 1 that a file's stage 2 starts from."""
    second = get(file, arg)
    options = ",".join(x for x in arg.split(",") if not x.startswith(("shots=", "seed=")))
    if not second.base_method:
        return get(file, f"{options},stage=base")
    if second.base_method == "maskdiff":
        return base.get_config(options)
    return get(f"baselines.{second.base_method}", f"{options},stage=base")


@pytest.mark.parametrize("arg", ARGUMENTS)
@pytest.mark.parametrize("file", FILES)
def test_stage_2_can_start_from_its_stage_1(file, arg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no runs are
    first, second = stage_1(file, arg), get(file, arg)
    for config, stage in ((first, "base"), (second, "fewshot")):
        if arg == "custom":  # its json says how many classes there are
            config.model.num_classes = 20
        assert config.is_locked and config.stage == stage and config.preset == arg.split(",")[0]
        assert config_fields.find_problem(config.to_dict()) == ""
        build(config.model)
    assert stage2_problems(second, as_json(first)) == []
    folder = run_config.complete(second).init_from
    assert folder == str(run_config.default_workdir(first))


def test_methods_have_rows_of_their_own():
    methods = [get(file, "shapes").method for file in FILES]
    assert len(set(methods)) == len(methods) and "maskdiff" not in methods


def changes(file, arg, plain):
    before = flat(plain.to_dict())
    return {k: v for k, v in flat(get(file, arg).to_dict()).items() if v != before[k] and k != "method"}


def test_plain_unet_changes_the_head_alone():
    head = {"model.mask.head": "plain_unet"}
    assert changes("ablations.plain_unet", "shapes,shots=1", fewshot.get_config("shapes,shots=1")) == head
    assert changes("ablations.plain_unet", "coco,stage=base", base.get_config("coco")) == head


def test_one_stage_trains_the_mask_head_as_stage_1_does():
    config = get("ablations.one_stage", "shapes,shots=1")
    first, plain = base.get_config("shapes"), fewshot.get_config("shapes,shots=1")
    assert config.train.mask == first.train.mask and config.train.reset == ("mask_head/.*",)
    differ = changes("ablations.one_stage", "shapes,shots=1", plain)
    assert all(k.startswith("train.mask.") or k in ("train.reset", "base_method") for k in differ)
    literal = get("ablations.one_stage", "coco,shots=1,paper=true")
    assert literal.train.mask == base.get_config("coco,paper=true,shots=1").train.mask


def test_one_stage_literal_trains_on_no_base_class():
    first = get("ablations.one_stage_literal", "coco,stage=base")
    assert first.train.detector.steps == first.train.mask.steps == 0
    second, plain = get("ablations.one_stage_literal", "coco,shots=10"), base.get_config("coco")
    for field in ("detector", "mask", "frozen"):
        assert second.train[field] == plain.train[field]
    assert second.train.novel.steps == 0 and second.fewshot.novel_init == "random"


def test_imtfa_trains_twice_on_base_classes_and_then_no_more():
    """Its authors' schedules on COCO; on shapes as many steps as MaskDiff's detector, in both runs together."""
    first, third = (get(f"baselines.{x}", "coco") for x in ("imtfa_fc", "imtfa"))
    second = get("baselines.imtfa", "coco,stage=base")
    assert (first.model.detector.classifier, second.model.detector.classifier) == ("linear", "cosine")
    assert (first.train.detector.steps, second.train.detector.steps) == (220_000, 180_000)
    assert (second.train.detector.lr, second.train.detector.batch, second.base_method) == (0.0007, 8, "imtfa_fc")
    for config in (first, second, third):
        assert config.model.detector.class_agnostic_boxes and config.model.mask.cnn.class_agnostic
        assert config.model.mask.head == "cnn" and config.train.mask.steps == 0
    assert preflight.trained_phases(third) == () and third.fewshot.novel_init == "mean_embedding"
    assert (second.model.detector.cosine_scale, third.model.detector.cosine_scale) == (20.0, 10.0)
    steps = [get(f"baselines.{x}", "shapes,stage=base").train.detector.steps for x in ("imtfa_fc", "imtfa")]
    assert sum(steps) == base.get_config("shapes").train.detector.steps


@pytest.mark.parametrize("arg", ["shapes", "coco", "custom"])
def test_imtfa_starts_its_classifier_anew(arg):
    """Only the classifier may differ from the first run, and it, the box head and the box regressor are trained."""
    first, second = get("baselines.imtfa_fc", arg), get("baselines.imtfa", f"{arg},stage=base")
    for config in (first, second):
        config.model.num_classes = config.model.num_classes or 20
    assert model_differences(second, as_json(first), free=reset_fields(second)) == []
    assert len(model_differences(second, as_json(first))) == 1
    assert run_config.complete(second).init_from == f"runs/base-{arg}-imtfa_fc"
    names = flatten_dict(jax.eval_shape(build(second.model).init, jax.random.key(0)), sep="/")
    patterns = [*second.train.frozen, *first.train.frozen]
    trained = {name for name in names if not any(re.fullmatch(pattern, name) for pattern in patterns)}
    assert {name.rsplit("/", 1)[0] for name in trained} == {
        "detector/box_head/fc1", "detector/box_head/fc2", "detector/box_predictor/cls_score",
        "detector/box_predictor/bbox_pred",
    }  # fmt: skip


def test_imtfa_fc_has_no_stage_2():
    with pytest.raises(ValueError, match="stage 2 is configs/baselines/imtfa.py"):
        get("baselines.imtfa_fc", "shapes,stage=fewshot")


@pytest.mark.parametrize("method", ["mtfa", "imtfa", "ifs_rcnn"])
def test_a_head_without_shots_serves_every_k(method):
    """On shapes too, where the diffusion head has five slots."""
    module = importlib.import_module(f"configs.baselines.{method}")
    first = as_json(module.get_config("shapes,stage=base"))
    for shots in (1, 5, 10):
        assert stage2_problems(module.get_config(f"shapes,shots={shots}"), first) == []
