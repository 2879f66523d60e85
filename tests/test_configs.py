"""Configs: presets build, arguments are parsed strictly, every field is read by somebody."""

import json
import re
from pathlib import Path

import pytest

from configs import base, fewshot

ROOT = Path(__file__).resolve().parent.parent
PRESETS = [*base.PRESETS, "shapes,paper=true", "coco,paper=true"]


@pytest.mark.parametrize("arg", PRESETS)
def test_presets_build_locked_and_fit_json(arg):
    for c in (base.get_config(arg), fewshot.get_config(arg)):
        assert c.is_locked
        json.loads(c.to_json_best_effort())
        with pytest.raises((AttributeError, KeyError)):
            c.train.mask.no_such_field = 1


def test_arguments():
    c = fewshot.get_config("coco,shots=10,seed=3")
    assert (c.preset, c.stage, c.fewshot.shots, c.fewshot.seed) == ("coco", "fewshot", 10, 3)
    assert fewshot.get_config("shots=1").preset == "shapes"
    assert base.get_config("coco,paper=true").model.mask.diffusion.steps == 1000
    assert base.get_config("").preset == base.get_config(None).preset == "shapes"


@pytest.mark.parametrize(
    "arg, word", [("cocoo", "unknown preset"), ("shapes,shot=3", "unknown option"), ("shots=five", "type int"),
                  ("paper=maybe", "type bool"), ("shots=3,coco", "unknown preset")]
)  # fmt: skip
def test_wrong_arguments_say_what_is_wrong(arg, word):
    with pytest.raises(ValueError, match=word):
        fewshot.get_config(arg)


def test_weights_set_what_goes_with_them():
    """The pixels and the layout that each kind of file was trained with (fsis_protocol.md, section 1.7)."""
    bgr = ("bgr", (103.530, 116.280, 123.675), (1.0, 1.0, 1.0), True)
    rgb = ("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), False)
    frozen = base.get_config("coco").train.frozen
    assert len(frozen) == 2
    rows = {
        "msra": (bgr, "frozen_bn", frozen, "cosine"), "torchvision": (rgb, "frozen_bn", frozen, "cosine"),
        "zoo": (bgr, "frozen_bn", frozen, "linear"), "scratch": (rgb, "group", (), "cosine"),
    }  # fmt: skip
    assert tuple(rows) == base.WEIGHTS

    def row(c):
        t = c.model.detector
        pixels = (t.channel_order, t.pixel_mean, t.pixel_std, t.stride_in_1x1)
        return pixels, t.norm, c.train.frozen, t.classifier

    for name, want in rows.items():
        for preset in ("coco", "custom"):
            c = base.get_config(f"{preset},weights={name}")
            assert c.weights == name and row(c) == want
            if name != "zoo":
                second = fewshot.get_config(f"{preset},weights={name}")
                assert second.weights == name and second.model.detector == c.model.detector
    assert base.get_config("coco") == base.get_config("coco,weights=msra")
    assert base.get_config("custom") == base.get_config("custom,weights=scratch")
    assert base.get_config("shapes") == base.get_config("shapes,weights=scratch")
    assert base.get_config("coco,weights=zoo").data.novel_classes == ()


@pytest.mark.parametrize(
    "get, arg, word",
    [(base, "shapes,weights=msra", "weights=msra cannot be: shapes has"),
     (base, "coco,weights=r50", "weights=r50 cannot be: msra, torchvision"),
     (fewshot, "coco,weights=zoo", "has seen the novel classes"),
     (fewshot, "weights=torchvision", "shapes has a small detector")],
)  # fmt: skip
def test_weights_that_cannot_be(get, arg, word):
    with pytest.raises(ValueError, match=word):
        get.get_config(arg)


def test_mask_canvases_and_heads_agree():
    for arg in PRESETS:
        c = base.get_config(arg)
        d, t, k = c.data, c.model.detector, c.model.mask
        for h, w in d.buckets:
            assert h % 32 == w % 32 == 0
        assert len(t.anchor_sizes) == 6 - t.fpn_min_level + 1
        assert d.crop_margin >= d.box_jitter + d.context
        assert 1 <= k.min_shots <= k.slots
        assert c.fewshot.shots <= k.slots


def _leaves(config, prefix=""):
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", key


def test_every_field_is_read_somewhere():
    """A field that nothing reads is a promise that the code does not keep."""
    files = [*(ROOT / "maskdiff_jax").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    words = set(re.findall(r"\w+", "\n".join(f.read_text() for f in files)))
    unread = [path for path, key in _leaves(base.get_config("coco")) if key not in words]
    assert not unread
