"""Tables that turn the tensors of third-party checkpoints into our parameters, and back.

A table is a list of rules: name pattern -> our path -> change of layout. Each tensor of a checkpoint must match exactly
one rule, each of our parameters must be filled exactly once, and shapes must agree; all problems are reported at once.
``export`` is the inverse of ``convert``, so that a conversion can be checked by a round trip.

A path is ours, with "/" between its parts: "backbone/res2/block0/conv1/kernel". A name is theirs. Names and layouts are
those of detectron2 (modeling/, checkpoint/c2_model_loading.py), torchvision (models/resnet.py) and guided-diffusion
(unet.py); see docs/design.md, "Pretrained files".
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

Shape = tuple[int, ...]


class Transform(NamedTuple):
    """Between the layout of a third-party tensor and ours."""

    forward: Callable[[np.ndarray], np.ndarray]  # theirs -> ours
    inverse: Callable[[np.ndarray, Shape], np.ndarray]  # ours, their shape -> theirs


class Rule(NamedTuple):
    """One row of a table."""

    pattern: str  # of the whole name (re.fullmatch)
    path: str | None  # with \1, \2 of the pattern; None: the tensor is not used
    transform: Transform = Transform(lambda w: w, lambda w, shape: w)


# [out, in, kh, kw] <-> [kh, kw, in, out]
CONV = Transform(lambda w: w.transpose(2, 3, 1, 0), lambda w, shape: w.transpose(3, 2, 0, 1))
# [out, in] or [out, in, 1] <-> [in, out]
LINEAR = Transform(lambda w: w.reshape(w.shape[:2]).T, lambda w, shape: w.T.reshape(shape))


def convert(
    tensors: Mapping[str, np.ndarray], table: Sequence[Rule], template: Any, *, keep: Sequence[str] = ()
) -> dict:
    """Builds parameters like ``template`` from third-party tensors.

    Args:
      tensors: name -> array.
      table: the rules.
      template: our parameter tree (arrays or ShapeDtypeStructs), with the names, shapes and dtypes to fill.
      keep: patterns (re.fullmatch) of paths that nothing needs to fill; such a parameter stays as it is in
        ``template``, which then holds arrays.

    Raises:
      ValueError: names that no rule or several rules match, parameters that are not filled or filled twice, shapes that
        differ; all of them in one message.
    """
    wanted: dict[str, Any] = flatten_dict(template, sep="/")  # type: ignore[assignment]
    out: dict[str, np.ndarray] = {}
    problems = []
    for name, tensor in tensors.items():
        matches = _matches(name, table)
        if len(matches) != 1:
            problems.append(f"{name}: matched by {len(matches)} rules")
            continue
        rule, path = matches[0]
        if path is None:
            continue
        if path not in wanted:
            problems.append(f"{name}: the model has no parameter {path}")
            continue
        try:
            value = rule.transform.forward(np.asarray(tensor))
        except (ValueError, IndexError):  # another number of axes
            problems.append(f"{name}: {np.shape(tensor)} does not fit {path} {wanted[path].shape}")
            continue
        if path in out:
            problems.append(f"{name}: {path} is already filled")
        elif value.shape != wanted[path].shape:
            problems.append(f"{name}: {value.shape} does not fit {path} {wanted[path].shape}")
        else:
            out[path] = value.astype(wanted[path].dtype)
    out |= {path: wanted[path] for path in wanted if path not in out and any(re.fullmatch(k, path) for k in keep)}
    problems += [f"{path}: no tensor of the file fits it" for path in wanted if path not in out]
    if problems:
        raise ValueError("the weights do not fit the model:\n  " + "\n  ".join(problems))
    return unflatten_dict(out, sep="/")


def export(params: Any, table: Sequence[Rule], shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """The inverse of ``convert``: third-party tensors from parameters.

    Args:
      params: what ``convert`` returned, or parameters of the same model.
      table: the rules.
      shapes: the names to export and their shapes there; unused names are skipped.

    Raises:
      ValueError: a name that no rule or several rules match, or whose parameter is missing.
    """
    have: dict[str, Any] = flatten_dict(params, sep="/")  # type: ignore[assignment]
    out = {}
    for name, shape in shapes.items():
        matches = _matches(name, table)
        if len(matches) != 1 or matches[0][1] not in (*have, None):
            raise ValueError(f"cannot export {name}: {len(matches)} rules match it, or the model has no such parameter")
        rule, path = matches[0]
        if path is not None:
            out[name] = rule.transform.inverse(np.asarray(have[path]), shape)
    return out


def filled_paths(names: Iterable[str], table: Sequence[Rule]) -> set[str]:
    """The paths of the parameters that tensors of these names fill."""
    return {path for name in names for _, path in _matches(name, table) if path is not None}


def unused_names(names: Iterable[str], table: Sequence[Rule]) -> list[str]:
    """Those of the names that the table states as not used."""
    return [name for name in names if any(path is None for _, path in _matches(name, table))]


def _matches(name: str, table: Sequence[Rule]) -> list[tuple[Rule, str | None]]:
    """The rules that match a name, each with our path."""
    found = ((rule, re.fullmatch(rule.pattern, name)) for rule in table)
    return [(rule, rule.path and match.expand(rule.path)) for rule, match in found if match]


# [out, C 7 7] <-> [7 7 C, out]: the pooled 7 x 7 cells are flattened channels first there, last here
_FC1 = Transform(
    lambda w: w.reshape(w.shape[0], -1, 7, 7).transpose(2, 3, 1, 0).reshape(-1, w.shape[0]),
    lambda w, shape: w.reshape(7, 7, -1, w.shape[1]).transpose(3, 2, 0, 1).reshape(shape),
)


def _batch_norm(pattern: str, path: str, names: Mapping[str, str]) -> list[Rule]:
    return [Rule(rf"{pattern}{a}", f"{path}/{b}") for a, b in names.items()]


_RESNET = r"backbone\.bottom_up\."
_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
# Faster R-CNN of detectron2 and TFA -> our detector
DETECTRON2 = (
    Rule(_RESNET + r"stem\.conv1\.weight", r"backbone/stem/conv1/kernel", CONV),
    Rule(_RESNET + r"(res\d)\.(\d+)\.(\w+)\.weight", r"backbone/\1/block\2/\3/kernel", CONV),
    *_batch_norm(_RESNET + r"stem\.conv1\.norm\.", r"backbone/stem/conv1/norm", _NORM),
    *_batch_norm(_RESNET + r"(res\d)\.(\d+)\.(\w+)\.norm\.", r"backbone/\1/block\2/\3/norm", _NORM),
    Rule(r"backbone\.fpn_(lateral|output)(\d)\.weight", r"fpn/\1\2/kernel", CONV),
    Rule(r"backbone\.fpn_(lateral|output)(\d)\.bias", r"fpn/\1\2/bias"),
    Rule(r"proposal_generator\.rpn_head\.conv\.weight", "rpn/conv/kernel", CONV),
    Rule(r"proposal_generator\.rpn_head\.conv\.bias", "rpn/conv/bias"),
    Rule(r"proposal_generator\.rpn_head\.objectness_logits\.weight", "rpn/objectness/kernel", CONV),
    Rule(r"proposal_generator\.rpn_head\.objectness_logits\.bias", "rpn/objectness/bias"),
    Rule(r"proposal_generator\.rpn_head\.anchor_deltas\.weight", "rpn/deltas/kernel", CONV),
    Rule(r"proposal_generator\.rpn_head\.anchor_deltas\.bias", "rpn/deltas/bias"),
    Rule(r"roi_heads\.box_head\.fc1\.weight", "box_head/fc1/kernel", _FC1),
    Rule(r"roi_heads\.box_head\.fc2\.weight", "box_head/fc2/kernel", LINEAR),
    Rule(r"roi_heads\.box_head\.(fc\d)\.bias", r"box_head/\1/bias"),
    Rule(r"roi_heads\.box_predictor\.(\w+)\.weight", r"box_predictor/\1/kernel", LINEAR),
    Rule(r"roi_heads\.box_predictor\.(\w+)\.bias", r"box_predictor/\1/bias"),
    # constants that some versions store; heads that the detector does not have: of masks, keypoints, segmentation
    Rule(r"pixel_(mean|std)|proposal_generator\.anchor_generator\..*", None),
    Rule(r"roi_heads\.(mask|keypoint)_head\..*|sem_seg_head\..*", None),
)

# Mask R-CNN's mask head (detectron2, modeling/roi_heads/mask_head.py) -> nets.maskcnn.ConvMaskHead
_DECONV = Transform(lambda w: w.transpose(2, 3, 0, 1), lambda w, shape: w.transpose(2, 3, 0, 1))  # [in, out, kh, kw]
MASK_RCNN = (
    Rule(r"roi_heads\.mask_head\.(mask_fcn\d|predictor)\.weight", r"mask_head/\1/kernel", CONV),
    Rule(r"roi_heads\.mask_head\.deconv\.weight", "mask_head/deconv/kernel", _DECONV),
    Rule(r"roi_heads\.mask_head\.(\w+)\.bias", r"mask_head/\1/bias"),
)

# detectron2's torchvision/R-50.pkl, an ImageNet backbone: the same names without their prefix
DETECTRON2_BACKBONE = (
    *(r._replace(pattern=r.pattern.removeprefix(_RESNET)) for r in DETECTRON2 if r.pattern.startswith(_RESNET)),
    Rule(r"(stem\.)?fc\..*|.*\.num_batches_tracked", None),  # the classifier, and a counter
)

# detectron2's MSRA/R-50.pkl, an ImageNet backbone in Caffe2 names
_CAFFE2_NORM = {"gamma": "scale", "beta": "bias", "running_mean": "mean", "running_var": "var"}
_CAFFE2_BLOCK = {"branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3", "branch1": "shortcut"}
MSRA = (
    Rule("conv1_w", "backbone/stem/conv1/kernel", CONV),
    *_batch_norm("res_conv1_bn_", "backbone/stem/conv1/norm", _CAFFE2_NORM),
    *(
        rule
        for a, b in _CAFFE2_BLOCK.items()
        for rule in (
            Rule(rf"(res\d)_(\d+)_{a}_w", rf"backbone/\1/block\2/{b}/kernel", CONV),
            *_batch_norm(rf"(res\d)_(\d+)_{a}_bn_", rf"backbone/\1/block\2/{b}/norm", _CAFFE2_NORM),
        )
    ),
    # the classifier under either name, the stem's bias (the norm has one), the optimizer's state
    Rule(r"(fc1000|pred)_[wb]|conv1_b|.*_momentum", None),
)


def _residual(layer: int) -> list[Rule]:
    """Stage ``layer`` of torchvision's ResNet, which is res(layer + 1) here."""
    block, ours = rf"layer{layer}\.(\d+)\.", rf"backbone/res{layer + 1}/block\1"
    return [
        Rule(rf"{block}conv([123])\.weight", rf"{ours}/conv\2/kernel", CONV),
        Rule(rf"{block}downsample\.0\.weight", rf"{ours}/shortcut/kernel", CONV),
        *_batch_norm(rf"{block}bn([123])\.", rf"{ours}/conv\2/norm", _NORM),
        *_batch_norm(rf"{block}downsample\.1\.", rf"{ours}/shortcut/norm", _NORM),
    ]


