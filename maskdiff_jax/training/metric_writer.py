"""Writes the metrics of a training run: metrics.jsonl, TensorBoard, a progress line. Only process 0 writes."""

import json
import math
import sys
import threading
import time
from pathlib import Path

import jax
from tqdm import tqdm

from maskdiff_jax import atomic, metrics_log
from maskdiff_jax.workdir import LOG, TENSORBOARD

_LOCK = threading.Lock()  # phases that are trained side by side share metrics.jsonl


class MetricWriter:
    """Writes one phase's numbers; use as a context manager."""

    def __init__(self, workdir: str | Path, phase: str, steps: int, first: int):
        """Opens the files.

        Args:
          workdir: gets ``metrics.jsonl`` and ``tensorboard/``.
          phase: name in every line.
          steps: length of the phase.
          first: steps that are done already; lines of this phase beyond it are dropped (they will be redone).

        Raises:
          OSError: the disk is full, or the folder cannot be written to.
        """
        self._on = jax.process_index() == 0
        self._phase = phase
        self._start = time.monotonic()
        if not self._on:
            return
        # in this thread: SummaryWriter's own thread dies on a full disk, and closing it then waits forever
        from tensorboardX.event_file_writer import EventsWriter

        self._path, board = Path(workdir) / LOG, Path(workdir) / TENSORBOARD
        _drop_lines(self._path, phase, first)
        try:
            board.mkdir(parents=True, exist_ok=True)
            # the suffix: two files that are opened in the same second would have one name
            self._board = EventsWriter(str(board / "events"), filename_suffix=f".{phase}")
        except OSError as error:
            raise atomic.cannot_write(board, error) from error
        self._bar = tqdm(total=steps, initial=first, desc=phase, unit="step", mininterval=2.0, smoothing=0.05)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, kind: type | None, *exc) -> None:
        if self._on:
            self._bar.close()
            try:
                self._board.close()
            except OSError as error:
                if kind is None:  # else that error is the one to show
                    raise atomic.cannot_write(self._path.parent / TENSORBOARD, error) from error

    def say(self, text: str) -> None:
        """A remark beside the progress line, e.g. what is being compiled."""
        if self._on:
            self._bar.set_postfix_str(text, refresh=True)

    def tell(self, text: str) -> None:
        """A line of the log, above the progress line."""
        if self._on:
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes the numbers of a step.

        Raises:
          FloatingPointError: the loss is not finite.
          OSError: the disk is full.
        """
        if not math.isfinite(metrics["loss"]):
            raise FloatingPointError(
                f"the loss of phase '{self._phase}' is {metrics['loss']} at step {step}: check the data of the "
                f"steps since the last line of {LOG}, or train into another --workdir with a lower learning "
                "rate, or with "
                "clip_norm"
            )
        if not self._on:
            return
        line = {"phase": self._phase, "step": step, "time": round(time.monotonic() - self._start, 2)}
        text = json.dumps(line | {k: float(f"{v:.6g}") for k, v in metrics.items()}) + "\n"
        try:
            with _LOCK, self._path.open("a") as file:  # opened again: another phase may have replaced it
                file.write(text)
            self._write_board(step, metrics)
        except OSError as error:
            raise atomic.cannot_write(self._path, error) from error
        self._bar.set_postfix_str(f"loss {metrics['loss']:.4g}", refresh=False)

    def _write_board(self, step: int, metrics: dict[str, float]) -> None:
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar

        for name, value in metrics.items():
            summary = scalar(f"{self._phase}/{name}", value)
            event = event_pb2.Event(wall_time=time.time(), step=step, summary=summary)  # type: ignore[attr-defined]
            self._board.write_event(event)
        self._board.flush()

    def advance(self) -> None:
        """One step done."""
        if self._on:
            self._bar.update(1)


def _drop_lines(path: Path, phase: str, first: int) -> None:
    """Drops the lines of a phase after step ``first``, and damaged lines; says which unless it is the last."""
    with _LOCK:
        if not path.exists():
            return
        log = metrics_log.read(path)
        kept = [x for x in log.lines if x["phase"] != phase or x["step"] <= first]
        count = path.read_bytes().count(b"\n")
        damaged = [n for n in log.damaged if n <= count]  # a last line without its end was cut off by a crash
        if damaged:
            print(f"note: {path}: dropped damaged lines {', '.join(map(str, damaged[:5]))}", file=sys.stderr)
        if log.damaged or len(kept) < len(log.lines):
            atomic.write(path, "".join(json.dumps(x) + "\n" for x in kept))
