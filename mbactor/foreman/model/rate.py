"""How often a task may be started (pure).

    Rate.parse("100/s").per_second == 100.0
    reserve(free_from=10.0, now=10.0, count=3, per_second=2.0) == ([10.0, 10.5, 11.0], 11.5)

Starts are spread evenly: that is the generic cell rate algorithm of ATM networks, without a burst beyond what comes
from looking now and then (`AHEAD`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

AHEAD = 0.05
"""Seconds by which a start may come before its time: workers do not look more often."""
STALE = 1.0
"""Seconds after which a start that was not made has lost its time."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TEXT = re.compile(r"(?P<count>\d+(\.\d+)?)/(?P<unit>[smhd])")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many starts a second."""

    per_second: float

    @classmethod
    def parse(cls, text: str) -> Rate:
        """The rate in `text`; ValueError where it is none."""
        found = _TEXT.fullmatch(str(text))
        count = float(found["count"]) if found is not None else 0.0
        if found is None or not count:
            raise ValueError(f"{text!r} given, a rate expected such as '100/s', '10/m', '1000/h' or '5/d'")
        return cls(count / _UNITS[found["unit"]])


def reserve(free_from: float, now: float, count: int, per_second: float) -> tuple[list[float], float]:
    """The times of so many more starts, and from when on there is one for the next."""
    first = max(free_from, now)
    return [first + number / per_second for number in range(count)], first + count / per_second


def may_start(slot: float | None, now: float) -> bool:
    """Whether a start whose time was reserved may be made: that time has come, and is not long over."""
    return slot is not None and now - STALE <= slot <= now + AHEAD
