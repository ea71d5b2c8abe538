"""The mailbox queue: bounded, in order, and nothing leaves it unnoticed."""

from __future__ import annotations

import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbactor.errors import InvalidSpec
from mbactor.mailbox import Lane, Mailbox, MailboxQueue
from mbactor.testing.mailboxes import check_mailbox


def queue_of(capacity: int, overflow: str = "reject") -> MailboxQueue[int]:
    return MailboxQueue(Mailbox(capacity, overflow), since=float)  # type: ignore[arg-type]


def test_it_keeps_the_contract_of_a_mailbox() -> None:
    check_mailbox(MailboxQueue)


@given(
    st.lists(st.integers(0, 2), max_size=60),
    st.integers(1, 5),
    st.sampled_from(["reject", "drop_oldest", "drop_newest"]),
)
def test_every_item_is_taken_waiting_refused_or_evicted_and_order_is_kept(
    steps: list[int], capacity: int, overflow: str
) -> None:
    queue = queue_of(capacity, overflow)
    taken: list[int] = []
    refused: list[int] = []
    evicted: list[int] = []
    for number, step in enumerate(steps):
        if step == 0:
            item = queue.take()
            taken += [] if item is None else [item]
            continue
        accepted = queue.offer(number)
        if accepted is False:
            refused.append(number)
        elif accepted is not True:
            evicted.append(accepted)
        assert len(queue) <= capacity
    offered = [n for n, step in enumerate(steps) if step]
    waiting = queue.drain()
    assert sorted(taken + refused + evicted + waiting) == offered
    assert taken + waiting == sorted(taken + waiting)
    assert not evicted or overflow == "drop_oldest"
    statistics = queue.statistics(0.0)
    assert (statistics.rejected, statistics.dropped) == (len(refused), len(evicted))


def test_higher_lanes_pass_lower_ones_and_are_not_bounded() -> None:
    queue = queue_of(1)
    assert queue.offer(1) is True
    assert queue.offer(2) is False
    for item, lane in ((3, Lane.SYSTEM), (4, Lane.STOP), (5, Lane.KILL), (6, Lane.KILL)):
        assert queue.offer(item, lane) is True
    assert queue.drain() == [5, 6, 4, 3, 1]


def test_statistics_tell_depth_and_age_of_the_head() -> None:
    queue = queue_of(10)
    for moment in (3, 5, 7):
        queue.offer(moment)
    queue.take()
    statistics = queue.statistics(now=9.0)
    assert (statistics.depth, statistics.highest, statistics.accepted) == (2, 3, 3)
    assert statistics.oldest_age == 4.0


@pytest.mark.parametrize("capacity", [0, -1, 1.5, True, "10"])
def test_a_capacity_that_is_no_positive_number_is_refused(capacity: int) -> None:
    with pytest.raises(InvalidSpec, match="capacity .* expected a whole number"):
        Mailbox(capacity)


def test_an_unknown_overflow_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidSpec, match="'explode': expected one of reject, wait, drop_oldest, drop_newest"):
        Mailbox(overflow="explode")  # type: ignore[arg-type]


def test_everything_is_all_that_waits_in_every_lane_and_for_room() -> None:
    queue = queue_of(1, "wait")
    assert list(queue.everything()) == []
    queue.offer(1)
    queue.offer(2, Lane.SYSTEM)
    queue.offer(3, Lane.STOP)
    assert queue.offer(4) is False
    queue.wait(4)
    assert sorted(queue.everything()) == [1, 2, 3, 4]


def test_who_waits_in_vain_is_forgotten_and_counted() -> None:
    queue = queue_of(1, "wait")
    queue.expire_waiting(lambda _: True)
    for item in range(6):
        if queue.offer(item) is False:
            queue.wait(item)
    queue.expire_waiting(lambda item: item % 2 == 0)
    told = queue.statistics(0.0)
    assert (told.depth, told.waiting, told.accepted, told.expired, told.rejected) == (1, 3, 3, 2, 0)
    assert [queue.take() for _ in range(5)] == [0, 1, 3, 5, None]


def test_another_bound_holds_at_once_and_what_is_there_stays() -> None:
    queue = queue_of(3, "wait")
    for item in range(3):
        assert queue.offer(item) is True
    assert queue.offer(3) is False
    queue.wait(3)
    queue.rebound(Mailbox(5, "wait"))
    assert (queue.statistics(0.0).waiting, queue.items()) == (0, [0, 1, 2, 3])
    assert queue.statistics(0.0).highest == 4
    queue.rebound(Mailbox(2))
    assert queue.offer(4) is False
    assert [queue.take() for _ in range(5)] == [0, 1, 2, 3, None]


def test_what_a_thread_puts_in_while_the_queue_is_drained_is_not_lost() -> None:
    queue, sent, switch = queue_of(10**9), 1_000_000, sys.getswitchinterval()

    def send() -> None:
        for item in range(sent):
            queue.work.append(item)

    thread = threading.Thread(target=send)
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        taken = list[int]()
        while thread.is_alive():
            taken += queue.drain()
        taken += queue.drain()
    finally:
        sys.setswitchinterval(switch)
    assert taken == list(range(sent))
