"""Type and range of every config field, for configs that are read from a file.

config.json of a run and export.json of an exported model can be damaged or edited by hand. `find_problem` looks at the
fields before anything is built from them: a wrong type would cause a traceback deep inside a net, an absurd size hours
of compilation. configs/base.py explains each field and its unit. Names, such as that of a sampler, are checked where
their tables are defined.
"""

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # what exports need must work without ml_collections
    from ml_collections import ConfigDict

# fields that were renamed after version 0.1
RENAMED = {
    "data.shapes_pool": "data.shapes_support",
    "data.shot_unlabelled": "data.shot_unlabeled",
    "eval.like_fgn": "eval.gt_classes_only",
    "eval.pictures": "eval.figures",
    "model.mask.diffusion.guided": "model.mask.diffusion.guidance_interval",
}
# fields that were added after version 0.1: the value that a run without them was trained with
ADDED = {"size": "paper"}
LONGEST_TEXT = 4096  # characters, as Linux allows in a path
LARGEST = 10**9  # of counts that cost nothing
NAMED = 5  # fields that a message names
SHOWN = 60  # characters of a value that a message shows


class Rule(NamedTuple):
    """What a field may hold."""

    must_be: str  # "a whole number from 1 to 8"
    accepts: Callable[[Any], bool]


def whole(low: int, high: int = LARGEST) -> Rule:
    """An int in low..high."""
    return Rule(f"a whole number from {low} to {high}", lambda v: type(v) is int and low <= v <= high)


def number(low: float, high: float) -> Rule:
    """An int or a float in low..high."""
    return Rule(f"a number from {low:g} to {high:g}", lambda v: type(v) in (int, float) and low <= v <= high)


def several(item: Rule, least: int, most: int) -> Rule:
    """A list or tuple of least..most items."""
    count = f"{least}" if least == most else f"{least} to {most}"
    return Rule(
        f"a list of {count} items, each of them {item.must_be}",
        lambda v: isinstance(v, list | tuple) and least <= len(v) <= most and all(item.accepts(x) for x in v),
    )


def one_of(*values: str) -> Rule:
    """One of these words."""
    return Rule(" or ".join(f"'{v}'" for v in values), lambda v: isinstance(v, str) and v in values)


def is_text(value: Any) -> bool:
    """Whether a value is a line of text that a terminal can print."""
    return isinstance(value, str) and len(value) <= LONGEST_TEXT and value.isprintable()


FLAG = Rule("true or false", lambda v: type(v) is bool)
METHOD = Rule(
    "a word made of a-z, 0-9, _ and -", lambda v: isinstance(v, str) and bool(re.fullmatch("[a-z0-9_-]{1,64}", v))
)
TEXT = Rule("a line of text", is_text)
SHARE = number(0.0, 1.0)
SEED = whole(0, 2**32 - 1)
SIDE = whole(1, 16384)  # px
CHANNELS = whole(1, 8192)
PADDED_SIDE = Rule("a multiple of 32 from 32 to 16384", lambda v: SIDE.accepts(v) and v % 32 == 0)
HEAD_CHANNELS = Rule("-1 or a whole number from 1 to 8192", lambda v: type(v) is int and (v == -1 or 1 <= v <= 8192))
PAIR = several(SHARE, 2, 2)
ASCENDING_PAIR = Rule(f"{PAIR.must_be}, in ascending order", lambda v: PAIR.accepts(v) and v[0] <= v[1])
SIDE_AND_LEVEL = Rule(
    "a list of a side in px and a level from 2 to 6",
    lambda v: several(number(1, 16384), 2, 2).accepts(v) and whole(2, 6).accepts(v[1]),
)

PHASE = {
    "steps": whole(0), "batch": whole(1, 10**6), "optimizer": TEXT, "base_batch": whole(1, 10**6),
    "lr": number(0.0, 1e3), "schedule": TEXT, "decay_at": several(SHARE, 0, 64), "warmup": whole(0),
    "weight_decay": number(0.0, 1e3), "betas": PAIR, "clip_norm": number(0.0, 1e9), "ema": SHARE,
}  # fmt: skip

DATA = {
    "source": TEXT, "root": TEXT, "train_json": TEXT, "train_images": TEXT, "test_json": TEXT, "test_images": TEXT,
    "more_images": several(TEXT, 0, 1000), "counts": TEXT, "novel_classes": several(TEXT, 0, 10**5),
    "shapes_seed": SEED, "shapes_train": whole(1), "shapes_support": whole(1), "shapes_test": whole(1),
    "short_sides": several(SIDE, 1, 1000), "test_short_side": SIDE, "long_side": SIDE, "flip": SHARE,
    "buckets": several(several(PADDED_SIDE, 2, 2), 1, 100), "max_boxes": whole(1, 10**5),
    "min_box_side": number(0, 10**5), "min_mask_area": number(0, LARGEST), "region_long_side": SIDE,
    "box_jitter": number(0.0, 10.0), "context": number(0.0, 10.0), "crop_margin": number(0.0, 10.0),
    "region_augment": SHARE, "shot_augment": SHARE, "shot_drop": SHARE,
    "shot_unlabeled": one_of("background", "ignore"), "workers": whole(0, 10**4), "cache_mb": whole(0),
}  # fmt: skip

