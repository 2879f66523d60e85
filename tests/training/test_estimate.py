"""The estimate of a phase: its words, its arithmetic, what follows."""

import pytest

from configs import base, distill, fewshot
from maskdiff_jax.training import estimate, preflight


@pytest.mark.parametrize(
    "seconds, words",
    [(59, "less than a minute"), (61, "about 1 min"), (3540, "about 59 min"), (4620, "about 1 h 17 min"),
     (7199, "about 2 h 0 min"), (86_400 * 3 + 3600 * 4.4, "about 3 d 4 h")],
)  # fmt: skip
def test_durations(seconds, words):
    assert estimate.duration(seconds) == words


def test_the_line_is_of_the_steps_that_are_left():
    text = estimate.line("detector", 11_020, [(1, 100.0), (20, 107.98)], "mask: 12,000 steps")
    assert text == "detector: 11,020 steps at 0.42 s, about 1 h 17 min; then mask: 12,000 steps"
    # a run that resumes
    assert estimate.line("mask", 400, [(260, 0.0), (280, 20.0)]) == "mask: 400 steps at 1 s, about 2 min to go"


def test_what_follows():
    config = base.get_config("coco").unlock()
    assert preflight.following(config, "detector") == "mask: 120,000 steps"
    assert preflight.following(config, "mask") == ""
    second = fewshot.get_config("coco,shots=5")
    assert preflight.following(second, "novel").startswith("detector: 80,000 steps, mask: ")
    last = distill.get_config("coco").unlock()
    assert preflight.following(last, "steps4") == "steps2: 10,000 steps" and preflight.following(last, "steps2") == ""
    last.distill.guidance, last.train.side_by_side = 5.0, True  # it has one part
    assert preflight.following(last, "guidance") == "steps4: 10,000 steps, steps2: 10,000 steps"
    config.train.side_by_side = True
    assert preflight.following(config, "detector") == ""
