"""Class vectors from shots: a new class is found, the known ones stay, on features with a large common direction."""

import numpy as np
import pytest

from maskdiff_jax.imprinting import class_vector, unit

F, KNOWN, EACH, SCALE = 24, 4, 20, 20.0


def world(seed: int = 0):
    """Classifier columns, features of the known classes with their labels, features of one more class."""
    rng = np.random.default_rng(seed)
    directions = np.abs(rng.standard_normal((KNOWN + 1, F)))  # after a ReLU
    samples = np.abs(directions[:, None] + 2.0 + 0.3 * rng.standard_normal((KNOWN + 1, EACH, F)))
    features, new = samples[:KNOWN].reshape(-1, F), samples[KNOWN]
    mean = unit(features.mean(0))
    own = unit(samples[:KNOWN].mean(1))
    trained = own - 0.9 * (own @ mean)[:, None] * mean  # as training separates them
    background = rng.standard_normal(F) * 0.01
    return np.concatenate([trained.T, background[:, None]], 1), features, np.repeat(np.arange(KNOWN), EACH), new


def test_a_new_class_is_found_and_known_ones_stay():
    kernel, features, labels, new = world()
    vector = class_vector(kernel, new[:5], features, scale=SCALE)
    assert np.linalg.norm(vector) == pytest.approx(1)
    columns = np.concatenate([unit(kernel[:, :KNOWN], axis=0), vector[:, None]], 1)
    assert ((unit(features) @ columns).argmax(1) == labels).mean() > 0.95
    assert ((unit(new[5:]) @ columns).argmax(1) == KNOWN).mean() > 0.9


def test_plain_imprinting_takes_objects_of_known_classes():
    """What the fit is for: the mean feature as a class vector."""
    kernel, features, labels, new = world()
    columns = np.concatenate([unit(kernel[:, :KNOWN], axis=0), unit(unit(new[:5]).mean(0))[:, None]], 1)
    assert ((unit(features) @ columns).argmax(1) == labels).mean() < 0.1


def loss(vector, kernel, shots, objects, keep, pull):
    """Written out: the softmax over the known classes, the background and the new class, which is the last."""
    columns = np.concatenate([unit(kernel, axis=0), unit(vector)[:, None]], 1)
    of_shots, of_objects = (np.exp(SCALE * unit(x) @ columns) for x in (shots, objects))
    p_shots, p_objects = (p[:, -1] / p.sum(1) for p in (of_shots, of_objects))
    apart = 1 - unit(vector) @ unit(unit(shots).mean(0))
    return -np.log(p_shots).mean() - keep * len(shots) ** 0.5 * np.log(1 - p_objects).mean() + pull * apart


@pytest.mark.parametrize("count", [1, 5])
def test_no_vector_nearby_has_a_lower_loss(count):
    kernel, features, _, new = world()
    vector = class_vector(kernel, new[:count], features, scale=SCALE, keep=2.0, pull=0.7)

    def of(v):
        return loss(v, kernel, new[:count], features, 2.0, 0.7)

    assert of(vector) < of(unit(new[:count]).mean(0)) - 0.1
    steps = unit(np.random.default_rng(1).standard_normal((50, F)))
    for length in (0.01, 0.1, 0.5):
        assert min(of(vector + length * step) for step in steps) > of(vector) - 1e-4


def test_keep_lowers_the_new_class_on_known_objects_and_pull_moves_it_to_the_mean_feature():
    kernel, features, labels, new = world()
    own = unit(kernel, axis=0)[:, labels].T

    def vector(keep, pull):
        return class_vector(kernel, new[:5], features, scale=SCALE, keep=keep, pull=pull)

    lead = [(unit(features) * (own - vector(keep, 1.0))).sum(1).mean() for keep in (0.1, 1.0, 10.0)]
    assert lead[0] < lead[1] < lead[2]
    near = [vector(4.0, pull) @ unit(unit(new[:5]).mean(0)) for pull in (0.0, 1.0, 1e4)]
    assert near[0] < near[1] < near[2] and near[2] > 0.99


def test_one_known_class():
    kernel, features, labels, new = world()
    mine = labels == 0
    vector = class_vector(kernel[:, [0, KNOWN]], new[:5], features[mine], scale=SCALE)
    assert (unit(new[5:]) @ vector).min() > (unit(features[mine]) @ vector).max()
    assert (unit(features[mine]) @ unit(kernel[:, 0]) > unit(features[mine]) @ vector).mean() >= 0.95


def test_zero_features():
    vector = class_vector(np.zeros((F, 3)), np.zeros((1, F)), np.zeros((2, F)), scale=SCALE)
    assert np.isfinite(vector).all()
