"""An error in one sentence."""

import pytest

from maskdiff_jax import errors


@pytest.mark.parametrize(
    "error, text",
    [
        (ValueError("no such field: steps"), "no such field: steps"),
        (FloatingPointError(), "FloatingPointError"),
        (OSError(28, "No space left on device", "runs/a"), "No space left on device: runs/a"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (FileNotFoundError("there is no run in runs/a"), "there is no run in runs/a"),
    ],
)
def test_one_sentence(error, text):
    assert errors.sentence(error) == text
