"""Third-party checkpoints become a run folder; what does not go together is refused with the fix."""

import pickle

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs import base, fewshot
from maskdiff_jax import checkpoint
from maskdiff_jax.lock import owned
from maskdiff_jax.model import build
from maskdiff_jax.pretrained import convert, rules
from maskdiff_jax.training import run as train
from maskdiff_jax.workdir import check_layout, read_config
from tests.pretrained import third_party_files as files
from tests.pretrained import third_party_names as names
from tests.pretrained.tiny_config import config

SHAPES = {}  # config.model as JSON -> ShapeDtypeStructs of its parameters


def shapes_of(c):
    text = c.model.to_json_best_effort()
    if text not in SHAPES:
        SHAPES[text] = jax.eval_shape(build(c.model).init, jax.random.key(0))
    return SHAPES[text]


@pytest.fixture(autouse=True, scope="module")
def no_compilation():
    """New parameters without compiling ``init``: zeros, but ones for scales and variances."""

    def zeros(c, model):
        shapes = shapes_of(c)
        ones = lambda path, s: np.full(s.shape, path[-1].key in ("scale", "var"), np.float32)
        return jax.tree_util.tree_map_with_path(ones, shapes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "initial_params", zeros)
        yield


def save(folder, state, name="file.pkl"):
    path = folder / name
    path.write_bytes(pickle.dumps(state, 2))
    return path


def load(c, workdir):
    params = checkpoint.load_params(workdir / "checkpoints/final", shapes_of(c))
    return flatten_dict(jax.device_get(params), sep="/")


@pytest.mark.parametrize(
    "arg, state",
    [
        ("coco,weights=torchvision", names.backbone(names.detectron2_name)),
        ("custom,weights=torchvision", names.backbone(names.torchvision_name)),
        ("custom,weights=msra", names.backbone(names.msra_name)),
    ],
)
def test_backbones(tmp_path, arg, state):
    c = config(arg, **{"model.num_classes": 3})
    document = convert.run(c, tmp_path / "run", [save(tmp_path, {"model": state})])
    assert convert.summary(document["filled"]) == ["detector/backbone"]
    got = load(c, tmp_path / "run")
    want = names.recipe("res3.0.shortcut.norm.running_var", (64,))
    np.testing.assert_array_equal(got["detector/backbone/res3/block0/shortcut/norm/var"], want)
    # an import may replace an earlier import
    convert.run(c, tmp_path / "run", [save(tmp_path, {"model": state})])
    with owned(tmp_path / "run"):
        with pytest.raises(BlockingIOError, match="run is in use by process"):
            convert.run(c, tmp_path / "run", [save(tmp_path, {"model": state})])
    with pytest.raises(ValueError, match="run holds imported weights: give --config.init_from=.*run, and another --w"):
        train.run(c, tmp_path / "run")


def test_detectors(tmp_path):
    """The whole detector, linear (model zoo) and cosine (TFA); Mask R-CNN's mask head is named as unused."""
    mask = {"roi_heads.mask_head.predictor.bias": np.zeros(80, np.float32)}
    for arg, linear in (("coco,weights=zoo", True), ("coco,weights=msra", False)):
        c, state = config(arg), names.detector(linear=linear)
        path = save(tmp_path, {"model": state | mask, "iteration": 3})
        document = convert.run(c, tmp_path / arg, [path])
        assert document["files"][0]["unused"] == list(mask) and document["files"][0]["tensors"] == len(state)
        assert {p for p in document["new"] if p.startswith("detector/")} == set()
        rows = load(c, tmp_path / arg)["detector/box_predictor/cls_score/kernel"]
        np.testing.assert_array_equal(rows.T, state["roi_heads.box_predictor.cls_score.weight"])
        with pytest.raises(ValueError, match=f"weights={'zoo' if linear else 'msra'} here and in later commands"):
            convert.run(config("coco,weights=" + ("msra" if linear else "zoo")), tmp_path / "x", [path])
    mean = {"pixel_mean": np.float32([123.675, 116.28, 103.53]).reshape(3, 1, 1)}
    with pytest.raises(ValueError, match=r"trained with pixel_mean \[123.67.*the config has \(103.53"):
        convert.run(config("coco"), tmp_path / "x", [save(tmp_path, state | mean)])
    for size in (1, 2):
        mean = {"pixel_mean": np.zeros(size, np.float32)}
        with pytest.raises(ValueError, match="trained with pixel_mean"):
            convert.run(config("coco"), tmp_path / "x", [save(tmp_path, state | mean)])
    fewer = names.detector(classes=60, linear=False)
    with pytest.raises(ValueError) as error:
        convert.run(config("coco"), tmp_path / "x", [save(tmp_path, fewer)])
    assert "cls_score.weight: (32, 61) does not fit" in str(error.value) and "model.num_classes" in str(error.value)
    assert not (tmp_path / "x").exists()


