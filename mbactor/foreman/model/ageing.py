"""Ageing: a step becomes more urgent while it waits (pure).

    urgency(100, due=0.0, now=130.0, ageing=60.0) == 98

Each step ages by itself: the younger ones of its priority stay where they are.
"""

from __future__ import annotations


def urgency(priority: int, due: float, now: float, ageing: float | None) -> float:
    """The priority, lower by 1 for each `ageing` seconds since the step was due; as it is where that is None."""
    return priority if ageing is None else priority - max(0.0, now - due) // ageing