DETECTOR = {
    "pixel_mean": several(number(-1e4, 1e4), 3, 3), "pixel_std": several(number(1e-6, 1e6), 3, 3),
    "channel_order": TEXT, "blocks": several(whole(1, 64), 4, 4), "width": CHANNELS, "norm": TEXT,
    "stride_in_1x1": FLAG, "fpn_channels": CHANNELS, "fpn_min_level": whole(2, 5),
    "anchor_sizes": several(number(1, 16384), 1, 8), "anchor_ratios": several(number(0.01, 100.0), 1, 32),
    "rpn_iou": ASCENDING_PAIR, "rpn_samples": whole(1, 10**6), "rpn_positive": SHARE,
    "rpn_beta": number(0.0, 1e6), "rpn_pre_nms_train": whole(1, 10**5), "rpn_pre_nms_test": whole(1, 10**5),
    "rpn_nms": SHARE, "proposals_train": whole(1, 10**5), "proposals_test": whole(1, 10**5),
    "roi_samples": whole(1, 10**5), "roi_positive": SHARE, "roi_iou": SHARE, "roi_canonical": SIDE_AND_LEVEL,
    "roi_size": whole(1, 64), "roi_sampling": whole(0, 64), "fc_channels": CHANNELS, "classifier": TEXT,
    "cosine_scale": number(1e-6, 1e6), "probit_scale": number(1e-6, 1e6), "class_agnostic_boxes": FLAG,
    "box_weights": several(number(1e-6, 1e6), 4, 4), "box_beta": number(0.0, 1e6), "box_uncertainty": FLAG,
    "refine": FLAG, "refine_iou": number(0.0, 0.999), "refine_candidates": whole(1, 10**5),
    "min_score": SHARE, "nms": SHARE, "max_detections": whole(1, 10**4),
}  # fmt: skip

UNET = {
    "width": CHANNELS, "multipliers": several(whole(1, 64), 1, 8), "blocks": whole(1, 8),
    "attention": several(SIDE, 0, 16), "heads": whole(1, 1024), "head_channels": HEAD_CHANNELS, "scale_shift": FLAG,
    "stem_patch": whole(1, 64), "resblock_updown": FLAG, "dropout": number(0.0, 0.999),
}  # fmt: skip

DIFFUSION = {
    "timesteps": whole(1, 10**5), "schedule": TEXT, "prediction": TEXT, "precondition": TEXT, "loss_weight": TEXT,
    "snr_gamma": number(1e-6, 1e6), "signal_scale": number(1e-3, 1e3), "learn_sigma": FLAG, "p_uncond": SHARE,
    "sampler": TEXT, "steps": whole(1, 10**5), "spacing": TEXT, "variance": TEXT, "eta": SHARE, "clip": FLAG,
    "averaged": whole(1, 10**5), "guidance_interval": PAIR, "guidance": number(-1e4, 1e4),
}  # fmt: skip

CNN = {"convs": whole(0, 64), "channels": CHANNELS, "class_agnostic": FLAG, "roi_size": whole(1, 256)}

MASK = {
    "head": TEXT, "size": whole(4, 1024), "slots": whole(1, 1000), "min_shots": whole(0, 1000), "class_input": FLAG,
    "shot_background": one_of("gray", "black"), "cnn": CNN, "unet": UNET, "diffusion": DIFFUSION,
}  # fmt: skip

EVAL = {
    "split": TEXT, "source": TEXT, "root": TEXT, "gt_classes_only": FLAG, "images": whole(0),
    "batch": whole(1, 10**4), "mask_batch": whole(1, 10**5), "mask_min_score": SHARE, "mask_top_n": whole(0, 10**4),
    "samples": whole(1, 10**4), "rescore": FLAG, "tighten_boxes": FLAG, "support": one_of("own", "none", "other"),
    "oracle": one_of("", "boxes", "classes"), "scorer": one_of("pycocotools", "faster_coco_eval"),
    "noise_seed": SEED, "mask_threshold": number(1e-6, 1.0),
    "min_gt_area": number(0, LARGEST), "figures": whole(0, 10**5),
}  # fmt: skip

