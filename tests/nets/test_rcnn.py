"""The heads of Faster R-CNN: order, dtypes, the cosine classifier. Numbers: tests/parity/test_parity_detector.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.nets import classifiers, rcnn
from maskdiff_jax.training import optim

KEY = jax.random.key(0)


def test_rpn_joins_levels_in_order():
    levels = {l: jax.random.normal(KEY, (1, 64 >> l, 64 >> l, 8)) for l in (3, 4, 5)}
    head = rcnn.RPNHead(3, jnp.float32)
    (logits, deltas), params = jax.jit(head.init_with_output)(KEY, levels)
    assert logits[3].shape == (1, 8 * 8 * 3) and deltas[3].shape == (1, 8 * 8 * 3, 4)
    # one level alone gives the same numbers: levels are joined in between and split again
    alone = head.apply(params, {4: levels[4]})
    np.testing.assert_allclose(alone[0][4], logits[4], atol=1e-6)
    np.testing.assert_allclose(alone[1][4], deltas[4], atol=1e-6)


def test_rpn_in_bfloat16_returns_float32():
    levels = {l: jax.random.normal(KEY, (1, 64 >> l, 64 >> l, 32), jnp.bfloat16) for l in (3, 4)}
    head = rcnn.RPNHead(3, jnp.bfloat16)
    params = jax.jit(head.init)(KEY, levels)["params"]
    params["conv"]["kernel"] *= 10.0
    run = jax.jit(lambda p: head.apply({"params": p}, levels, capture_intermediates=True))
    (logits, deltas), state = run(params)
    hidden = [np.maximum(np.asarray(x, np.float64), 0) for x in state["intermediates"]["conv"]["__call__"]]
    exact = lambda v: np.asarray(v.astype(jnp.bfloat16).astype(jnp.float32), np.float64)
    for x, got, box in zip(hidden, logits.values(), deltas.values(), strict=True):
        want = (x @ exact(params["objectness"]["kernel"][0, 0])).reshape(1, -1)
        np.testing.assert_allclose(got, want, atol=1e-6 * np.abs(want).max())
        want = (x @ exact(params["deltas"]["kernel"][0, 0])).reshape(1, -1, 4)
        np.testing.assert_allclose(box, want, atol=1e-6 * np.abs(want).max())


@pytest.mark.parametrize("agnostic", [True, False])
@pytest.mark.parametrize("classifier", ["cosine", "linear"])
def test_predictor(classifier, agnostic):
    net = rcnn.BoxPredictor(5, classifier, 20.0, agnostic, jnp.float32)
    x = jax.random.normal(KEY, (2, 7, 16))
    (logits, deltas), variables = jax.jit(net.init_with_output)(KEY, x)
    params = variables["params"]
    assert logits.shape == (2, 7, 6) and deltas.shape == (2, 7, 1 if agnostic else 5, 4)
    assert params["cls_score"]["kernel"].shape == (16, 6)
    assert params["bbox_pred"]["kernel"].shape == (16, 4 if agnostic else 20)
    assert ("bias" in params["cls_score"]) == (classifier == "linear")
    if classifier == "cosine":
        assert np.abs(logits).max() <= 20


@pytest.mark.parametrize("classifier", ["cosine", "linear"])
def test_predictor_in_bfloat16_returns_float32(classifier):
    """Against float64 from the same bfloat16 factors: nothing is rounded after the sums."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(np.maximum(rng.normal(size=(40, 1024)), 0), jnp.bfloat16)
    net = rcnn.BoxPredictor(80, classifier, 20.0, False, jnp.bfloat16)
    params = jax.jit(net.init)(KEY, x)["params"]
    params["bbox_pred"]["kernel"] *= 100.0
    logits, deltas = jax.jit(net.apply)({"params": params}, x)
    assert logits.dtype == deltas.dtype == jnp.float32
    exact = lambda v: np.asarray(v.astype(jnp.bfloat16).astype(jnp.float32), np.float64)
    want = exact(x) @ exact(params["bbox_pred"]["kernel"])
    np.testing.assert_allclose(deltas.reshape(40, -1), want, atol=1e-4)
    kernel = params["cls_score"]["kernel"]
    if classifier == "linear":
        np.testing.assert_allclose(logits, exact(x) @ exact(kernel), atol=1e-4)
        return
    wide = np.asarray(x, np.float64)
    factors = wide / (np.linalg.norm(wide, axis=1, keepdims=True) + 1e-5), np.asarray(kernel, np.float64)
    want = 20 * exact(jnp.asarray(factors[0], jnp.float32)) @ exact(kernel / (jnp.linalg.norm(kernel, axis=0) + 1e-5))
    # a factor at the middle between two bfloat16 numbers may be rounded to either
    np.testing.assert_allclose(logits, want, atol=1e-3)
    # without the factors' rounding, which averages out over 1024 of them
    want = 20 * factors[0] @ (factors[1] / np.linalg.norm(factors[1], axis=0))
    assert np.sqrt(np.mean((logits - want) ** 2)) < 2e-3


