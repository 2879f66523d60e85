"""The weights that a run starts from: new ones, those of other runs, or parts of each. Names are "a/b/c"."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from maskdiff_jax.model import Model, build
from maskdiff_jax.training.compatibility import check_detector, reset_fields
from maskdiff_jax.types import PyTree
from maskdiff_jax.workdir import CONFIG, IMPORTED, check_weights, initial_params, load_weights, read_config

NAMED = 4  # parameters that a message names
PUBLIC = 'docs/own_data.md, "A base model from public weights", has the commands'


def starting_params(config: ConfigDict, model: Model) -> PyTree:
    """New weights, or those of the run ``config.init_from`` except for what ``config.train.reset`` names.

    The detector is that of the run ``config.detector_from``, if one is given.

    Raises:
      FileNotFoundError: no finished run there.
      ValueError: its weights are damaged, or of another model; or `train.reset` matches nothing, or no run is given; or
        the detector cannot be used, see `compatibility.check_detector`.
    """
    if config.detector_from:
        check_detector(config)
    params = _new_or_of_a_run(config, model)
    if not config.detector_from:
        return params
    detector = _params_of(config.detector_from)["detector"]
    differ = _differences(_flat(params["detector"]), _flat(detector))
    if differ:
        raise ValueError(
            f"the detector of {config.detector_from} does not fit this model ({differ}): use the config that it "
            "was trained with, or give another --config.detector_from"
        )
    return {**params, "detector": detector}


def _new_or_of_a_run(config: ConfigDict, model: Model) -> PyTree:
    """As `starting_params`, for a run without `detector_from`."""
    if not config.train.reset:
        return initial_params(config, model)
    if not config.init_from:
        raise ValueError(
            "train.reset names parameters that get new weights in a run that starts from another run: give "
            "--config.init_from too, or omit train.reset"
        )
    if config.weights == "detector":
        _check_imported(config)
    check_weights(config.init_from, config, free=reset_fields(config))
    new = jax.jit(model.init)(jax.random.key(config.seed))
    before = _params_of(config.init_from)
    params = with_reset(new, before, config.train.reset, config.init_from)
    if jax.process_index() == 0:
        for line in describe_reset(params, before, config.train.reset):
            print(f"from {config.init_from}: {line}", flush=True)
    return params


def _check_imported(config: ConfigDict) -> None:
    """Whether there is a whole detector to start from, not only a backbone.

    Raises:
      FileNotFoundError: there is nothing.
      ValueError: the weights that were imported are those of a backbone.
    """
    folder = Path(config.init_from)
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"{folder} holds no detector to start from: download one and import it with "
            f"launch/import_weights.py and the same --config ({PUBLIC}), or give --config.init_from"
        )
    if (folder / IMPORTED).is_file():
        filled = json.loads((folder / IMPORTED).read_text())["filled"]
        if not any(name.startswith("detector/box_head/") for name in filled):
            raise ValueError(
                f"{folder} holds the weights of a backbone, but weights=detector needs a whole detector: import "
                f"one ({PUBLIC}), or train with weights={read_config(folder).weights}"
            )


def with_reset(new: PyTree, before: PyTree, patterns: Sequence[str], folder: str | Path) -> PyTree:
    """The weights ``before``, but ``new`` ones where a pattern matches the whole name.

    Args:
      new: of the model of this run.
      before: of the run in ``folder``; what no pattern matches must have the same names, types and shapes.
      patterns: regular expressions.
      folder: for messages.

    Raises:
      ValueError: a pattern matches nothing, or other weights differ; names them.
    """
    ours, theirs = _flat(new), _flat(before)
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in ours | theirs):
            raise ValueError(f"train.reset has {pattern!r}, which no parameter's name matches")

    def is_reset(name: str) -> bool:
        return any(re.fullmatch(pattern, name) for pattern in patterns)

    differ = _differences(*({k: x for k, x in tree.items() if not is_reset(k)} for tree in (ours, theirs)))
    if differ:
        raise ValueError(
            f"the weights of {folder} are of another model ({differ}): use the config that they were trained "
            "with, or name them in train.reset to give them new weights"
        )
    return unflatten_dict({k: x if is_reset(k) else theirs[k] for k, x in ours.items()}, sep="/")


def describe_reset(params: PyTree, before: PyTree, patterns: Sequence[str]) -> list[str]:
    """What a run copies from another run and what it drops, one line each, for its log.

    Args:
      params: what `with_reset` gave.
      before: of the run that it starts from.
      patterns: as in `with_reset`.
    """
    ours, theirs = _flat(params), _flat(before)
    taken: dict[str, int] = {}
    dropped: dict[str, list[str]] = {}
    for name in sorted(ours | theirs):
        if any(re.fullmatch(pattern, name) for pattern in patterns):
            dropped.setdefault(_part(name), []).append(name)
        else:
            taken[_part(name)] = taken.get(_part(name), 0) + int(ours[name].size)
    parts = [f"{part} ({count:,} parameters)" for part, count in taken.items()]
    lines = [f"copied: {', '.join(parts) or 'nothing'}"]
    for part, names in dropped.items():
        each = [f"{name} {_kind(theirs, name)} (new: {_kind(ours, name)})" for name in names]
        lines.append(f"dropped: {'; '.join(each) if len(each) <= NAMED else f'{part} (all of it is new)'}")
    return lines


def _part(name: str) -> str:
    """The part of the model that a parameter belongs to: "detector/fpn", "mask_head" ..."""
    return "/".join(name.split("/")[: 2 if name.startswith("detector/") else 1])


def _params_of(folder: str | Path) -> PyTree:
    """The weights of a finished run, whatever its model is."""
    return load_weights(folder, build(read_config(folder).model))


def _flat(params: PyTree) -> dict[str, Any]:
    return flatten_dict(params, sep="/")


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Names with both shapes, for a message; "" where names, types and shapes are the same."""
    differ = sorted(k for k in ours.keys() | theirs.keys() if _kind(ours, k) != _kind(theirs, k))
    more = f" and {len(differ) - NAMED} more" if len(differ) > NAMED else ""
    return "; ".join(f"{k} is {_kind(theirs, k)} there, {_kind(ours, k)} here" for k in differ[:NAMED]) + more


def _kind(flat: Mapping[str, Any], name: str) -> str:
    """Type and shape of a parameter."""
    return f"{flat[name].dtype}{list(flat[name].shape)}" if name in flat else "missing"
