"""Objects that several runs of one process share and make only once: models, compiled programs, datasets.

Nothing here is global: a script that runs several stages or evaluations makes one `Shared` and passes it on. A single
run makes its own.
"""

import json
import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

from ml_collections import ConfigDict

from maskdiff_jax.data import pipeline
from maskdiff_jax.data.dataset import Dataset
from maskdiff_jax.model import Model, build
from maskdiff_jax.workdir import as_json, covers, flat

T = TypeVar("T")

# the fields of a run that no loss depends on: which shots are sampled and how many, where training starts and ends
OF_A_RUN = (
    "init_from", "detector_from", "seed", "eval.",
    *(f"train.{phase}.steps" for phase in ("detector", "refine", "mask", "novel")),
    "fewshot.shots", "fewshot.seed", "fewshot.shots_from", "data.shot_drop",
)  # fmt: skip


class Shared:
    """Values by key. Equal keys must mean equal values: a key holds everything that a program closes over."""

    def __init__(self) -> None:
        self._values: dict[Hashable, Any] = {}
        self._lock = threading.RLock()  # phases may be trained side by side

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """``make()``, called at the first call with this key."""
        with self._lock:
            if key not in self._values:
                self._values[key] = make()
            return self._values[key]

    def model(self, config: ConfigDict) -> Model:
        """The model of ``config.model``; functions that jax has compiled for it are not compiled again."""
        return self.once(("model", fingerprint(config.model)), lambda: build(config.model))

    def split(self, data: ConfigDict, split: str) -> Dataset:
        """A split of a dataset, as `pipeline.open_split` opens it."""
        key = ("split", split, fingerprint(data, without=("shot_augment", "shot_drop", "shot_unlabeled")))
        return self.once(key, lambda: pipeline.open_split(data, split))


def fingerprint(config: ConfigDict, *, without: Iterable[str] = ()) -> str:
    """The fields of a config and their values as text; equal for equal configs.

    Args:
      config: a config or a section of one.
      without: fields to drop, "a.b.c"; a trailing dot: the whole section.
    """
    return json.dumps({k: v for k, v in flat(as_json(config)).items() if not covers(without, k)}, sort_keys=True)
