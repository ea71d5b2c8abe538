"""`Remembered`: what was learnt and may be out of date: bounded in number and in age. Pure.

near = Remembered[str, str](4096, 24 * 3600.0)
near.put("orders", "eu-west", now)
near.get("orders", now)             # "eu-west", or None where it is too old, or was dropped for others
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """At most `capacity` values, each for `seconds` after it was put; the one that was not used for longest goes."""

    def __init__(self, capacity: int, seconds: float) -> None:
        self._capacity = capacity
        self._seconds = seconds
        self._kept: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: K, now: float) -> V | None:
        found = self._kept.get(key)
        if found is None:
            return None
        until, value = found
        if now >= until:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return value

    def put(self, key: K, value: V, now: float) -> None:
        self._kept[key] = (now + self._seconds, value)
        self._kept.move_to_end(key)
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)

    def drop(self, key: K) -> None:
        self._kept.pop(key, None)

    def drop_where(self, holds: Callable[[K], bool]) -> None:
        for key in [key for key in self._kept if holds(key)]:
            del self._kept[key]
