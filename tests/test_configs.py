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
