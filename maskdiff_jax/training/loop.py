"""The training loop, the same for every phase of every stage.

The order inside: step, write numbers, save, advance. A phase ends with the EMA of its weights, from which the next
one starts.
"""

import json
import threading
import time
import zlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from maskdiff_jax import checkpoint, sharding
from maskdiff_jax.training import estimate, optim
from maskdiff_jax.training.interrupts import workers_ignore_ctrl_c
from maskdiff_jax.training.metric_writer import MetricWriter
from maskdiff_jax.types import PyTree, TrainState
from maskdiff_jax.workdir import CHECKPOINTS, add_seconds


class Loader(Protocol):
    """An endless stream of host batches that can resume at a position."""

    def __next__(self) -> Any: ...

    def get_state(self) -> Any:
        """The position, in types that json holds."""
        ...

    def set_state(self, state: Any) -> None:
        """Resumes at a position."""
        ...

    def close(self) -> None:
        """Ends its processes and threads; no batch is asked for afterwards."""
        ...


class Phase(NamedTuple):
    """What is trained with one loss, and for how long."""

    name: str
    steps: int
    loss: Callable[[PyTree, jax.Array, Any], tuple[jax.Array, dict]]  # params, key, batch -> loss, metrics
    loader: Loader
    patterns: list[tuple[str, str]]  # parameter name -> label of an optimizer, or frozen
    configs: dict[str, ConfigDict]  # label -> fields of configs.base._phase
    unit_columns: frozenset[str] = frozenset()  # parameters whose columns have length 1, see `optim.unit_columns`
    # equal for losses that are the same function: their compiled step may be shared; None: it is not
    loss_key: Hashable = None


# key, make -> the value that make gave at the first call with this key, see `shared.Shared.once`
Once = Callable[[Hashable, Callable[[], Callable]], Callable]


class Interrupted(Exception):
    """A phase was asked to stop before its last step; what it has done is saved."""


class PairLoader:
    """Two loaders as one, whose batches are pairs."""

    def __init__(self, first: Loader, second: Loader):
        self._both = (first, second)

    def __next__(self) -> tuple:
        return tuple(next(loader) for loader in self._both)

    def get_state(self) -> list:
        return [loader.get_state() for loader in self._both]

    def set_state(self, state: list) -> None:
        for loader, s in zip(self._both, state, strict=True):
            loader.set_state(s)

    def close(self) -> None:
        for loader in self._both:
            loader.close()


def run_phase(
    phase: Phase, params: PyTree, *, config: ConfigDict, workdir: Path, mesh, stop: threading.Event | None = None,
    once: Once | None = None, following: Callable[[str], str] = lambda phase: "",
) -> PyTree:  # fmt: skip
    """Runs a phase from where it stopped; returns the parameters, the trained ones as their EMA.

    The phase's loader is closed: its processes would keep their memory while later phases train.

    Args:
      stop: when it is set, the phase finishes its step, saves, and raises `Interrupted`.
      once: keeps compiled steps for later phases of the same process; None: they are not kept.
      following: name of a phase -> the phases after it, for the estimate of its time.

    Raises:
      Interrupted: see `stop`.
      FloatingPointError: the loss or a weight is no longer finite; what was saved before stays.
      ValueError: a checkpoint is damaged, or of another model.
      OSError: the disk is full.
    """
    if not phase.steps:
        return params
    if stop is not None and stop.is_set():
        raise Interrupted(f"phase '{phase.name}' is not started")
    state, step_fn = _start(phase, params, mesh, once)
    with (
        closing(phase.loader),
        checkpoint.PhaseCheckpoints(workdir / CHECKPOINTS / phase.name, config.train.keep) as saved,
    ):
        restored = saved.restore(state)
        if restored is not None:
            state, data_state = restored
            with workers_ignore_ctrl_c():
                phase.loader.set_state(data_state)
        first = int(jax.device_get(state.step))
        key = jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(phase.name.encode()))
        key = jax.device_put(key, sharding.replicated(mesh))
        with (
            _timed(workdir, phase.name, on=first < phase.steps),
            MetricWriter(workdir, phase.name, phase.steps, first) as writer,
            jax.transfer_guard("disallow"),
        ):
            state = _run_steps(
                phase, state, lambda state, batch: step_fn(state, sharding.put_batch(batch, mesh), key),
                first, config.train, writer, saved, stop, following(phase.name),
            )  # fmt: skip
        return optim.overlay(state.params, state.ema)


def _start(phase: Phase, params: PyTree, mesh, once: Once | None) -> tuple[TrainState, Callable]:
    """The state before the first step, and the compiled step."""
    labels = optim.label_parameters(params, phase.patterns)
    decays = {label: fields.ema for label, fields in phase.configs.items()}
    optimizer = optim.combine(
        {label: _optimizer(phase.steps, fields) for label, fields in phase.configs.items()}, labels
    )
    for label, fields in phase.configs.items():
        _print_learning_rate(phase.name, label, fields)
    # a copy: the step donates its state, and the caller may still need the weights
    params = jax.tree.map(jnp.copy, params)
    trainable = optim.unit_columns(optim.split(params, labels)[0], phase.unit_columns)
    params = optim.overlay(params, trainable)
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(trainable), jax.tree.map(jnp.copy, trainable))
    make = partial(make_step, phase.loss, optimizer, labels, decays, mesh, unit_columns=phase.unit_columns)
    step_fn = make() if once is None or phase.loss_key is None else once(_step_key(phase, mesh), make)
    return jax.device_put(state, sharding.replicated(mesh)), step_fn


