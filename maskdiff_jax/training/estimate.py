"""How long a phase will take, from the time of its first steps on this machine: one line of the log."""

from collections.abc import Sequence

MINUTE, HOUR, DAY = 60, 3600, 86_400


def line(name: str, steps: int, marks: Sequence[tuple[int, float]], after: str = "") -> str:
    """The line that is printed after the first steps were timed.

    Args:
      name: of the phase.
      steps: its length.
      marks: two steps that are done, each with the time when it was, seconds of any clock.
      after: what `preflight.following` gives.
    """
    (first, start), (last, end) = marks
    seconds, left = (end - start) / (last - first), steps - last
    text = f"{name}: {steps:,} steps at {seconds:.2g} s, {duration(seconds * left)}"
    return text + (" to go" if first > 1 else "") + (f"; then {after}" if after else "")


def duration(seconds: float) -> str:
    """Seconds in the two largest units: "about 3 d 4 h", "about 1 h 17 min", "about 9 min", "less than a minute"."""
    if seconds < MINUTE:
        return "less than a minute"
    if seconds < HOUR:
        return f"about {round(seconds / MINUTE)} min"
    large, name, small, other = (DAY, "d", HOUR, "h") if seconds >= DAY else (HOUR, "h", MINUTE, "min")
    rounded = round(seconds / small) * small
    return f"about {rounded // large} {name} {rounded % large // small} {other}"
