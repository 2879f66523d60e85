import numpy as np
import pytest

from configs import base
from maskdiff_jax.data import buckets, transforms


@pytest.fixture
def data():
    d = base.get_config("coco").data.copy_and_resolve_references()
    d.short_sides, d.long_side, d.buckets = (50, 100), 200, ((100, 200), (200, 100), (100, 150))
    return d


def test_padding_by_hand(data):
    # 100 x 100 and 50 x 50 in 100 x 150; 100 x 200 and 50 x 100 in 100 x 200, twice
    found = buckets.padding([(10, 10), (10, 20), (20, 40)], data)
    filled = (10_000 + 2_500) / 2 + 2 * (20_000 + 5_000) / 2
    assert found.share == pytest.approx(1 - filled / (15_000 + 2 * 20_000))
    assert found.images == {(100, 200): pytest.approx(2 / 3), (100, 150): pytest.approx(1 / 3)}
    text = buckets.describe(found)
    assert text == (
        "2 padded sizes (height x width), 43 % of the area is padding; of the images: 100x200 67 %, 100x150 33 %"
    )


def test_padded_sizes_keep_the_order(data):
    sizes = np.array([(30, 30), (10, 20), (20, 10), (30, 30)])
    found = buckets.padded_sizes(sizes, 100, data)
    assert found == [(100, 150), (100, 200), (200, 100), (100, 150)]
    assert buckets.padded_sizes(np.zeros((0, 2), int), 100, data) == []
    with pytest.raises(ValueError, match=r"data\.buckets"):
        buckets.padded_sizes(np.array([(30, 30)]), 150, data)


def test_only_waste_is_told(data, capsys):
    data.short_sides, data.buckets = (100,), ((100, 150),)
    buckets.print_padding(np.array([(100, 150)]), data)
    assert capsys.readouterr().err == ""
    buckets.print_padding(np.array([(100, 120)]), data)
    assert "1 padded size (height x width), 20 % of the area" in capsys.readouterr().err


def test_every_size_fits_a_bucket_of_coco():
    d = base.get_config("coco").data
    for side in (*d.short_sides, d.test_short_side):
        for other in range(1, 5000, 7):
            for hw in ((480, other), (other, 480)):
                transforms.padded_size(transforms.resized_hw(*hw, side, d.long_side), d.buckets)
    assert all(v % 32 == 0 for b in d.buckets for v in b)
