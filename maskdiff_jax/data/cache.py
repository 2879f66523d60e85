"""Keeps results in memory, up to a limit."""

import threading
from collections.abc import Callable
from typing import Any


class Cached:
    """A function of a position that keeps its results, up to `limit` bytes.

    A result that does not fit is computed each time: positions come in random order, where replacing old
    results by new ones gains nothing. A copy sent to another process starts empty. Two threads may compute
    the same result once each.

    Args:
      function: position -> result.
      limit: bytes.
      size_of: result -> its bytes.
    """

    def __init__(self, function: Callable[[int], Any], limit: int, size_of: Callable[[Any], int]):
        self._function, self._limit, self._size_of = function, limit, size_of
        self._kept: dict[int, Any] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def __call__(self, i: int) -> Any:
        if i in self._kept:
            return self._kept[i]
        result = self._function(i)
        size = self._size_of(result)
        with self._lock:  # a result that two threads computed counts once
            if i not in self._kept and self._bytes + size <= self._limit:
                self._bytes += size
                self._kept[i] = result
        return result

    def __reduce__(self) -> tuple:
        return Cached, (self._function, self._limit, self._size_of)
