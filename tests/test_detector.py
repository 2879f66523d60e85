"""The detector as a whole, tiny: what must not change its results, and degenerate inputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from maskdiff_jax import detector
from maskdiff_jax.types import Batch, Instances
from tests.compiling import jit

KEY = jax.random.key(0)
C = 4
FIELDS = dict(
    num_classes=C, dtype="float32", pixel_mean=(127.5,) * 3, pixel_std=(64.0,) * 3, channel_order="rgb",
    blocks=(1, 1, 1, 1), width=8, norm="group", stride_in_1x1=False, fpn_channels=16, fpn_min_level=3,
    anchor_sizes=(16, 32, 48, 64), anchor_ratios=(0.5, 1.0, 2.0), rpn_iou=(0.3, 0.7), rpn_samples=32,
    rpn_positive=0.5, rpn_beta=0.0, rpn_pre_nms_train=40, rpn_pre_nms_test=40, rpn_nms=0.7,
    proposals_train=24, proposals_test=24, roi_samples=16, roi_positive=0.25, roi_iou=0.5,
    roi_canonical=(32.0, 4), roi_size=3, roi_sampling=0, fc_channels=32, classifier="cosine",
    cosine_scale=20.0, probit_scale=2.0, box_uncertainty=False, refine=False, refine_iou=0.7, refine_candidates=30,
    class_agnostic_boxes=False, box_weights=(10.0, 10.0, 5.0, 5.0), box_beta=0.0, min_score=0.01, nms=0.5,
    max_detections=12,
)  # fmt: skip
ACTIVE = jnp.array([True, True, True, False])


@functools.cache
def made():
    d = detector.make_detector(**FIELDS)

    def both(params, image, image_hw):  # one program: most of each is the backbone
        detections = d.detect(params, image, image_hw, ACTIVE)
        return detections, d.box_features(params, image, image_hw, np.float32([[[4, 4, 30, 28]]] * 2))

    return d, d.init(KEY), jit(jax.value_and_grad(d.loss, has_aux=True)), jit(both)


def make_batch(boxes, classes, *, ignore=None, slots=4, hw=(64, 64), size=(64, 64)):
    """One batch of two images with the same objects."""
    rng = np.random.default_rng(0)
    image = np.zeros((2, *size, 3), np.uint8)
    image[:, : hw[0], : hw[1]] = rng.integers(0, 255, (2, *hw, 3))
    pad = slots - len(boxes)
    boxes = np.concatenate([np.reshape(boxes, (-1, 4)), np.zeros((pad, 4))]).astype(np.float32)
    ignore = np.r_[np.zeros(len(classes), bool) if ignore is None else ignore, np.zeros(pad, bool)].astype(bool)
    classes = np.r_[classes, -np.ones(pad)].astype(np.int32)
    two = lambda v: np.stack([v, v])
    hw = two(np.array(hw, np.int32))
    return Batch(image, hw, hw, np.arange(2), Instances(two(boxes), two(classes), two(ignore)))


BOXES = [[4, 4, 30, 28], [30, 20, 60, 60]]
CLASSES = [0, 2]


def finite(tree):
    return all(np.isfinite(v).all() for v in jax.tree.leaves(tree))


def test_loss_and_parameters():
    d, params, grad, _ = made()
    (loss, metrics), grads = grad(params, KEY, make_batch(BOXES, CLASSES), ACTIVE)
    assert finite((loss, metrics, grads))
    parts = [metrics[k] for k in ("loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box")]
    np.testing.assert_allclose(sum(parts), loss, rtol=1e-6)
    assert metrics["roi_foreground"] >= 2 and metrics["rpn_foreground"] >= 2
    names = set(flatten_dict(params, sep="/"))
    assert {"backbone/stem/conv1/norm/scale", "backbone/res5/block0/conv1/kernel", "fpn/lateral3/kernel",
            "rpn/conv/kernel", "box_head/fc1/kernel", "box_head/fc2/bias", "box_predictor/cls_score/kernel",
            "box_predictor/bbox_pred/bias"} <= names  # fmt: skip
    moved = {n: bool((np.asarray(g) != 0).any()) for n, g in flatten_dict(grads, sep="/").items()}
    assert all(moved.values()), [n for n, m in moved.items() if not m]
    assert (np.asarray(grads["box_predictor"]["cls_score"]["kernel"][:, 3]) == 0).all()  # not active


def test_padding_slots_change_nothing():
    _, params, grad, _ = made()
    want = grad(params, KEY, make_batch(BOXES, CLASSES), ACTIVE)[0]
    batch = make_batch(BOXES, CLASSES)
    junk = batch.instances._replace(boxes=batch.instances.boxes.copy())
    junk.boxes[:, 2:] = [5, 5, 50, 50]  # a slot is padding by its class alone
    got = grad(params, KEY, batch._replace(instances=junk), ACTIVE)[0]
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    unknown = make_batch([*BOXES, [8, 30, 28, 60]], [*CLASSES, 3])  # a class that is not active
    np.testing.assert_allclose(grad(params, KEY, unknown, ACTIVE)[0][0], want[0], rtol=1e-6)


@pytest.mark.parametrize("kind", ["empty", "all ignored", "flat boxes"])
def test_nothing_to_find_is_finite(kind):
    _, params, grad, _ = made()
    batch = {
        "empty": make_batch([], []),
        "all ignored": make_batch(BOXES, CLASSES, ignore=[True, True]),
        "flat boxes": make_batch([[9, 9, 9, 30], [40, 40, 40, 40]], [0, 1]),
    }[kind]
    (loss, metrics), grads = grad(params, KEY, batch, ACTIVE)
    assert finite((loss, metrics, grads))
    assert metrics["loss_box"] == 0 and metrics["rpn_foreground"] == 0


def test_zero_features_give_finite_gradients():
    _, params, grad, _ = made()
    dead = jax.tree.map(jnp.zeros_like, params["box_head"])
    out = grad(params | {"box_head": dead}, KEY, make_batch(BOXES, CLASSES), ACTIVE)
    assert finite(out)


def test_padding_and_other_images_do_not_change_detections():
    _, params, _, detect = made()
    small = make_batch(BOXES, CLASSES, hw=(50, 60), size=(50, 60))  # rounded up inside
    # an untrained predictor's scores are nearly equal: spread them
    params = params | {"box_predictor": jax.tree.map(lambda v: v * 8.0, params["box_predictor"])}
    want, want_features = detect(params, small.image, small.image_hw)
    assert (np.asarray(want.classes) >= 0).any() and not (np.asarray(want.classes) == 3).any()
    image = np.zeros((2, 96, 128, 3), np.uint8)
    image[:, :50, :60] = small.image
    image[1, 50:, :] = 77  # what lies outside the image must not matter
    got, got_features = detect(params, image, small.image_hw)
    np.testing.assert_array_equal(got.classes, want.classes)
    np.testing.assert_allclose(got.boxes, want.boxes, atol=1e-2)
    np.testing.assert_allclose(got.scores, want.scores, atol=1e-4)
    assert want_features.shape == (2, 1, 32) and want_features.dtype == jnp.float32
    np.testing.assert_allclose(got_features, want_features, atol=1e-4)


def test_detections_are_well_formed():
    _, params, _, detect = made()
    batch = make_batch(BOXES, CLASSES, hw=(50, 60), size=(50, 60))
    out = jax.tree.map(np.asarray, detect(params, batch.image, batch.image_hw)[0])
    assert out.boxes.shape == (2, 12, 4)
    real = out.classes >= 0
    assert (np.diff(out.scores, axis=1) <= 0).all() and (out.scores[real] > 0.01).all()
    assert (out.boxes[real] >= 0).all() and (out.boxes[real] <= [60, 50, 60, 50]).all()
    assert (out.boxes[~real] == 0).all() and (out.scores[~real] == 0).all() and (out.classes[~real] == -1).all()


@pytest.mark.slow
def test_learns_two_images():
    import optax

    d, params, grad, detect = made()
    batch = make_batch(BOXES, CLASSES)
    for x, c in zip(BOXES, ((250, 20, 20), (20, 250, 20)), strict=True):
        batch.image[:, x[1] : x[3], x[0] : x[2]] = c
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, state, key):
        grads = jax.grad(d.loss, has_aux=True)(params, key, batch, ACTIVE)[0]
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for key in jax.random.split(KEY, 200):
        params, state = step(params, state, key)
    out = jax.tree.map(np.asarray, detect(params, batch.image, batch.image_hw)[0])
    for i in range(2):
        order = np.argsort(out.classes[i][:2])
        np.testing.assert_array_equal(out.classes[i][:2][order], CLASSES)
        np.testing.assert_allclose(out.boxes[i][:2][order], BOXES, atol=3)
        assert (out.scores[i][:2] > 0.8).all()


def test_bad_fields_are_refused():
    with pytest.raises(ValueError, match="anchor_sizes has 2 entries: give 4"):
        detector.make_detector(**FIELDS | {"anchor_sizes": (8, 16)})
    with pytest.raises(ValueError, match="fpn_min_level"):
        detector.make_detector(**FIELDS | {"fpn_min_level": 7})
    with pytest.raises(ValueError, match="channel_order"):
        detector.make_detector(**FIELDS | {"channel_order": "gbr"})
    with pytest.raises(TypeError, match="anchor_size"):
        detector.make_detector(**FIELDS | {"anchor_size": 1})
