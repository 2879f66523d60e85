import numpy as np

from maskdiff_jax.data.formats import coco, segmentation
from maskdiff_jax.data.formats.segmentation import decode_mask
from tests.data.small_json import annotation, load


def test_a_polygon_that_crosses_itself_or_the_border_is_kept(write):
    bow = [1, 1, 9, 7, 9, 1, 1, 7]
    half_out = [-30, -5, 5, -5, 5, 30]
    entries = [annotation(1, segmentation=[bow]), annotation(2, segmentation=[half_out])]
    dataset, problems, _ = load(write(entries))
    first, second = (decode_mask(a.rle) for a in dataset.infos[0].annotations)
    assert first[4, 2] and first[4, 8] and not first[1, 5] and not problems
    assert second.shape == (8, 10) and second[:, :4].any() and not second[:, 5:].any()


def test_both_kinds_of_rle_and_crowd_regions(write):
    mask = np.zeros((8, 10), np.uint8)
    mask[2:, 1], mask[0, 9] = 1, 1
    plain = {"size": [8, 10], "counts": [10, 6, 56, 1, 7]}
    packed = segmentation.encode_mask(mask)
    entries = [annotation(1, segmentation=plain, iscrowd=1), annotation(2, segmentation=packed)]
    dataset, problems, _ = load(write(entries))
    first, second = dataset.infos[0].annotations
    assert first.rle == second.rle == packed and (first.crowd, second.crowd) == (True, False)
    assert problems == {coco.CROWD: 1}
