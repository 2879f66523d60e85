"""Optimizers on trees of a few numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.training import optim

PARAMS = {"a": {"w": jnp.ones(2)}, "b": {"w": jnp.full(3, 2.0)}}


def fields(**changes):
    return {
        "steps": 100, "optimizer": "sgd", "lr": 0.1, "schedule": "constant", "decay_at": (1.0,), "warmup": 0,
        "weight_decay": 0.0, "betas": (0.9, 0.999), "clip_norm": 0.0,
    } | changes  # fmt: skip


def test_first_pattern_wins_and_full_coverage_is_required():
    labels = optim.label_parameters(PARAMS, [("a/.*", optim.FROZEN), (".*", "sgd")])
    assert labels == {"a/w": optim.FROZEN, "b/w": "sgd"}
    with pytest.raises(ValueError, match="b/w"):
        optim.label_parameters(PARAMS, [("a/.*", "sgd")])
    with pytest.raises(ValueError, match="a/w, b/w"):  # a pattern must cover the whole name
        optim.label_parameters(PARAMS, [("a", "sgd"), ("b/", "sgd")])


def test_split_merge_round_trip():
    labels = {"a/w": optim.FROZEN, "b/w": "x"}
    trainable, frozen = optim.split(PARAMS, labels)
    assert list(trainable) == ["b/w"] and list(frozen) == ["a/w"]
    jax.tree.map(np.testing.assert_array_equal, optim.merge(trainable, frozen), PARAMS)
    assert float(optim.overlay(PARAMS, {"a/w": jnp.zeros(2)})["a"]["w"].sum()) == 0.0


def test_warmup_and_decay_are_detectron2s():
    at = optim.make_schedule(steps=1000, lr=0.02, schedule="step", decay_at=(0.5, 0.9), warmup=100)
    table = [(0, 0.02 * 0.001), (50, 0.02 * (0.0005 + 0.5)), (100, 0.02), (499, 0.02), (501, 0.002), (950, 2e-4)]
    for step, want in table:
        np.testing.assert_allclose(at(step), want, rtol=1e-5)
    at = optim.make_schedule(steps=100, lr=1.0, schedule="cosine", decay_at=(), warmup=0)
    np.testing.assert_allclose([at(0), at(50), at(100)], [1.0, 0.5, 0.0], atol=1e-6)
    with pytest.raises(ValueError, match="cosine"):
        optim.make_schedule(steps=1, lr=1.0, schedule="poly", decay_at=(), warmup=0)


def test_sgd_is_torchs():
    """v <- 0.9 v + g + wd p; p <- p - lr v, by hand over two steps."""
    tx = optim.make_optimizer(**fields(weight_decay=0.01))
    p = {"w": jnp.array([1.0])}
    state = tx.init(p)
    want, v = 1.0, 0.0
    for g in (0.5, -0.2):
        updates, state = tx.update({"w": jnp.array([g])}, state, p)
        p = jax.tree.map(jnp.add, p, updates)
        v = 0.9 * v + g + 0.01 * want
        want -= 0.1 * v
    np.testing.assert_allclose(p["w"], [want], rtol=1e-6)


def test_adamw_decays_apart_from_the_gradient():
    tx = optim.make_optimizer(**fields(optimizer="adamw", weight_decay=0.1))
    p = {"w": jnp.array([2.0])}
    updates, _ = tx.update({"w": jnp.array([0.0])}, tx.init(p), p)
    np.testing.assert_allclose(updates["w"], [-0.1 * 0.1 * 2.0], rtol=1e-6)


def test_combine_gives_each_label_its_own_rule():
    labels = {"a/w": "slow", "b/w": "fast"}
    rules = {name: optim.make_optimizer(**fields(lr=lr)) for name, lr in (("slow", 0.1), ("fast", 1.0))}
    tx = optim.combine(rules, labels)
    flat, _ = optim.split(PARAMS, labels)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, flat), tx.init(flat), flat)
    np.testing.assert_allclose(updates["a/w"], -0.1)
    np.testing.assert_allclose(updates["b/w"], -1.0)


def test_clipping():
    tx = optim.make_optimizer(**fields(clip_norm=1.0, lr=1.0))
    p = {"w": jnp.zeros(2)}
    updates, _ = tx.update({"w": jnp.array([3.0, 4.0])}, tx.init(p), p)
    np.testing.assert_allclose(updates["w"], [-0.6, -0.8], rtol=1e-6)


def test_ema_warms_up():
    e = optim.ema_update({"w": 0.0}, {"w": 1.0}, 0.9999, jnp.int32(0))
    np.testing.assert_allclose(e["w"], 0.9, rtol=1e-6)
    e = optim.ema_update({"w": 0.0}, {"w": 1.0}, 0.99, jnp.int32(10**6))
    np.testing.assert_allclose(e["w"], 0.01, rtol=1e-4)