FIELDS: dict[str, Any] = {
    "preset": TEXT, "stage": one_of("base", "fewshot", "distill"), "method": METHOD, "base_method": TEXT,
    "paper": FLAG, "size": one_of("paper", "small", "tiny"), "seed": SEED, "init_from": TEXT, "detector_from": TEXT,
    "weights": TEXT,
    "data": DATA,
    "model": {
        "num_classes": whole(0, 10**5), "dtype": one_of("float32", "bfloat16"), "detector": DETECTOR, "mask": MASK,
    },
    "train": {
        "detector": PHASE, "mask": PHASE, "novel": PHASE, "refine": PHASE, "frozen": several(TEXT, 0, 1000),
        "reset": several(TEXT, 0, 1000),
        "log_every": whole(1), "save_every": whole(0), "keep": whole(1, 10**4), "devices": whole(0, 10**5),
        "side_by_side": FLAG,
    },
    "fewshot": {
        "shots": whole(1, 1000), "seed": SEED, "sampler": TEXT, "shots_from": TEXT,
        "short_classes": one_of("error", "take_all"), "novel_init": TEXT, "classes": one_of("all", "novel"),
    },
    "distill": {"guidance": number(-1e4, 1e4), "steps": whole(1, 10**5), "rounds": several(whole(1, 10**5), 0, 32)},
    "eval": EVAL,
}  # fmt: skip


class Fields(dict):
    """A read-only config without ml_collections: nested dicts whose keys are also attributes.

    It has the part of a ConfigDict that `inference` needs: ``config.model.mask.size`` and ``config.model.to_dict()``.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the config has no field {name}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"the config of an export cannot be changed (field {name})")

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts of another copy."""
        return {k: v.to_dict() if isinstance(v, Fields) else v for k, v in self.items()}


def from_json(document: Any) -> "ConfigDict":
    """The locked config in a json document.

    Args:
      document: what ``json`` read; its lists become the tuples that they were.

    Raises:
      ValueError: a field is missing, unknown, of another type or out of range; names it, as the middle of a sentence.
    """
    from ml_collections import ConfigDict

    return ConfigDict(fields(document).to_dict()).lock()


def fields(document: Any) -> Fields:
    """As ``from_json``, but read-only and without ml_collections."""
    if isinstance(document, dict):
        document = ADDED | document
    problem = find_problem(document)
    if problem:
        raise ValueError(problem)
    return read_only(document)


def read_only(document: dict[str, Any]) -> Fields:
    """A config, or a section of one, as ``fields`` gives it, unchecked."""
    return _as_fields(_with_tuples(document))


def _as_fields(value: dict[str, Any]) -> Fields:
    return Fields({k: _as_fields(v) if isinstance(v, dict) else v for k, v in value.items()})


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _with_tuples(v) for k, v in value.items()}
    return tuple(_with_tuples(v) for v in value) if isinstance(value, list) else value


def find_problem(document: Any) -> str:
    """The first problem of a config, as the middle of a sentence; "" if there is none.

    Args:
      document: nested dicts, as json or ``ConfigDict.to_dict`` gives them.
    """
    others = list(_other_fields(document, FIELDS, ""))
    if others:
        more = f"; and {len(others) - NAMED} more" if len(others) > NAMED else ""
        return f"it was written by another version of maskdiff_jax ({'; '.join(others[:NAMED])}{more})"
    return next(_wrong_values(document, FIELDS, ""), "")


def _other_fields(node: Any, rules: dict[str, Any], prefix: str) -> Iterator[str]:
    """A clause for each field that is unknown or missing."""
    if not isinstance(node, dict):
        return
    unknown = [f"{prefix}{name}" for name in node if name not in rules]
    for field in unknown:
        yield f"it has {field}, now called {RENAMED[field]}" if field in RENAMED else f"it has {_shown(field)}"
    renamed = {RENAMED.get(field) for field in unknown}
    for name, rule in rules.items():
        if name not in node:
            if f"{prefix}{name}" not in renamed:
                yield f"it has no {prefix}{name}"
        elif isinstance(rule, dict):
            yield from _other_fields(node[name], rule, f"{prefix}{name}.")


def _wrong_values(node: Any, rules: dict[str, Any], prefix: str) -> Iterator[str]:
    """A clause for each value of a wrong type or out of range."""
    if not isinstance(node, dict):
        yield f"{prefix[:-1] or 'it'} is {_shown(node)}, but must be an object of fields"
        return
    for name, rule in rules.items():
        if isinstance(rule, dict):
            yield from _wrong_values(node[name], rule, f"{prefix}{name}.")
        elif not rule.accepts(node[name]):
            yield f"{prefix}{name} is {_shown(node[name])}, but must be {rule.must_be}"


def _shown(value: Any) -> str:
    """The start of a value, on one line."""
    try:
        text = ascii(value)
    except RecursionError:
        return "nested too deeply"
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
