"""Weights for new classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.nets.classifiers import NO_VARIANCE
from maskdiff_jax.training import novel_classes

C, F = 5, 16
BASE, NEW = np.array([0, 2, 3]), np.array([1, 4])


def predictor(seed, specific=True):
    k = jax.random.split(jax.random.key(seed), 3)
    out = 4 * C if specific else 4
    return {
        "cls_score": {"kernel": jax.random.normal(k[0], (F, C + 1))},
        "bbox_pred": {"kernel": jax.random.normal(k[1], (F, out)), "bias": jax.random.normal(k[2], (out,))},
    }


@pytest.mark.parametrize("specific", [True, False])
def test_copy_classes_copies_the_novel_classes_only(specific):
    old, new = predictor(0, specific), predictor(1, specific)
    out = novel_classes.copy_classes(old, new, NEW, C)
    for c in range(C + 1):
        source = new if c in NEW else old
        np.testing.assert_array_equal(out["cls_score"]["kernel"][:, c], source["cls_score"]["kernel"][:, c])
    if not specific:
        np.testing.assert_array_equal(out["bbox_pred"]["bias"], old["bbox_pred"]["bias"])
        return
    for c in range(C):
        source = new if c in NEW else old
        s = slice(4 * c, 4 * c + 4)  # all four numbers of a class; iMTFA's combine copies one column of the four
        np.testing.assert_array_equal(out["bbox_pred"]["bias"][s], source["bbox_pred"]["bias"][s])
        np.testing.assert_array_equal(out["bbox_pred"]["kernel"][:, s], source["bbox_pred"]["kernel"][:, s])


def mask_predictor(seed, classes=C):
    k = jax.random.split(jax.random.key(seed))
    return {
        "kernel": jax.random.normal(k[0], (1, 1, F, classes)),
        "bias": jax.random.normal(k[1], (classes,)),
    }


def test_masks_of_the_novel_classes():
    """Copied, or the mean of the base classes'; one mask for all classes stays as it is."""
    old, new = mask_predictor(0), mask_predictor(1)
    copied, started = novel_classes.copy_masks(old, new, NEW, C), novel_classes.initialize_masks(old, BASE, NEW, C)
    for leaf in ("kernel", "bias"):
        for c in range(C):
            np.testing.assert_array_equal(copied[leaf][..., c], (new if c in NEW else old)[leaf][..., c])
            mean = old[leaf][..., BASE].mean(-1) if c in NEW else old[leaf][..., c]
            np.testing.assert_allclose(started[leaf][..., c], mean, rtol=1e-5)
    old, new = mask_predictor(0, 1), mask_predictor(1, 1)
    assert novel_classes.copy_masks(old, new, NEW, C) is novel_classes.initialize_masks(old, BASE, NEW, C) is old


def test_a_linear_classifier_loses_its_bias():
    old = predictor(0)
    linear = old | {"cls_score": old["cls_score"] | {"bias": jnp.ones(C + 1)}}
    out = novel_classes.without_bias(linear)
    assert out["cls_score"].keys() == {"kernel"} and out["bbox_pred"] is linear["bbox_pred"]
    np.testing.assert_array_equal(out["cls_score"]["kernel"], old["cls_score"]["kernel"])


def test_initialize():
    old = predictor(0)
    out = novel_classes.initialize(old, jax.random.key(3), BASE, NEW, C)
    kernel = np.asarray(out["cls_score"]["kernel"])
    np.testing.assert_array_equal(kernel[:, BASE], old["cls_score"]["kernel"][:, BASE])
    assert 0.003 < kernel[:, NEW].std() < 0.03
    mean = old["bbox_pred"]["bias"].reshape(C, 4)[BASE].mean(0)
    np.testing.assert_allclose(out["bbox_pred"]["bias"].reshape(C, 4)[NEW], np.stack([mean, mean]), rtol=1e-5)


def bayesian(seed):
    """The predictor of a probit classifier, whose boxes have variances."""
    old = predictor(seed)
    classes = old["cls_score"] | {"bias": jnp.full(C + 1, 0.5), "rho": jnp.full((F, C + 1), NO_VARIANCE)}
    return old | {"cls_score": classes, "bbox_variance": predictor(seed + 1)["bbox_pred"]}


