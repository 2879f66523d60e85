"""Run lengths of compressed COCO RLE, checked for many masks at once.

The format is pycocotools' (common/maskApi.c, rleToString). A mask is a list of run lengths in column order, background
and foreground in turn. The text stores numbers: the first three are runs, each later one is the difference of a run to
the run two before it, which is the last one of the same color. A number is written in base 32, lowest digit first, as
characters 48 + digit, with 32 added to each digit but the last; the last digit holds the sign (two's complement).

    runs     10  6  56   1   7      10 + 56 + 7 = 73 px background, 6 + 1 = 7 px foreground
    numbers  10  6  56  -5 -49      1 - 6 = -5, 7 - 56 = -49
    digits   10| 6|24 1|27|15 30    56 = 24 + 1 x 32, -5 = 27 - 32, -49 = 15 + (30 - 32) x 32
    text      :  6  h 1  K  _ N     h = chr(48 + 24 + 32)

pycocotools reads all this without a check, and runs that do not add up to the image have it write past its memory.
A Python loop over the characters of 100,000 masks would take longer than all else, so numpy does it for all at once.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

MAX_DIGITS = 6  # of one number: 30 bits, while no image that can be read has 2**28 pixels
CHUNK = 2**17  # characters that are processed together: the arrays stay in the processor's cache
BROKEN = (-1, -1)


class _Numbers(NamedTuple):
    """The numbers of all texts, one text after another."""

    values: np.ndarray  # int32 [numbers]
    count: np.ndarray  # [texts], numbers of each text
    valid: np.ndarray  # bool [texts], False where the characters are no numbers


def sums(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Sums of run lengths.

    Args:
      texts: "counts" of compressed RLE.

    Returns:
      Of each text the sum of all its runs and of its foreground runs, px; BROKEN where the text is no RLE.
    """
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return [pair for chunk in _chunks(encoded) for pair in _sums(_read_numbers(chunk))]


def _chunks(texts: Sequence[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for text in texts:
        if size > CHUNK:
            yield chunk
            chunk, size = [], 0
        chunk.append(text or b" ")  # an empty text is broken, and so is a space
        size += len(text)
    if chunk:
        yield chunk


def _read_numbers(texts: list[bytes]) -> _Numbers:
    """Decodes the base-32 digits of texts that are not empty."""
    digits = np.frombuffer(b"".join(texts), np.uint8) - np.uint8(48)  # characters below 48 become large
    text_end = np.cumsum([len(t) for t in texts])
    text_start = _starts(text_end)
    is_last = digits < 32  # digit of its number
    valid = (np.maximum.reduceat(digits, text_start) < 64) & is_last[text_end - 1]
    is_last[text_end - 1] = True  # so that no number runs into the next text

    last = np.flatnonzero(is_last)  # [numbers], position of the last digit
    first = _starts(last + 1)
    lower = last - first  # digits below the last one
    too_long = lower >= MAX_DIGITS
    valid[np.searchsorted(text_end, last[too_long], side="right")] = False
    lower = np.minimum(lower, MAX_DIGITS - 1)

    values = (digits[last] & 15).astype(np.int32) - (digits[last] & 16)  # the last digit: -16..15
    several = np.flatnonzero(lower)  # few numbers have lower digits
    values[several] <<= (5 * lower[several]).astype(np.int32)
    for k in range(MAX_DIGITS - 1):
        several = several[lower[several] > k]
        values[several] += (digits[first[several] + k] & 31).astype(np.int32) << 5 * k
    count = np.diff(np.searchsorted(last, text_end), prepend=0)
    return _Numbers(values, count, valid)


def _sums(numbers: _Numbers) -> list[tuple[int, int]]:
    """Undoes the differences and adds up the runs.

    The runs of one text become rows of two columns, background and foreground; each difference then refers to the
    row above, and a cumulative sum along the rows undoes them all. For the example of the module's docstring::

        numbers      without the first     cumulative sum     with the first
        10    6            0    6              0    6             10    6
        56   -5           56   -5             56    1             56    1
       -49               -49    0              7    1              7    0

    The first number is a run that the third one does not refer to, so it is taken out before and put back after. An
    odd number of runs leaves one cell, which is 0 at the end.
    """
    values, count, valid = numbers
    number_start = _starts(np.cumsum(count))
    rows = (count + 1) // 2  # of each text
    row_end = np.cumsum(rows)
    row_start = _starts(row_end)

    table = np.zeros((int(rows.sum()), 2), np.int32)
    cell = np.arange(len(values)) + np.repeat(2 * row_start - number_start, count)
    table.reshape(-1)[cell] = values
    table[row_start, 0] = 0
    runs = np.cumsum(table, axis=0, dtype=np.int32)  # an overflow gives what pycocotools would read
    runs -= np.repeat(runs[row_start] - table[row_start], rows, axis=0)  # each text starts from 0
    runs[row_start, 0] = values[number_start]
    runs[row_end[count % 2 == 1] - 1, 1] = 0

    valid = valid & (np.minimum.reduceat(runs, row_start, axis=0).min(axis=1) >= 0)
    background, foreground = np.add.reduceat(runs, row_start, axis=0, dtype=np.int64).T
    pairs = np.where(valid, [background + foreground, foreground], np.array([BROKEN]).T)
    return list(zip(*pairs.tolist(), strict=True))


def _starts(ends: np.ndarray) -> np.ndarray:
    """Where each of several consecutive pieces starts, given where they end."""
    return np.concatenate(([0], ends[:-1]))