def test_a_backbone_and_a_unet(tmp_path):
    wide = {"model.mask.unet.width": 128}
    c = config("coco", **wide)
    net = shapes_of(c)["mask_head"]
    unet = {name: names.recipe(name, shape) for name, shape in UNET.items()}
    backbone = save(tmp_path, names.backbone(names.msra_name))
    path = tmp_path / "ema.pt"
    path.write_bytes(files.torch_legacy({k: files.tensor(str(i), w) for i, (k, w) in enumerate(unet.items())}))
    document = convert.run(c, tmp_path / "run", [backbone, path])
    assert [x["kind"] for x in document["files"]] == ["msra", "guided-diffusion"]
    assert len([p for p in document["filled"] if p.startswith("mask_head/")]) == len(unet)
    tables = {f"mask_head/{p}" for p in flatten_dict(net, sep="/") if p.endswith("class_table")}
    assert {p for p in document["new"] if p.startswith("mask_head/")} == tables and len(tables) == 5
    got = load(c, tmp_path / "run")
    qkv = unet["middle_block.1.qkv.weight"][..., 0]
    np.testing.assert_array_equal(got["mask_head/middle1_attention/qkv/kernel"], qkv.T)
    assert all((got[t] == 0).all() for t in tables)

    with pytest.raises(ValueError, match="GroupNorms have 32 groups"):
        convert.run(config("coco"), tmp_path / "x", [backbone, path])
    with pytest.raises(ValueError, match="17 frozen norms of the backbone have no statistics"):
        convert.run(c, tmp_path / "x", [path])
    convert.run(config("coco,weights=scratch", **wide), tmp_path / "scratch", [path])
    other = save(tmp_path, names.backbone(names.torchvision_name), "other.pkl")
    with pytest.raises(ValueError, match="give one file for the detector.*; given: msra, resnet"):
        convert.run(c, tmp_path / "x", [backbone, other])
    with pytest.raises(ValueError, match="give one file for the detector.*; given: msra$"):
        convert.run(c, tmp_path / "x", [backbone, backbone])


# a UNet of guided-diffusion: 128 channels, one level, one block going down, two going up; 7 + 12 channels in
def _unet_shapes():
    def block(name, cin):
        out = {f"{name}.in_layers.0": (cin,), f"{name}.in_layers.2": (128, cin, 3, 3)}
        out |= {f"{name}.emb_layers.1": (256, 512), f"{name}.out_layers.0": (128,)}
        out[f"{name}.out_layers.3"] = (128, 128, 3, 3)
        return out | ({f"{name}.skip_connection": (128, cin, 1, 1)} if cin != 128 else {})

    layers = {"time_embed.0": (512, 128), "time_embed.2": (512, 512), "input_blocks.0.0": (128, 34, 3, 3)}
    layers |= block("input_blocks.1.0", 128) | block("middle_block.0", 128) | block("middle_block.2", 128)
    layers |= {"middle_block.1.norm": (128,), "middle_block.1.qkv": (384, 128, 1)}
    layers |= {"middle_block.1.proj_out": (128, 128, 1), "out.0": (128,), "out.2": (1, 128, 3, 3)}
    layers |= block("output_blocks.0.0", 256) | block("output_blocks.1.0", 256)
    return {f"{n}.{k}": s if k == "weight" else s[:1] for n, s in layers.items() for k in ("weight", "bias")}


UNET = _unet_shapes()


def test_norms_without_statistics(tmp_path):
    state = names.backbone(names.msra_name)
    state["res4_0_branch2b_bn_running_var"][:] = 1
    with pytest.raises(ValueError, match="1 frozen norms .*first: detector/backbone/res4/block0/conv2/norm/var"):
        convert.run(config("coco"), tmp_path / "x", [save(tmp_path, state)])
    assert not (tmp_path / "x").exists()


def test_a_wrong_inverse_is_noticed(tmp_path, monkeypatch):
    """An inverse that swaps the axes of kernels fits all the same: names and shapes are right, numbers are not."""
    turned = rules.Transform(rules.CONV.forward, lambda w, shape: w.transpose(3, 2, 1, 0))
    table = [r._replace(transform=turned) if r.transform is rules.CONV else r for r in rules.MSRA]
    monkeypatch.setitem(convert.TARGETS, "msra", convert.TARGETS["msra"]._replace(table=table))
    kernels = ["conv1_w", *(f"res{i}_0_branch2b_w" for i in range(2, 6))]  # in those of 1x1 it does not show
    with pytest.raises(ValueError, match=f"the round trip changes {', '.join(kernels)}$"):
        convert.run(config("coco"), tmp_path / "x", [save(tmp_path, names.backbone(names.msra_name))])
    assert not (tmp_path / "x").exists()


