"""Ctrl-C and SIGTERM while a run trains: the step is finished and saved before the process ends."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


@contextmanager
def workers_ignore_ctrl_c() -> Iterator[None]:
    """Processes that are started in this context do not see Ctrl-C, which a terminal sends to all of them at once.

    They inherit the signal mask of the thread that starts them. Without this, data workers die of the Ctrl-C that asks
    the run to save.
    """
    resource_tracker.ensure_running()  # multiprocessing starts it with the first worker and then unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def deferred(stop: threading.Event) -> Iterator[None]:
    """Makes the first Ctrl-C or SIGTERM set ``stop`` and nothing else; a second one stops the process at once.

    Signals reach the main thread alone: in another thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not set from Python

    def note(number: int, frame: object) -> None:
        restore()
        stop.set()
        name = SIGNALS[signal.Signals(number)]
        # RuntimeError: the signal came while the progress line was being written; OSError: nobody reads stderr now
        with suppress(RuntimeError, OSError):
            print(
                f"\n{name}: finishing this step, then saving; a second {name} stops at once",
                file=sys.stderr,
                flush=True,
            )

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield
    finally:
        restore()
