"""Messages that could not be delivered: kept for a while, told to whoever observes, and followed as they come."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mbactor import clock, observe

MOST = 64 * 1024 * 1024
_TEXTS = frozenset({str, bytes, bytearray})
_SMALL = frozenset({int, float, bool, type(None)})
_DEPTH, _SAMPLE = 6, 8
"""So deep within an argument texts are counted, and so many parts of each value looked at."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One undelivered message: where to, which method with which arguments, who sent it, and why it failed."""

    address: str
    method: str
    arguments: dict[str, Any] | None
    sender: str | None
    reason: str
    at: dt.datetime


class DeadLetters:
    """The last dead letters, and those to come.

        for letter in system.dead_letters: ...          # those that are kept, oldest first
        async for letter in system.dead_letters: ...    # those that come from now on, until the system stops

    The last `keep` (1,000) are kept, of large ones as many as have 64 MB of text and bytes in their arguments; `total`
    counts all there ever were. Somebody who follows them and falls behind by more than that misses the oldest ones.
    """

    def __init__(self, keep: int = 1000, most: int = MOST) -> None:
        self._kept = _Kept(keep, most)
        self._followers: set[_Follower] = set()
        self._over = False
        self.total = 0

    def __len__(self) -> int:
        return len(self._kept.letters)

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter([letter for letter, _ in self._kept.letters])

    def __aiter__(self) -> AsyncIterator[DeadLetter]:
        follower = _Follower(_Kept(self._kept.keep, self._kept.most), over=self._over)
        self._followers.add(follower)
        return self._follow(follower)

    async def _follow(self, follower: _Follower) -> AsyncIterator[DeadLetter]:
        try:
            while True:
                while follower.kept.letters:
                    yield follower.kept.first()
                if follower.over:
                    return
                follower.more.clear()
                await follower.more.wait()
        finally:
            self._followers.discard(follower)

    def add(
        self, address: str, method: str, arguments: dict[str, Any] | None, sender: str | None, reason: str
    ) -> DeadLetter:
        letter = DeadLetter(address, method, arguments, sender, reason, clock.utcnow())
        self.total += 1
        weight = _weight(arguments)
        self._kept.add(letter, weight)
        for follower in self._followers:
            follower.kept.add(letter, weight)
            follower.more.set()
        observe.emit("message.dead", address=address, method=method, sender=sender, reason=reason)
        return letter

    def open(self) -> None:
        """The system starts, again perhaps: from now on they can be followed."""
        self._over = False

    def close(self) -> None:
        """No more will come: who follows gets the rest and is done."""
        self._over = True
        for follower in self._followers:
            follower.over = True
            follower.more.set()


class _Follower:
    def __init__(self, kept: _Kept, *, over: bool) -> None:
        self.kept = kept
        self.more = asyncio.Event()
        self.over = over


class _Kept:
    """The last letters, the oldest first, each with its weight: `keep` of them, and `most` bytes."""

    def __init__(self, keep: int, most: int) -> None:
        self.keep = keep
        self.most = most
        self.letters: deque[tuple[DeadLetter, int]] = deque()
        self._weight = 0

    def add(self, letter: DeadLetter, weight: int) -> None:
        self.letters.append((letter, weight))
        self._weight += weight
        while len(self.letters) > self.keep or (self._weight > self.most and len(self.letters) > 1):
            self.first()

    def first(self) -> DeadLetter:
        letter, weight = self.letters.popleft()
        self._weight -= weight
        return letter


def _weight(value: Any, depth: int = 0) -> int:
    """About how many bytes of text a value holds, by a sample of its parts."""
    kind = type(value)
    if kind in _TEXTS:
        return len(value)
    if kind in _SMALL or depth == _DEPTH:
        return 0
    parts: Collection[Any]
    if kind is dict:
        parts = [*value, *value.values()] if len(value) < _SAMPLE else value.items()
    elif isinstance(value, Collection):
        parts = value
    else:
        names = getattr(value, "__struct_fields__", None) or getattr(value, "__dataclass_fields__", None)
        parts = [getattr(value, name, None) for name in names] if names else [*getattr(value, "__dict__", {}).values()]
    sample = parts if len(parts) <= _SAMPLE else [*islice(parts, _SAMPLE)]
    weight = sum([_weight(part, depth + 1) for part in sample])
    return weight * len(parts) // len(sample) if weight else 0
