import numpy as np
from pycocotools import mask as mask_utils

from maskdiff_jax.data.formats import rle, segmentation


def test_compressed_runs_are_read_exactly():
    """Together, alone, and beside broken ones."""
    rng = np.random.default_rng(0)
    texts, expected = [], []
    for h, w in [(1, 1), (8, 10), (300, 200), (3000, 700), (40, 30)]:
        for share in (0.0, 0.001, 0.5, 1.0):
            mask = (rng.random((h, w)) < share).astype(np.uint8)
            texts += [
                segmentation.encode_mask(mask)["counts"],
                ["", "o", "hello, world", "é", "oooooooo0"][len(texts) % 5],
            ]
            expected += [(h * w, mask.sum()), rle.BROKEN]
    assert rle.sums(texts) == expected
    assert [rle.sums([text])[0] for text in texts] == expected
    assert rle.sums([]) == []
    # 10 background, then -3, then 73: the sum is right, the run is not
    assert rle.sums([chr(48 + 10) + chr(48 + 29) + "Y2"]) == [rle.BROKEN]


def test_the_worked_example_of_the_docstring():
    runs = [10, 6, 56, 1, 7]
    packed = mask_utils.frPyObjects({"size": [8, 10], "counts": runs}, 8, 10)
    assert packed["counts"].decode() == ":6h1K_N"
    numbers = rle._read_numbers([b":6h1K_N"])
    assert numbers.values.tolist() == [10, 6, 56, 1 - 6, 7 - 56] and numbers.count.tolist() == [5]
    assert rle.sums([":6h1K_N"]) == [(80, 7)]
