"""The queue behind a mailbox: bounded, first in, first out within a lane, higher lanes first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
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

    `since` tells when an item was put in, by the same clock that `statistics(now)` is asked with. `admitted` is told
    of an item that had to `wait` for room and has it now; False is the answer that it is not wanted any more.
    """

    __slots__ = (
        "_admitted", "_since", "_urgent", "_waiting", "bound", "dropped", "expired", "gone", "highest", "mark", "plain",
        "rejected", "work",
    )  # fmt: skip

    def __init__(
        self, bound: Mailbox, since: Callable[[T], float], admitted: Callable[[T], bool] | None = None
    ) -> None:
        self.bound = bound
        self._since = since
        self._admitted = admitted
        self.work: deque[T] = deque()
        """Lane WORK. For whoever cannot afford a call: where `plain`, taking is `popleft`."""
        self.plain = True
        self._urgent: tuple[deque[T], ...] | None = None
        self._waiting: deque[T] | None = None
        self.highest = self.gone = self.rejected = self.expired = self.dropped = 0
        self.mark = 0
        """A depth below which one item more is neither too many nor the most there ever were: see `deepens`."""

    @property
    def accepted(self) -> int:
        """How many were ever accepted: those that are gone and those that are here, so that to send costs no count."""
        return self.gone + len(self)

    def __len__(self) -> int:
        return self._depth + (sum(map(len, self._urgent)) if self._urgent else 0)

    @property
    def empty(self) -> bool:
        """Whether nothing at all is here, nor waits for room."""
        return not (self.work or self._waiting or (self._urgent and any(self._urgent)))

    @property
    def full(self) -> bool:
        """Whether lane WORK, the bounded one, holds all it may."""
        return self._depth >= self.bound.capacity

    @property
    def _depth(self) -> int:
        return len(self.work)

    # --- in -------------------------------------------------------------------------------------------------

    def offer(self, item: T, lane: Lane = Lane.WORK) -> bool | T:
        """True when the item was accepted, False when it was refused; the evicted item when that made room."""
        if lane is not Lane.WORK:
            self._lane(lane).append(item)
            return True
        depth = len(self.work)
        if depth >= self.mark and not self.deepens(depth):
            return self._offer_to_full(item)
        self.work.append(item)
        return True

    def deepens(self, depth: int) -> bool:
        """Whether an item may come on top of so many; it is counted then. For who looks at `mark` before."""
        capacity = self.bound.capacity
        if depth >= capacity:
            return False
        self.highest = max(self.highest, depth + 1)
        self.mark = min(self.highest, capacity)
        return True

    def wait(self, item: T) -> None:
        """Keep an item that was refused for want of room; it is accepted, in its turn, as soon as there is some."""
        if self._waiting is None:
            self._waiting = deque()
            self.plain = False
        self.rejected -= 1
        self._waiting.append(item)

    def expire_waiting(self, over: Callable[[T], bool]) -> None:
        """Forget who waited for room and does not want it any more. Counts as accepted, and expired."""
        if self._waiting:
            before = len(self._waiting)
            self._waiting = deque(item for item in self._waiting if not over(item))
            gone = before - len(self._waiting)
            self.gone += gone
            self.expired += gone

    def withdraw(self, item: T) -> bool:
        """Take an item out, wherever it stands; False where it is not here."""
        for queue in (self._waiting, self.work, *(self._urgent or ())):
            if queue is not None:
                with suppress(ValueError):
                    queue.remove(item)
                    self.gone += queue is not self._waiting
                    self._admit()
                    return True
        return False

    def put_back(self, items: Iterable[T]) -> None:
        """Put items that had been taken before everything else, in their order. They pass the bound."""
        again = list(items)
        self.gone -= len(again)
        self.work.extendleft(reversed(again))
        self.highest = max(self.highest, self._depth)

    def _offer_to_full(self, item: T) -> bool | T:
        if room_for(self.bound.overflow, self._depth, self.bound.capacity) == "refuse":
            self.rejected += 1
            return False
        evicted = self._evict()
        self.gone += 1
        self.dropped += 1
        self.work.append(item)
        return evicted

    def _evict(self) -> T:
        return self.work.popleft()

    def rebound(self, bound: Mailbox) -> None:
        """Another bound from now on. What is here beyond it stays; who waited for room may have it now."""
        self.bound = bound
        self.mark = min(self.mark, bound.capacity)
        self._admit()

    # --- out ------------------------------------------------------------------------------------------------

    def take(self) -> T | None:
        """The next item, or None when there is none."""
        item = self.pick()
        self.gone += item is not None
        return item

    def pick(self) -> T | None:
        """As `take`, for who takes many, and adds them to `gone` at once."""
        if self._urgent is not None:
            for lane in self._urgent:
                if lane:
                    return lane.popleft()
        if not self.work:
            return None
        item = self.work.popleft()
        if self._waiting:
            self._admit()
        return item

    def release(self, item: T) -> bool:  # noqa: ARG002 - means something only where items have keys
        """An item that was taken has been dealt with. True where another may be taken now because of it."""
        return False

    def release_all(self) -> None:
        """Nothing that was taken is in flight any more."""

    def in_flight(self, item: T) -> T | None:  # noqa: ARG002 - means something only where items have keys
        """What was taken, and has to be released before this item can be; None where nothing has."""
        return None

    def items(self) -> list[T]:
        """What waits in lane WORK, the next first; a copy."""
        return list(self.work)

    def everything(self) -> Iterator[T]:
        """All that is here, also the senders that wait for room, in no order."""
        for lane in self._urgent or ():
            yield from lane
        yield from self.items()
        yield from self._waiting or ()

    def drain(self) -> list[T]:
        """Everything that waits, in the order it would have been taken; the queue is empty afterwards.

        Who waited for room comes last, and has not been accepted.
        """
        accepted = [item for lane in self._urgent or () for item in taken_from(lane)]
        accepted += self._all_work()
        self.gone += len(accepted)
        return [*accepted, *taken_from(self._waiting or deque())]

    def _all_work(self) -> list[T]:
        """All of lane WORK, taken out."""
        return taken_from(self.work)

    def statistics(self, now: float) -> MailboxStatistics:
        oldest = self._oldest()
        return MailboxStatistics(
            depth=len(self),
            highest=self.highest,
            accepted=self.accepted,
            rejected=self.rejected,
            expired=self.expired,
            dropped=self.dropped,
            oldest_age=0.0 if oldest is None else max(0.0, now - oldest),
            waiting=len(self._waiting) if self._waiting else 0,
        )

    def _oldest(self) -> float | None:
        return self._since(self.work[0]) if self.work else None

    def _admit(self) -> None:
        """Where there is room, those who have waited for it longest are accepted."""
        while self._waiting and not self.full:
            item = self._waiting.popleft()
            if self._admitted is None or self._admitted(item):
                self.work.append(item)
        self.highest = max(self.highest, self._depth)

    def _lane(self, lane: Lane) -> deque[T]:
        if self._urgent is None:
            self._urgent = (deque(), deque(), deque())
            self.plain = False
        return self._urgent[lane]


def taken_from(queue: deque[T]) -> list[T]:
    """All that is there. What a thread puts in meanwhile stays: copied and cleared, it would be gone."""
    return [queue.popleft() for _ in range(len(queue))]
