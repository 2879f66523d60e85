"""Two parts trained at the same time: results, log and checkpoints are those of one after the other."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from ml_collections import ConfigDict

from configs import base
from maskdiff_jax import sharding, workdir
from maskdiff_jax.training import loop, optim, side_by_side

ROOT = Path(__file__).resolve().parents[2]
STEPS = 40


class Stream:
    """A loader whose batches depend on its seed and position alone; `before` is called with the position and `stop`."""

    def __init__(self, seed, before, stop):
        self.seed, self.n, self.before, self.stop = seed, 0, before, stop

    def __next__(self):
        self.before(self.n, self.stop)
        self.n += 1
        x = np.random.default_rng((self.seed, self.n)).normal(size=(8, 2)).astype(np.float32)
        return {"x": x, "y": x @ np.array([2.0, -1.0], np.float32)}

    def get_state(self):
        return {"n": self.n}

    def set_state(self, state):
        self.n = state["n"]

    def close(self):
        pass


def phase(part, loader):
    def squares(params, key, batch):
        noise = 0.01 * jax.random.normal(key, batch["y"].shape)
        return jnp.mean((batch["x"] @ params[part]["w"] + noise - batch["y"]) ** 2), {}

    fields = base._phase(STEPS, batch=8, optimizer="adamw", lr=0.1, weight_decay=0.0, warmup=0)
    patterns = [(f"{part}/.*", "line"), (".*", optim.FROZEN)]
    return loop.Phase(part, STEPS, squares, loader, patterns, {"line": fields})


def train_both(folder, *, meshes, detector=None, mask_head=None):
    """Trains a line for each part; the keyword arguments are called before each batch of that part."""
    config = ConfigDict({"seed": 0, "train": {"log_every": 1, "save_every": 0, "keep": 1}})
    params = {"detector": {"w": jnp.zeros(2)}, "mask_head": {"w": jnp.ones(2)}}
    stop = threading.Event()

    def part(name, seed, before):
        mine = phase(name, Stream(seed, before or (lambda n, stop: None), stop))
        return lambda train: train(mine, params)

    def train_on(mesh):
        return lambda p, params: loop.run_phase(p, params, config=config, workdir=folder, mesh=mesh, stop=stop)

    parts = {"detector": part("detector", 1, detector), "mask_head": part("mask_head", 2, mask_head)}
    return side_by_side.train_parts(parts, [train_on(mesh) for mesh in meshes], stop)


def one_after_the_other(folder):
    return train_both(folder, meshes=[sharding.make_mesh(1)])


def at_once(folder, **before):
    # both on one device: what is tested are the threads
    return train_both(folder, meshes=[sharding.make_mesh(1)] * 2, **before)


def log(folder):
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    return sorted((x["phase"], x["step"], x["loss"]) for x in lines)


def test_the_same_weights_and_log(tmp_path):
    reached = {"detector": threading.Event(), "mask_head": threading.Event()}

    def meet(mine, other):
        def before(n, stop):  # each waits here for the other
            if n == STEPS // 2:
                reached[mine].set()
                assert reached[other].wait(60), "the parts are not trained at the same time"

        return before

    first = one_after_the_other(tmp_path / "first")
    second = at_once(
        tmp_path / "second", detector=meet("detector", "mask_head"), mask_head=meet("mask_head", "detector")
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert log(tmp_path / "first") == log(tmp_path / "second") and len(log(tmp_path / "first")) == 2 * STEPS
    assert workdir.read_seconds(tmp_path / "second").keys() == {"detector", "mask_head"}
    events = [len(list((tmp_path / k / "tensorboard").iterdir())) for k in ("first", "second")]
    assert events == [2, 2]


class Broken(Exception):
    pass


def wait(n, stop):
    """Before the seventh step, until the part is told to stop."""
    if n == 6:
        assert stop.wait(60), "nobody tells the part to stop"


def last_steps(folder):
    return {name: max(step for part, step, _ in log(folder) if part == name) for name in ("detector", "mask_head")}


def test_a_failing_part_stops_the_other_which_resumes(tmp_path):
    def fail(n, stop):
        if n == 5:
            raise Broken

    with pytest.raises(Broken):
        at_once(tmp_path / "cut", detector=fail, mask_head=wait)
    done = last_steps(tmp_path / "cut")["mask_head"]
    assert done < STEPS

    def resumed(n, stop):
        assert n >= done, "saved steps are done again"

    second = at_once(tmp_path / "cut", mask_head=resumed)
    jax.tree.map(np.testing.assert_array_equal, one_after_the_other(tmp_path / "whole"), second)
    assert log(tmp_path / "cut") == log(tmp_path / "whole")


def test_an_interrupt_stops_both_after_a_saved_step(tmp_path):
    def interrupt(n, stop):
        if n == 5:
            os.kill(os.getpid(), signal.SIGINT)
        wait(n, stop)

    with pytest.raises(KeyboardInterrupt):
        at_once(tmp_path, detector=interrupt, mask_head=wait)
    for part, step in last_steps(tmp_path).items():
        assert step < STEPS and (tmp_path / "checkpoints" / part / str(step)).is_dir()


def test_a_signal_that_another_thread_receives(tmp_path):
    """The kernel may give Ctrl-C to any thread, which does not wake the main thread."""

    def interrupt(n, stop):
        if n == 5:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the loop blocks it while it waits for data
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        wait(n, stop)

    with pytest.raises(KeyboardInterrupt):
        at_once(tmp_path, detector=interrupt, mask_head=wait)
    for part, step in last_steps(tmp_path).items():
        assert step < STEPS and (tmp_path / "checkpoints" / part / str(step)).is_dir()


def test_one_train_for_each_part(tmp_path):
    with pytest.raises(ValueError):
        train_both(tmp_path, meshes=[sharding.make_mesh(1)] * 3)


def test_devices_are_divided():
    mesh = Mesh(np.array(jax.devices()[:1] * 4), ("data",))
    assert [m.size for m in sharding.divide(mesh, 2)] == [2, 2]
    with pytest.raises(ValueError, match="train.side_by_side needs a multiple of 3 devices, but 4 are used"):
        sharding.divide(mesh, 3)


def test_who_gets_which_devices():
    config = base.get_config("shapes").unlock()
    assert [m.size for m in side_by_side.make_meshes(config)] == [jax.device_count()]
    config.train.update(side_by_side=True, devices=1)
    with pytest.raises(ValueError, match="train.side_by_side needs a multiple of 2 devices, but 1 are used"):
        side_by_side.make_meshes(config)
    config.stage = "distill"
    assert [m.size for m in side_by_side.make_meshes(config)] == [1]


def test_parts_that_are_trained_together():
    """One function for both is called once; and there are no separate devices."""
    calls = []

    def both(train):
        calls.append(train)
        return {"detector": "a", "mask_head": "b"}

    parts = {"detector": both, "mask_head": both}
    assert side_by_side.train_parts(parts, ["train"]) == {"detector": "a", "mask_head": "b"} and calls == ["train"]
    config = base.get_config("shapes")
    config.train.side_by_side, config.model.mask.head = True, "cnn"
    assert len(side_by_side.make_meshes(config)) == 1


TWO_DEVICES = """
    import sys
    from pathlib import Path
    import jax, numpy as np
    from maskdiff_jax import sharding
    from tests.training import test_side_by_side as t
    halves = sharding.divide(sharding.make_mesh(2), 2)
    assert [m.devices.item().id for m in halves] == [0, 1]
    folder = Path(sys.argv[1])
    first, second = t.one_after_the_other(folder / "first"), t.train_both(folder / "second", meshes=halves)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    print("equal")
"""


def test_on_devices_of_their_own(tmp_path):
    flags = "--xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TWO_DEVICES), str(tmp_path)],
        cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip().endswith("equal"), done.stderr[-2000:]
