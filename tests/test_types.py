"""The types say the shape of each array in the letters that types.py explains."""

import inspect
import re
from typing import get_args, get_type_hints

import jax
import numpy as np
import pytest

from maskdiff_jax import types

TUPLES = [t for _, t in inspect.getmembers(types, inspect.isclass) if hasattr(t, "_fields")]
TUPLES.remove(types.MaskHead)  # of functions
TREES = {"params", "opt_state", "ema"}  # of parameters, not arrays of one shape


def test_all_are_here():
    assert {"Instances", "Batch", "MaskBatch", "SupportSet", "Detections", "TrainState"} <= {t.__name__ for t in TUPLES}


@pytest.mark.parametrize("kind", TUPLES, ids=lambda t: t.__name__)
def test_shapes_use_the_letters_that_are_explained(kind):
    explained = set(re.findall(r"\b([A-Z])\b", types.__doc__))
    assert {"B", "N", "D", "C", "K", "M", "H", "W"} <= explained
    hints = get_type_hints(kind)
    assert set(hints) == set(kind._fields)
    for name, hint in hints.items():
        hint = next(x for x in get_args(hint) or (hint,) if x is not type(None))  # X | None
        if name in TREES or hint in TUPLES:
            continue
        letters = re.findall("[A-Z]", hint.dim_str)
        assert set(letters) <= explained, (name, hint.dim_str)


@pytest.mark.parametrize("kind", TUPLES, ids=lambda t: t.__name__)
def test_they_are_trees_of_their_fields(kind):
    """jax maps over each field, in order: nothing is hidden from it."""
    value = kind(*(np.full(2, i) for i in range(len(kind._fields))))
    doubled = jax.tree.map(lambda x: 2 * x, value)
    assert type(doubled) is kind
    assert [int(x[0]) for x in jax.tree.leaves(doubled)] == [2 * i for i in range(len(kind._fields))]
