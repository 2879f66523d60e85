"""The rules cover every field of every config, and say what is wrong with a value."""

import copy
import random

import pytest

from configs import base, distill, fewshot
from maskdiff_jax import config_fields
from maskdiff_jax.workdir import as_json, read_config
from tests.mutations import MUTATIONS, mutated

CONFIGS = [
    *(base.get_config(x) for x in ("shapes", "shapes_hard,paper=true", "coco,paper=true,shots=10", "custom")),
    *(base.get_config(f"coco,weights={x}") for x in ("torchvision", "zoo")),
    *(fewshot.get_config(x) for x in ("shapes,shots=1", "coco,shots=10", "custom,paper=true")),
    *(distill.get_config(x) for x in ("shapes", "coco")),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.stage}-{c.preset}-{c.paper}-{c.weights}")
def test_every_preset_is_valid_and_comes_back_from_json(config):
    assert config_fields.find_problem(config.to_dict()) == ""
    assert config_fields.from_json(as_json(config)).to_dict() == config.to_dict()


def changed(field, value):
    document = copy.deepcopy(as_json(base.get_config("shapes")))
    *path, name = field.split(".")
    node = document
    for x in path:
        node = node[x]
    node[name] = value
    return config_fields.find_problem(document)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("model.mask.size", -3, "model.mask.size is -3, but must be a whole number from 4 to 1024"),
        ("model.mask.size", 32.0, "a whole number"),
        ("model.mask.size", True, "model.mask.size is True"),
        ("model.detector.blocks", [10**9, 1, 1, 1], "a list of 4 items, each of them a whole number from 1 to 64"),
        ("model.detector.rpn_iou", [0.7, 0.3], "in ascending order"),
        ("model.mask.unet.head_channels", 0, "-1 or a whole number"),
        ("model.mask.diffusion.guidance", float("nan"), "a number from"),
        ("model.mask.diffusion.guidance", 10**400, "a number from"),
        ("model.dtype", "float16", "but must be 'float32' or 'bfloat16'"),
        ("data.buckets", [[800, 801]], "a multiple of 32"),
        ("data.novel_classes", ["cat", "\ud800"], "a line of text"),
        ("eval", None, "eval is None, but must be an object of fields"),
        ("eval.sampels", 1, "it was written by another version of maskdiff_jax (it has 'eval.sampels')"),
        ("eval.pictures", 1, "another version of maskdiff_jax (it has eval.pictures, now called eval.figures)"),
    ],
)
def test_a_problem_is_named(field, value, message):
    assert message in changed(field, value)


def test_a_missing_field_and_a_wrong_document_are_named():
    document = as_json(base.get_config())
    del document["model"]["mask"]["size"]
    document["eval"]["pictures"] = document["eval"].pop("figures")
    problem = config_fields.find_problem(document)
    assert problem.endswith("(it has no model.mask.size; it has eval.pictures, now called eval.figures)")
    with pytest.raises(ValueError, match="it is \\[\\], but must be an object"):
        config_fields.from_json([])


def test_deep_nesting_and_long_values_are_cut_short():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert "nested too deeply" in changed("data.novel_classes", [deep])
    assert len(changed("data.root", "x" * 10**6)) < 200


def test_mutated_run_configs(tmp_path):
    """A valid config or one sentence that names the file; MASKDIFF_FUZZ=1000 tries more of them."""
    document = as_json(base.get_config("shapes"))
    for seed in range(MUTATIONS):
        (tmp_path / "config.json").write_text(mutated(document, random.Random(seed)))
        try:
            config = read_config(tmp_path)
        except ValueError as error:
            assert str(error).startswith(f"{tmp_path / 'config.json'} "), seed
            assert "\n" not in str(error) and len(str(error)) < 1000, seed
        else:
            assert config_fields.find_problem(config.to_dict()) == "", seed
