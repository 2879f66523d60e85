"""The config of a run: from a file, from a folder, from the run that it starts from."""

from pathlib import Path

import pytest

from configs import base, fewshot
from launch import run_config
from maskdiff_jax import config_fields, workdir

ROOT = Path(__file__).resolve().parents[2]
BASE, FEWSHOT = f"{ROOT}/configs/base.py", f"{ROOT}/configs/fewshot.py"


@pytest.mark.parametrize("old, new", config_fields.RENAMED.items())
def test_a_renamed_field_names_the_new_one(old, new):
    with pytest.raises(ValueError, match=f"config.{old} is now called config.{new}$"):
        run_config.read_config(BASE, [f"--config.{old}=1"])
    config = base.get_config()
    *path, last = new.split(".")
    for name in path:
        config = config[name]
    assert last in config


@pytest.fixture
def first_stage(tmp_path, monkeypatch):
    """A run of stage 1 with its own mask head, in its default folder."""
    config = base.get_config("shapes").unlock()
    config.model.mask.unet.width = 8
    monkeypatch.chdir(tmp_path)
    workdir.create("runs/base-shapes", config)


def test_stage_2_inherits_model_and_classes(first_stage, capsys):
    config, given = run_config.read_config(FEWSHOT, ["--config.model.mask.diffusion.steps=5"])
    run_config.complete(config, given)
    assert config.init_from == "runs/base-shapes" and config.model.mask.unet.width == 8
    assert config.model.mask.diffusion.steps == 5  # may differ, and was asked for
    assert capsys.readouterr().out == "from runs/base-shapes: model.mask.unet.width = 8\n"
    config, given = run_config.read_config(FEWSHOT, ["--config.model.mask.unet.width=32"])
    with pytest.raises(ValueError, match="width=32 was given, but the run in runs/base-shapes .* has .*width=8"):
        run_config.complete(config, given)


def test_stage_2_of_custom_data_learns_the_novel_classes_of_stage_1(tmp_path, monkeypatch):
    """Without them it would train no novel class at all."""
    monkeypatch.chdir(tmp_path)
    before = base.get_config("custom").unlock()
    before.data.novel_classes, before.model.num_classes = ("ring", "star"), 12
    workdir.create("runs/base-custom", before)
    config = run_config.complete(*run_config.read_config(f"{FEWSHOT}:custom,shots=5", []))
    assert config.data.novel_classes == ("ring", "star") and config.model.num_classes == 12
    assert config.is_locked


def test_weights_are_of_one_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workdir.create("runs/base-coco", base.get_config("coco,weights=torchvision"))
    config = run_config.complete(*run_config.read_config(f"{FEWSHOT}:coco", []))
    assert config.weights == "torchvision" and config.model.detector.channel_order == "rgb"
    with pytest.raises(ValueError, match="weights='msra' was given, but the run in runs/base-coco"):
        run_config.complete(*run_config.read_config(f"{FEWSHOT}:coco,weights=msra", []))


def test_presets_do_not_mix(tmp_path):
    workdir.create(tmp_path, base.get_config("shapes_hard"))
    config = fewshot.get_config("shapes").unlock()
    config.init_from = str(tmp_path)
    with pytest.raises(ValueError, match="trained with preset='shapes_hard', this run has preset='shapes'"):
        run_config.complete(config)


def test_stage_1_may_start_from_stage_1_of_another_method(tmp_path, monkeypatch):
    """As iMTFA's does, which trains twice on base classes."""
    monkeypatch.chdir(tmp_path)
    config = base.get_config("shapes").unlock()
    assert run_config.complete(config).init_from == ""
    config.method, config.base_method = "imtfa", "imtfa_fc"
    assert run_config.complete(config).init_from == "runs/base-shapes-imtfa_fc"
    config.init_from = "runs/mine"
    assert run_config.complete(config).init_from == "runs/mine"
