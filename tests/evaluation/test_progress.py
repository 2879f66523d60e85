"""What a grid tells: a line per model, the time left by K."""

import io

import pytest

from maskdiff_jax.evaluation.progress import Progress, duration


def test_time_left_is_that_of_models_of_the_same_k():
    out = io.StringIO()
    progress = Progress([1, 1, 1, 5, 5], out)
    progress.skip(1)
    progress.start("a")
    assert out.getvalue() == "" and progress.skipped == 1  # not a terminal: only lines that stay
    progress.finish("a", 1, "AP 3", 10.0)
    assert out.getvalue() == "[2/5] a: AP 3; 10 s; about 30 s left\n"  # nothing is known of K = 5
    progress.finish("b", 5, "AP 4", 40.0)
    assert out.getvalue().splitlines()[1] == "[3/5] b: AP 4; 40 s; about 50 s left"
    progress.fail("c", 1, "no shots")
    progress.finish("d", 5, "AP 5", 60.0)
    assert out.getvalue().splitlines()[2:] == ["[4/5] c FAILED: no shots", "[5/5] d: AP 5; 60 s; none left"]


def test_a_terminal_shows_the_model_in_work():
    out = io.StringIO()
    out.isatty = lambda: True
    progress = Progress([1], out)
    progress.start("a")
    progress.finish("a", 1, "AP 3", 10.0)
    assert out.getvalue() == "\r\033[K[1/1] a ...; remaining time unknown\r\033[K[1/1] a: AP 3; 10 s; none left\n"


@pytest.mark.parametrize("seconds, text", [(48.4, "48 s"), (720, "12 min"), (12600, "3.5 h")])
def test_duration(seconds, text):
    assert duration(seconds) == text
