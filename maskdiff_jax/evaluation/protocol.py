"""The protocol of few-shot papers: K shots x shot seeds x noise seeds, trained and scored in one process.

A trained model of the grid is one K, one shot seed and one choice of classes. Each of its evaluations samples the masks
once per noise seed; boxes do not depend on noise and are detected once. Only missing results are computed:

    OUTPUT/fewshot-5shot-seed3/            run folder, all classes
    OUTPUT/fewshot-novel-5shot-seed3/      run folder, novel classes alone
        noise0/metrics.json, noise1/metrics.json ...
        voc/noise0/metrics.json ...        the same model on PASCAL VOC
        log.txt                            what training and evaluation printed
"""

import contextlib
import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from ml_collections import ConfigDict

from maskdiff_jax import atomic, config_fields, errors, lock
from maskdiff_jax.evaluation import coco_eval, evaluate
from maskdiff_jax.evaluation.progress import Progress
from maskdiff_jax.model import WITHOUT_NOISE
from maskdiff_jax.shared import Shared
from maskdiff_jax.workdir import (
    METRICS,
    OF_RUN,
    as_json,
    check_changes,
    covers,
    describe,
    different_fields,
    is_trained,
    read_config,
    read_seconds,
)

T = TypeVar("T")

SETTINGS = ("all", "novel", "voc")  # voc: the model of the novel classes, on PASCAL VOC
LOCK, LOG = "protocol.lock", "log.txt"  # in a run folder
# fields that may differ between a finished evaluation and the one that was asked for: they change no metric
FREE = (
    "init_from", "data.root", "data.workers", "data.cache_mb", "eval.root", "eval.batch", "eval.mask_batch",
    "eval.figures", "train.devices", "train.side_by_side", "train.log_every", "train.save_every", "train.keep",
)  # fmt: skip


class GridModel(NamedTuple):
    """One trained model of the grid, and what it is scored on."""

    folder: Path
    config: ConfigDict  # of its training
    evaluations: dict[Path, ConfigDict]  # folder of the noise folders -> config

    @property
    def name(self) -> str:
        return self.folder.name


def make_model(output: Path, config: ConfigDict, settings: Iterable[str]) -> GridModel:
    """A model of the grid.

    Args:
      output: folder of the grid's run folders.
      config: of stage 2, complete.
      settings: what it is scored on: "all" or "novel", the test split; "voc".
    """
    shots, seed = config.fewshot.shots, config.fewshot.seed
    novel = "novel-" if config.fewshot.classes == "novel" else ""
    folder, evaluations = output / f"fewshot-{novel}{shots}shot-seed{seed}", {}
    for setting in settings:
        changed = config.copy_and_resolve_references()
        if setting == "voc":
            changed.eval.update(source="voc", gt_classes_only=True)
        evaluations[evaluate.default_output(changed, folder)] = changed
    return GridModel(folder, config, evaluations)


class Kept(Generic[T]):
    """A stream that is read once and then repeated from memory."""

    def __init__(self, stream: Iterable[T]):
        self._stream = stream
        self._items: list[T] | None = None

    def __iter__(self) -> Iterator[T]:
        if self._items is not None:
            yield from self._items
            return
        items = []
        for item in self._stream:
            items.append(item)
            yield item
        self._items = items


def run(
    models: Sequence[GridModel], noise_seeds: Sequence[int], *, train: Callable[[ConfigDict, Path, Shared], object],
    progress: Progress, with_predictions: bool = False,
) -> dict[str, str]:  # fmt: skip
    """Trains and evaluates what is missing, model by model, and reports progress.

    A model that fails is reported and does not stop the others. The first noise seed of each model gets figures.

    Args:
      models: the grid, or a shard of it.
      noise_seeds: seeds of the sampler's noise; a mask head without noise has only seed 0.
      train: trains the stage of a config in a folder, and does nothing where that is finished.
      progress: is told what is done.
      with_predictions: whether to write predictions.json for each noise seed, COCO's results.

    Returns:
      Name of each model that failed -> why.

    Raises:
      KeyboardInterrupt: Ctrl-C or SIGTERM; what is finished stays, and training is saved.
    """
    shared, failures = Shared(), {}
    for model in models:
        start, shots = time.monotonic(), model.config.fewshot.shots
        try:
            missing = unfinished(model, noise_seeds)
            if not missing:
                progress.skip(shots)
                continue
            progress.start(model.name)
            with lock.owned(model.folder, LOCK), _logged(model.folder / LOG):
                train(model.config, model.folder, shared)
                for folder, seeds in missing.items():
                    first = seeds_of(model, noise_seeds)[0]
                    _evaluate(model, folder, seeds, shared, figures_of=first, with_predictions=with_predictions)
            progress.finish(model.name, shots, summary(model, noise_seeds), time.monotonic() - start)
        except Exception as error:  # whatever it is: days of other models must not depend on it
            failures[model.name] = errors.sentence(error)
            progress.fail(model.name, shots, failures[model.name])
    return failures


