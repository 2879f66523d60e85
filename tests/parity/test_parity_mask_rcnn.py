"""Mask R-CNN's conv mask head against detectron2: its net, targets, loss and paste."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax import losses
from maskdiff_jax.data.formats.segmentation import decode_mask
from maskdiff_jax.inference import paste
from maskdiff_jax.nets.maskcnn import ConvMaskHead
from maskdiff_jax.ops import masks, roi_align
from maskdiff_jax.pretrained import rules
from tests.parity.compare import load, within
from tests.parity.test_parity_detector import run
from tests.parity.weight_recipe import recipe

NAME = "roi_heads.mask_head."


def head(classes, convs=4):
    """The net with recipe weights for a number of classes."""
    shapes = {f"mask_fcn{i}.weight": (256, 256, 3, 3) for i in range(1, convs + 1)}
    shapes |= {f"mask_fcn{i}.bias": (256,) for i in range(1, convs + 1)}
    shapes |= {"deconv.weight": (256, 256, 2, 2), "deconv.bias": (256,)}
    shapes |= {"predictor.weight": (classes, 256, 1, 1), "predictor.bias": (classes,)}
    net = ConvMaskHead(classes, convs)
    template = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 14, 14, 256)))["params"]
    state = {NAME + n: recipe(NAME + n, s) for n, s in shapes.items()}
    return net, rules.convert(state, rules.MASK_RCNN, {"mask_head": template})["mask_head"]


def paste_all(probs, boxes, hw):
    """Masks in their image, bool [n, h, w]."""
    rles = [paste.paste_rle(np.asarray(m), b, hw, 0.5) for m, b in zip(probs, boxes, strict=True)]
    return np.array([decode_mask(r) for r in rles], bool)


def unpack(bits, width):
    return np.unpackbits(bits, axis=-1)[..., :width]


def last(x):
    return jnp.moveaxis(x, 1, -1)


@pytest.mark.parametrize(("kind", "classes"), [("specific", 80), ("agnostic", 1)])
def test_parity_conv_mask_head(kind, classes):
    z = load("mask_head.npz")
    net, params = head(classes)
    logits, state = net.apply(
        {"params": params}, last(z["features"]), capture_intermediates=True, mutable=["intermediates"]
    )
    inner = state["intermediates"]
    fcn4 = jax.nn.relu(inner["mask_fcn4"]["__call__"][0])[..., ::8]
    deconv = jax.nn.relu(inner["deconv"]["__call__"][0])[..., ::32]
    within(fcn4, last(z["fcn4_ch32"]), 1e-5)
    within(deconv, last(z["deconv_relu_ch8"]), 1e-5)
    within(jnp.moveaxis(logits, -1, 1), z[f"{kind}/logits"], 1e-5)
    own = z["classes"] if classes > 1 else np.zeros(5, int)
    probs = jax.nn.sigmoid(logits)[np.arange(5), ..., own]
    within(probs, z[f"{kind}/probs"], 1e-5)


@pytest.mark.parametrize("kind", ["specific", "agnostic"])
def test_parity_mask_targets_and_loss(kind):
    z = load("mask_head.npz")
    bitmaps = unpack(z["gt_bitmasks_packbits"], 200)
    soft = jax.vmap(lambda m, b: masks.roi_target(m, b, 28))(bitmaps, z["boxes"])
    within(soft, z["target28_bitmask_soft"], 2e-5)
    np.testing.assert_array_equal(soft >= 0.5, z["target28_from_bitmask"])

    logits, used = last(z[f"{kind}/logits"]), np.ones(5, bool)
    value, grad = jax.value_and_grad(losses.roi_mask_loss)(
        logits, z["classes"], used, z["target28_from_bitmask"].astype(np.float32)
    )
    within(value, z[f"{kind}/loss_bitmask"][0], 2e-6)
    own = z["classes"] if kind == "specific" else np.zeros(5, int)
    within(grad[np.arange(5), ..., own], z[f"{kind}/grad_logits_of_gt_class"], 1e-5)
    polygon = z["target28_from_polygon"].astype(np.float32)
    within(losses.roi_mask_loss(logits, z["classes"], used, polygon), z[f"{kind}/loss_polygon"][0], 2e-6)
    # a padded box changes nothing
    padded = [np.concatenate([np.asarray(v), np.asarray(v[:1])]) for v in (logits, z["classes"], used, polygon)]
    padded[1][-1], padded[2][-1] = -1, False
    within(losses.roi_mask_loss(*padded), z[f"{kind}/loss_polygon"][0], 2e-6)
    assert float(losses.roi_mask_loss(logits, z["classes"], ~used, polygon)) == 0.0


@pytest.mark.parametrize("name", ["", "blob_"])
def test_parity_pasted_masks(name):
    z = load("mask_head.npz")
    probs = z["blob_probs28" if name else "specific/probs"]
    pasted = paste_all(probs, z["boxes"], (150, 200))
    want = unpack(z[f"{name}pasted_0.5_packbits"], 200)
    assert (pasted != want).sum((1, 2)).max() <= 2
    np.testing.assert_allclose(pasted.sum((1, 2)), z[f"{name}pasted_0.5_area"], atol=2)


def test_parity_masks_of_detections():
    """Pyramid -> 14 x 14 cells of each detection -> mask head -> masks in the image."""
    z, out = load("det_roi_a.npz"), run("a")
    net, params = head(80, convs=0)  # detectron2's default, which this golden was made with
    levels = {l: f[0] for l, f in out["maps"].levels.items() if l < 6}
    cells = roi_align.multilevel_roi_align(levels, z["mask/boxes"], size=14, sampling=0, canonical=(224.0, 4))
    logits = net.apply({"params": params}, cells)
    probs = jax.nn.sigmoid(logits)[np.arange(8), ..., z["mask/classes"]]
    within(probs, z["mask/probs28"], 5e-5)
    hw = tuple(int(v) for v in z["mask/pasted_hw"])
    pasted = paste_all(probs, z["mask/boxes"], hw)
    want = unpack(z["mask/pasted_packbits"], hw[1])
    assert (pasted != want).sum((1, 2)).max() <= 2
    np.testing.assert_allclose(pasted.sum((1, 2)), z["mask/pasted_area"], atol=2)
