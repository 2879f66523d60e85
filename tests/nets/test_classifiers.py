"""The classifiers that are not TFA's: logits, scores, losses. Cosine and linear: test_rcnn.py and tests/parity."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.nets import classifiers, rcnn
from maskdiff_jax.nets.classifiers import CLASSIFIERS, NO_VARIANCE, RHO
from tests.compiling import jit

KEY = jax.random.key(0)
ACTIVE = np.array([True, False, True, False, False])


def predictor(classifier, scale=1.0):
    net = rcnn.BoxPredictor(5, classifier, scale, False, jnp.float32)
    x = jax.random.normal(KEY, (7, 16))
    (logits, _), variables = jit(net.init_with_output)(KEY, x)
    return net, x, variables["params"], logits


def test_probit_logit_against_monte_carlo():
    """The mean sigmoid over normal weights; the approximation is off by up to 0.02 in probability."""
    rng = np.random.default_rng(0)
    x, mean = rng.normal(size=16), rng.normal(size=(16, 3))
    variance = np.array([0.05, 0.5, 2.0]) * rng.uniform(0.5, 1.5, size=(16, 3))
    rho = np.log(np.expm1(variance))
    logit = classifiers.probit_logits(jnp.float32(x), jnp.float32(x @ mean), jnp.float32(rho), 1.0)
    weights = mean + np.sqrt(variance) * rng.normal(size=(50_000, 16, 3))
    want = (1 / (1 + np.exp(-np.einsum("f,nfc->nc", x, weights)))).mean(0)
    np.testing.assert_allclose(jax.nn.sigmoid(logit), want, atol=0.02)
    assert np.abs(1 / (1 + np.exp(-x @ mean)) - want).max() > 0.05  # the means alone say something else


def test_probit_logit_by_hand():
    x, rho = jnp.float32([[1.0, 2.0], [0.0, 0.0]]), jnp.float32([[RHO, NO_VARIANCE], [RHO, NO_VARIANCE]])
    got = classifiers.probit_logits(x, jnp.float32([[3.0, 3.0], [0.0, 0.0]]), rho, 2.5)
    np.testing.assert_allclose(got, [[7.5 / math.sqrt(1 + 5 * math.pi / 8), 3.0], [0, 0]], rtol=1e-5)


def test_probit_without_variances_is_the_sigmoid_classifier():
    _, _, sigmoid_params, sigmoid = predictor("sigmoid")
    net, x, params, probit = predictor("probit", scale=3.0)
    assert params["cls_score"].keys() - sigmoid_params["cls_score"].keys() == {"rho"}
    same = params | {"cls_score": sigmoid_params["cls_score"] | {"rho": params["cls_score"]["rho"]}}
    np.testing.assert_array_equal(net.apply({"params": same}, x)[0], predictor("sigmoid")[3])
    np.testing.assert_allclose(params["cls_score"]["bias"], -math.log(4), rtol=1e-6)  # p = 1 / 5
    assert np.isfinite(probit).all() and sigmoid.shape == probit.shape == (7, 6)


def test_a_class_with_variances_alone_gets_gradients_of_them():
    net, x, params, _ = predictor("probit")
    params["cls_score"]["rho"] = params["cls_score"]["rho"].at[:, 2].set(RHO)
    loss = lambda p: net.apply({"params": p}, x)[0].sum() + classifiers.variance_penalty(p["cls_score"], ACTIVE)
    grad = jit(jax.grad(loss))(params)["cls_score"]["rho"]
    assert np.isfinite(grad).all() and (grad[:, 2] != 0).all()
    assert not np.delete(np.asarray(grad), 2, 1).any()


def test_the_penalty_is_the_mean_variance_of_active_classes():
    rho = np.full((3, 6), NO_VARIANCE, np.float32)
    rho[:, 2], rho[:, 3] = RHO, 50.0  # class 3 is not active
    np.testing.assert_allclose(classifiers.variance_penalty({"rho": rho}, ACTIVE), 1 / 2, rtol=1e-6)
    assert classifiers.variance_penalty({"rho": rho}, np.zeros(5, bool)) == 0


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_scores_and_learns(name):
    """Scores are in 0..1 and rise with their logit; a class that is not active scores 0 and gets no gradient."""
    net, x, params, _ = predictor(name)
    classifier, labels, used = CLASSIFIERS[name], jnp.array([0, 2, 5, 5, 0, 2, -1]), jnp.arange(7) < 6

    def loss(params):
        logits = jnp.where(jnp.append(ACTIVE, True), net.apply({"params": params}, x)[0], -1e9)
        return classifier.loss(logits, labels, used), classifier.scores(logits)

    (value, scores), grads = jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert scores.shape == (7, 5) and (scores >= 0).all() and (scores <= 1).all()
    assert not scores[:, ~ACTIVE].any() and value > 0
    kernel = np.asarray(grads["cls_score"]["kernel"])
    assert np.isfinite(kernel).all() and kernel[:, :5][:, ACTIVE].any() and not kernel[:, :5][:, ~ACTIVE].any()
    shifted = classifier.scores(jnp.zeros(6).at[1].set(2.0))
    assert shifted[1] > shifted[0] > 0


def test_prior_bias():
    assert classifiers.prior_bias(20) == pytest.approx(-math.log(19))
    assert classifiers.prior_bias(1000) == pytest.approx(-math.log(99)) and classifiers.prior_bias(1) == 0
