"""How soon a step runs again whose runs were lost, each with its worker (pure).

    pause_after(2) == 0.0
    pause_after(5) == 20.0

Nearly all are lost with a process that was ended by something else, and run again at once. One that is lost again and
again has very likely ended its process itself, or blocked the loop for longer than a lease: it would do so with every
process in turn, without a pause, and take from other flows what time they have.
"""

from __future__ import annotations

OFTEN = 4
"""Losses of one step from which on it waits, and is told of when it runs again."""
_FIRST, _LONGEST = 5.0, 300.0
MOST = 12
"""Losses from which on the pause is the longest."""


def pause_after(lost: int) -> float:
    """Seconds until a step is due again of which so many runs were lost."""
    return 0.0 if lost < OFTEN else min(_LONGEST, _FIRST * (lost - OFTEN + 1) ** 2)
