"""The mailbox contract finds what is wrong with a queue, and names the rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from mbactor.mailbox import Lane, Mailbox, MailboxQueue, MailboxStatistics
from mbactor.testing import check_mailbox


class LastInFirstOut(MailboxQueue[int]):
    def take(self) -> int | None:
        return self.work.pop() if self.work else None


class OneLane(MailboxQueue[int]):
    def offer(self, item: int, lane: Lane = Lane.WORK) -> bool | int:
        return super().offer(item)


class Boundless(MailboxQueue[int]):
    def offer(self, item: int, lane: Lane = Lane.WORK) -> bool | int:
        self.work.append(item) if lane is Lane.WORK else super().offer(item, lane)
        return True


class DropsTheNewest(MailboxQueue[int]):
    def offer(self, item: int, lane: Lane = Lane.WORK) -> bool | int:
        if lane is Lane.WORK and len(self.work) >= self.bound.capacity and self.bound.overflow == "drop_oldest":
            return item
        return super().offer(item, lane)


class BoundedInEveryLane(MailboxQueue[int]):
    def offer(self, item: int, lane: Lane = Lane.WORK) -> bool | int:
        return len(self) < self.bound.capacity + 4 and super().offer(item, lane)


class KeepsWhatWasDrained(MailboxQueue[int]):
    def drain(self) -> list[int]:
        kept = super().drain()
        self.work.extend(kept[-1:])
        return kept


class LastInLineIsFirst(MailboxQueue[int]):
    def wait(self, item: int) -> None:
        super().wait(item)
        assert self._waiting is not None
        self._waiting.rotate()


class KeepsTheRoomOfWhatIsGone(MailboxQueue[int]):
    def withdraw(self, item: int) -> bool:
        line, self._waiting = self._waiting, None
        found = super().withdraw(item)
        self._waiting = line
        return found or (line is not None and item in line and super().withdraw(item))


class PutsBackLast(MailboxQueue[int]):
    def put_back(self, items: Iterable[int]) -> None:
        self.work.extend(items)


class AcceptsAtTheEnd(MailboxQueue[int]):
    def drain(self) -> list[int]:
        self.gone += len(self._waiting or ())
        return super().drain()


class CountsNothing(MailboxQueue[int]):
    def statistics(self, now: float) -> MailboxStatistics:
        return MailboxStatistics(len(self), 0, 0, 0, 0, 0, 0.0)


class LosesOneInAHundred(MailboxQueue[int]):
    def take(self) -> int | None:
        if self.accepted > 100 and self.bound.capacity < 6:
            self.gone = 0
            super().take()
        return super().take()


@pytest.mark.parametrize(
    ("queue", "rule"),
    [
        (LastInFirstOut, "first in is first out"),
        (OneLane, "higher lanes pass lower ones"),
        (BoundedInEveryLane, "only the work lane is bounded"),
        (Boundless, "a full mailbox refuses or evicts its head"),
        (DropsTheNewest, "a full mailbox refuses or evicts its head"),
        (LastInLineIsFirst, "who waits for room has it in turn"),
        (KeepsTheRoomOfWhatIsGone, "a withdrawn item is nowhere"),
        (PutsBackLast, "what is put back comes first"),
        (AcceptsAtTheEnd, "who waits for room has it in turn"),
        (KeepsWhatWasDrained, "a drained queue is empty and usable"),
        (CountsNothing, "statistics tell what happened"),
        (LosesOneInAHundred, "nothing is lost or doubled"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_queue_that_breaks_a_rule_is_named_with_the_rule(queue: type[MailboxQueue[int]], rule: str) -> None:
    with pytest.raises(AssertionError, match=f"{queue.__name__} breaks '{rule}': "):
        check_mailbox(queue)


def test_bounds_are_those_of_the_declaration() -> None:
    made: list[Mailbox] = []

    def make(bound: Mailbox, since: object) -> MailboxQueue[int]:
        made.append(bound)
        return MailboxQueue(bound, float)

    check_mailbox(make)
    assert {one.overflow for one in made} == {"reject", "wait", "drop_oldest", "drop_newest"}


def test_a_queue_without_a_method_is_told_which() -> None:
    class Half:
        def __init__(self, bound: Mailbox, since: object) -> None: ...

        def offer(self, item: int) -> bool:
            return True

    half: Any = Half
    with pytest.raises(
        AssertionError, match="Half has no wait, withdraw, put_back, take, .*; a mailbox's queue has off"
    ):
        check_mailbox(half)