# torchvision's and timm's ResNet with bottleneck blocks
RESNET = (
    Rule(r"conv1\.weight", "backbone/stem/conv1/kernel", CONV),
    *_batch_norm(r"bn1\.", "backbone/stem/conv1/norm", _NORM),
    *(rule for layer in (1, 2, 3, 4) for rule in _residual(layer)),
    Rule(r"fc\..*|.*\.num_batches_tracked", None),
)


_GD_RES = r"(input|middle|output)_block(?:s\.(\d+)\.0|\.([02]))"
_GD_UP = r"(output)_blocks\.(\d+)\.[12]"
_GD_ATTENTION = r"(input|middle|output)_block(?:s\.(\d+)\.1|\.(1))"


def _gd_res(block: str, name: str) -> list[Rule]:
    parts = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time", "out_layers.0": "norm2"}
    parts |= {"out_layers.3": "conv2", "skip_connection": "skip"}
    return [r for old, new in parts.items() for r in _pair(rf"{block}\.{re.escape(old)}", f"{name}/{new}")]


def _pair(pattern: str, path: str) -> list[Rule]:
    """Weight and bias of a layer: a norm by the name of our path, else a convolution or a linear layer."""
    if re.search(r"norm\d?$", path):
        return [Rule(rf"{pattern}\.weight", f"{path}/scale"), Rule(rf"{pattern}\.bias", f"{path}/bias")]
    return [Rule(rf"{pattern}\.weight", f"{path}/kernel", _EITHER), Rule(rf"{pattern}\.bias", f"{path}/bias")]


# a convolution where the third-party tensor has four axes, else a linear layer
_EITHER = Transform(
    lambda w: (CONV if w.ndim == 4 else LINEAR).forward(w),
    lambda w, shape: (CONV if len(shape) == 4 else LINEAR).inverse(w, shape),
)


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
