import pickle

import numpy as np
import pytest

from maskdiff_jax.data import dataset as ds
from maskdiff_jax.data.formats import images
from tests.data.tiny import squares


@pytest.mark.parametrize(
    ("box", "area", "enough"),
    [
        ((0.0, 0.0, 8.0, 9.0), 16.0, True),  # both exactly at the limit
        ((0.0, 0.0, 7.9, 9.0), 60.0, False),
        ((0.0, 2.0, 9.0, 9.9), 60.0, False),
        ((0.0, 0.0, 8.0, 9.0), 15.9, False),
    ],
)
def test_large_enough_counts_the_shorter_side_and_the_area(box, area, enough):
    annotation = squares([(1, 0)]).infos[0].annotations[0]._replace(box=box, area=area)
    assert ds.large_enough(annotation, min_box_side=8, min_mask_area=16) == enough


def test_targets_are_neither_crowds_nor_ignored():
    annotation = squares([(1, 0)]).infos[0].annotations[0]
    assert annotation.is_target
    assert not annotation._replace(crowd=True).is_target and not annotation._replace(ignore=True).is_target


def test_subset_reads_the_pixels_of_its_positions():
    whole = squares([(1, 0)], [(2, 1)], [(3, 2)])
    some = ds.subset(whole, [2, 0], [whole.infos[2], whole.infos[0]])
    for i, k in enumerate((2, 0)):
        np.testing.assert_array_equal(some.read(i), whole.read(k))
        np.testing.assert_array_equal(images.decode_image(ds.encoded_image(some, i), "it"), whole.read(k))
    copied = ds.subset(whole._replace(encoded=b"abc".__getitem__), [2, 0], some.infos)
    assert [ds.encoded_image(copied, i) for i in (0, 1)] == [ord("c"), ord("a")]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(some.read))(1), whole.read(0))


def test_novel_classes_are_named():
    assert [c.novel for c in ds.with_novel(squares(), ["a", "b"]).categories] == [True, True, False]
    with pytest.raises(
        ValueError,
        match=r"novel_classes names z, which the \w+ split of squares does not have: its classes are a, b, c",
    ):
        ds.with_novel(squares(), ["a", "z"])


def test_a_misspelled_novel_class_gets_a_suggestion():
    named = squares()._replace(categories=tuple(ds.Category(i, n, False) for i, n in enumerate(("zebra", "cup"))))
    with pytest.raises(ValueError, match=r"names zebbra, .* does not have: did you mean zebra\? its classes are"):
        ds.with_novel(named, ["zebbra"])
