"""Charts: the running mean by hand, a PNG for any numbers and labels."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from maskdiff_jax.reporting import charts


def test_running_mean_by_hand():
    np.testing.assert_allclose(charts.running_mean(np.array([1.0, 3.0, 5.0, 7.0]), 2), [1, 2, 4, 6])


def test_missing_values_do_not_count_in_the_running_mean():
    values = np.array([math.nan, 2.0, math.nan, 6.0, math.nan, math.nan])
    np.testing.assert_allclose(charts.running_mean(values, 2), [math.nan, 2, 2, 6, 6, math.nan])


@pytest.mark.parametrize(
    "lines",
    [
        [charts.Line([1], [math.nan], "a", noisy=True), charts.Line([1, 2], [3, 4])],
        [charts.Line([0, 2**53], [1e30, -1e30], "_hidden", noisy=True)],
        [charts.Line([1, 2], [1.0, 1.0], "$x^{", noisy=True), charts.Line([1], [0.0], "\ud800\0", style="--")],
    ],
)
def test_any_numbers_and_labels_give_a_png(lines):
    png = charts.line_chart("title $\\frac{ \ud800", "step", "loss", lines, percent=len(lines) == 1)
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG" and image.size == (884, 527)


def test_panels_share_a_legend_and_show_bands():
    line = charts.Line([0.5, 0.95], [40.0, 5.0], "a", band=[3.0, math.nan])
    one = charts.panel_chart("IoU", "AP", [("only $x^{", [line])])
    four = charts.panel_chart("IoU", "AP", [(f"{i}", [line, line._replace(label="b")]) for i in range(4)])
    sizes = []
    for png in (one, four):
        with Image.open(io.BytesIO(png)) as image:
            sizes.append(image.size)
    assert sizes[1][1] > sizes[0][1]
