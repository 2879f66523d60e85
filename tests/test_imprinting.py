"""Class vectors from shots: a new class is found, the known ones stay, on features with a large common direction."""

import numpy as np
import pytest

from maskdiff_jax.imprinting import class_vector, unit

F, KNOWN, EACH = 24, 4, 20


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
    vector = class_vector(kernel, new[:5], features, labels)
    assert np.linalg.norm(vector) == pytest.approx(1)
    columns = np.concatenate([unit(kernel[:, :KNOWN], axis=0), vector[:, None]], 1)
    assert ((unit(features) @ columns).argmax(1) == labels).mean() > 0.95
    assert ((unit(new[5:]) @ columns).argmax(1) == KNOWN).mean() > 0.9


def test_plain_imprinting_takes_objects_of_known_classes():
    """What the calibration is for: the mean feature as a class vector."""
    kernel, features, labels, new = world()
    columns = np.concatenate([unit(kernel[:, :KNOWN], axis=0), unit(unit(new[:5]).mean(0))[:, None]], 1)
    assert ((unit(features) @ columns).argmax(1) == labels).mean() < 0.1


@pytest.mark.parametrize("quiet, margin", [(0.5, 0.0), (0.9, 0.1), (1.0, 0.0)])
def test_quiet_is_the_share_of_objects_that_stay_of_their_class(quiet, margin):
    kernel, features, labels, new = world()
    vector = class_vector(kernel, new[:5], features, labels, quiet=quiet, margin=margin)
    own = (unit(features) @ unit(kernel[:, :KNOWN], axis=0))[np.arange(len(labels)), labels]
    share = (unit(features) @ vector <= own - margin).mean()
    assert quiet <= share <= quiet + 2 / len(features)


def test_one_known_class():
    kernel, features, labels, new = world()
    mine = labels == 0
    vector = class_vector(kernel[:, [0, KNOWN]], new[:5], features[mine], labels[mine])
    assert (unit(new[5:]) @ vector).min() > (unit(features[mine]) @ vector).max()
    assert (unit(features[mine]) @ unit(kernel[:, 0]) > unit(features[mine]) @ vector).mean() >= 0.95


def test_zero_features():
    assert np.isfinite(class_vector(np.zeros((F, 3)), np.zeros((1, F)), np.zeros((2, F)), [0, 1])).all()
