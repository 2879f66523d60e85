"""Checkpoints: what is saved comes back, what is broken says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax import checkpoint
from maskdiff_jax.types import TrainState


def state(step):
    params = {"a": {"w": jnp.arange(3.0) * step}}
    return TrainState(jnp.int32(step), params, {"m": jnp.ones(3)}, {"a/w": jnp.zeros(3)})


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_phase_round_trip_keeps_the_newest(tmp_path):
    with checkpoint.PhaseCheckpoints(tmp_path / "phase", keep=2) as saved:
        assert saved.restore(state(0)) is None
        for step in (1, 2, 3):
            saved.save(state(step), {"next": step, "nested": [1, {"x": None}]})
    assert sorted(p.name for p in (tmp_path / "phase").iterdir()) == ["2", "3"]
    with checkpoint.PhaseCheckpoints(tmp_path / "phase", keep=2) as again:
        back, data = again.restore(state(0))
    equal(back, state(3))
    assert data == {"next": 3, "nested": [1, {"x": None}]}


def test_truncated_checkpoint_names_itself(tmp_path):
    with checkpoint.PhaseCheckpoints(tmp_path / "phase", keep=1) as saved:
        saved.save(state(1), {})
    for file in (tmp_path / "phase" / "1").rglob("*"):
        if file.is_file() and file.stat().st_size > 100 and "METADATA" not in file.name.upper():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with checkpoint.PhaseCheckpoints(tmp_path / "phase", keep=1) as again:
        with pytest.raises(ValueError, match="phase/1 is damaged"):
            again.restore(state(0))


def test_params_of_another_model_are_refused(tmp_path):
    params = {"a": {"w": jnp.arange(3.0)}}
    checkpoint.save_params(tmp_path / "p", params)
    equal(checkpoint.load_params(tmp_path / "p", params), params)
    more = {"a": {"w": jnp.zeros(3), "b": jnp.zeros(1)}}
    for other in ({"a": {"w": jnp.zeros(4)}}, {"b": {"w": jnp.zeros(3)}}, more):
        with pytest.raises(ValueError, match="of another model"):
            checkpoint.load_params(tmp_path / "p", other)
    with pytest.raises(FileNotFoundError, match="train first"):
        checkpoint.load_params(tmp_path / "none", params)
