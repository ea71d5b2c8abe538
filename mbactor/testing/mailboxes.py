"""`check_mailbox`: what every queue behind a mailbox must do.

    def test_queue() -> None:
        check_mailbox(MailboxQueue)

It raises AssertionError with the rule that was broken.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Protocol

from mbactor.mailbox import Lane, Mailbox, MailboxStatistics
from mbactor.mailbox.overflow import OVERFLOWS


class Queue(Protocol):
    """What is asked of the queue behind a mailbox."""

    def __len__(self) -> int: ...
    def offer(self, item: int, lane: Lane = ...) -> bool | int: ...
    def wait(self, item: int) -> None: ...
    def withdraw(self, item: int) -> bool: ...
    def put_back(self, items: Iterable[int]) -> None: ...
    def take(self) -> int | None: ...
    def release(self, item: int) -> bool: ...
    def drain(self) -> list[int]: ...
    def statistics(self, now: float) -> MailboxStatistics: ...


MakeQueue = Callable[[Mailbox, Callable[[int], float]], Queue]
"""Makes a queue with a bound; the function tells when an item was put in."""


def check_mailbox(make: MakeQueue) -> None:
    """Every rule of a mailbox's queue. Items are numbers above 1, so that none is taken for True or False.

    Where items have keys, those that were taken are released before the next is wanted, but for the last rule.
    """
    name, queue = getattr(make, "__name__", repr(make)), make(Mailbox(1), float)
    asked = [one for one in vars(Queue) if not one.startswith("_")]
    if missing := [one for one in asked if not callable(getattr(queue, one, None))]:
        raise AssertionError(f"{name} has no {', '.join(missing)}; a mailbox's queue has {', '.join(asked)}")
    for rule in (
        _first_in_is_first_out,
        _higher_lanes_pass_lower_ones,
        _only_the_work_lane_is_bounded,
        _a_full_mailbox_refuses_or_evicts_its_head,
        _a_drained_queue_is_empty_and_usable,
        _statistics_tell_what_happened,
        _who_waits_for_room_has_it_in_turn,
        _a_withdrawn_item_is_nowhere,
        _what_is_put_back_comes_first,
        _nothing_is_lost_or_doubled,
    ):
        try:
            rule(make)
        except AssertionError as error:
            raise AssertionError(f"{name} breaks {rule.__name__.strip('_').replace('_', ' ')!r}: {error}") from error


def _take(queue: Queue) -> int | None:
    item = queue.take()
    if item is not None:
        queue.release(item)
    return item


def _take_all(queue: Queue) -> list[int]:
    taken = list[int]()
    while (item := _take(queue)) is not None:
        taken.append(item)
    return taken


def _first_in_is_first_out(make: MakeQueue) -> None:
    queue = make(Mailbox(1000), float)
    for item in range(2, 300):
        assert queue.offer(item) is True, f"{item} was refused below the bound"
    taken = [_take(queue) for _ in range(2, 300)]
    assert taken == list(range(2, 300)), "the order changed"
    assert queue.take() is None, "something was taken from an empty queue"


def _higher_lanes_pass_lower_ones(make: MakeQueue) -> None:
    queue = make(Mailbox(10), float)
    for item, lane in ((2, Lane.WORK), (3, Lane.SYSTEM), (4, Lane.STOP), (5, Lane.KILL), (6, Lane.SYSTEM)):
        queue.offer(item, lane)
    taken = [_take(queue) for _ in range(3)]
    assert taken == [5, 4, 3], f"{taken} came first, [5, 4, 3] was expected"
    queue.offer(7, Lane.KILL)
    taken = [_take(queue) for _ in range(3)]
    assert taken == [7, 6, 2], f"{taken} came then, [7, 6, 2] was expected"


def _only_the_work_lane_is_bounded(make: MakeQueue) -> None:
    for overflow in OVERFLOWS:
        queue = make(Mailbox(1, overflow), float)  # type: ignore[arg-type]  # one of the literal's own values
        queue.offer(2)
        for item in range(3, 20):
            for lane in (Lane.KILL, Lane.STOP, Lane.SYSTEM):
                assert queue.offer(item, lane) is True, f"lane {lane.name} is bounded"
        assert queue.drain()[-1] == 2, "an urgent message took the place of work"


def _a_full_mailbox_refuses_or_evicts_its_head(make: MakeQueue) -> None:
    for overflow in OVERFLOWS:
        queue = make(Mailbox(3, overflow), float)  # type: ignore[arg-type]  # one of the literal's own values
        queue.offer(20, Lane.SYSTEM)
        answers = [queue.offer(item) for item in range(2, 7)]
        if overflow == "drop_oldest":
            assert answers == [True, True, True, 2, 3], f"{overflow}: offers were answered {answers}"
            kept = [4, 5, 6]
        else:
            assert answers == [True, True, True, False, False], f"{overflow}: offers were answered {answers}"
            kept = [2, 3, 4]
        assert len(queue) == 4, f"{overflow}: {len(queue)} wait, 3 in a mailbox of 3 and 1 that is urgent were expected"
        assert queue.drain() == [20, *kept], f"{overflow}: the wrong ones were kept"


def _who_waits_for_room_has_it_in_turn(make: MakeQueue) -> None:
    queue = make(Mailbox(2, "wait"), float)
    for item in (2, 3):
        queue.offer(item)
    for item in (4, 5, 6):
        assert queue.offer(item) is False, f"{item} was accepted above the bound"
        queue.wait(item)
    told = queue.statistics(9.0)
    assert (told.depth, told.waiting, told.accepted, told.rejected) == (2, 3, 2, 0), f"three wait for room: {told}"
    assert _take(queue) == 2
    told = queue.statistics(9.0)
    assert (told.depth, told.waiting, told.accepted) == (2, 2, 3), f"the first of them has room: {told}"
    assert queue.offer(7) is False, "somebody passed those who wait"
    queue.offer(8, Lane.SYSTEM)
    assert _take(queue) == 8, "an urgent message waits for room"
    assert queue.statistics(9.0).waiting == 2, "an urgent message made room by going"
    assert _take_all(queue) == [3, 4, 5, 6], "they had room in another order than they came"
    told = queue.statistics(9.0)
    assert (told.depth, told.waiting, told.accepted, told.highest) == (0, 0, 6, 2), f"all had room: {told}"
    for item in (9, 10, 11):
        queue.offer(item)
    queue.wait(11)
    assert queue.drain() == [9, 10, 11], "drained without who waits for room, or not as the last"
    told = queue.statistics(9.0)
    assert (told.waiting, told.accepted) == (0, 8), f"who waited for room has not been accepted at the end: {told}"


def _a_withdrawn_item_is_nowhere(make: MakeQueue) -> None:
    queue = make(Mailbox(2, "wait"), float)
    for item in (2, 3):
        queue.offer(item)
    for item in (4, 5, 6):
        queue.offer(item)
        queue.wait(item)
    queue.offer(7, Lane.SYSTEM)
    assert not queue.withdraw(8), "an item that was never there was withdrawn"
    assert queue.withdraw(7), "an urgent item was not found"
    assert queue.withdraw(5), "an item that waits for room was not found"
    assert queue.statistics(9.0).waiting == 2, "one that does not wait any more is counted"
    assert queue.withdraw(3), "an item that waits was not found"
    assert (len(queue), queue.statistics(9.0).waiting) == (2, 1), "its room was not given to the first in line"
    assert not queue.withdraw(3), "an item was withdrawn twice"
    assert _take_all(queue) == [2, 4, 6]


def _what_is_put_back_comes_first(make: MakeQueue) -> None:
    queue = make(Mailbox(2), float)
    for item in (2, 3):
        queue.offer(item)
    taken = [_take(queue), _take(queue)]
    for item in (4, 5):
        queue.offer(item)
    queue.offer(7, Lane.SYSTEM)
    queue.put_back(item for item in taken if item is not None)
    assert queue.offer(6) is False, "what was put back takes no room"
    told = queue.statistics(9.0)
    assert (told.depth, told.highest, told.accepted, told.oldest_age) == (5, 4, 5, 7.0), f"two were put back: {told}"
    assert _take_all(queue) == [7, 2, 3, 4, 5], "it was put elsewhere than before all other work"


def _a_drained_queue_is_empty_and_usable(make: MakeQueue) -> None:
    queue = make(Mailbox(2), float)
    queue.offer(2)
    queue.offer(3, Lane.STOP)
    assert queue.drain() == [3, 2], "drained in another order than it would have been taken"
    assert not len(queue), "something is left after drain"
    assert queue.offer(4) is True, "refused after drain"
    assert queue.take() == 4


def _statistics_tell_what_happened(make: MakeQueue) -> None:
    queue = make(Mailbox(2), float)
    for item in (3, 5, 7):
        queue.offer(item)
    queue.offer(8, Lane.STOP)
    full = queue.statistics(9.0)
    assert (full.depth, full.highest, full.accepted, full.rejected) == (3, 2, 3, 1), f"{full}"
    assert full.oldest_age == 6.0, f"the head waits since 3, it is 9, and {full.oldest_age} is told"
    queue.drain()
    empty = queue.statistics(9.0)
    assert (empty.depth, empty.highest, empty.oldest_age) == (0, 2, 0.0), f"{empty}"
    evicting = make(Mailbox(1, "drop_oldest"), float)
    evicting.offer(2)
    evicting.offer(3)
    dropped = evicting.statistics(3.0)
    assert (dropped.dropped, dropped.rejected) == (1, 0), f"{dropped}"


def _nothing_is_lost_or_doubled(make: MakeQueue) -> None:
    for overflow in OVERFLOWS:
        for seed in range(50):
            bound = Mailbox(1 + seed % 5, overflow)  # type: ignore[arg-type]  # one of the literal's own values
            _Conserved(make(bound, float), random.Random(seed)).run(f"{overflow}, seed {seed}")


class _Conserved:
    """Does this and that to a queue, and knows where each item must be."""

    def __init__(self, queue: Queue, chance: random.Random) -> None:
        self.queue = queue
        self.chance = chance
        self.inside = set[int]()
        """Those that wait, in a lane or for room."""
        self.taken = list[int]()
        """Those that were taken and not released."""
        self.over = list[int]()
        """Those that were refused, evicted, withdrawn or released."""

    def run(self, where: str) -> None:
        offered = range(2, 200)
        for item in offered:
            self.offer(item)
            for _ in range(self.chance.randrange(3)):
                self.chance.choice((self.take, self.take, self.release, self.withdraw, self.put_back))()
            told = self.queue.statistics(200.0)
            assert len(self.queue) == told.depth, f"{where}: {told.depth} wait, and the length is {len(self.queue)}"
            there = told.depth + told.waiting
            assert there == len(self.inside), f"{where}: {there} are there after {item}, not {sorted(self.inside)}"
        rest = self.queue.drain()
        assert sorted(rest) == sorted(self.inside), f"{where}: {rest} are left, not {sorted(self.inside)}"
        assert sorted([*rest, *self.taken, *self.over]) == list(offered), f"{where}: items were lost or doubled"

    def offer(self, item: int) -> None:
        lane = self.chance.choice((Lane.WORK, Lane.WORK, Lane.WORK, Lane.WORK, Lane.SYSTEM, Lane.KILL))
        answer = self.queue.offer(item, lane)
        if answer is False and self.chance.random() < 0.5:
            self.over.append(item)
            return
        if answer is False:
            self.queue.wait(item)
        elif answer is not True:
            self.inside.remove(answer)
            self.over.append(answer)
        self.inside.add(item)

    def take(self) -> None:
        item = self.queue.take()
        if item is not None:
            self.inside.remove(item)
            self.taken.append(item)

    def release(self) -> None:
        if self.taken:
            item = self.taken.pop(self.chance.randrange(len(self.taken)))
            self.queue.release(item)
            self.over.append(item)

    def withdraw(self) -> None:
        item = self.chance.randrange(2, 200)
        was_there = item in self.inside
        assert self.queue.withdraw(item) is was_there, f"withdraw({item}), where {sorted(self.inside)} wait"
        if was_there:
            self.inside.remove(item)
            self.over.append(item)

    def put_back(self) -> None:
        if self.taken:
            item = self.taken.pop()
            self.queue.release(item)
            self.queue.put_back([item])
            self.inside.add(item)
