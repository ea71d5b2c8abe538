"""Messages that could not be delivered: kept for a while, told to whoever observes, and followed as they come."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from mbactor import clock, observe


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

    The last `keep` (1,000) are kept; `total` counts all there ever were. Somebody who follows them and falls behind by
    more than that misses the oldest ones.
    """

    def __init__(self, keep: int = 1000) -> None:
        self._kept: deque[DeadLetter] = deque(maxlen=keep)
        self._followers: set[_Follower] = set()
        self._over = False
        self.total = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(tuple(self._kept))

    def __aiter__(self) -> AsyncIterator[DeadLetter]:
        follower = _Follower(self._kept.maxlen, over=self._over)
        self._followers.add(follower)
        return self._follow(follower)

    async def _follow(self, follower: _Follower) -> AsyncIterator[DeadLetter]:
        try:
            while True:
                while follower.letters:
                    yield follower.letters.popleft()
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
        self._kept.append(letter)
        for follower in self._followers:
            follower.letters.append(letter)
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
    def __init__(self, keep: int | None, *, over: bool) -> None:
        self.letters: deque[DeadLetter] = deque(maxlen=keep)
        self.more = asyncio.Event()
        self.over = over
