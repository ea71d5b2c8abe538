"""Durations as people write them.

`seconds("1m30s") == 90.0`. In Python a duration is a number of seconds, a text with units or a
`timedelta`; in files the unit is required, so a bare number is refused there (`seconds_of_text`).
"""

from __future__ import annotations

import datetime as dt
import math
import re
import sys

Duration = float | int | str | dt.timedelta
"""What the public API takes as a duration."""

_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(us|µs|ms|s|m|h|d)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


def seconds(value: Duration) -> float:
    """The duration in seconds. ValueError says what was given and what is expected."""
    if isinstance(value, str):
        return seconds_of_text(value)
    number = value.total_seconds() if isinstance(value, dt.timedelta) else value
    # Compared, not converted: a whole number may be larger than any float.
    if isinstance(value, bool) or not 0 <= number <= sys.float_info.max:
        raise ValueError(f"{value!r} is not a duration; expected seconds >= 0, a text such as '1m30s', or a timedelta")
    return float(number)


def seconds_of_text(text: str) -> float:
    """The duration in seconds; every number needs its unit."""
    compact = text.strip().replace(" ", "")
    if not _WHOLE.fullmatch(compact):
        raise ValueError(
            f"{text!r} is not a duration; expected numbers with units (us, ms, s, m, h, d) such as '1m30s'"
        )
    found = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(compact))
    if math.isinf(found):
        raise ValueError(f"{text[:20]!r}, of {len(text)} characters, is not a duration: no number is so large")
    return found


def text_of(value: float) -> str:
    """The duration for people: `250ms`, `5s`, `1m30s`, `2h`."""
    if value == 0:
        return "0s"
    if value < 1:
        return f"{value * 1000:g}ms"
    if value != int(value) or value < 60:
        return f"{value:g}s"
    parts, rest = [], int(value)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)
