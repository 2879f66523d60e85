"""The contents of a run folder; the only module that knows the names of its files.

    config.json       the config, written before anything else
    metrics.jsonl     one line per logged training step; tensorboard/ has the same numbers
    seconds.json      training time of each phase, seconds
    shots.json        stage 2 and distillation: the annotations of the K shots of each class
    weights.json      imported weights: which file filled what
    checkpoints/      one folder per phase while the run trains, then final/: the trained weights
    metrics.json, predictions.json, figures/    of the evaluation
    export/, report/
    lock              while a process trains here: its host and process id, see `lock`

Every file is complete or absent. Everything after training needs only this folder: its config.json is the config of the
run.
"""

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import jax

from maskdiff_jax import atomic, checkpoint, config_fields
from maskdiff_jax.types import Array, PyTree

if TYPE_CHECKING:  # an export is used without ml_collections
    from ml_collections import ConfigDict

CONFIG, LOG, SECONDS, SHOTS, IMPORTED = "config.json", "metrics.jsonl", "seconds.json", "shots.json", "weights.json"
METRICS, PREDICTIONS, FIGURES = "metrics.json", "predictions.json", "figures"  # of an evaluation
CHECKPOINTS, TENSORBOARD, EXPORT, REPORT = "checkpoints", "tensorboard", "export", "report"

# how masks are sampled, which training does not see: fields of config.model.mask.diffusion
SAMPLING = ("sampler", "steps", "spacing", "variance", "eta", "clip", "averaged", "guidance_interval", "guidance")
# the fields that trained weights do not depend on; a trailing dot: the whole section
AFTER_TRAINING = (
    "method", "eval.", "distill.",
    "train.devices", "train.side_by_side", "train.log_every", "train.save_every", "train.keep",
    "data.root", "data.test_json", "data.test_images", "data.more_images", "data.counts", "data.test_short_side",
    "data.shapes_test", "data.workers", "data.cache_mb",
    *(f"model.mask.diffusion.{k}" for k in SAMPLING),
    *(f"model.detector.{k}" for k in (
        "rpn_pre_nms_test", "proposals_test", "refine_candidates", "min_score", "nms", "max_detections", "cosine_scale",
    )),
)  # fmt: skip
# and which a run folder still has for good: an evaluation with other options may be a separate row, training may not
OF_RUN = ("method",)
# those of them that an unfinished run depends on: the saved position of its data iterator, and its losses
UNFINISHED = ("data.workers", "model.detector.cosine_scale")
# what weights were trained with and cannot do without: fields of config.model.detector
LAYOUT = ("pixel_mean", "pixel_std", "channel_order", "stride_in_1x1", "norm")
# fields that a later stage may change: how boxes are trained and found, how masks are sampled, what a training step
# sees
NEXT_STAGE = (
    *(k for k in AFTER_TRAINING if k.startswith("model.")),
    "model.dtype", "model.mask.min_shots", "model.mask.unet.dropout",
    *(f"model.mask.diffusion.{k}" for k in ("p_uncond", "loss_weight", "snr_gamma")),
    *(f"model.detector.{k}" for k in (
        "rpn_iou", "rpn_samples", "rpn_positive", "rpn_beta", "rpn_pre_nms_train", "rpn_nms", "proposals_train",
        "roi_samples", "roi_positive", "roi_iou", "roi_sampling", "box_beta", "probit_scale",
    )),
)  # fmt: skip
_SECONDS_LOCK = threading.Lock()  # phases may be trained side by side
NAMED = 8  # fields that a message names
# what to do about fields that may not differ, while a run trains and after it
RESUMED = "use the values of that run for these fields, or give another --workdir"
AFTER = "trained weights depend on these fields, so do not change them"
# sections of config.train; the phases of these names are trained with them
PHASES = ("detector", "refine", "mask", "novel")


class Initializer(Protocol):
    """The part of `model.Model` that is needed here: it makes new weights."""

    @property
    def init(self) -> Callable[[Array], PyTree]:
        """key -> params."""
        ...


def weights_folder(folder: str | Path) -> Path:
    """The folder of a run's trained weights."""
    return Path(folder) / CHECKPOINTS / "final"


def is_trained(folder: str | Path) -> bool:
    """Whether training has finished there."""
    return weights_folder(folder).is_dir()


def saved_phases(folder: str | Path) -> set[str]:
    """The phases of an unfinished run that have saved a step."""
    return {step.parent.name for step in (Path(folder) / CHECKPOINTS).glob("*/*") if step.name.isdigit()}


