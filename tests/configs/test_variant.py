"""Variants: one short file gives the configs of both stages."""

from pathlib import Path

import pytest

from configs import base, fewshot, variant
from launch import run_config


def linear(config):
    config.model.detector.classifier = "linear"


def get(arg, **options):
    return variant.get_config(arg, method="linear", change=linear, **options)


def test_both_stages_have_the_change_and_the_name():
    first, second = get("shapes,stage=base"), get("shapes,shots=1,seed=3")
    assert (first.stage, second.stage) == ("base", "fewshot") and first.is_locked
    for config, plain in ((first, base.get_config("shapes")), (second, fewshot.get_config("shapes,shots=1,seed=3"))):
        assert config.method == "linear" and config.model.detector.classifier == "linear"
        assert config.train.to_dict() == plain.train.to_dict()
    assert run_config.default_workdir(first) == Path("runs/base-shapes-linear")
    assert run_config.default_workdir(second) == Path("runs/fewshot-shapes-linear-1shot-seed3")
    assert run_config.complete(second).init_from == "runs/base-shapes-linear"


def test_a_variant_may_start_from_another_stage_1():
    config = get("shapes", base_method="maskdiff")
    assert run_config.complete(config).init_from == "runs/base-shapes"
    with pytest.raises(ValueError, match="linear starts from stage 1 of maskdiff: train that stage 1"):
        get("stage=base", base_method="maskdiff")


def test_an_unknown_stage():
    with pytest.raises(ValueError, match="unknown stage=distill: choose base or fewshot"):
        get("stage=distill")
