"""Foreign weights -> a run that training or evaluation starts from.

What the files hold replaces fresh parameters; the rest stays fresh. Nothing is written unless the file's kind
fits the config, all names fit the model, every imported norm has statistics, and the way back gives the file's
numbers bit for bit.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from maskdiff_jax import atomic, checkpoint
from maskdiff_jax.model import build
from maskdiff_jax.pretrained import files as foreign
from maskdiff_jax.pretrained import rules
from maskdiff_jax.workdir import CHECKPOINTS, IMPORTED, create, initial_params, weights_folder


class Target(NamedTuple):
    """Where the tensors of a kind of file go."""

    table: Sequence[rules.Rule]
    part: str  # of our parameters
    inside: str  # the child of that part which the file fills; "": all of it
    presets: tuple[str, ...]  # the values of config.weights that it goes with; (): any
    keep: tuple[str, ...] = ()  # leaves that such a file cannot hold


TARGETS = {
    "msra": Target(rules.MSRA, "detector", "backbone", ("msra",)),
    "detectron2-backbone": Target(rules.DETECTRON2_BACKBONE, "detector", "backbone", ("torchvision",)),
    "resnet": Target(rules.RESNET, "detector", "backbone", ("torchvision",)),
    "detectron2": Target(rules.DETECTRON2, "detector", "", ("zoo", "msra")),
    # our classes enter by a table of their own, which starts at zero: no effect until it is trained
    "guided-diffusion": Target(rules.GUIDED_DIFFUSION, "mask_head", "", (), (r".*/class_table",)),
}
_BIAS = "roi_heads.box_predictor.cls_score.bias"  # what tells a linear classifier from TFA's cosine


def run(config: ConfigDict, workdir: str | Path, files: Sequence[str | Path]) -> dict:
    """Writes ``WORKDIR/config.json``, ``checkpoints/final`` and ``weights.json``.

    Args:
      config: of stage 1, with the ``weights=`` that the files need.
      workdir: of the run; an older import there is replaced.
      files: one for the detector or its backbone, one for the mask head, or both.

    Returns:
      What stands in weights.json: "files" (each with kind, file, sha256, tensors, parameters, left_out), "filled"
      and "fresh" (our parameters).

    Raises:
      FileNotFoundError: a file is missing.
      FileExistsError: a run was trained in the workdir.
      ValueError: a file cannot be read or does not fit the config or the model; names it and the mend.
    """
    workdir = Path(workdir)
    if config.stage != "base":
        raise ValueError("imported weights are what stage 1 starts from: give configs/base.py")
    if (workdir / CHECKPOINTS).is_dir() and not (workdir / IMPORTED).is_file():
        raise FileExistsError(f"{workdir} holds a trained run: give another --workdir")
    read = [(Path(f), foreign.read(f)) for f in files]
    twice = [part for part, n in Counter(TARGETS[x.kind].part for _, x in read).items() if n > 1]
    if twice or not read:
        raise ValueError(f"give one file for each part of the model, not {len(read)} ({', '.join(twice) or 'none'})")
    for path, x in read:
        check_kind(config, path, x)

    params = jax.device_get(initial_params(config, build(config.model)))
    documents, filled = [], []
    for path, x in read:
        params, document, paths = fill(params, path, x)
        documents.append(document)
        filled += paths
    check_norms(config, params)
    fresh = [p for p in _flat(params) if p not in set(filled)]
    document = {"files": documents, "filled": filled, "fresh": fresh}
    create(workdir, config)
    checkpoint.save_params(weights_folder(workdir), params)
    atomic.write_json(workdir / IMPORTED, document)
    return document


def check_kind(config: ConfigDict, path: Path, x: foreign.Foreign) -> None:
    """Whether the pixels and the layout of the config are those that the file was trained with.

    Raises:
      ValueError: they are not; with the option that makes them so.
    """
    t, presets = config.model.detector, TARGETS[x.kind].presets
    best = presets[0] if presets else config.weights
    what = f"{path} is of kind '{x.kind}' ({foreign.KINDS[x.kind][1]})"
    if x.kind == "detectron2":
        theirs, best = ("linear", "zoo") if _BIAS in x.state else ("cosine", "msra")
        if theirs != t.classifier:
            raise ValueError(
                f"{what} with a {theirs} classifier, the config has a {t.classifier} one: {_command(config, best)}"
            )
        for field in ("pixel_mean", "pixel_std"):  # some versions store them
            stored = x.state.get(field)
            if stored is not None and not np.allclose(stored.ravel(), t[field], rtol=1e-3):
                raise ValueError(
                    f"{what}, trained with {field} {stored.ravel().tolist()}; the config has {tuple(t[field])}: give "
                    f"--config.model.detector.{field}, channel_order and stride_in_1x1 as it was trained"
                )
    if x.kind == "guided-diffusion":
        unet = config.model.mask.unet
        if unet.width % 32 or unet.width * min(unet.multipliers) < 128:
            raise ValueError(
                f"{what}, whose norms have 32 groups; nets with fewer than 128 channels have fewer here: give "
                "--config.model.mask.unet.width=128 or more"
            )
    if presets and config.weights not in presets:
        raise ValueError(
            f"{what}, which goes with weights={best}, not weights={config.weights}: {_command(config, best)}"
        )


def _command(config: ConfigDict, name: str) -> str:
    preset = "coco" if config.preset.startswith("shapes") else config.preset
    return f"use --config configs/base.py:{preset},weights={name}, here and in what follows"


def fill(params: dict, path: Path, x: foreign.Foreign) -> tuple[dict, dict, list[str]]:
    """Parameters with a file's tensors in their place.

    Returns:
      The parameters; what weights.json says of the file; the paths that it filled.

    Raises:
      ValueError: names or shapes that do not fit, or a way back that does not give the file's numbers.
    """
    to = TARGETS[x.kind]
    template = {to.inside: params[to.part][to.inside]} if to.inside else params[to.part]
    try:
        new = rules.convert(x.state, to.table, template, keep=to.keep)
    except ValueError as error:
        raise ValueError(
            f"{path} ({x.kind}): {error}\nthe config says what the model is: model.detector.blocks, model.num_classes, "
            "model.mask.unet and so on must be as in the file"
        ) from error
    back = rules.export(new, to.table, {name: w.shape for name, w in x.state.items()})
    wrong = [name for name, w in back.items() if w.dtype != x.state[name].dtype or not _same(w, x.state[name])]
    if wrong:
        raise ValueError(f"{path} ({x.kind}): not the same after the way back: {', '.join(wrong)}")
    kept = {id(w) for w in _flat(template).values()}
    paths = [f"{to.part}/{p}" for p, w in _flat(new).items() if id(w) not in kept]
    document = {
        "kind": x.kind, "file": path.name, "sha256": _sha256(path), "tensors": len(back),
        "parameters": sum(int(w.size) for w in back.values()), "left_out": rules.left_out(x.state, to.table),
    }  # fmt: skip
    return params | {to.part: params[to.part] | new}, document, paths


def check_norms(config: ConfigDict, params: dict) -> None:
    """Raises ValueError where a frozen norm has no statistics: its layer would see features of any size."""
    if config.model.detector.norm != "frozen_bn":
        return
    flat = _flat(params)
    bare = [p for p, w in flat.items() if p.startswith("detector/backbone/") and p.endswith("/var") and np.all(w == 1)]
    if bare:
        raise ValueError(
            f"{len(bare)} frozen norms of the backbone have no statistics (all variances are 1; first: {bare[0]}): "
            "give a file that holds them, or train from scratch with weights=scratch"
        )


def summary(paths: Sequence[str]) -> list[str]:
    """Paths cut to two levels, each once: "detector/fpn", "mask_head" ..."""
    cut = ("/".join(p.split("/")[: 2 if p.startswith("detector/") else 1]) for p in paths)
    return list(dict.fromkeys(cut))


def _flat(params: Any) -> dict[str, Any]:
    return flatten_dict(params, sep="/")  # type: ignore[return-value]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit for bit, so that NaN equals itself and -0 is not 0."""
    return a.shape == b.shape and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
