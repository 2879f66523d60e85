"""A run from its folder's point of view: owned by one process, stopped and resumed, never damaged by a failure."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from maskdiff_jax import checkpoint, workdir
from maskdiff_jax.training import run
from tests.training import lines

ROOT = Path(__file__).resolve().parents[2]
STEPS = 12


@pytest.fixture
def config():
    config = base.get_config("shapes").unlock()
    assert config.train.save_every == 0  # nothing is saved but at the end of a phase
    return config


def stage(monkeypatch, loader=None, loss=lines.squares, before=lambda: None):
    """Makes stage 1 train a line, in two phases."""

    def phases(config, folder, shared):
        before()

        def both(train):
            first = train(lines.phase(STEPS, loss, loader=loader and loader()), lines.params())
            return train(lines.phase(STEPS, name="second"), first)

        return {"a": both, "b": lambda train: lines.params()}

    monkeypatch.setitem(run.STAGES, "base", phases)


def send(number):
    """Sends the main thread a signal, which it sees before it does anything else."""
    signal.pthread_kill(threading.main_thread().ident, number)


class Signaled(lines.Counter):
    """A loader that sends a signal before step 5."""

    number = signal.SIGINT

    def __next__(self):
        if self.n == 4:
            send(self.number)
        return super().__next__()


class Terminated(Signaled):
    number = signal.SIGTERM


def weights(folder):
    return checkpoint.load_params(workdir.weights_folder(folder), lines.params())


@pytest.fixture
def whole(monkeypatch, tmp_path, config):
    """The weights of a run that nothing stopped."""
    stage(monkeypatch)
    seconds = run.run(config, tmp_path / "whole")
    assert seconds.keys() == {"line", "second"}
    assert [p.name for p in (tmp_path / "whole" / "checkpoints").iterdir()] == ["final"]
    return weights(tmp_path / "whole")


@pytest.mark.parametrize("loader", [Signaled, Terminated])
def test_a_stopped_run_is_saved_and_resumes(monkeypatch, tmp_path, config, whole, capsys, loader):
    stage(monkeypatch, loader)
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt, match="stopped: step 5 of 12 of phase 'line' is saved; the same command"):
        run.run(config, tmp_path / "cut")
    assert "finishing this step, then saving" in capsys.readouterr().err
    assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    assert [p.name for p in (tmp_path / "cut/checkpoints/line").iterdir()] == ["5"]
    assert workdir.read_seconds(tmp_path / "cut").keys() == {"line"}
    stage(monkeypatch)
    run.run(config, tmp_path / "cut")
    jax.tree.map(np.testing.assert_array_equal, whole, weights(tmp_path / "cut"))


def test_a_stop_in_the_last_step_of_a_phase(monkeypatch, tmp_path, config):
    class Late(lines.Counter):
        def __next__(self):
            if self.n == STEPS - 1:
                send(signal.SIGINT)
            return super().__next__()

    stage(monkeypatch, Late)
    with pytest.raises(KeyboardInterrupt, match="phase 'second' is not started; the same command resumes from there"):
        run.run(config, tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["line"]


def test_a_second_ctrl_c_stops_at_once(monkeypatch, tmp_path, config):
    class Twice(Signaled):
        def get_state(self):  # when the step of the first one is about to be saved
            send(signal.SIGINT)
            return super().get_state()

    stage(monkeypatch, Twice)
    with pytest.raises(KeyboardInterrupt) as stopped:
        run.run(config, tmp_path)
    assert "saved" not in str(stopped.value)
    assert not list((tmp_path / "checkpoints/line").iterdir())


def test_weights_that_are_not_finite_are_never_saved(monkeypatch, tmp_path, config):
    """The loss of a step is taken before its update: a finite loss may leave weights that are not."""
    config.train.update(save_every=1, log_every=100)

    class Fourth(lines.Counter):
        def __next__(self):
            batch = super().__next__()
            return batch | {"scale": np.full(8, float(self.n != 4), np.float32)}

    def loss(params, key, batch):
        value, metrics = lines.squares(params, key, batch)
        # the root of 0 is 0, its gradient is not finite
        root = jnp.sqrt(jnp.mean(batch["scale"]) * jnp.sum((params["a"]["w"] - 9.0) ** 2))
        return value + 0.0 * root, metrics

    stage(monkeypatch, Fourth, loss)
    with pytest.raises(FloatingPointError, match="step 4 of phase 'line' cannot be saved: ema/a/w has a NaN"):
        run.run(config, tmp_path)
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints/line").iterdir())
    assert kept[-1] == 3


def test_one_process_at_a_time(monkeypatch, tmp_path, config):
    """The second is refused with the first's process id; a killed process leaves no lock behind."""
    stage(monkeypatch)
    other = subprocess.Popen([sys.executable, "-c", OWNER, str(ROOT), str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "owned\n"
        with pytest.raises(BlockingIOError, match=rf"is in use by process {other.pid} on \S+: wait until it ends") as e:
            run.run(config, tmp_path)
        assert len(str(e.value).splitlines()) == 1
        assert not (tmp_path / "config.json").exists()
    finally:
        other.kill()
        other.wait()
    run.run(config, tmp_path)
    assert (tmp_path / "lock").read_text() == ""


OWNER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from maskdiff_jax import lock
with lock.owned(sys.argv[2]):
    print("owned", flush=True)
    time.sleep(60)
"""


def test_a_finished_run_is_not_repeated(monkeypatch, tmp_path, config, whole):
    stage(monkeypatch, before=lambda: pytest.fail("data were opened"))
    assert run.run(config, tmp_path / "whole").keys() == {"line", "second"}