def _step_key(phase: Phase, mesh) -> Hashable:
    """Everything that the compiled step of a phase closes over, see `make_step`."""
    configs = json.dumps({label: fields.to_dict() for label, fields in phase.configs.items()}, sort_keys=True)
    return "step", phase.name, phase.steps, phase.loss_key, tuple(phase.patterns), configs, phase.unit_columns, mesh


def _run_steps(
    phase: Phase, state: TrainState, advance: Callable, first: int, train: ConfigDict, writer: MetricWriter,
    saved: checkpoint.PhaseCheckpoints, stop: threading.Event | None, after: str,
) -> TrainState:  # fmt: skip
    """The steps after step ``first``; raises `Interrupted` when ``stop`` is set before the last."""
    marks = []  # steps whose numbers were read, so that they are done, and when
    writer.say("compiling the training step")
    for step in range(first + 1, phase.steps + 1):
        with workers_ignore_ctrl_c():  # the loader starts each of them when it first needs it
            batch = next(phase.loader)
        state, metrics = advance(state, batch)
        stopped = stop is not None and stop.is_set() and step < phase.steps
        last = stopped or step == phase.steps
        if step % train.log_every == 0 or last or step == 1:
            writer.write(step, {k: float(v) for k, v in jax.device_get(metrics).items()})
            marks.append((step, time.monotonic()))
            if len(marks) == 2 and not last:
                writer.tell(estimate.line(phase.name, phase.steps, marks, after))
        if last or (train.save_every and step % train.save_every == 0):
            with jax.transfer_guard("allow"):  # saving reads the state from the device
                saved.save(state, phase.loader.get_state())
        writer.advance()
        if stopped:
            raise Interrupted(f"step {step} of {phase.steps} of phase '{phase.name}' is saved")
    return state


@contextmanager
def _timed(workdir: Path, phase: str, *, on: bool) -> Iterator[None]:
    """Adds the time in this context to the run's training time, also when the phase is interrupted."""
    start = time.monotonic()
    try:
        yield
    except Interrupted:
        add_seconds(workdir, phase, time.monotonic() - start)
        raise
    if on:
        add_seconds(workdir, phase, time.monotonic() - start)


def _optimizer(steps: int, fields: ConfigDict):
    """The optimizer of one label; its rate scales linearly from `base_batch` to `batch` (Goyal et al. 2017)."""
    names = ("optimizer", "schedule", "decay_at", "warmup", "weight_decay", "betas", "clip_norm")
    rate = fields.lr * fields.batch / fields.base_batch
    return optim.make_optimizer(steps=steps, lr=rate, **{name: fields[name] for name in names})


def _print_learning_rate(phase: str, label: str, fields: ConfigDict) -> None:
    if jax.process_index() == 0:
        rate = fields.lr * fields.batch / fields.base_batch
        scaled = "" if fields.batch == fields.base_batch else f" ({fields.lr:g} is for a batch of {fields.base_batch})"
        name = phase if phase == label else f"{phase}/{label}"
        print(f"{name}: {fields.optimizer}, learning rate {rate:g} for a batch of {fields.batch}{scaled}", flush=True)


def make_step(
    loss: Callable, optimizer, labels: dict[str, str], decays: dict[str, float], mesh,
    *, unit_columns: frozenset[str] = frozenset(),
) -> Callable:  # fmt: skip
    """The compiled step (state, batch, key) -> (state, metrics); the state's memory is reused.

    Args:
      loss: params, key, batch -> loss, metrics. It must not close over device arrays: what it needs beside its
        arguments is numpy, because a GPU would have to read a closed-over array back while the step is compiled.
      optimizer: over the flat dict of trainable leaves.
      labels: of every parameter, as ``optim.label_parameters`` gives.
      decays: label -> decay of the EMA, 0 = the weights themselves.
      mesh: the batch's first axis is divided over its "data" axis.
      unit_columns: names of parameters that are projected after each update, see ``optim.unit_columns``.
    """

    def step(state: TrainState, batch, key):
        trainable, frozen = optim.split(state.params, labels)

        def objective(trainable):
            # in scope, so that what is computed image by image stays on the image's device
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return loss(optim.merge(trainable, frozen), jax.random.fold_in(key, state.step), batch)

        (value, metrics), grads = jax.value_and_grad(objective, has_aux=True)(trainable)
        updates, opt_state = optimizer.update(grads, state.opt_state, trainable)
        trainable = optim.unit_columns(jax.tree.map(jnp.add, trainable, updates), unit_columns)
        ema = {
            k: optim.ema_update(state.ema[k], x, decays[labels[k]], state.step) if decays[labels[k]] else x
            for k, x in trainable.items()
        }
        new = TrainState(state.step + 1, optim.merge(trainable, frozen), opt_state, ema)
        return new, metrics | {"loss": value}

    same = sharding.replicated(mesh)
    return jax.jit(step, donate_argnums=0, in_shardings=(same, sharding.split(mesh), same), out_shardings=(same, same))