def create(folder: str | Path, config: "ConfigDict") -> None:
    """Makes a run folder of ``config``, or resumes one of the same config.

    Before a phase has saved a step, its fields may change, and before any phase has, all fields may, so that a batch
    size that does not fit into memory can be lowered.

    Raises:
      ValueError: the folder holds a run of another config; names the fields. See `check`.
    """
    folder = Path(folder)
    saved = saved_phases(folder)
    if is_trained(folder):
        check_changes(read_config(folder), config, folder, fixed=OF_RUN)
    elif saved:
        # phase "detector" starts from what phase "novel" gives
        begun = saved | ({"novel"} if "detector" in saved else set())
        free = {f"train.{name}." for name in PHASES if name not in begun} if config.stage != "distill" else ()
        check_changes(read_config(folder), config, folder, fixed=(*OF_RUN, *UNFINISHED), free=free)
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write(folder / CONFIG, config.to_json_best_effort(indent=1))


def check(folder: str | Path, config: "ConfigDict") -> None:
    """Whether a run folder is one of ``config``; fields that trained weights do not depend on may differ.

    Raises:
      FileNotFoundError: there is no run in the folder.
      ValueError: fields differ; names them with both values. Or config.json is broken.
    """
    check_changes(read_config(folder), config, folder, fix=AFTER)


def check_changes(
    trained: "ConfigDict", config: "ConfigDict", folder: str | Path,
    *, fixed: Iterable[str] = (), free: Iterable[str] = (), fix: str = RESUMED,
) -> None:  # fmt: skip
    """Whether a config differs from that of a trained model only in fields that its weights do not depend on.

    Args:
      trained: the model's config.
      config: the changed one.
      folder: of the model, for the message.
      fixed: more fields that may not differ.
      free: more fields that may differ.
      fix: what to do about the others, for the message.

    Raises:
      ValueError: other fields differ; names them with both values.
    """
    theirs = as_json(trained)
    free = {*AFTER_TRAINING, *free}
    if theirs["stage"] == "base":
        free |= {"fewshot.", "train.novel."}  # the shots are for evaluation alone
    if theirs["stage"] == "distill":  # the weights depend on the steps that were taught
        free -= {"distill.", "model.mask.diffusion.spacing"}
    free -= set(fixed)
    differ = [k for k in different_fields(as_json(config), theirs) if not covers(free, k)]
    if differ:
        raise ValueError(f"{folder} holds a run of another config ({describe(differ, theirs, as_json(config))}): {fix}")


