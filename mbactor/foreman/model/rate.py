"""How often a task may be started (pure).

    Rate.parse("100/s").per_second == 100.0
    reserve(free_from=10.0, now=10.0, count=3, per_second=2.0) == ([10.0, 10.5, 11.0], 11.5)

Starts are spread evenly: that is the generic cell rate algorithm of ATM networks, without a burst beyond what comes
from looking now and then (`AHEAD`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
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


def has_gaps(free_from: float, now: float, waiting: int, per_second: float) -> bool:
    """Whether many of the times given out ahead are nobody's any more, as the steps that had them were cancelled: a
    tenth of those that wait, so that closing up costs no more than a few rows for each that was cancelled.
    """
    given = math.ceil((free_from - now - AHEAD) * per_second - 0.01) - 1
    return 10 * (given - waiting) > waiting


def closed_up(slots: Sequence[float], free_from: float, now: float, per_second: float) -> tuple[list[float], float]:
    """Earlier times for steps that wait, in their order, and from when on there is one for the next.

    None is later than it was, and what was started just now keeps its distance: whether its time was the latest there
    could be is not known.
    """
    found = [min(slot, now + AHEAD + number / per_second) for number, slot in enumerate(slots, 1)]
    last = found[-1] if found else now + AHEAD
    return found, min(free_from, last + 1 / per_second)
