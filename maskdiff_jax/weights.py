"""Foreign weights into our parameters: tables of (pattern, path, transform), checked from both sides.

A table is an ordered list of rules. Each foreign name must match exactly one rule, each of our leaves must
be filled exactly once, and shapes must agree; every problem is reported at once.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict


class Rule(NamedTuple):
    """One row of a table."""

    pattern: str  # of the whole foreign name (re.fullmatch)
    path: str | None  # ours, "/" between the parts, with \1, \2 of the pattern; None = leave out
    transform: Callable[[np.ndarray], np.ndarray] = lambda w: w


def conv(w: np.ndarray) -> np.ndarray:
    """[out, in, kh, kw] -> [kh, kw, in, out]."""
    return w.transpose(2, 3, 1, 0)


def linear(w: np.ndarray) -> np.ndarray:
    """[out, in] or [out, in, 1] -> [in, out]."""
    return w.reshape(w.shape[:2]).T


def convert(state: Mapping[str, np.ndarray], table: Sequence[Rule], template: Any) -> dict:
    """Builds parameters like ``template`` from foreign tensors.

    Args:
      state: foreign name -> array.
      table: the rules.
      template: our parameter tree (arrays or ShapeDtypeStructs): names, shapes and dtypes wanted.

    Raises:
      ValueError: names that no rule or several rules match, leaves left empty or filled twice, shapes that
        differ; all of them in one message.
    """
    want = flatten_dict(template, sep="/")
    out: dict[str, np.ndarray] = {}
    problems = []
    for name, w in state.items():
        hits = [(r, m) for r in table if (m := re.fullmatch(r.pattern, name))]
        if len(hits) != 1:
            problems.append(f"{name}: matched by {len(hits)} rules")
            continue
        rule, match = hits[0]
        if rule.path is None:
            continue
        path = match.expand(rule.path)
        value = rule.transform(np.asarray(w))
        if path not in want:
            problems.append(f"{name}: the model has no parameter {path}")
        elif path in out:
            problems.append(f"{name}: {path} is already filled")
        elif value.shape != want[path].shape:
            problems.append(f"{name}: {value.shape} does not fit {path} {want[path].shape}")
        else:
            out[path] = value.astype(want[path].dtype)
    problems += [f"{p}: nothing fills it" for p in want if p not in out]
    if problems:
        raise ValueError("weights do not fit the model:\n  " + "\n  ".join(problems))
    return unflatten_dict(out, sep="/")