def test_an_import_that_was_interrupted_can_be_repeated(tmp_path, monkeypatch):
    path = save(tmp_path, names.backbone(names.msra_name))

    def interrupted(folder, params):
        folder.parent.mkdir(parents=True)
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_params", interrupted)
        with pytest.raises(OSError, match="disk is full"):
            convert.run(config("coco"), tmp_path / "run", [path])
    convert.run(config("coco"), tmp_path / "run", [path])
    assert "detector/backbone/stem/conv1/kernel" in load(config("coco"), tmp_path / "run")


def test_other_stages_folders_and_weights_are_refused(tmp_path):
    path = save(tmp_path, names.backbone(names.msra_name))
    for arg in ("weights=scratch", "weights=torchvision"):
        with pytest.raises(ValueError, match=f"needs weights=msra, not {arg}: use .*py:custom,weights=msra") as error:
            convert.run(config(f"custom,{arg}"), tmp_path / "x", [path])
        assert "\n" not in str(error.value) and not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match="base.py:coco,weights=msra"):
        convert.run(config("shapes"), tmp_path / "x", [path])
    with pytest.raises(ValueError, match="use --config configs/base.py"):
        convert.run(config("coco", fewshot.get_config), tmp_path / "x", [path])
    (tmp_path / "trained/checkpoints/final").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="holds a trained run"):
        convert.run(config("coco"), tmp_path / "trained", [path])
    with pytest.raises(ValueError, match="given: none"):
        convert.run(config("coco"), tmp_path / "x", [])


def test_a_stage_starts_only_from_weights_of_its_pixels(tmp_path):
    made = config("coco,weights=msra")
    (tmp_path / "config.json").write_text(made.to_json_best_effort())
    for get in (base.get_config, fewshot.get_config):
        check_layout(tmp_path, config("coco,weights=msra", get))
        with pytest.raises(ValueError) as error:
            check_layout(tmp_path, config("coco,weights=torchvision", get))
        text = str(error.value)
        for field in ("pixel_mean", "pixel_std", "channel_order: 'bgr' there, 'rgb' here", "stride_in_1x1"):
            assert field in text
        assert "norm" not in text
    with pytest.raises(ValueError, match="norm: 'frozen_bn' there, 'group' here"):
        check_layout(tmp_path, config("coco,weights=scratch"))
    with pytest.raises(FileNotFoundError, match="no run to start from"):
        check_layout(tmp_path / "none", made)


@pytest.mark.parametrize("arg", ["custom,size=tiny", "custom,size=small", "custom"])
def test_the_option_that_a_message_names_is_possible(arg, tmp_path):
    """No file fits size tiny, but size small has the full detector. A detector's classes are not those of `custom`."""
    size = "" if arg == "custom" else ",size=small"
    for state, weights in ((names.detector(linear=False), "detector"), (names.backbone(names.msra_name), "msra")):
        fix = f"configs/base.py:custom{size},weights={weights}"
        with pytest.raises(ValueError, match=f"use --config {fix} here and in later commands"):
            convert.run(config(arg), tmp_path / "x", [save(tmp_path, {"model": state})])
        assert base.get_config(fix.partition(":")[2]).weights == weights


@pytest.mark.parametrize("arg", ["custom,weights=detector", "coco,weights=detector"])
@pytest.mark.parametrize("linear", [True, False])
def test_a_detector_of_other_classes(arg, linear, tmp_path):
    """Its own predictor is stored: no dataset is needed; a later run starts its classes with new weights."""
    state = names.detector(linear=linear, classes=60)
    document = convert.run(config(arg), tmp_path / "run", [save(tmp_path, {"model": state})])
    assert convert.summary(document["new"]) == ["mask_head"]
    stored = read_config(tmp_path / "run")
    assert (stored.model.num_classes, stored.weights) == (60, "detector")
    assert stored.model.detector.classifier == ("linear" if linear else "cosine")
    kernel = load(stored, tmp_path / "run")["detector/box_predictor/cls_score/kernel"]
    np.testing.assert_array_equal(kernel.T, state["roi_heads.box_predictor.cls_score.weight"])
    agnostic = state | {k: w[:4] for k, w in state.items() if "bbox_pred" in k}
    convert.run(config(arg), tmp_path / "other", [save(tmp_path, agnostic)])
    assert read_config(tmp_path / "other").model.detector.class_agnostic_boxes
