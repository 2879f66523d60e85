"""The detector against detectron2 and TFA: recipe weights, stored inputs, stored outputs.

docs/parity.md says what the stored outputs were computed with; limits are some ten times the noise of float32.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax import detector, losses
from maskdiff_jax.nets import classifiers, rcnn
from maskdiff_jax.ops import assign, boxes, nms, roi_align, select
from maskdiff_jax.pretrained import rules
from tests.parity.compare import find, load, within
from tests.parity.weight_recipe import recipe

SETS = {"a": "_a", "b": "_b_oddsize", "c": "_c_stride3x3"}


# ---------------------------------------------------------------------- matching, targets, losses, NMS


def test_parity_box_coder_and_iou():
    z = load("targets_rpn.npz")
    src, target = z["b2b/src"], z["b2b/target"]
    for w, values in {"w1": (1.0, 1.0, 1.0, 1.0), "w10": (10.0, 10.0, 5.0, 5.0)}.items():
        within(boxes.encode(src, target, values), z[f"b2b/get_deltas_{w}"], 2e-6)
        deltas = z[f"b2b/deltas_in_{w}"].reshape(24, 2, 4)
        got = boxes.decode(deltas, src[:, None], values).reshape(24, 8)
        within(got, z[f"b2b/apply_deltas_{w}"], 2e-6)
    within(boxes.iou(target, src), z["iou/pairwise"], 2e-6)


@pytest.mark.parametrize("rows", ["", "_first3rows"])
@pytest.mark.parametrize("name", ["rpn_0.3_0.7_lowq", "rpn_0.3_0.7_no_lowq", "roi_0.5"])
def test_parity_matcher(name, rows):
    z = load("targets_rpn.npz")
    iou = z["matcher/matrix"]
    thresholds, labels = ((0.5,), (0, 1)) if name.startswith("roi") else ((0.3, 0.7), (0, -1, 1))
    low_quality = name.endswith("_lowq") and "no_lowq" not in name
    for valid, matrix in {
        "cut": (None, iou[:3] if rows else iou),
        "masked": (np.array([True, True, True, not rows]), iou),  # a padded row must change nothing
    }.values():
        valid = np.ones(len(matrix), bool) if valid is None else valid
        index, label = assign.match(matrix, valid, thresholds=thresholds, labels=labels, low_quality=low_quality)
        np.testing.assert_array_equal(index, z[f"matcher/{name}{rows}/match"])
        np.testing.assert_array_equal(label, z[f"matcher/{name}{rows}/label"])


def test_parity_rpn_targets():
    z = load("targets_rpn.npz")
    for i in range(2):
        iou = boxes.iou(z[f"rpn/gt_boxes_image{i}"], z["rpn/anchors"])
        valid = np.ones(len(iou), bool)
        index, label = assign.match(iou, valid, thresholds=(0.3, 0.7), labels=(0, -1, 1), low_quality=True)
        sure = z["rpn/label_is_rounding_sensitive"][i] == 0
        np.testing.assert_array_equal(np.asarray(label)[sure], z["rpn/labels"][i][sure])
        np.testing.assert_array_equal(index, z["rpn/matched_gt_index"][i])
        within(iou.max(0), z["rpn/max_iou"][i], 2e-6)


@pytest.mark.parametrize("beta", [0.0, 1 / 9])
@pytest.mark.parametrize("which", ["all", "sampled"])
def test_parity_rpn_losses(which, beta):
    z = load("targets_rpn.npz")
    labels = z["rpn/labels" if which == "all" else "rpn/labels_sampled"]
    anchors = z["rpn/anchors"]
    targets = []
    for i in range(2):
        gt = z[f"rpn/gt_boxes_image{i}"]
        targets.append(boxes.encode(anchors, gt[z["rpn/matched_gt_index"][i]], select.RPN_WEIGHTS))

    def loss(logits, deltas):
        cls, box = losses.rpn_losses(
            logits, deltas, labels == 1, labels >= 0, jnp.stack(targets), samples=256, beta=beta
        )
        return cls + box, (cls, box)

    grads, (cls, box) = jax.grad(loss, (0, 1), has_aux=True)(z["rpn/pred_logits"], z["rpn/pred_deltas"])
    key = f"rpn/{which}_beta{beta:.3f}"
    within(cls, z[key + "/loss_cls"], 2e-6)
    within(box, z[key + "/loss_loc"], 2e-6)
    within(grads[0], z[f"rpn/{which}_beta0.000/grad_logits"], 1e-5)
    within(grads[1], z[key + "/grad_deltas"], 1e-5)


@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["specific", "agnostic"])
@pytest.mark.parametrize("k", [80, 20])
def test_parity_roi_targets_and_losses(k, kind, beta):
    z = load("targets_roi.npz")
    proposals, gt = z["roi/proposals"], z["roi/gt_boxes"]
    iou = boxes.iou(gt, proposals)
    within(iou, z["roi/iou"], 2e-6)
    index, label = assign.match(iou, np.ones(len(gt), bool), thresholds=(0.5,), labels=(0, 1), low_quality=False)
    np.testing.assert_array_equal(index, z["roi/matched_gt_index"])
    np.testing.assert_array_equal(label, z["roi/match_label"])
    labels = jnp.where(label == 1, z[f"roi/K{k}/gt_classes_of_boxes"][index], k)
    np.testing.assert_array_equal(labels, z[f"roi/K{k}/proposal_classes"])
    targets = boxes.encode(proposals, gt[index], (10.0, 10.0, 5.0, 5.0))

    def loss(logits, deltas):
        deltas = deltas.reshape(48, -1, 4)
        cls, box = losses.roi_losses(logits, deltas, labels, np.ones(48, bool), targets, beta=beta)
        return cls + box, (cls, box)

    args = z[f"roi/K{k}/logits"], z[f"roi/K{k}/{kind}/deltas"]
    grads, (cls, box) = jax.grad(loss, (0, 1), has_aux=True)(*args)
    key = f"roi/K{k}/{kind}/beta{beta}"
    within(cls, z[key + "/loss_cls"], 2e-6)
    within(box, z[key + "/loss_box"], 2e-6)
    within(grads[0], z[f"roi/K{k}/grad_logits"], 1e-5)
    within(grads[1], z[key + "/grad_deltas"], 1e-5)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_parity_nms(threshold):
    z = load("targets_roi.npz")
    box, score, name = z["nms/boxes"], z["nms/scores"], z["nms/classes"]
    ranked = lambda keep: (kept := np.flatnonzero(keep))[np.argsort(-score[kept], kind="stable")]
    np.testing.assert_array_equal(ranked(nms.nms(box, score, threshold)), z[f"nms/keep_{threshold}"])
    want = z[f"nms/batched_keep_{threshold}"]
    np.testing.assert_array_equal(ranked(nms.nms(box, score, threshold, classes=name)), want)
    index, filled = nms.nms_top(box, score, threshold, count=120, classes=name, valid=np.ones(120, bool), block=16)
    np.testing.assert_array_equal(np.asarray(index)[np.asarray(filled)], want)


# ---------------------------------------------------------------------- cosine classifier


@functools.cache
def predictor_weights(k, kind="specific", linear=False):
    name = "roi_heads.box_predictor."
    shapes = {
        "cls_score.weight": (k + 1, 1024),
        "bbox_pred.weight": (4 * k if kind == "specific" else 4, 1024),
        "bbox_pred.bias": (4 * k if kind == "specific" else 4,),
    }
    if linear:
        shapes["cls_score.bias"] = (k + 1,)
    net = rcnn.BoxPredictor(k, "linear" if linear else "cosine", 20.0, kind == "agnostic", jnp.float32)
    template = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 1024)))["params"]
    state = {name + n: recipe(name + n, s) for n, s in shapes.items()}
    params = rules.convert(state, rules.DETECTRON2, {"box_predictor": template})
    return net, params["box_predictor"]


@pytest.mark.parametrize("k", [80, 20])
def test_parity_cosine(k):
    z = load("tfa_cosine.npz")
    x, labels = z[f"K{k}/features"], z[f"K{k}/labels"]
    for kind in ("specific", "agnostic"):
        net, params = predictor_weights(k, kind)
        scores, deltas = net.apply({"params": params}, x)
        within(scores, z[f"K{k}/scores"], 3e-6)
        within(deltas.reshape(32, -1), z[f"K{k}_{kind}/deltas"], 3e-6)

    def loss(x, kernel):
        logits = classifiers.cosine_logits(x, kernel, float(z["scale"]))
        return losses.roi_losses(
            logits, jnp.zeros((32, 1, 4)), labels, jnp.ones(32, bool), jnp.zeros((32, 4)), beta=0.0
        )[0]

    kernel = params["cls_score"]["kernel"]
    value, (gx, gw) = jax.value_and_grad(loss, (0, 1))(x, kernel)
    within(value, z[f"K{k}/loss_cls"][0], 2e-6)
    for row, want in zip(gx, z[f"K{k}/grad_features"], strict=True):  # a row of zeros: 1e6 times larger
        within(row, want, 1e-5)
    length = np.linalg.norm(kernel, axis=0) + 1e-5
    step = 4 if k == 80 else 1
    # the original's gradient is for the normalized weight, ours for a column of this length
    within((gw * length).T[:, ::step], z[f"K{k}/grad_cls_weight"], 1e-5)
    unit = (kernel / length).T[:, :: 16 if k == 80 else 1]
    within(unit, z[f"K{k}/weight_after_first_call"], 3e-6)


def test_parity_linear_predictor():
    z = load("tfa_cosine.npz")
    net, params = predictor_weights(80, linear=True)
    scores, _ = net.apply({"params": params}, z["K80/features"])
    within(scores, z["K80/fc_predictor_scores"], 3e-6)


# ---------------------------------------------------------------------- RoI pooler


def test_parity_roi_pooler():
    z = load("roi_pooler.npz")
    count = len(z["boxes_image0"])
    for i, part in enumerate((slice(0, count), slice(count, None))):
        box = z[f"boxes_image{i}"]
        maps = {l: jnp.moveaxis(z[f"feature_p{l}"][i], 0, -1) for l in range(2, 6)}
        level = roi_align.assign_level(box, canonical=(224.0, 4), lowest=2, highest=5)
        np.testing.assert_array_equal(level, z["level"][part])
        pool = functools.partial(roi_align.multilevel_roi_align, boxes=box, sampling=0, canonical=(224.0, 4))
        for size in (7, 14):
            got = jnp.moveaxis(jax.jit(functools.partial(pool, size=size))(maps), -1, 1)
            within(got, z[f"pooled{size}"][part], 2e-5)
        weight = jnp.moveaxis(z["grad7_weight"][part], 1, -1)
        grad = jax.jit(jax.grad(lambda m, w=weight, p=pool: (p(m, size=7) * w).sum()))(maps)
        for l, g in grad.items():
            within(jnp.moveaxis(g, -1, 0), z[f"grad7_p{l}"][i], 2e-5)


# ---------------------------------------------------------------------- the whole detector


@functools.cache
def model(which):
    """Settings, nets and parameters of a set, and its image [1, H, W, 3] in RGB with its size."""
    info = json.loads(find(f"det{SETS[which]}.json").read_text())
    c = info["config"]
    fields = dict(
        num_classes=c["roi_num_classes"], dtype="float32", pixel_mean=tuple(c["pixel_mean"]),
        pixel_std=tuple(c["pixel_std"]), channel_order=c["input_format"].lower(), blocks=(3, 4, 6, 3),
        width=64, norm="frozen_bn", stride_in_1x1=c["stride_in_1x1"], fpn_channels=256, fpn_min_level=2,
        anchor_sizes=(32, 64, 128, 256, 512), anchor_ratios=(0.5, 1.0, 2.0), rpn_iou=(0.3, 0.7),
        rpn_samples=256, rpn_positive=0.5, rpn_beta=0.0, rpn_pre_nms_train=2000, rpn_pre_nms_test=1000,
        rpn_nms=0.7, proposals_train=1000, proposals_test=1000, roi_samples=512, roi_positive=0.25,
        roi_iou=0.5, roi_canonical=(224.0, 4), roi_size=7, roi_sampling=0, fc_channels=1024,
        classifier="linear",
        cosine_scale=20.0, probit_scale=1.0, class_agnostic_boxes=False, box_weights=(10.0, 10.0, 5.0, 5.0),
        box_beta=0.0, box_uncertainty=False, refine=False, refine_iou=0.7, refine_candidates=1000, min_score=0.05,
        nms=0.5, max_detections=100,
    )  # fmt: skip
    made = detector.make_detector(**fields)
    settings = detector.Settings(**fields)._replace(dtype=jnp.dtype("float32"))
    state = {}
    for t in info["tensors"]:
        value = recipe(t["name"], tuple(t["shape"]))
        if value is not None:
            for end, factor in info["weight_factors"].items():
                if t["name"].endswith(end):
                    value = value * np.float32(factor)
            np.testing.assert_allclose(value.reshape(-1)[:3], t["first"], rtol=1e-6)
            state[t["name"]] = value
    params = rules.convert(state, rules.DETECTRON2, jax.eval_shape(made.init, jax.random.key(0)))
    image = load(f"det_backbone{SETS[which]}.npz")["image"]
    rgb = image if c["input_format"] == "RGB" else image[::-1]
    image = np.ascontiguousarray(rgb.transpose(1, 2, 0))[None]
    return made, settings, detector.make_nets(settings), params, image, np.array([image.shape[1:3]])


@functools.cache
def run(which):
    """All outputs that a set has goldens of, from one compiled program."""
    _, s, nets, params, image, hw = model(which)
    roi = load(f"det_roi{SETS[which]}.npz") if which != "c" or has_roi("c") else None

    @jax.jit
    def forward(params):
        x = detector.pixels(s, image, hw)
        stages = nets.backbone.apply({"params": params["backbone"]}, x)
        maps = detector.features(s, nets, params, image, hw)
        anchors = detector.rpn(s, nets, params, maps)
        proposals = detector.propose(s, anchors, hw, pre_nms=1000, count=1000)
        out = dict(x=x, stages=stages, maps=maps, anchors=anchors, proposals=proposals)
        if roi is not None:
            levels = {l: f[0] for l, f in maps.levels.items() if l < 6}
            out["hand"] = roi_align.multilevel_roi_align(
                levels, roi["hand/boxes"], size=7, sampling=0, canonical=(224.0, 4)
            )
            boxes = jnp.concatenate([roi["hand/boxes"], proposals.boxes[0]])
            out["fc2"] = detector.pool(s, nets, params, maps, boxes[None])
            out["predicted"] = detector.predict(nets, params, out["fc2"], jnp.ones(s.num_classes, bool))
        return out

    return jax.tree.map(np.asarray, forward(params))


def has_roi(which):
    try:
        return find(f"det_roi{SETS[which]}.npz") is not None
    except pytest.skip.Exception:
        return False


CASES = ["c", "a", "b"]


@pytest.mark.parametrize("which", CASES)
def test_parity_backbone_and_fpn(which):
    z = load(f"det_backbone{SETS[which]}.npz")
    out = run(which)
    assert tuple(z["padded_hw"]) == out["x"].shape[1:3]
    corner = np.moveaxis(out["x"][0, :8, :8], -1, 0)
    assert np.abs(corner - z["input_corner_8x8"]).max() <= 1e-4
    names = {f"res{l}": f for l, f in out["stages"].items()}
    names |= {f"p{l}": f for l, f in out["maps"].levels.items()}
    for name, (f,) in names.items():
        got = f[..., z[f"{name}_channels"]].transpose(2, 0, 1)
        within(got, z[name], 1e-5)
        stat = np.stack([f.mean((0, 1)), f.std((0, 1))])
        within(stat, z[f"{name}_stat_per_channel"], 1e-5)


def pair(got, want):
    """For each row of `want` the index of the nearest row of `got`; a one-to-one mapping."""
    distance = np.abs(got[:, None] - want[None]).max(-1)
    index = distance.argmin(0)
    assert sorted(index) == list(range(len(got)))
    return index


@pytest.mark.parametrize("which", CASES)
def test_parity_rpn(which):
    z = load(f"det_rpn{SETS[which]}.npz")
    anchors, proposals = run(which)["anchors"], run(which)["proposals"]
    for l in range(2, 7):
        want = z[f"p{l}/anchors"]
        within(anchors.boxes[l][: len(want)], want, 1e-6)
        within(anchors.logits[l][0], z[f"p{l}/logits"], 2e-5)
        within(anchors.deltas[l][0], z[f"p{l}/deltas"], 2e-5)
    valid = proposals.valid[0]
    box, score = proposals.boxes[0][valid], proposals.scores[0][valid]
    want_box, want_score = z["proposals/boxes"], z["proposals/logits"]
    # two levels may propose the same box, such as the whole image: their logits tell them apart
    index = pair(np.c_[box, score], np.c_[want_box, want_score])
    within(box[index], want_box, 0.01, unit="px")
    within(score[index], want_score, 2e-5)


@pytest.mark.parametrize("which", CASES)
def test_parity_box_head(which):
    z = load(f"det_roi{SETS[which]}.npz")
    out = run(which)
    box = z["hand/boxes"]
    n = len(box)
    level = roi_align.assign_level(box, canonical=(224.0, 4), lowest=2, highest=5)
    np.testing.assert_array_equal(level, z["hand/level"])
    within(np.moveaxis(out["hand"], -1, 1), z["hand/pooled"], 2e-5)
    fc2, (logits, deltas) = out["fc2"][0], [v[0].reshape(len(v[0]), -1) for v in out["predicted"]]
    within(fc2[:n], z["hand/fc2"], 1e-5)
    within(logits[:n], z["hand/scores"], 1e-5)
    within(deltas[:n], z["hand/deltas"], 1e-5)
    proposals, stored = out["proposals"], load(f"det_rpn{SETS[which]}.npz")
    valid = proposals.valid[0]
    got = np.c_[proposals.boxes[0], proposals.scores[0]][valid]
    index = pair(got, np.c_[stored["proposals/boxes"], stored["proposals/logits"]])
    pick = lambda v: v[n:][valid][index]
    within(pick(fc2)[:32], z["proposal_fc2_first32"], 5e-5)
    within(pick(logits), z["proposal_scores"], 5e-5)
    within(pick(deltas), z["proposal_deltas"], 5e-5)


@pytest.mark.parametrize("threshold", ["0.05", "0.6"])
@pytest.mark.parametrize("which", CASES)
def test_parity_detections(which, threshold):
    z = load(f"det_roi{SETS[which]}.npz")
    if f"det_thr{threshold}/boxes" not in z:
        pytest.skip("no such threshold in this set")
    made, s, _, params, image, hw = model(which)
    if threshold == "0.05" and which == "b":  # the compiled whole, once
        out = jax.tree.map(lambda v: v[0], jax.jit(made.detect)(params, image, hw, jnp.ones(80, bool)))
    else:
        n = len(z["hand/boxes"])
        logits, deltas = (v[0, n:] for v in run(which)["predicted"])
        proposals = jax.tree.map(lambda v: v[0], run(which)["proposals"])
        finish = functools.partial(
            select.detections, weights=s.box_weights, min_score=float(threshold), threshold=0.5, count=100
        )
        out = jax.jit(finish)(classifiers.softmax_scores(logits), deltas, proposals, hw[0])
    box, score, klass = (np.asarray(v)[np.asarray(out.classes) >= 0] for v in out)
    want = {k: z[f"det_thr{threshold}/{k}"] for k in ("boxes", "scores", "classes")}
    index = pair(np.c_[box, 1000.0 * klass], np.c_[want["boxes"], 1000.0 * want["classes"]])
    np.testing.assert_array_equal(klass[index], want["classes"])
    within(box[index], want["boxes"], 0.01, unit="px")
    within(score[index], want["scores"], 5e-5, unit="score")


@pytest.mark.slow
def test_padding_does_not_change_a_real_detector():
    """An image padded to a multiple of 32 and far more: the same detections, by the whole ResNet-50.

    The same with a tiny net, which always runs, is in test_detector.py.
    """
    made, _, _, params, image, _ = model("c")
    image, hw = image[:, :120, :150], np.array([[120, 150]])
    active = jnp.ones(80, bool)
    detect = jax.jit(made.detect)
    own = detect(params, image, hw, active)
    padded = np.full((1, 224, 256, 3), 99.0, np.float32)
    padded[:, :120, :150] = image
    wide = detect(params, padded, hw, active)
    (box, score, name), (other_box, other_score, other_name) = ([np.asarray(v[0]) for v in d] for d in (own, wide))
    count = int((name >= 0).sum())
    assert count > 20 and count == int((other_name >= 0).sum())
    index = pair(np.c_[other_box, 1000.0 * other_name][:count], np.c_[box, 1000.0 * name][:count])
    np.testing.assert_array_equal(other_name[:count][index], name[:count])
    iou = np.diagonal(np.asarray(boxes.iou(other_box[:count][index], box[:count])))
    assert iou.min() > 0.99
    assert np.abs(other_score[:count][index] - score[:count]).max() <= 1e-3
