"""Converts pretrained weights into a run folder, from which training or evaluation starts.

The tensors of third-party checkpoints replace new parameters; the parameters that no checkpoint fills stay new. Nothing
is written unless each checkpoint is of a kind that fits the config, all names and shapes fit the model, every
frozen norm has statistics, and a round trip (ours back to theirs) gives the file's numbers bit for bit.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from maskdiff_jax import atomic, checkpoint
from maskdiff_jax.lock import owned
from maskdiff_jax.model import build
from maskdiff_jax.pretrained import architecture, files, rules
from maskdiff_jax.workdir import CHECKPOINTS, IMPORTED, create, initial_params, weights_folder


class Target(NamedTuple):
    """Where the tensors of a kind of checkpoint go."""

    table: Sequence[rules.Rule]
    part: str  # of our parameters: "detector" or "mask_head"
    child: str = ""  # the one child of that part which the table fills; "": all of it
    presets: tuple[str, ...] = ()  # values of config.weights that the checkpoint goes with, the best first; (): any
    keep: tuple[str, ...] = ()  # patterns of parameters that such a checkpoint does not have


TARGETS = {
    "msra": Target(rules.MSRA, "detector", "backbone", presets=("msra",)),
    "detectron2-backbone": Target(rules.DETECTRON2_BACKBONE, "detector", "backbone", presets=("torchvision",)),
    "resnet": Target(rules.RESNET, "detector", "backbone", presets=("torchvision",)),
    "detectron2": Target(rules.DETECTRON2, "detector", presets=("zoo", "msra", "detector")),
    # our class vectors start at zero: they have no effect until they are trained
    "guided-diffusion": Target(rules.GUIDED_DIFFUSION, "mask_head", keep=(r".*/class_table",)),
}
_CLASSIFIER_BIAS = "roi_heads.box_predictor.cls_score.bias"  # a linear classifier has one, TFA's cosine has none
_CLASSIFIER, _BOXES = (f"roi_heads.box_predictor.{name}.weight" for name in ("cls_score", "bbox_pred"))


def run(config: ConfigDict, workdir: str | Path, paths: Sequence[str | Path]) -> dict:
    """Writes ``config.json``, the weights and ``weights.json`` into a run folder.

    Args:
      config: of stage 1, with the ``weights=`` that fits the files. With weights=detector the run folder gets the
        classes of the detector in the file, whatever the config's are.
      workdir: the run folder; an earlier import there is replaced.
      paths: one file for the detector or its backbone, one for the mask head, or both.

    Returns:
      What weights.json holds: "files" (each with kind, file, sha256, tensors, parameters, unused), "filled" and "new"
      (paths of our parameters).

    Raises:
      FileNotFoundError: a file is missing.
      FileExistsError: the folder holds a trained run.
      ValueError: a file cannot be read, or does not fit the config or the model; names it and the fix.
    """
    workdir = Path(workdir)
    if config.stage != "base":
        raise ValueError(
            "pretrained weights are for stage 1, and later stages start from stage 1: use --config configs/base.py"
        )
    if (workdir / CHECKPOINTS).is_dir() and not (workdir / IMPORTED).is_file():
        raise FileExistsError(f"{workdir} holds a trained run: give another --workdir")
    found = {Path(path): files.read(path) for path in paths}
    parts = [TARGETS[loaded.kind].part for loaded in found.values()]
    if not parts or len(parts) != len(set(parts)) or len(found) != len(paths):
        kinds = ", ".join(loaded.kind for loaded in found.values()) or "none"
        raise ValueError(f"give one file for the detector, one for the mask head, or both; given: {kinds}")
    for path, loaded in found.items():
        check_kind(config, path, loaded)
        if config.weights == "detector" and loaded.kind == "detectron2":
            config = with_predictor_of(config, loaded)

    params = jax.device_get(initial_params(config, build(config.model)))
    documents, filled = [], set()
    for path, loaded in found.items():
        params = fill(params, path, loaded)
        documents.append(describe(path, loaded))
        filled |= filled_paths(loaded)
    check_norms(config, params)
    ours = list(_flat(params))
    document = {
        "files": documents, "filled": [p for p in ours if p in filled], "new": [p for p in ours if p not in filled],
    }  # fmt: skip
    with owned(workdir):
        create(workdir, config)
        atomic.write_json(workdir / IMPORTED, document)  # before the weights: it marks the folder as one to import into
        checkpoint.save_params(weights_folder(workdir), params)
    return document


# ----------------------------------------------------------------------------------------------- checks


def check_kind(config: ConfigDict, path: Path, loaded: files.Checkpoint) -> None:
    """Whether the config describes the net and the pixels that a checkpoint was trained with.

    Raises:
      ValueError: it does not; names the option to change.
    """
    presets = TARGETS[loaded.kind].presets
    name = f"{path} is of kind '{loaded.kind}' ({files.KINDS[loaded.kind][1]})"
    best = _best_preset(config, loaded)
    if presets and config.weights not in presets:
        alone = f", and holds only a backbone; weights={config.weights} needs a whole detector"
        alone = alone if config.weights == "detector" else ""
        raise ValueError(
            f"{name}, which needs weights={best}, not weights={config.weights}{alone}: {_fix(config, best)}"
        )
    if loaded.kind == "detectron2":
        _check_architecture(config, name, loaded)
        _check_classifier(config, name, loaded)
        _check_pixels(config, name, loaded)
    if loaded.kind == "guided-diffusion":
        _check_groups(config, name)


def _best_preset(config: ConfigDict, loaded: files.Checkpoint) -> str:
    """The value of ``weights=`` that fits a checkpoint; a custom dataset has other classes than a public detector."""
    presets = TARGETS[loaded.kind].presets
    if loaded.kind != "detectron2":
        return presets[0] if presets else config.weights
    if config.preset == "custom":
        return "detector"
    return "zoo" if _classifier(loaded) == "linear" else "msra"


def _classifier(loaded: files.Checkpoint) -> str:
    return "linear" if _CLASSIFIER_BIAS in loaded.tensors else "cosine"


def with_predictor_of(config: ConfigDict, loaded: files.Checkpoint) -> ConfigDict:
    """A config with the classes, the classifier and the kind of boxes of a detector, which a later run replaces."""
    config = config.copy_and_resolve_references().unlock()
    detector, rows = config.model.detector, {k: loaded.tensors[k].shape[0] for k in (_CLASSIFIER, _BOXES)}
    config.model.num_classes = rows[_CLASSIFIER] - 1  # the last one is the background
    detector.classifier = _classifier(loaded)
    detector.class_agnostic_boxes = rows[_BOXES] == 4
    return config.lock()


def _check_classifier(config: ConfigDict, name: str, loaded: files.Checkpoint) -> None:
    theirs, ours = _classifier(loaded), config.model.detector.classifier
    if theirs != ours and config.weights != "detector":
        raise ValueError(
            f"{name} with a {theirs} classifier, but the config has a {ours} one: "
            + _fix(config, _best_preset(config, loaded))
        )


def _check_pixels(config: ConfigDict, name: str, loaded: files.Checkpoint) -> None:
    """Some versions of detectron2 store the mean and the deviation of the pixels."""
    for field in ("pixel_mean", "pixel_std"):
        stored, ours = loaded.tensors.get(field), tuple(config.model.detector[field])
        if stored is not None and not (stored.size == 3 and np.allclose(stored.ravel(), ours, rtol=1e-3)):
            raise ValueError(
                f"{name}, trained with {field} {stored.ravel().tolist()}; the config has {ours}: give "
                f"--config.model.detector.{field}, channel_order and stride_in_1x1 as it was trained"
            )


def _check_architecture(config: ConfigDict, name: str, loaded: files.Checkpoint) -> None:
    """The layers of the nets and their widths."""
    groups, missing = architecture.groups(loaded.tensors), [k for k in (_CLASSIFIER, _BOXES) if k not in loaded.tensors]
    if groups != 1:
        raise ValueError(
            f"{name} whose backbone has convolutions of {groups} groups, a ResNeXt: {architecture.FITTING}"
        )
    if other := architecture.other_kind(loaded.tensors):
        raise ValueError(f"{name}; {other}")
    if differ := architecture.differences(loaded.tensors, config.model.detector):
        raise ValueError(f"{name} of another size: {'; '.join(differ)}, here and in later commands")
    if missing:
        raise ValueError(f"{name}, but without {', '.join(missing)}: {architecture.FITTING}")


def _check_groups(config: ConfigDict, name: str) -> None:
    unet = config.model.mask.unet
    if unet.width % 32 or unet.width * min(unet.multipliers) < 128:
        raise ValueError(
            f"{name}, whose GroupNorms have 32 groups, while nets with fewer than 128 channels have fewer groups here: "
            "give --config.model.mask.unet.width=128 or more"
        )


def _fix(config: ConfigDict, weights: str) -> str:
    preset = "coco" if config.preset.startswith("shapes") else config.preset
    # no file fits size tiny; of the smaller ones, size small has the full detector
    size = "" if config.size == "paper" else ",size=small"
    return f"use --config configs/base.py:{preset}{size},weights={weights} here and in later commands"


def check_norms(config: ConfigDict, params: dict) -> None:
    """Raises ValueError if a frozen norm has no statistics: its layer would get features of any scale."""
    if config.model.detector.norm != "frozen_bn":
        return
    variances = {p: w for p, w in _flat(params).items() if p.startswith("detector/backbone/") and p.endswith("/var")}
    without = [p for p, w in variances.items() if np.all(w == 1)]
    if without:
        raise ValueError(
            f"{len(without)} frozen norms of the backbone have no statistics (all variances are 1; first: "
            f"{without[0]}): use a file that has them, or train from scratch with weights=scratch"
        )


# -------------------------------------------------------------------------------------------- conversion


def fill(params: dict, path: Path, loaded: files.Checkpoint) -> dict:
    """Parameters in which a checkpoint's tensors replace ours.

    Raises:
      ValueError: names or shapes that do not fit, or a round trip that does not give the file's numbers.
    """
    target = TARGETS[loaded.kind]
    part = params[target.part]
    template = {target.child: part[target.child]} if target.child else part
    try:
        new = rules.convert(loaded.tensors, target.table, template, keep=target.keep)
    except ValueError as error:
        raise ValueError(
            f"{path} ({loaded.kind}): {error}\nthe config must describe the model in the file: check "
            "model.detector.blocks, model.num_classes and model.mask.unet; weights=detector accepts a detector "
            "with other classes"
        ) from error
    returned = rules.export(new, target.table, {name: tensor.shape for name, tensor in loaded.tensors.items()})
    wrong = [name for name, tensor in returned.items() if not _same_bits(tensor, loaded.tensors[name])]
    if wrong:
        raise ValueError(f"{path} ({loaded.kind}): the round trip changes {', '.join(wrong)}")
    return params | {target.part: part | new}


def filled_paths(loaded: files.Checkpoint) -> set[str]:
    """Paths of all parameters that a checkpoint fills: "detector/backbone/stem/conv1/kernel" ..."""
    target = TARGETS[loaded.kind]
    return {f"{target.part}/{path}" for path in rules.filled_paths(loaded.tensors, target.table)}


def describe(path: Path, loaded: files.Checkpoint) -> dict:
    """A checkpoint's entry in weights.json."""
    unused = rules.unused_names(loaded.tensors, TARGETS[loaded.kind].table)
    used = loaded.tensors.keys() - set(unused)
    return {
        "kind": loaded.kind, "file": path.name, "sha256": _sha256(path), "tensors": len(used),
        "parameters": sum(int(loaded.tensors[name].size) for name in used), "unused": unused,
    }  # fmt: skip


def summary(paths: Sequence[str]) -> list[str]:
    """Paths cut to their first levels, each once: "detector/fpn", "mask_head" ..."""
    cut = ("/".join(p.split("/")[: 2 if p.startswith("detector/") else 1]) for p in paths)
    return list(dict.fromkeys(cut))


def _flat(params: Any) -> dict[str, Any]:
    return flatten_dict(params, sep="/")  # type: ignore[return-value]


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are equal bit for bit: NaN equals itself, and -0 is not 0."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
