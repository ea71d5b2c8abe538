"""The queue behind a mailbox: bounded, first in, first out within a lane, higher lanes first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Generic, TypeVar

from mbactor.mailbox.mailbox import Mailbox, MailboxStatistics
from mbactor.mailbox.overflow import room_for

T = TypeVar("T")


class Lane(IntEnum):
    """Which messages pass which: KILL before STOP before SYSTEM before WORK. Only WORK is bounded."""

    KILL = 0
    STOP = 1
    SYSTEM = 2
    WORK = 3


class MailboxQueue(Generic[T]):
    """Holds what an actor has accepted and not begun. Not thread-safe: one event loop owns it.

    `since` tells when an item was put in, by the same clock that `statistics(now)` is asked with.
    """

    __slots__ = ("_since", "_urgent", "_work", "accepted", "bound", "dropped", "expired", "highest", "rejected")

    def __init__(self, bound: Mailbox, since: Callable[[T], float]) -> None:
        self.bound = bound
        self._since = since
        self._work: deque[T] = deque()
        self._urgent: tuple[deque[T], ...] | None = None
        self.highest = self.accepted = self.rejected = self.expired = self.dropped = 0

    def __len__(self) -> int:
        return len(self._work) + (sum(map(len, self._urgent)) if self._urgent else 0)

    def offer(self, item: T, lane: Lane = Lane.WORK) -> bool | T:
        """True when the item was accepted, False when it was refused; the evicted item when that made room."""
        if lane is not Lane.WORK:
            self._lane(lane).append(item)
            self.accepted += 1
            return True
        depth = len(self._work)
        evicted: bool | T = True
        if depth >= self.bound.capacity:
            if room_for(self.bound.overflow, depth, self.bound.capacity) == "refuse":
                self.rejected += 1
                return False
            evicted = self._work.popleft()
            self.dropped += 1
            depth -= 1
        self._work.append(item)
        self.accepted += 1
        if depth >= self.highest:
            self.highest = depth + 1
        return evicted

    def take(self) -> T | None:
        """The next item, or None when there is none."""
        if self._urgent:
            for lane in self._urgent:
                if lane:
                    return lane.popleft()
        return self._work.popleft() if self._work else None

    def drain(self) -> list[T]:
        """Everything that waits, in the order it would have been taken; the queue is empty afterwards."""
        items = []
        while (item := self.take()) is not None:
            items.append(item)
        return items

    def statistics(self, now: float) -> MailboxStatistics:
        oldest = now - self._since(self._work[0]) if self._work else 0.0
        return MailboxStatistics(
            depth=len(self),
            highest=self.highest,
            accepted=self.accepted,
            rejected=self.rejected,
            expired=self.expired,
            dropped=self.dropped,
            oldest_age=max(0.0, oldest),
        )

    def _lane(self, lane: Lane) -> deque[T]:
        if self._urgent is None:
            self._urgent = (deque(), deque(), deque())
        return self._urgent[lane]
