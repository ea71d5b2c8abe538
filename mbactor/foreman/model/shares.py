"""How many of the free places each fairness key gets (pure).

    shares([Waiting("a", 1.0), Waiting("b", 3.0)], places=8, start=0.5) == {"a": 2, "b": 6}

Each gets its part of the places by its weight, whatever it has waiting. What is left of a part goes to whom the draw
`start`, from 0 to 1, happens to fall: over many claims all get exactly their part (systematic sampling).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

MOST_KEYS = 32
"""So many keys get places of one claim at most: each costs a statement."""


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """A key with steps that are due, and the weight of the oldest of them."""

    key: str
    weight: float = 1.0


def shares(waiting: Sequence[Waiting], places: int, start: float) -> dict[str, int]:
    """Places by key, in the order given; keys that get none are left out."""
    total = sum(one.weight for one in waiting)
    if not waiting or places <= 0 or not total > 0:
        return {}
    units = min(places, MOST_KEYS) if len(waiting) > MOST_KEYS else places
    found: dict[str, int] = {}
    below, given = 0.0, 0
    for one in waiting:
        below += one.weight
        reached = min(units, math.floor(below / total * units + start))
        count = reached - given
        if count > 0:
            found[one.key] = count * (places // units)
        given = max(given, reached)
    return found