def seeds_of(model: GridModel, noise_seeds: Sequence[int]) -> Sequence[int]:
    """The noise seeds that matter for a model: a mask head without noise gives the same masks for each."""
    return (0,) if model.config.model.mask.head in WITHOUT_NOISE else noise_seeds


def unfinished(model: GridModel, noise_seeds: Sequence[int]) -> dict[Path, list[int]]:
    """Folder of an evaluation -> noise seeds without metrics.json; folders where none is missing are absent.

    Raises:
      ValueError: the model, or an evaluation, was finished with another config; names the fields.
    """
    if is_trained(model.folder):
        check_changes(read_config(model.folder), model.config, model.folder, fixed=OF_RUN)
    missing = {}
    for folder, config in model.evaluations.items():
        for seed in seeds_of(model, noise_seeds):
            path = noise_folder(folder, seed) / METRICS
            if path.is_file():
                _check_same(path, config)
            else:
                missing.setdefault(folder, []).append(seed)
    return missing


def noise_folder(folder: Path, noise_seed: int) -> Path:
    """Where the metrics of a noise seed are."""
    return folder / f"noise{noise_seed}"


def _check_same(path: Path, config: ConfigDict) -> None:
    """Checks that a finished evaluation has this config, except for its noise seed and fields that change no metric."""
    try:
        theirs, ours = config_fields.ADDED | json.loads(path.read_text())["config"], as_json(config)
        differ = different_fields(ours, theirs)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is broken: delete it, and it is computed again") from error
    differ = [name for name in differ if not covers((*FREE, "eval.noise_seed"), name)]
    if differ:
        raise ValueError(
            f"{path} is of another config ({describe(differ, theirs, ours)}): delete it, or give another --output"
        )


def _evaluate(
    model: GridModel, folder: Path, noise_seeds: Sequence[int], shared: Shared, *, figures_of: int,
    with_predictions: bool,
) -> None:  # fmt: skip
    """Detects once, then samples and scores the masks of each noise seed; one of them gets figures."""
    start, seconds = time.monotonic(), read_seconds(model.folder)
    config = with_noise_seed(model.evaluations[folder], noise_seeds[0])
    coco_eval.check_scorer(config.eval.scorer)
    setup = evaluate.open_run(config, model.folder, shared)
    found = evaluate.find_objects(config, setup)
    found = found._replace(detected=Kept(found.detected), in_true_boxes=Kept(found.in_true_boxes))
    for seed in noise_seeds:
        config, output = with_noise_seed(config, seed), noise_folder(folder, seed)
        atomic.check_writable(output)
        setup = setup._replace(segmenter=evaluate.with_inputs(setup.segmenter, noise_seed=seed))
        evaluate.sample_and_score(
            config, setup, found, output, seconds=seconds, start=start,
            with_predictions=with_predictions, with_figures=seed == figures_of,
        )  # fmt: skip
        start = time.monotonic()


def with_noise_seed(config: ConfigDict, noise_seed: int) -> ConfigDict:
    """A copy of a config with ``eval.noise_seed``."""
    changed = config.copy_and_resolve_references()
    changed.eval.noise_seed = noise_seed
    return changed


def summary(model: GridModel, noise_seeds: Sequence[int]) -> str:
    """The main numbers of a finished model, means over its noise seeds."""
    parts = []
    seeds = seeds_of(model, noise_seeds)
    for folder in model.evaluations:
        documents = [json.loads((noise_folder(folder, seed) / METRICS).read_text()) for seed in seeds]
        means = {}
        for name in ("segm/base/AP", "segm/novel/AP"):
            values = [d["metrics"][name] for d in documents if name in d["metrics"]]
            if values:
                means[name.split("/")[1]] = sum(values) / len(values)
        where = "" if folder == model.folder else f"{folder.name} "
        parts.append(f"{where}segm AP {' '.join(f'{k} {v:.1f}' for k, v in means.items())}")
    noise = f"{len(seeds)} noise seeds"
    if model.config.model.mask.head in WITHOUT_NOISE:
        noise = "a mask head without noise: only noise0"
    return f"{', '.join(parts)} ({noise})"


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Appends the output of this context, and the traceback of an error, to a file."""
    with path.open("a", buffering=1) as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            yield
        except Exception:
            traceback.print_exc(file=file)
            raise
