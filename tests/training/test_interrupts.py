"""The first Ctrl-C or SIGTERM asks to stop, the second one is obeyed."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from maskdiff_jax.training import interrupts


@pytest.mark.parametrize("number, name", [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_the_first_signal_asks_to_stop(capsys, number, name):
    before, stop = signal.getsignal(number), threading.Event()
    with interrupts.deferred(stop):
        assert not stop.is_set() and signal.getsignal(number) is not before
        os.kill(os.getpid(), number)
        assert stop.is_set()
        assert signal.getsignal(number) is before  # the second is obeyed at once
    assert f"{name}: finishing this step, then saving; a second {name} stops at once" in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError("reentrant call"), BrokenPipeError()])
def test_a_message_that_cannot_be_printed_does_not_stop_the_run(monkeypatch, error):
    """The signal may come while the progress line is being written, or after the terminal is gone."""

    class Closed:
        def write(self, text):
            raise error

    stop = threading.Event()
    with interrupts.deferred(stop):
        monkeypatch.setattr(sys, "stderr", Closed())
        os.kill(os.getpid(), signal.SIGTERM)
        monkeypatch.undo()
    assert stop.is_set()


def test_the_second_ctrl_c_is_obeyed():
    stop = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        with interrupts.deferred(stop):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
    assert stop.is_set()


def test_workers_do_not_see_ctrl_c():
    """Neither a process nor one of multiprocessing, whose start-up touches the signal mask."""
    command = [sys.executable, "-c", "import time; print('started', flush=True); time.sleep(2); print('done')"]
    outputs = []
    for context in (interrupts.workers_ignore_ctrl_c(), contextlib.nullcontext()):
        with context:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        outputs.append(process.communicate(timeout=60)[0])
    assert outputs == ["done\n", ""]
    with pytest.raises(KeyboardInterrupt):  # this process sees it again
        os.kill(os.getpid(), signal.SIGINT)


def test_handlers_come_back_after_an_error():
    before = [signal.getsignal(number) for number in interrupts.SIGNALS]
    with pytest.raises(ValueError):
        with interrupts.deferred(threading.Event()):
            raise ValueError
    assert before == [signal.getsignal(number) for number in interrupts.SIGNALS]


def test_other_threads_get_no_signals():
    done = []

    def work():
        with interrupts.deferred(threading.Event()):
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
