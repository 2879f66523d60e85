"""What a run tells the world: metrics.jsonl, TensorBoard, a progress line. Process 0 only."""

import json
import math
import threading
import time
from pathlib import Path

import jax
from tqdm import tqdm

_LOG = threading.Lock()  # phases that are trained side by side share metrics.jsonl


class MetricWriter:
    """Writes one phase's numbers; use as a context manager."""

    def __init__(self, workdir: str | Path, phase: str, steps: int, first: int):
        """Opens the files.

        Args:
          workdir: gets ``metrics.jsonl`` and ``tensorboard/``.
          phase: name in every line.
          steps: length of the phase.
          first: steps that are done already; lines of this phase beyond it are dropped (they will be redone).
        """
        self._on = jax.process_index() == 0
        self._phase = phase
        self._start = time.monotonic()
        if not self._on:
            return
        from tensorboardX import SummaryWriter

        self._path = Path(workdir) / "metrics.jsonl"
        with _LOG:
            if self._path.exists():
                kept = [x for x in read_lines(self._path) if x["phase"] != phase or x["step"] <= first]
                new = self._path.with_suffix(".partial")
                new.write_text("".join(json.dumps(x) + "\n" for x in kept))
                new.rename(self._path)
        # the suffix: two files that are opened in the same second would have one name
        self._board = SummaryWriter(str(Path(workdir) / "tensorboard"), filename_suffix=f".{phase}")
        self._bar = tqdm(total=steps, initial=first, desc=phase, unit="step", mininterval=2.0, smoothing=0.05)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *exc) -> None:
        if self._on:
            self._bar.close()
            self._board.close()

    def say(self, text: str) -> None:
        """A remark beside the progress line, e.g. what is being compiled."""
        if self._on:
            self._bar.set_postfix_str(text, refresh=True)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes the numbers of a step.

        Raises:
          FloatingPointError: the loss is not finite.
        """
        if not math.isfinite(metrics["loss"]):
            raise FloatingPointError(
                f"the loss of phase '{self._phase}' is {metrics['loss']} at step {step}: lower the learning rate, "
                "set clip_norm, or look at the data of the steps since the last line of metrics.jsonl"
            )
        if not self._on:
            return
        line = {"phase": self._phase, "step": step, "time": round(time.monotonic() - self._start, 2)}
        text = json.dumps(line | {k: float(f"{v:.6g}") for k, v in metrics.items()}) + "\n"
        with _LOG, self._path.open("a") as file:  # opened anew: another phase may have replaced it
            file.write(text)
        for name, value in metrics.items():
            self._board.add_scalar(f"{self._phase}/{name}", value, step)
        self._bar.set_postfix_str(f"loss {metrics['loss']:.4g}", refresh=False)

    def advance(self) -> None:
        """One step done."""
        if self._on:
            self._bar.update(1)


def read_lines(path: str | Path) -> list[dict]:
    """The lines of a metrics.jsonl; a last line that was cut off is left out."""
    lines = []
    for text in Path(path).read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines
