"""The keyed queue: a mailbox's queue in which one of a key is in flight, in order, and others pass meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mbactor.mailbox import KeyedQueue, Lane, Mailbox, MailboxQueue, Overflow
from mbactor.mailbox.overflow import OVERFLOWS
from mbactor.testing.mailboxes import check_mailbox


def key_of(item: int) -> int | None:
    """The last digit; those that end with 0 have no key."""
    return item % 10 or None


def queue_of(capacity: int = 100, overflow: Overflow = "reject", *items: int) -> KeyedQueue[int]:
    queue: KeyedQueue[int] = KeyedQueue(Mailbox(capacity, overflow), float, key_of=key_of)
    for item in items:
        assert queue.offer(item) is True
    return queue


def take_all(queue: MailboxQueue[int]) -> list[int]:
    taken = []
    while (item := queue.take()) is not None:
        taken.append(item)
    return taken


@pytest.mark.parametrize("key", [lambda _: None, lambda item: item % 3, lambda _: 1, lambda item: item], ids=str)
def test_it_keeps_the_contract_of_a_mailbox_whatever_the_keys(key: Callable[[int], int | None]) -> None:
    def keyed(bound: Mailbox, since: Callable[[int], float]) -> KeyedQueue[int]:
        return KeyedQueue(bound, since, key_of=key)

    check_mailbox(keyed)


def test_one_of_a_key_is_in_flight_and_others_pass() -> None:
    queue = queue_of(100, "reject", 11, 21, 12, 20, 30, 31)
    assert take_all(queue) == [11, 12, 20, 30]
    assert len(queue) == 2
    assert queue.release(11) is True, "the next of its key may be taken"
    assert take_all(queue) == [21]
    assert queue.release(12) is False
    assert queue.release(20) is False
    queue.release(21)
    assert take_all(queue) == [31]


def test_what_was_held_comes_before_what_came_later() -> None:
    queue = queue_of(100, "reject", 11, 21, 12)
    assert queue.take() == 11
    assert queue.take() == 12
    for item in (13, 31):
        queue.offer(item)
    queue.release(11)
    assert take_all(queue) == [21, 13]


def test_what_was_never_taken_does_not_release_its_key() -> None:
    queue = queue_of(100, "reject", 11, 21, 31)
    assert queue.take() == 11
    assert queue.withdraw(21), "somebody else handles it"
    assert queue.release(21) is False
    assert take_all(queue) == []
    assert queue.release(11) is True
    assert take_all(queue) == [31]


def test_what_is_held_counts_as_waiting() -> None:
    queue = queue_of(3, "reject", 11, 21, 31)
    assert queue.take() == 11
    assert queue.take() is None
    assert queue.offer(41) is True
    assert queue.offer(51) is False
    told = queue.statistics(now=41.0)
    assert (told.depth, told.highest, told.accepted, told.rejected, told.oldest_age) == (3, 3, 4, 1, 20.0)


def test_an_urgent_item_knows_no_key() -> None:
    queue = queue_of(100, "reject", 11)
    assert queue.take() == 11
    queue.offer(21)
    queue.offer(31, Lane.SYSTEM)
    assert queue.take() == 31
    queue.release(31)
    assert queue.take() is None, "it was not in flight for its key"
    queue.release(11)
    assert queue.take() == 21


def test_release_all_frees_every_key_once() -> None:
    queue = queue_of(100, "reject", 11, 21, 31, 12, 22)
    assert take_all(queue) == [11, 12]
    queue.release_all()
    assert take_all(queue) == [21, 22]
    assert queue.release(11) is False, "it belongs to an earlier life"
    assert take_all(queue) == []
    queue.release(21)
    assert take_all(queue) == [31]


def test_the_oldest_is_evicted_though_it_is_held_or_free() -> None:
    queue = queue_of(3, "drop_oldest", 11, 21, 31)
    assert queue.take() == 11
    assert queue.take() is None
    queue.offer(40)
    assert queue.offer(50) == 21, "it was held"
    queue.release(11)
    assert queue.offer(60) == 31, "its turn had come"
    assert queue.offer(71) == 40
    assert take_all(queue) == [50, 60, 71]


@pytest.mark.parametrize("gone", ["withdrawn", "evicted"])
def test_whose_turn_has_come_leaves_none_of_its_key_behind_when_it_goes(gone: str) -> None:
    queue = queue_of(3, "drop_oldest", 11, 21, 31)
    assert queue.take() == 11
    assert queue.take() is None
    queue.release(11)
    if gone == "withdrawn":
        queue.withdraw(21)
    else:
        queue.offer(40)
        assert queue.offer(50) == 21
        assert len(queue) == 3
    assert queue.take() == 31


def test_what_is_put_back_comes_before_what_is_held_of_its_key() -> None:
    queue = queue_of(100, "reject", 11, 21, 31)
    assert queue.take() == 11
    queue.release(11)
    assert queue.take() == 21
    assert queue.take() is None
    queue.put_back([11])
    assert queue.take() is None
    queue.release(21)
    assert queue.take() == 11
    queue.release(11)
    assert queue.take() == 31


def test_the_line_waits_for_room_behind_what_is_held_too() -> None:
    admitted: list[int] = []

    def tell(item: int) -> bool:
        admitted.append(item)
        return True

    queue: KeyedQueue[int] = KeyedQueue(Mailbox(2, "wait"), float, tell, key_of=key_of)
    for item in (11, 21):
        queue.offer(item)
    for item in (31, 41, 51):
        assert queue.offer(item) is False
        queue.wait(item)
    assert queue.take() == 11
    assert admitted == [31]
    assert queue.take() is None
    assert (len(queue), queue.statistics(0.0).waiting) == (2, 2)
    queue.release(11)
    assert queue.take() == 21
    assert admitted == [31, 41]
    assert (len(queue), queue.statistics(0.0).waiting) == (2, 1)


@pytest.mark.parametrize("keyed", [False, True])
def test_who_is_not_wanted_any_more_is_passed_over_in_the_line(keyed: bool) -> None:
    asked: list[int] = []

    def wanted(item: int) -> bool:
        asked.append(item)
        return item != 31

    bound = Mailbox(1, "wait")
    queue = KeyedQueue(bound, float, wanted, key_of=key_of) if keyed else MailboxQueue(bound, float, wanted)
    queue.offer(10)
    for item in (31, 42):
        queue.offer(item)
        queue.wait(item)
    assert queue.take() == 10
    assert asked == [31, 42]
    assert queue.statistics(0.0).accepted == 2
    assert take_all(queue) == [42]


class Books:
    """A keyed queue, and where each of its items must be."""

    def __init__(self, bound: Mailbox) -> None:
        self.queue: KeyedQueue[int] = KeyedQueue(bound, float, key_of=key_of)
        self.bound = bound
        self.waiting: list[int] = []
        self.line: list[int] = []
        self.flying: list[int] = []

    def offer(self, item: int) -> None:
        answer = self.queue.offer(item)
        full = len(self.waiting) >= self.bound.capacity
        if not full:
            assert answer is True
        elif self.bound.overflow == "drop_oldest":
            assert type(answer) is int, "a head makes room"
            assert answer == next(one for one in self.waiting if key_of(one) == key_of(answer)), "it was no head"
            if self.waiting == sorted(self.waiting):  # else one was put back before what is older
                assert answer == min(self.waiting)
            self.waiting.remove(answer)
        else:
            assert answer is False
            if self.bound.overflow == "wait":
                self.queue.wait(item)
                self.line.append(item)
            return
        self.waiting.append(item)

    def take(self) -> None:
        busy = {key_of(one) for one in self.flying} - {None}
        free = [one for one in self.waiting if key_of(one) not in busy]
        item = self.queue.take()
        if item is None:
            assert not free, "somebody waits without need"
            return
        assert item in free, "another of its key is in flight"
        assert next(one for one in free if key_of(one) == key_of(item)) == item, "another of its key was before it"
        self.waiting.remove(item)
        self.flying.append(item)

    def release(self, item: int) -> None:
        self.flying.remove(item)
        self.queue.release(item)

    def put_back(self, item: int) -> None:
        self.release(item)
        self.queue.put_back([item])
        self.waiting.insert(0, item)

    def withdraw(self, item: int) -> None:
        assert self.queue.withdraw(item)
        (self.waiting if item in self.waiting else self.line).remove(item)

    def release_all(self) -> None:
        self.queue.release_all()
        self.flying.clear()

    def check(self) -> None:
        while self.line and len(self.waiting) < self.bound.capacity:
            self.waiting.append(self.line.pop(0))
        told = self.queue.statistics(0.0)
        assert (told.depth, told.waiting) == (len(self.waiting), len(self.line))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["offer", "offer", "offer", "take", "take", "release", "put back", "withdraw", "all"]),
        st.integers(0, 5),
    ),
    max_size=60,
)


@example(
    [("offer", 0), ("take", 0), ("offer", 0), ("take", 0), ("put back", 0), ("put back", 0), ("offer", 0)],
    1,
    "drop_oldest",
)
@given(STEPS, st.integers(1, 4), st.sampled_from(OVERFLOWS))
def test_keys_are_served_in_order_one_at_a_time_and_nobody_waits_without_need(
    steps: list[tuple[str, int]], capacity: int, overflow: Overflow
) -> None:
    books = Books(Mailbox(capacity, overflow))
    for number, (step, chance) in enumerate(steps, 1):
        there = [*books.waiting, *books.line]
        match step:
            case "offer":
                books.offer(10 * number + chance)
            case "take":
                books.take()
            case "release" if books.flying:
                books.release(books.flying[chance % len(books.flying)])
            case "put back" if books.flying:
                books.put_back(books.flying[chance % len(books.flying)])
            case "withdraw" if there:
                books.withdraw(there[chance % len(there)])
            case "all":
                books.release_all()
        books.check()
    assert sorted(books.queue.drain()) == sorted([*books.waiting, *books.line])
