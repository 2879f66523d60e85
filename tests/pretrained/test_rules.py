"""Tables of third-party names: every tensor lands where it belongs, the round trip is exact, problems come at once."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.nets.resnet import ResNet
from maskdiff_jax.nets.unet import UNet
from maskdiff_jax.pretrained import rules
from tests.pretrained import third_party_names as names

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
BLOCKS = (2, 1, 1, 1)  # two in res2: a block with and a block without a shortcut
BACKBONES = {
    "msra": (rules.MSRA, names.msra_name),
    "detectron2-backbone": (rules.DETECTRON2_BACKBONE, names.detectron2_name),
    "resnet": (rules.RESNET, names.torchvision_name),
}


@pytest.fixture(scope="module")
def template():
    net = ResNet(BLOCKS, 8, "frozen_bn", False)
    return {"backbone": jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]}


def shapes_of(state):
    return {name: w.shape for name, w in state.items()}


def assert_same(back, state):
    assert back.keys() == state.keys()
    for name, w in state.items():
        assert back[name].dtype == w.dtype
        np.testing.assert_array_equal(back[name], w, err_msg=name)


@pytest.mark.parametrize("kind", BACKBONES)
def test_backbone_names(kind, template):
    table, name = BACKBONES[kind]
    state = names.backbone(name, blocks=BLOCKS)
    params = rules.convert(state, table, template)
    stem, res2 = params["backbone"]["stem"]["conv1"], params["backbone"]["res2"]
    w = state[name(1, 0, "conv1", None)]
    assert stem["kernel"].shape == (7, 7, 3, 8) and stem["kernel"][1, 2, 0, 5] == w[5, 0, 1, 2]
    for ours, theirs in {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}.items():
        np.testing.assert_array_equal(stem["norm"][ours], state[name(1, 0, "conv1", theirs)])
        np.testing.assert_array_equal(res2["block0"]["shortcut"]["norm"][ours], state[name(2, 0, "shortcut", theirs)])
        np.testing.assert_array_equal(res2["block1"]["conv3"]["norm"][ours], state[name(2, 1, "conv3", theirs)])
    w = state[name(2, 1, "conv2", None)]
    np.testing.assert_array_equal(res2["block1"]["conv2"]["kernel"][2, 0].T, w[..., 2, 0])
    assert_same(rules.export(params, table, shapes_of(state)), state)


def test_the_literal_names_of_the_files():
    """A few names as they stand in the published files, since both sides above come from one hand."""
    published = {
        "msra": {"conv1_w", "res_conv1_bn_beta", "res2_0_branch2a_w", "res4_5_branch2b_bn_running_mean",
                 "res5_0_branch1_bn_gamma"},
        "detectron2-backbone": {"stem.conv1.weight", "stem.conv1.norm.running_var", "res2.0.shortcut.norm.bias",
                                "res5.2.conv3.weight"},
        "resnet": {"conv1.weight", "bn1.weight", "layer1.0.downsample.0.weight", "layer1.0.downsample.1.running_var",
                   "layer3.5.bn3.running_mean", "layer4.2.conv3.weight"},
    }  # fmt: skip
    for kind, some in published.items():
        state = names.backbone(BACKBONES[kind][1], blocks=(3, 4, 6, 3))
        assert some <= state.keys()
    assert len(state) == 53 * 5  # ResNet-50


def test_filled_paths_and_unused_names():
    msra = ["conv1_b", "fc1000_w", "fc1000_b", "pred_w", "conv1_w_momentum", "res2_0_branch2a_bn_gamma_momentum"]
    assert rules.unused_names([*msra, "conv1_w"], rules.MSRA) == msra
    assert rules.unused_names(["fc.weight", "layer1.0.bn1.num_batches_tracked", "conv1.weight"], rules.RESNET) == [
        "fc.weight", "layer1.0.bn1.num_batches_tracked",
    ]  # fmt: skip
    masks = ["roi_heads.mask_head.deconv.bias", "pixel_mean"]
    assert rules.unused_names([*masks, "backbone.fpn_output2.bias"], rules.DETECTRON2) == masks
    assert rules.filled_paths([*masks, "backbone.fpn_output2.bias"], rules.DETECTRON2) == {"fpn/output2/bias"}
    assert rules.filled_paths(["conv1_w", "conv1_b", "res2_0_branch1_bn_beta"], rules.MSRA) == {
        "backbone/stem/conv1/kernel", "backbone/res2/block0/shortcut/norm/bias",
    }  # fmt: skip


def test_a_detector_round_trip(template):
    state = names.detector(blocks=BLOCKS)
    params = {"backbone": template["backbone"], "fpn": {}}
    for i in range(2, 6):
        for layer, (cin, side) in {"lateral": (8 * 2**i, 1), "output": (16, 3)}.items():
            params["fpn"][f"{layer}{i}"] = like(kernel=(side, side, cin, 16), bias=(16,))
    params["rpn"] = {
        n: like(kernel=(s, s, 16, out), bias=(out,))
        for n, out, s in (("conv", 16, 3), ("objectness", 3, 1), ("deltas", 12, 1))
    }
    params["box_head"] = {"fc1": like(kernel=(7 * 7 * 16, 32), bias=(32,)), "fc2": like(kernel=(32, 32), bias=(32,))}
    params["box_predictor"] = {
        "cls_score": like(kernel=(32, 81), bias=(81,)), "bbox_pred": like(kernel=(32, 320), bias=(320,)),
    }  # fmt: skip
    new = rules.convert(state, rules.DETECTRON2, params)
    fc1 = new["box_head"]["fc1"]["kernel"].reshape(7, 7, 16, 32)  # row, column, channel
    assert fc1[3, 5, 11, 2] == state["roi_heads.box_head.fc1.weight"].reshape(32, 16, 7, 7)[2, 11, 3, 5]
    assert_same(rules.export(new, rules.DETECTRON2, shapes_of(state)), state)


def like(**shapes):
    return {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in shapes.items()}


def test_a_mask_head_round_trip():
    shapes = {"mask_fcn1": (6, 4, 3, 3), "deconv": (6, 5, 2, 2), "predictor": (3, 5, 1, 1)}
    state = {}
    for name, shape in shapes.items():
        out = shape[1] if name == "deconv" else shape[0]  # a transposed convolution is [in, out, kh, kw]
        for leaf, s in (("weight", shape), ("bias", (out,))):
            state[f"roi_heads.mask_head.{name}.{leaf}"] = names.recipe(f"roi_heads.mask_head.{name}.{leaf}", s)
    template = {"mask_fcn1": like(kernel=(3, 3, 4, 6), bias=(6,)), "deconv": like(kernel=(2, 2, 6, 5), bias=(5,))}
    template["predictor"] = like(kernel=(1, 1, 5, 3), bias=(3,))
    params = rules.convert(state, rules.MASK_RCNN, {"mask_head": template})
    w = state["roi_heads.mask_head.deconv.weight"]
    assert params["mask_head"]["deconv"]["kernel"][1, 0, 4, 3] == w[4, 3, 1, 0]
    assert_same(rules.export(params, rules.MASK_RCNN, shapes_of(state)), state)


def test_a_unet_round_trip_keeps_our_class_table():
    info = json.loads((GOLDENS / "unet_small_ssn1.json").read_text())
    net = UNet(width=32, attention=(3,), head_channels=32, groups=32, num_classes=4)
    x = jnp.zeros((1, 32, 32, 7))
    shape = jax.eval_shape(net.init, jax.random.key(0), x, jnp.zeros(1, int), jnp.zeros(1, int))["params"]
    template = jax.tree.map(lambda s: np.full(s.shape, 7.0, np.float32), shape)
    state = {t["name"]: names.recipe(t["name"], tuple(t["shape"])) for t in info["tensors"]}
    with pytest.raises(ValueError, match="middle0_res/class_table: no tensor of the file fits it"):
        rules.convert(state, rules.GUIDED_DIFFUSION, template)
    params = rules.convert(state, rules.GUIDED_DIFFUSION, template, keep=[".*/class_table"])
    assert (params["middle0_res"]["class_table"] == 7).all()
    assert_same(rules.export(params, rules.GUIDED_DIFFUSION, shapes_of(state)), state)


def test_all_problems_in_one_message(template):
    state = names.backbone(names.msra_name, blocks=BLOCKS)
    for name in ("conv1_w", "res3_0_branch1_bn_gamma"):
        del state[name]
    state["res5_0_branch2c_w"] = state["res5_0_branch2c_w"][:-1]  # another shape
    state["res5_0_branch2b_w"] = state["res5_0_branch2b_w"].ravel()  # another number of axes
    state["res9_0_branch2a_w"] = np.zeros((1, 1, 1, 1), np.float32)  # a stage that is not there
    state["what_is_this"] = np.zeros(1, np.float32)
    twice = (*rules.MSRA, rules.Rule("again", "backbone/res2/block0/conv1/norm/bias"))
    state["again"] = state["res2_0_branch2a_bn_beta"]
    with pytest.raises(ValueError) as error:
        rules.convert(state, twice, template)
    text = str(error.value)
    for part in (
        "backbone/stem/conv1/kernel: no tensor of the file fits it",
        "backbone/res3/block0/shortcut/norm/scale: no tensor of the file fits it",
        "res5_0_branch2c_w: (1, 1, 64, 255) does not fit", "res5_0_branch2b_w: (36864,) does not fit",
        "res9_0_branch2a_w: the model has no parameter backbone/res9/block0/conv1/kernel",
        "what_is_this: matched by 0 rules", "again: backbone/res2/block0/conv1/norm/bias is already filled",
    ):  # fmt: skip
        assert part in text, text
    assert text.count("\n") == 9  # those seven, and the two kernels of res5 that nothing fills


def test_two_rules_for_a_name_are_an_error(template):
    state = names.backbone(names.msra_name, blocks=BLOCKS)
    table = (*rules.MSRA, rules.Rule("conv1_.", None))
    with pytest.raises(ValueError, match="conv1_w: matched by 2 rules"):
        rules.convert(state, table, template)
    with pytest.raises(ValueError, match="cannot export conv1_w: 2 rules"):
        rules.export(template, table, {"conv1_w": (8, 3, 7, 7)})
    with pytest.raises(ValueError, match="cannot export res9_0_branch2a_w"):
        rules.export(template, rules.MSRA, {"res9_0_branch2a_w": (1, 1, 1, 1)})
