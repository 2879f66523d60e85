"""One model for several users at the same time, each with their own added classes; used by launch/demo.py.

Each user has a `TrainedModel`, a value: adding a class makes a new one and changes neither the base model nor those of
other users. Compiled programs take weights and shots as arguments, so all users share them: there is one predictor for
each setting of the sampler, and each call uses the caller's `TrainedModel`. Calls take turns behind one lock.
"""

import dataclasses
import threading
from pathlib import Path
from typing import Any, NamedTuple

from maskdiff_jax import config_fields, sampler, workdir
from maskdiff_jax.data.support import active_class_ids
from maskdiff_jax.inference import classes, predictor
from maskdiff_jax.inference.export import TrainedModel
from maskdiff_jax.inference.inputs import Photo
from maskdiff_jax.inference.predictor import Predictor
from maskdiff_jax.inference.results import Detections

LEAST_SCORE = 0.05  # masks of objects that score less are not sampled
SAMPLES = 4  # masks per object unless a user asks for another number: one alone shows little of the uncertainty
MOST_SAMPLES = 16
MOST_STEPS = 1000
GUIDANCE = (0.0, 20.0)
KEPT = 6  # predictors of other settings than the model's; each holds compiled programs


class Settings(NamedTuple):
    """Settings of the sampler."""

    guidance: float  # w, 1: none
    steps: int  # S
    samples: int  # masks per object, which are averaged


class SharedModel:
    """See the module's docstring."""

    base: TrainedModel  # what everybody starts from
    settings: Settings  # of the model
    threshold: float  # soft mask values from here on belong to the mask
    agnostic_iou: float  # IoU from which two classes are taken for one object, as in `predictor.load`
    has_sampler: bool  # False: masks depend on no settings, the head is no diffusion model

    def __init__(self, trained: TrainedModel, *, samples: int = SAMPLES, least_score: float = LEAST_SCORE):
        """See ``load``."""
        mask = trained.config.model.mask
        self.base, self._least_score = trained, least_score
        self.threshold = float(trained.config.eval.mask_threshold)
        self.agnostic_iou = float(trained.config.model.detector.nms)
        self.settings = Settings(float(mask.diffusion.guidance), int(mask.diffusion.steps), samples)
        self.has_sampler = mask.head == "diffusion"
        self._lock = threading.Lock()
        self._predictors: dict[Settings, Predictor] = {}  # the last used one is last

    def segment(self, trained: TrainedModel, photo: Photo, settings: Settings | None = None) -> Detections:
        """The objects of a photo from a score of `LEAST_SCORE` on, as `Predictor` finds them.

        Args:
          trained: the caller's classes, from `base`, `add_class` or `remove_class`.
          photo: from `inputs.read`.
          settings: None: the model's.

        Raises:
          ValueError: settings out of range.
        """
        with self._lock:
            found = self._predictor(trained, settings or self.settings)(photo.pixels)
        return dataclasses.replace(found, file=photo.file)

    def add_class(self, trained: TrainedModel, name: str, images: list, masks: list) -> TrainedModel:
        """The caller's model with one more class; arguments and errors as those of `Predictor.add_class`."""
        with self._lock:
            model = self._predictor(trained, self.settings)
            model.add_class(name, images, masks)
            return model.trained

    def remove_class(self, trained: TrainedModel, name: str) -> TrainedModel:
        """The caller's model without a class.

        Raises:
          ValueError: there is no such class, or it is the only one.
        """
        return classes.removed(classes.active_only(trained), name)

    def evaluations(self, settings: Settings) -> int:
        """How often the network is evaluated for the mask of one object, its samples together."""
        mask = self.base.config.model.mask
        guidance = settings.guidance if mask.class_input else 1.0
        segments = sampler.guided_segments(settings.steps, tuple(mask.diffusion.guidance_interval), guidance)
        return settings.samples * sum(steps if weight == 1.0 else 2 * steps for steps, weight in segments)

    def _predictor(self, trained: TrainedModel, settings: Settings) -> Predictor:
        """The predictor of these settings, with the classes of `trained`."""
        if settings != self.settings:
            check(settings)
        mine = trained if settings == self.settings else trained._replace(config=_config(trained.config, settings))
        found = self._predictors.pop(settings, None)
        if found is None:
            noise_seed = int(mine.config.eval.noise_seed)
            found = Predictor(
                mine, noise_seed=noise_seed, samples=settings.samples, min_score=self._least_score, keep_samples=False
            )
        found.use(mine)
        self._predictors[settings] = found
        others = [s for s in self._predictors if s != self.settings]
        for old in others[:-KEPT]:
            del self._predictors[old]
        return found


def load(folder: str | Path) -> SharedModel:
    """Opens what `predictor.load` opens; raises as it does."""
    return SharedModel(predictor.load(folder).trained)


def names(trained: TrainedModel) -> tuple[str, ...]:
    """The classes that are detected."""
    return tuple(trained.categories[i].name for i in active_class_ids(trained.config, trained.categories))


def chosen(guidance: float, steps: float, samples: float) -> Settings:
    """The settings of three numbers; `SharedModel.segment` checks their range, because a model may have more itself."""
    return Settings(float(guidance), int(steps), int(samples))


def check(settings: Settings) -> None:
    """Whether settings are in range; a model may still reject more steps than it was trained with.

    Raises:
      ValueError: names the value and its range.
    """
    for name, value, low, high in (
        ("guidance weight", settings.guidance, *GUIDANCE),
        ("number of steps", settings.steps, 1, MOST_STEPS),
        ("number of samples", settings.samples, 1, MOST_SAMPLES),
    ):
        if not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"the {name} is {value}: give one from {low:g} to {high:g}")


def _config(config: Any, settings: Settings) -> config_fields.Fields:
    document = workdir.as_json(config)
    document["model"]["mask"]["diffusion"].update(guidance=settings.guidance, steps=settings.steps)
    return config_fields.fields(document)
