"""The loop on a line through two points: resume, freezing, EMA, broken losses."""

import contextlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from maskdiff_jax import checkpoint, sharding, workdir
from maskdiff_jax.training import loop
from maskdiff_jax.types import TrainState
from tests.training.lines import Counter, params, phase, squares


def config(save_every=0):
    return ConfigDict({"seed": 0, "train": {"log_every": 5, "save_every": save_every, "keep": 2}})


def train(tmp_path, phase, save_every=0):
    mesh = sharding.make_mesh(1)
    return loop.run_phase(phase, params(), config=config(save_every), workdir=tmp_path, mesh=mesh)


def test_trains_what_it_should(tmp_path):
    out = train(tmp_path, phase(steps=200, ema=0.0))
    np.testing.assert_allclose(out["a"]["w"], [2.0, -1.0], atol=0.1)
    assert float(out["b"]["w"][0]) == 0.5
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines][:3] == [1, 5, 10] and lines[-1]["step"] == 200
    assert lines[-1]["loss"] < lines[0]["loss"] and lines[0]["phase"] == "line"
    assert workdir.read_seconds(tmp_path)["line"] > 0


def test_the_first_steps_give_an_estimate(tmp_path, capsys):
    """Once, after two reads of the numbers that take place anyway; not for a phase that ends with them."""
    train(tmp_path, phase(steps=200))
    told = [x for x in capsys.readouterr().out.splitlines() if " steps at " in x]
    assert len(told) == 1 and told[0].startswith("line: 200 steps at ")
    assert told[0].endswith(" s, less than a minute")
    train(tmp_path / "short", phase(steps=5))
    assert " steps at " not in capsys.readouterr().out
    one = phase(steps=11)
    mesh, fields = sharding.make_mesh(1), config()
    loop.run_phase(
        one, params(), config=fields, workdir=tmp_path / "x", mesh=mesh, following=lambda name: f"not {name}"
    )
    assert "; then not line\n" in capsys.readouterr().out


def test_unit_columns_hold_from_before_the_first_step(tmp_path):
    """The weight that the loss sees is unit at every step, and so is the state; other leaves are free."""
    lengths = []

    def seen(params, key, batch):
        jax.debug.callback(lambda n: lengths.append(float(n)), jnp.linalg.norm(params["a"]["w"]))
        return squares(params, key, batch)

    start = {"a": {"w": jnp.full((2, 1), 30.0)}, "b": {"w": jnp.full((1,), 0.5)}}
    one = phase(steps=6, loss=lambda p, k, b: seen(p, k, b | {"y": b["y"][:, None]}), ema=0.0)
    one = one._replace(unit_columns=frozenset({"a/w"}))
    out = loop.run_phase(one, start, config=config(), workdir=tmp_path, mesh=sharding.make_mesh(1))
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(out["a"]["w"]), 1.0, rtol=1e-6)
    assert float(out["b"]["w"][0]) == 0.5


def test_learning_rate_scales_with_the_batch(tmp_path, capsys):
    def moved(batch):
        p = phase(steps=1, ema=0.0)
        p.configs["line"].update(optimizer="sgd", lr=0.1, batch=batch)
        return np.asarray(train(tmp_path / str(batch), p)["a"]["w"])

    np.testing.assert_allclose(moved(16), 2 * moved(8), rtol=1e-6)
    out = capsys.readouterr().out
    assert "line: sgd, learning rate 0.2 for a batch of 16 (0.1 is for a batch of 8)" in out
    assert "line: sgd, learning rate 0.1 for a batch of 8\n" in out


def test_only_saving_may_transfer_unasked(tmp_path, monkeypatch):
    """On a GPU an implicit transfer inside the loop is an error; on a CPU arrays are shared and nothing is noticed."""
    seen = {}

    def save(self, state, data):
        seen["save"] = jax.config.jax_transfer_guard_device_to_host

    class Guarded(Counter):
        def __next__(self):
            seen["next"] = jax.config.jax_transfer_guard_device_to_host
            return super().__next__()

    monkeypatch.setattr(checkpoint.PhaseCheckpoints, "save", save)
    train(tmp_path, phase(steps=2, loader=Guarded()))
    assert seen == {"save": "allow", "next": "disallow"}


class Stop(Exception):
    pass


class Failing(Counter):
    def __next__(self):
        if self.n == 9:
            raise Stop
        return super().__next__()


def test_resume_equals_uninterrupted(tmp_path):
    whole = train(tmp_path / "whole", phase())
    with pytest.raises(Stop):
        train(tmp_path / "cut", phase(loader=Failing()), save_every=4)
    resumed = train(tmp_path / "cut", phase(), save_every=4)
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    steps = [json.loads(x)["step"] for x in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))  # what was done twice stands there once


def test_loaders_are_closed_when_a_phase_ends_or_fails(tmp_path):
    """Worker processes of a finished phase would keep their memory for days."""
    for loader, error in ((loop.PairLoader(Counter(), Counter()), None), (Failing(), Stop)):
        one = phase(loss=lambda p, k, b: squares(p, k, b[0] if isinstance(b, tuple) else b), loader=loader)
        with pytest.raises(error) if error else contextlib.nullcontext():
            train(tmp_path / type(loader).__name__, one)
        assert all(x.closed for x in getattr(loader, "_both", (loader,)))


def test_the_ema_is_what_comes_out(tmp_path):
    raw, mean = train(tmp_path / "raw", phase(ema=0.0)), train(tmp_path / "mean", phase(ema=0.9))
    assert np.abs(np.asarray(raw["a"]["w"])).sum() > np.abs(np.asarray(mean["a"]["w"])).sum() > 0


def test_loss_that_is_not_finite_stops_with_the_step(tmp_path):
    def broken(params, key, batch):
        loss, metrics = squares(params, key, batch)
        return loss / 0.0, metrics

    with pytest.raises(FloatingPointError, match="'line'.* at step 1"):
        train(tmp_path, phase(loss=broken))


def test_finished_phase_is_not_repeated(tmp_path):
    first = train(tmp_path, phase())

    class Never(Counter):
        def __next__(self):
            raise AssertionError("asked for data of a finished phase")

    jax.tree.map(np.testing.assert_array_equal, first, train(tmp_path, phase(loader=Never())))


def test_pair_loader_keeps_both_positions():
    pair = loop.PairLoader(Counter(), Counter())
    next(pair)
    kept = pair.get_state()
    want = next(pair)
    pair.set_state(kept)
    jax.tree.map(np.testing.assert_array_equal, want, next(pair))


def test_checkpoint_of_another_model_is_refused(tmp_path):
    with checkpoint.PhaseCheckpoints(tmp_path / "checkpoints" / "line", 1) as saved:
        saved.save(TrainState(jnp.int32(3), {"z": jnp.zeros(1)}, {}, {"z": jnp.zeros(1)}), {"n": 3})
    with pytest.raises(ValueError, match="line/3 is of another model"):
        train(tmp_path, phase())