def read_config(folder: str | Path) -> "ConfigDict":
    """The locked config of a run, from its config.json; every field has the type it had when it was written.

    Raises:
      FileNotFoundError: there is no run in the folder.
      ValueError: config.json is broken.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"there is no run in {folder}: train first, or give the folder of a run")
    document = _read_json(path, f"restore it from a backup, or train into another folder than {folder}")
    try:
        return config_fields.from_json(document)
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}; correct the file, or restore it from a backup") from error


def _read_json(path: Path, fix: str) -> dict:
    """The object in a json file.

    Raises:
      ValueError: the file is broken; names it, the place, and the fix.
    """
    try:
        document = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # no json, no UTF-8, or nested too deeply
        raise ValueError(f"{path} is broken ({error}): {fix}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} is broken (it is not a json object): {fix}")
    return document


def load_weights(folder: str | Path, model: Initializer) -> PyTree:
    """The weights of a finished run.

    Raises:
      FileNotFoundError: there is no run, or it is not finished.
      ValueError: the weights are damaged, or of another model.
    """
    if (Path(folder) / CONFIG).is_file() and not is_trained(folder):
        raise FileNotFoundError(
            f"training has not finished in {folder}: run its launch/train.py command again, which resumes, or give the "
            "folder of a trained run"
        )
    template = jax.eval_shape(model.init, jax.random.key(0))
    return checkpoint.load_params(weights_folder(folder), template)


def initial_params(config: "ConfigDict", model: Initializer) -> PyTree:
    """New weights from ``config.seed``, or those of the run ``config.init_from``.

    Raises:
      FileNotFoundError: no finished run there.
      ValueError: its weights are damaged, or of another model; names the fields.
    """
    if config.init_from:
        check_weights(config.init_from, config)
        return load_weights(config.init_from, model)
    return jax.jit(model.init)(jax.random.key(config.seed))


def check_weights(folder: str | Path, config: "ConfigDict", *, free: Iterable[str] = ()) -> None:
    """Whether the weights of a run fit the nets of a config; the fields ``free`` may differ.

    Raises:
      FileNotFoundError: no run there.
      ValueError: they do not fit; names the fields.
    """
    check_layout(folder, config)
    differ = model_differences(config, as_json(read_config(folder)), free=free)
    if differ:
        raise ValueError(f"the weights of {folder} are of another model: {'; '.join(differ)}")


def check_layout(folder: str | Path, config: "ConfigDict") -> None:
    """Whether the weights of a run were trained in the same net and with the same pixel format as in this config.

    Raises:
      FileNotFoundError: no run there.
      ValueError: fields of `LAYOUT` differ; names them.
    """
    if not (Path(folder) / CONFIG).is_file():
        raise FileNotFoundError(
            f"{folder} holds no run to start from: train that stage first, or give another folder with "
            "--config.init_from"
        )
    theirs, ours = as_json(read_config(folder)), as_json(config)
    layout = [f"model.detector.{k}" for k in LAYOUT]
    differ = [k for k in different_fields(ours, theirs) if k in layout]
    if differ:
        raise ValueError(
            f"the weights of {folder} are for another model.detector ({describe(differ, theirs, ours)}): give the "
            "same weights= in --config as that run, or another --config.init_from"
        )


def model_differences(config: "ConfigDict", before: dict, *others: str, free: Iterable[str] = ()) -> list[str]:
    """One clause for each field of the model's weights, and of ``others``, that two configs give different values.

    Args:
      config: of the later run.
      before: the earlier run's, as `as_json` gives it.
      others: more fields that must be the same.
      free: more fields that may differ.
    """
    ours = as_json(config)
    differ = [k for k in different_fields(ours, before) if k.startswith("model.") or k in others]
    theirs, ours = flat(before), flat(ours)
    return [
        f"{k} is {theirs.get(k)!r} there and {ours.get(k)!r} here: use the same value in both"
        for k in differ
        if not covers((*NEXT_STAGE, *free), k)
    ][:NAMED]


def as_json(config: "ConfigDict") -> dict:
    """A config as json holds it: tuples are lists."""
    return json.loads(json.dumps(config.to_dict()))


def flat(tree: Any, prefix: str = "") -> dict:
    """Nested dicts -> {"a.b.c": leaf}."""
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {k: v for key, sub in tree.items() for k, v in flat(sub, f"{prefix}{key}.").items()}


def different_fields(ours: dict, theirs: dict) -> list[str]:
    """The fields, "a.b.c", that two nested dicts do not share."""
    ours, theirs = flat(ours), flat(theirs)
    return sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))


def covers(fields: Iterable[str], name: str) -> bool:
    """Whether ``fields``, of which those with a trailing dot are whole sections, hold a field."""
    return any(name.startswith(k) if k.endswith(".") else name == k for k in fields)


def describe(fields: list[str], theirs: dict, ours: dict) -> str:
    """Fields with the values of both sides, for a message."""
    theirs, ours = flat(theirs), flat(ours)
    more = f" and {len(fields) - NAMED} more" if len(fields) > NAMED else ""
    return "; ".join(f"{k}: {theirs.get(k)!r} there, {ours.get(k)!r} here" for k in fields[:NAMED]) + more


def check_shots(folder: str | Path, shots: Mapping[int, Sequence[int]]) -> None:
    """Whether the shots of a run are those that it was trained on, as its shots.json lists them, where it has one.

    Shots are sampled again from the dataset each time; another or an edited dataset gives other shots.

    Args:
      shots: class id -> annotation ids.

    Raises:
      ValueError: they differ; or shots.json is broken.
    """
    path = Path(folder) / SHOTS
    if not path.is_file():
        return
    trained = _read_json(path, "restore it from a backup")
    ours = {str(class_id): list(ids) for class_id, ids in shots.items()}
    differ = [k for k in {**trained, **ours} if trained.get(k) != ours.get(k)]
    if differ:
        raise ValueError(
            f"the dataset gives other shots than {path} lists ({len(differ)} of {len(ours)} classes differ): set "
            "--config.data.root to the dataset that the run was trained on, or restore that dataset"
        )


def read_seconds(folder: str | Path) -> dict[str, float]:
    """Training time of each phase of a run in seconds, summed over interruptions.

    Raises:
      ValueError: seconds.json is broken.
    """
    path, fix = Path(folder) / SECONDS, "delete this file, which only holds training times"
    seconds = _read_json(path, fix) if path.exists() else {}
    if not all(type(x) in (int, float) and 0 <= x < float("inf") for x in seconds.values()):
        raise ValueError(f"{path} is broken (its values are not seconds): {fix}")
    return seconds


def add_seconds(folder: str | Path, phase: str, seconds: float) -> None:
    """Adds to the training time of a phase."""
    with _SECONDS_LOCK:
        total = read_seconds(folder)
        total[phase] = round(total.get(phase, 0.0) + seconds, 1)
        atomic.write_json(Path(folder) / SECONDS, total)
