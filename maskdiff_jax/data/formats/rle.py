"""Run lengths of compressed COCO RLE, checked for many masks at once.

The text holds runs of background and foreground in turn. From the fourth on, a run is stored as its
difference to the last but one. Each number is base-32 digits in two's complement, lowest first, as
characters 48 + digit, and 32 more on each digit but the last. pycocotools reads all this without a
check, and running lengths of 100,000 masks through Python one by one would take longer than all else.
"""

from collections.abc import Iterator, Sequence

import numpy as np

DIGITS = 6  # of one number at most: 30 bits, while no image that can be read has 2**28 pixels
CHUNK = 2**17  # characters that are looked at together: the arrays stay in the cache
BROKEN = (-1, -1)


def sums(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Of each text the sum of its runs and that of its foreground runs, px; BROKEN where a run is none."""
    return [pair for chunk in _chunks([t.encode("utf-8", "surrogatepass") for t in texts]) for pair in _sums(chunk)]


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


def _sums(texts: list[bytes]) -> list[tuple[int, int]]:
    """`sums` of texts that are not empty. Arrays: [characters], [numbers], [slots] or [texts]."""
    chars = np.frombuffer(b"".join(texts), np.uint8)
    stops = np.cumsum([len(t) for t in texts])
    firsts = np.concatenate(([0], stops[:-1]))
    digits = chars - np.uint8(48)
    good = np.maximum.reduceat(digits, firsts) < 64
    last = digits < 32
    good &= last[stops - 1]
    last[stops - 1] = True

    # numbers
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    top = digits[ends]
    values = (top & 15).astype(np.int32) - (top & 16)
    long = np.flatnonzero(ends > starts)
    count = np.diff(np.concatenate(([0], np.searchsorted(ends, stops))))  # numbers of each text
    begin = np.concatenate(([0], np.cumsum(count)[:-1]))
    too_long = long[ends[long] - starts[long] >= DIGITS]
    good[np.searchsorted(stops, ends[too_long], side="right")] = False
    size = np.minimum(ends - starts, DIGITS - 1)
    for k in range(DIGITS - 1):  # the lower digits of the few numbers that have some
        long = long[size[long] > k]
        if k == 0:
            values[long] <<= (5 * size[long]).astype(np.int32)
        values[long] += (digits[starts[long] + k] & 31).astype(np.int32) << 5 * k

    # each text gets an even number of slots, so that its two chains of differences are two columns
    rows = (count + 1) // 2
    row = np.concatenate(([0], np.cumsum(rows)[:-1]))
    slots = np.zeros((int(rows.sum()), 2), np.int32)
    slot = np.arange(len(values)) + np.repeat(2 * row - begin, count)
    slots.reshape(-1)[slot] = values
    slots[row, 0] = 0  # the first run belongs to no chain
    chains = np.cumsum(slots, axis=0, dtype=np.int32)  # what overflows is what pycocotools would read
    chains -= np.repeat(chains[row] - slots[row], rows, axis=0)
    chains[row, 0] = values[begin]
    odd = count % 2 == 1
    chains[(row + rows - 1)[odd], 1] = 0  # the slots that are left over

    good &= np.minimum.reduceat(chains, row, axis=0).min(axis=1) >= 0
    total = np.add.reduceat(chains, row, axis=0, dtype=np.int64)
    everything, foreground = np.where(good, [total.sum(axis=1), total[:, 1]], np.array([BROKEN]).T)
    return list(zip(everything.tolist(), foreground.tolist(), strict=True))
