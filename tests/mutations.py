"""Documents with random faults, for tests that reading them ends in a valid value or in one sentence."""

import copy
import json
import os
import random
from collections.abc import Iterator
from typing import Any

MUTATIONS = int(os.environ.get("MASKDIFF_FUZZ", 50))  # how many a test tries
WRONG = (
    None, True, -1, 0, 1, 3, 10**9, 10**30, 0.5, -1e300, float("inf"), float("nan"), "", "eps", "../x", "\ud800", "\0",
    [], {}, [1], [[1, 2]], [10**9] * 4, {"a": 1}, "x" * 10**5,
)  # fmt: skip


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value inside a json object."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def mutated(document: Any, rng: random.Random) -> str:
    """A copy with one to three changes, and perhaps a cut, as text."""
    document = copy.deepcopy(document)
    for _ in range(rng.randint(1, 3)):
        *path, key = rng.choice(list(places(document)))
        node = document
        for x in path:
            node = node[x]
        how = rng.randrange(4)
        if how == 0:
            del node[key]
        elif how == 1 and isinstance(node[key], int | float) and not isinstance(node[key], bool):
            node[key] = node[key] * rng.choice([-1, 0, 2, 3, 0.5, 10**6])
        else:
            node[key] = copy.deepcopy(rng.choice(WRONG))
    text = json.dumps(document)
    return text[: rng.randrange(len(text))] if rng.randrange(20) == 0 else text
