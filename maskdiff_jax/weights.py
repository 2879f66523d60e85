"""Foreign weights into our parameters: tables of (pattern, path, transform), checked from both sides.

A table is an ordered list of rules. Each foreign name must match exactly one rule, each of our leaves must
be filled exactly once, and shapes must agree; every problem is reported at once.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict


class Rule(NamedTuple):
    """One row of a table."""

    pattern: str  # of the whole foreign name (re.fullmatch)
    path: str | None  # ours, "/" between the parts, with \1, \2 of the pattern; None = leave out
    transform: Callable[[np.ndarray], np.ndarray] = lambda w: w


def conv(w: np.ndarray) -> np.ndarray:
    """[out, in, kh, kw] -> [kh, kw, in, out]."""
    return w.transpose(2, 3, 1, 0)


def linear(w: np.ndarray) -> np.ndarray:
    """[out, in] or [out, in, 1] -> [in, out]."""
    return w.reshape(w.shape[:2]).T


def convert(state: Mapping[str, np.ndarray], table: Sequence[Rule], template: Any) -> dict:
    """Builds parameters like ``template`` from foreign tensors.

    Args:
      state: foreign name -> array.
      table: the rules.
      template: our parameter tree (arrays or ShapeDtypeStructs): names, shapes and dtypes wanted.

    Raises:
      ValueError: names that no rule or several rules match, leaves left empty or filled twice, shapes that
        differ; all of them in one message.
    """
    want: dict[str, Any] = flatten_dict(template, sep="/")  # type: ignore[assignment]
    out: dict[str, np.ndarray] = {}
    problems = []
    for name, w in state.items():
        hits = [(r, m) for r in table if (m := re.fullmatch(r.pattern, name))]
        if len(hits) != 1:
            problems.append(f"{name}: matched by {len(hits)} rules")
            continue
        rule, match = hits[0]
        if rule.path is None:
            continue
        path = match.expand(rule.path)
        value = rule.transform(np.asarray(w))
        if path not in want:
            problems.append(f"{name}: the model has no parameter {path}")
        elif path in out:
            problems.append(f"{name}: {path} is already filled")
        elif value.shape != want[path].shape:
            problems.append(f"{name}: {value.shape} does not fit {path} {want[path].shape}")
        else:
            out[path] = value.astype(want[path].dtype)
    problems += [f"{p}: nothing fills it" for p in want if p not in out]
    if problems:
        raise ValueError("weights do not fit the model:\n  " + "\n  ".join(problems))
    return unflatten_dict(out, sep="/")


def _fc1(w: np.ndarray) -> np.ndarray:
    """[out, C 7 7] -> [7 7 C, out]: the pooled cells are flattened channels first there, last here."""
    return w.reshape(w.shape[0], -1, 7, 7).transpose(2, 3, 1, 0).reshape(-1, w.shape[0])


_RESNET = r"backbone\.bottom_up\."
_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
# Faster R-CNN of detectron2 and TFA -> our detector (fsis_protocol.md, section 1.6)
DETECTRON2 = (
    Rule(_RESNET + r"stem\.conv1\.weight", r"backbone/stem/conv1/kernel", conv),
    Rule(_RESNET + r"(res\d)\.(\d+)\.(\w+)\.weight", r"backbone/\1/block\2/\3/kernel", conv),
    *(Rule(_RESNET + rf"stem\.conv1\.norm\.{a}", rf"backbone/stem/conv1/norm/{b}") for a, b in _NORM.items()),
    *(
        Rule(_RESNET + rf"(res\d)\.(\d+)\.(\w+)\.norm\.{a}", rf"backbone/\1/block\2/\3/norm/{b}")
        for a, b in _NORM.items()
    ),
    Rule(r"backbone\.fpn_(lateral|output)(\d)\.weight", r"fpn/\1\2/kernel", conv),
    Rule(r"backbone\.fpn_(lateral|output)(\d)\.bias", r"fpn/\1\2/bias"),
    Rule(r"proposal_generator\.rpn_head\.conv\.weight", "rpn/conv/kernel", conv),
    Rule(r"proposal_generator\.rpn_head\.conv\.bias", "rpn/conv/bias"),
    Rule(r"proposal_generator\.rpn_head\.objectness_logits\.weight", "rpn/objectness/kernel", conv),
    Rule(r"proposal_generator\.rpn_head\.objectness_logits\.bias", "rpn/objectness/bias"),
    Rule(r"proposal_generator\.rpn_head\.anchor_deltas\.weight", "rpn/deltas/kernel", conv),
    Rule(r"proposal_generator\.rpn_head\.anchor_deltas\.bias", "rpn/deltas/bias"),
    Rule(r"roi_heads\.box_head\.fc1\.weight", "box_head/fc1/kernel", _fc1),
    Rule(r"roi_heads\.box_head\.fc2\.weight", "box_head/fc2/kernel", linear),
    Rule(r"roi_heads\.box_head\.(fc\d)\.bias", r"box_head/\1/bias"),
    Rule(r"roi_heads\.box_predictor\.(\w+)\.weight", r"box_predictor/\1/kernel", linear),
    Rule(r"roi_heads\.box_predictor\.(\w+)\.bias", r"box_predictor/\1/bias"),
    # constants of old files, and the mask head, which is another part of ours
    Rule(r"pixel_(mean|std)|proposal_generator\.anchor_generator\..*|roi_heads\.mask_head\..*", None),
)


_GD_RES = r"(input|middle|output)_block(?:s\.(\d+)\.0|\.([02]))"
_GD_UP = r"(output)_blocks\.(\d+)\.[12]"
_GD_ATTENTION = r"(input|middle|output)_block(?:s\.(\d+)\.1|\.(1))"


def _gd_res(block: str, name: str) -> list[Rule]:
    parts = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time", "out_layers.0": "norm2"}
    parts |= {"out_layers.3": "conv2", "skip_connection": "skip"}
    return [r for old, new in parts.items() for r in _pair(rf"{block}\.{re.escape(old)}", f"{name}/{new}")]


def _pair(pattern: str, path: str) -> list[Rule]:
    """Weight and bias of a layer, whatever its kind: a vector is a norm's scale."""
    if re.search(r"norm\d?$", path):
        return [Rule(rf"{pattern}\.weight", f"{path}/scale"), Rule(rf"{pattern}\.bias", f"{path}/bias")]

    def kernel(w: np.ndarray) -> np.ndarray:
        return conv(w) if w.ndim == 4 else linear(w)

    return [Rule(rf"{pattern}\.weight", f"{path}/kernel", kernel), Rule(rf"{pattern}\.bias", f"{path}/bias")]


# guided-diffusion's UNetModel -> nets.unet.UNet. Exactly one of the groups 2 and 3 of a pattern matches.
GUIDED_DIFFUSION: list[Rule] = [
    *_pair(r"time_embed\.0", "time1"),
    *_pair(r"time_embed\.2", "time2"),
    *_pair(r"input_blocks\.0\.0", "stem"),
    *_gd_res(_GD_RES, r"\1\2\3_res"),
    *_gd_res(_GD_UP, r"\1\2_up"),
    *_pair(rf"{_GD_ATTENTION}\.norm", r"\1\2\3_attention/norm"),
    *_pair(rf"{_GD_ATTENTION}\.qkv", r"\1\2\3_attention/qkv"),
    *_pair(rf"{_GD_ATTENTION}\.proj_out", r"\1\2\3_attention/proj_out"),
    *_pair(r"input_blocks\.(\d+)\.0\.op", r"input\1_down"),
    *_pair(r"output_blocks\.(\d+)\.[12]\.conv", r"output\1_up"),
    *_pair(r"out\.0", "out_norm"),
    *_pair(r"out\.2", "out"),
]
