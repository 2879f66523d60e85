"""What the scripts set before jax starts, and what they say before they start."""

import os

import pytest

from configs import base
from launch import cli, train


@pytest.mark.parametrize(
    ("size", "jaxlib", "before", "after"),
    [
        (32, "0.10.2", None, None),
        (128, "0.10.2", None, f"{cli.YNNPACK}="),
        (128, "0.10.2", "--xla_dump_to=x", f"--xla_dump_to=x {cli.YNNPACK}="),
        (128, "0.10.2", f"{cli.YNNPACK}=y", f"{cli.YNNPACK}=y"),
        (128, "0.11.0", None, None),
    ],
)
def test_convolutions_of_full_size_nets(monkeypatch, size, jaxlib, before, after):
    # set first, so that what set_up_jax writes is taken back with it
    monkeypatch.setenv("XLA_FLAGS", before or "")
    if before is None:
        monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(cli, "version", {"jaxlib": jaxlib}.__getitem__)
    cli.set_up_jax(size)
    assert os.environ.get("XLA_FLAGS") == after


def test_stage_1_says_what_stage_2_will_need(capsys):
    train.tell_stage_2(base.get_config("shapes"))
    train.tell_stage_2(base.get_config("coco,paper=true,shots=10"))
    assert capsys.readouterr().out == ""
    config = base.get_config("coco")
    config.model.mask.unet.width, config.model.mask.slots = 8, 5
    train.tell_stage_2(config)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and any("shots=10" in x and "model.mask.slots=5" in x for x in lines)
    assert any("(shots=1 or 5)" in x and "model.mask.unet.width is 8 there and 128 here" in x for x in lines)


@pytest.mark.parametrize("old, new", cli.RENAMED.items())
def test_a_renamed_field_names_the_new_one(old, new):
    with pytest.raises(ValueError, match=f"config.{old} is now called config.{new}$"):
        cli._parse(["train.py", "--config", "configs/base.py", f"--config.{old}=1"])
    config = base.get_config()
    *path, last = new.split(".")
    for name in path:
        config = config[name]
    assert last in config
