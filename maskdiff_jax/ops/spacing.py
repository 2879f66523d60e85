"""Which of T diffusion steps are taken when only S are: ascending indices in 0..T-1.

Sources: guided-diffusion [GD] `respace.py`; "trailing" is Lin et al. 2024.
"""

from collections.abc import Sequence


def sections(timesteps: int, counts: Sequence[int]) -> list[int]:
    """Ascending steps: T in len(counts) equal parts, each with that many steps from end to end [GD].

    Raises:
      ValueError: a part is shorter than its count.
    """
    size, extra = divmod(timesteps, len(counts))
    start, kept = 0, []
    for i, count in enumerate(counts):
        length = size + (i < extra)
        if length < count:
            raise ValueError(f"cannot take {count} of {length} diffusion steps: lower diffusion.steps")
        stride = (length - 1) / (count - 1) if count > 1 else 1.0
        # adding up, and not multiplying, keeps guided-diffusion's rounding
        position = 0.0
        for _ in range(count):
            kept.append(start + round(position))
            position += stride
        start += length
    return kept


def _even(timesteps: int, steps: int) -> list[int]:
    return sections(timesteps, (steps,))


def _trailing(timesteps: int, steps: int) -> list[int]:
    return sorted(round(timesteps - k * timesteps / steps) - 1 for k in range(steps))


def _leading(timesteps: int, steps: int) -> list[int]:
    for stride in range(1, timesteps + 1):
        if len(range(0, timesteps, stride)) == steps:
            return list(range(0, timesteps, stride))
    raise ValueError(f"'leading' cannot take {steps} of {timesteps} steps: choose another diffusion.steps")


# "trailing" starts at T-1, as pure noise must; "even" holds both ends [GD "10"]; "leading" starts at 0 and
# may stop well below T-1 [GD "ddim10"]
SPACINGS = {"trailing": _trailing, "even": _even, "leading": _leading}


def spaced(timesteps: int, steps: int, spacing: str) -> list[int]:
    """S ascending steps of 0..T-1.

    Raises:
      ValueError: unknown spacing, or S is not in 1..T.
    """
    if not 1 <= steps <= timesteps:
        raise ValueError(f"diffusion.steps is {steps}, must be 1..{timesteps} (diffusion.timesteps)")
    if spacing not in SPACINGS:
        raise ValueError(f"diffusion.spacing is '{spacing}', must be one of {', '.join(SPACINGS)}")
    return SPACINGS[spacing](timesteps, steps)
