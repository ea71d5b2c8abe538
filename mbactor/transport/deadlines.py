"""One sweep for all waiting futures of a loop, instead of a timer each.

Most asks are answered long before their deadline, so a deadline costs one append: young entries are
looked at a few times a second, the answered ones are forgotten, and only those still waiting are kept
in order of time.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

_SWEEP = 0.25

Expire = Callable[[Any], None]


class Deadlines:
    """Calls `expire(item)` once a future has not been done by its deadline, within about a millisecond of it.

    Any object with a `done()` method will do.
    """

    def __init__(self, expire: Expire) -> None:
        self._expire = expire
        self._young: list[tuple[float, Any]] = []
        self._old: list[tuple[float, int, Any]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._compact_at = 0.0

    def add(self, deadline: float, item: Any, now: float) -> None:
        self._young.append((deadline, item))
        at = min(deadline, now + _SWEEP)
        if at < self._timer_at:
            self._arm(at)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, float("inf")
        self._young.clear()
        self._old.clear()

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_at(at, self._sweep)

    def _sweep(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        young, self._young = self._young, []
        for deadline, item in young:
            if not item.done():
                heapq.heappush(self._old, (deadline, next(self._order), item))
        now = asyncio.get_running_loop().time()
        if now >= self._compact_at:
            # What is answered behind one that still waits would keep its result alive for as long.
            self._compact_at = now + 4 * _SWEEP
            self._old = [entry for entry in self._old if not entry[2].done()]
            heapq.heapify(self._old)
        while self._old and (self._old[0][0] <= now or self._old[0][2].done()):
            _, _, item = heapq.heappop(self._old)
            if not item.done():
                self._expire(item)
        if self._old:
            self._arm(self._old[0][0])
        elif self._young:
            self._arm(now + _SWEEP)