def test_unknown_classifier_is_refused():
    with pytest.raises(ValueError, match="choose cosine, linear, sigmoid, probit"):
        rcnn.BoxPredictor(3, "dot", 20.0, True, jnp.float32).init(KEY, jnp.zeros((1, 4)))


def cosine_problem(classes=4):
    """Features and labels that 6 x `classes` columns cannot separate, so that the gradient never vanishes."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(64, 6)).astype("f4"), rng.normal(size=(6, classes)).astype("f4")
    return x, rng.integers(0, classes, 64), w


def trained_columns(w, steps, loss, **changes):
    """The phase's own optimizer and projection: the column lengths [steps, C] and the last weight."""
    fields = dict(optimizer="sgd", lr=0.02, schedule="constant", decay_at=(), warmup=0, weight_decay=1e-4)
    fields |= dict(betas=(0.9, 0.999), clip_norm=0.0) | changes
    rule = optim.make_optimizer(steps=steps, **fields)
    names = frozenset({"cls"})

    def step(carry, _):
        flat, state = carry
        updates, state = rule.update(jax.grad(lambda f: loss(f["cls"]))(flat), state, flat)
        flat = optim.unit_columns(jax.tree.map(jnp.add, flat, updates), names)
        return (flat, state), jnp.linalg.norm(flat["cls"], axis=0)

    flat = optim.unit_columns({"cls": jnp.asarray(w)}, names)
    (flat, _), lengths = jax.jit(lambda c: jax.lax.scan(step, c, None, steps))((flat, rule.init(flat)))
    return np.asarray(lengths), np.asarray(flat["cls"])


def test_cosine_classifier_trains_as_in_tfa():
    """TFA overwrites w by its unit vector in each forward pass, here for 300 steps of SGD with momentum and decay."""
    x, labels, w = cosine_problem()
    loss = lambda w: -jax.nn.log_softmax(classifiers.cosine_logits(x, w, 20.0))[np.arange(64), labels].mean()
    unit_x = x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-5)
    plain = jax.jit(jax.grad(lambda u: -jax.nn.log_softmax(20.0 * unit_x @ u)[np.arange(64), labels].mean()))
    theirs, velocity = w, 0.0
    for _ in range(300):
        theirs = theirs / (np.linalg.norm(theirs, axis=0) + 1e-5)
        velocity = 0.9 * velocity + np.asarray(plain(theirs)) + 1e-4 * theirs
        theirs = theirs - 0.02 * velocity
    _, ours = trained_columns(3.0 * w, 300, loss)
    np.testing.assert_allclose(ours, theirs / np.linalg.norm(theirs, axis=0), atol=1e-4)
    start = w / np.linalg.norm(w, axis=0)
    assert (start * ours).sum(0).min() < 0.9  # it did move


@pytest.mark.parametrize("rule", [{}, {"optimizer": "adamw", "lr": 1e-2, "weight_decay": 0.1}])
def test_columns_of_the_cosine_classifier_keep_their_length(rule):
    x, labels, w = cosine_problem()
    loss = lambda w: -jax.nn.log_softmax(classifiers.cosine_logits(x, w, 20.0))[np.arange(64), labels].mean()
    lengths, _ = trained_columns(w * np.float32([1e-3, 1, 50, 1e4]), 5000, loss, **rule)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-5)
    zero = optim.unit_columns({"cls": jnp.zeros((6, 2)), "other": 2 * jnp.ones(3)}, {"cls"})
    assert not zero["cls"].any() and (zero["other"] == 2).all()


def test_cosine_of_a_zero_row_is_finite():
    x = jnp.zeros((2, 6)).at[1].set(1.0)
    grad = jax.grad(lambda x: classifiers.cosine_logits(x, jnp.ones((6, 3)), 20.0).sum())(x)
    assert np.isfinite(grad).all()
    after_relu = jax.grad(lambda x: classifiers.cosine_logits(jax.nn.relu(x), jnp.ones((6, 3)), 20.0).sum())(x)
    np.testing.assert_array_equal(after_relu[0], 0)