def test_novel_classes_of_a_probit_classifier_have_variances():
    old = bayesian(0)
    out = novel_classes.initialize(old, jax.random.key(3), BASE, NEW, C, bias=-2.0)
    rho, bias = (np.asarray(out["cls_score"][x]) for x in ("rho", "bias"))
    np.testing.assert_allclose(np.log1p(np.exp(rho[:, NEW])), 1.0, rtol=1e-6)
    assert (rho[:, [*BASE, C]] == NO_VARIANCE).all() and (bias[NEW] == -2).all() and (bias[[*BASE, C]] == 0.5).all()
    mean = old["bbox_variance"]["bias"].reshape(C, 4)[BASE].mean(0)
    np.testing.assert_allclose(out["bbox_variance"]["bias"].reshape(C, 4)[NEW], np.stack([mean, mean]), rtol=1e-5)
    copied = novel_classes.copy_classes(old, jax.tree.map(lambda x: x + 1.0, out), NEW, C)
    assert jax.tree.structure(copied) == jax.tree.structure(old)
    for part, leaf, width in (("cls_score", "rho", 1), ("cls_score", "bias", 1), ("bbox_variance", "kernel", 4)):
        for c in range(C):
            columns = slice(width * c, width * (c + 1))
            want = out[part][leaf] + 1.0 if c in NEW else old[part][leaf]
            np.testing.assert_array_equal(copied[part][leaf][..., columns], want[..., columns])


def test_imprint_keeps_base_answers_and_finds_novel_shots():
    """Features with a large common part, as after a ReLU: plain class means would win everywhere."""
    rng = np.random.default_rng(0)
    f, classes, n = 64, 6, 10
    base, new = np.arange(4), np.array([4, 5])
    common = np.abs(rng.normal(size=f)) * 3
    own = rng.normal(size=(classes, f))
    labels = np.repeat(np.arange(classes), n)
    x = np.maximum(common + own[labels] + 0.3 * rng.normal(size=(len(labels), f)), 0)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    centered = unit - unit[labels < 4].mean(0)
    vectors = np.stack([centered[labels == c].mean(0) for c in range(classes)], 1)
    kernel = np.concatenate([vectors, -unit.mean(0)[:, None]], 1)
    kernel[:, new] = 0.0
    out = novel_classes.imprint({"cls_score": {"kernel": jnp.asarray(kernel)}}, x, labels, base, new, scale=20.0)[
        "cls_score"
    ]["kernel"]
    out = np.asarray(out)
    np.testing.assert_allclose(out[:, base], kernel[:, base], rtol=1e-5)

    def answer(k):
        return np.argmax((unit @ (k / np.linalg.norm(k, axis=0)))[:, :classes], 1)

    plain = kernel.copy()
    plain[:, new] = np.stack([unit[labels == c].mean(0) for c in new], 1)
    of_base = labels < 4
    assert (answer(out)[of_base] == labels[of_base]).mean() > 0.9
    assert (answer(out)[~of_base] == labels[~of_base]).mean() > 0.9
    assert (answer(plain)[of_base] == labels[of_base]).mean() < 0.5  # what the calibration is for


def test_mean_embeddings_by_hand():
    """Two shots of class 1, (3, 4) and (0, 5), and one of class 2: their normalized features and their mean."""
    old = {"cls_score": {"kernel": jnp.arange(8.0).reshape(2, 4)}, "bbox_pred": {"kernel": jnp.ones((2, 4))}}
    features, labels = np.array([[3.0, 4.0], [7.0, 0.0], [0.0, 5.0]]), np.array([1, 2, 1])
    out = novel_classes.set_to_mean_embeddings(old, features, labels, np.array([1, 2]))
    want = [[0.0, 0.3, 1.0, 3.0], [4.0, 0.9, 0.0, 7.0]]  # the base class 0 and the background 3 stay
    np.testing.assert_allclose(out["cls_score"]["kernel"], want, rtol=1e-6)
    assert out["bbox_pred"] is old["bbox_pred"]
    with pytest.raises(ValueError, match=r"without one: class ids \[0\]"):
        novel_classes.set_to_mean_embeddings(old, features, labels, np.array([0, 1]))
    with pytest.raises(ValueError, match="mean_embedding' needs model.detector.classifier='cosine'"):
        biased = {"cls_score": old["cls_score"] | {"bias": jnp.zeros(4)}}
        novel_classes.set_to_mean_embeddings(biased, features, labels, np.array([1]))


def test_imprint_needs_a_shot_of_every_class():
    with pytest.raises(ValueError, match=r"class ids \[2, 4\]"):
        novel_classes.imprint(predictor(0), np.ones((3, F)), np.array([0, 1, 3]), BASE, NEW, scale=20.0)


def test_imprint_needs_a_cosine_classifier():
    with pytest.raises(ValueError, match="cosine"):
        novel_classes.imprint(
            {"cls_score": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}}, None, None, BASE, NEW, scale=20.0
        )
