"""Small third-party models: weights of tests/parity/weight_recipe.py under the names that other projects use."""

import numpy as np

from tests.parity.weight_recipe import recipe

CAFFE2 = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "shortcut": "branch1"}
CAFFE2_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}


def backbone_shapes(width: int, blocks: tuple[int, ...]) -> dict[tuple, tuple[int, ...]]:
    """(stage, block, conv) -> kernel shape [out, in, kh, kw]; the stem is (1, 0, "conv1")."""
    shapes, before = {(1, 0, "conv1"): (width, 3, 7, 7)}, width
    for i, count in enumerate(blocks):
        inner, out = width * 2**i, 4 * width * 2**i
        for b in range(count):
            at = (i + 2, b)
            shapes[*at, "conv1"] = (inner, before, 1, 1)
            shapes[*at, "conv2"] = (inner, inner, 3, 3)
            shapes[*at, "conv3"] = (out, inner, 1, 1)
            if b == 0:
                shapes[*at, "shortcut"] = (out, before, 1, 1)
            before = out
    return shapes


def detectron2_name(stage, block, conv, leaf):
    layer = "stem" if stage == 1 else f"res{stage}.{block}"
    return f"{layer}.{conv}.weight" if leaf is None else f"{layer}.{conv}.norm.{leaf}"


def msra_name(stage, block, conv, leaf):
    if stage == 1:
        return "conv1_w" if leaf is None else f"res_conv1_bn_{CAFFE2_NORM[leaf]}"
    layer = f"res{stage}_{block}_{CAFFE2[conv]}"
    return f"{layer}_w" if leaf is None else f"{layer}_bn_{CAFFE2_NORM[leaf]}"


def torchvision_name(stage, block, conv, leaf):
    layer = "" if stage == 1 else f"layer{stage - 1}.{block}."
    if conv == "shortcut":
        return layer + ("downsample.0.weight" if leaf is None else f"downsample.1.{leaf}")
    return layer + (f"{conv}.weight" if leaf is None else f"bn{conv[-1]}.{leaf}")


def backbone(name, width=8, blocks=(1, 1, 1, 1)) -> dict[str, np.ndarray]:
    """The tensors of a small ResNet, the same for every naming: ``name`` is one of the functions above."""
    state = {}
    for at, shape in backbone_shapes(width, blocks).items():
        for leaf in (None, "weight", "bias", "running_mean", "running_var"):
            value = recipe(detectron2_name(*at, leaf), shape if leaf is None else shape[:1])
            state[name(*at, leaf)] = value
    return state


def detector(width=8, blocks=(1, 1, 1, 1), fpn=16, fc=32, classes=80, linear=True) -> dict[str, np.ndarray]:
    """A Faster R-CNN of detectron2 (``linear``) or TFA (cosine classifier)."""
    state = {f"backbone.bottom_up.{k}": v for k, v in backbone(detectron2_name, width, blocks).items()}
    shapes = {}
    for i in range(2, 6):
        shapes[f"backbone.fpn_lateral{i}"] = (fpn, 4 * width * 2 ** (i - 2), 1, 1)
        shapes[f"backbone.fpn_output{i}"] = (fpn, fpn, 3, 3)
    for name, out, side in (("conv", fpn, 3), ("objectness_logits", 3, 1), ("anchor_deltas", 12, 1)):
        shapes[f"proposal_generator.rpn_head.{name}"] = (out, fpn, side, side)
    shapes["roi_heads.box_head.fc1"], shapes["roi_heads.box_head.fc2"] = (fc, fpn * 49), (fc, fc)
    shapes["roi_heads.box_predictor.cls_score"] = (classes + 1, fc)
    shapes["roi_heads.box_predictor.bbox_pred"] = (4 * classes, fc)
    for name, shape in shapes.items():
        state[f"{name}.weight"] = recipe(f"{name}.weight", shape)
        state[f"{name}.bias"] = recipe(f"{name}.bias", shape[:1])
    if not linear:
        del state["roi_heads.box_predictor.cls_score.bias"]
    return state
