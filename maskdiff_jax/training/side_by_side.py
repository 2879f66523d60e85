"""Independent parts of the model, trained one after the other, or at the same time on separate devices.

No loss of the detector reads a parameter of the mask head, nor the other way round: their order does not matter.
Steps as small as those of the shapes preset do not keep two cores busy: two phases side by side, each on one core, get
more done than one after the other on both.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskdiff_jax import sharding
from maskdiff_jax.model import WITH_DETECTOR
from maskdiff_jax.types import PyTree

POLL = 0.5  # seconds between looks for a signal

Train = Callable[..., PyTree]  # (phase, params) -> params, on a group of devices
# part of the parameters ("detector", "mask_head") -> what runs its phases; only params[part] of the result is kept.
# Parts with the same function are trained together by one call of it
Parts = Mapping[str, Callable[[Train], PyTree]]


def make_meshes(config: ConfigDict) -> list[Mesh]:
    """The devices that the parts of a stage are trained on: those of `train.devices`, or each half of them.

    In distillation, and with a detector from another run, only the mask head is trained; and some mask heads are
    trained with the detector.
    """
    mesh = sharding.make_mesh(config.train.devices)
    one_part = config.stage == "distill" or config.detector_from or config.model.mask.head in WITH_DETECTOR
    if not config.train.side_by_side or one_part:
        return [mesh]
    return sharding.divide(mesh, 2)


def train_parts(parts: Parts, trains: Sequence[Train], stop: threading.Event | None = None) -> PyTree:
    """Trains parts of the parameters that do not depend on each other.

    Args:
      parts: what a stage trains.
      trains: one for all parts, which are then trained in their order, or one for each part, all at the same time.
      stop: is set when a part fails or the run is interrupted: the phases that watch it finish their step and save.

    Returns:
      {part: params[part]}, the same whichever way the parts were trained.

    Raises:
      ValueError: neither one `train` nor one for each part.
      Whatever a part raises first; the other parts have stopped by then.
    """
    if len(trains) == 1:
        trained = {run: run(trains[0]) for run in dict.fromkeys(parts.values())}
        return {name: trained[run][name] for name, run in parts.items()}
    with ThreadPoolExecutor(len(parts)) as pool:
        futures = {name: pool.submit(run, t) for (name, run), t in zip(parts.items(), trains, strict=True)}
        try:
            waiting = set(futures.values())
            while waiting:
                # not forever: a signal that another thread receives does not wake this one, which handles it
                done, waiting = wait(waiting, timeout=POLL, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        except BaseException:  # an interrupt too, which reaches this thread alone
            if stop is not None:
                stop.set()
            raise  # once the pool has waited for the others
        # to the host: each part lies on other devices
        return {name: jax.device_get(future.result()[name]) for name, future in futures.items()}
