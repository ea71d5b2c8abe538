"""One actor as a value: what it is at, what waits for it, how its last lives ended."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import anyio
import pytest

from mbactor import Actor, ActorRef, ActorSystem, BudgetSpent, Exit, Mailbox, endpoint
from mbactor.kernel.cell import Cell
from mbactor.kernel.feature import Feature
from mbactor.kernel.look import REASON_LIMIT, ActorView, cell_of, look


class Desk(Actor):
    """Takes as long as it is told."""

    host = "desk.example"

    @endpoint
    async def serve(self, seconds: float) -> None:
        await self.sleep(seconds)

    @endpoint
    async def pass_on(self, seconds: float) -> None:
        self.tell(Other.serve, seconds)

    async def aside(self, seconds: float) -> None:
        await self.sleep(seconds)


class Other(Desk):
    host = "other.example"


class Beside(Feature):
    aside = True


class Studio(Desk):
    host = "studio.example"
    paint = Beside(Desk.aside)


class Small(Desk):
    host = "small.example"
    mailbox = Mailbox(capacity=2)


class Latest(Desk):
    host = "latest.example"
    mailbox = Mailbox(capacity=1, overflow="drop_oldest")


def seen(ref: ActorRef[Any]) -> ActorView:
    cell = cell_of(ref)
    assert cell is not None
    return look(cell)


async def test_an_actor_that_was_never_asked_has_nothing_and_looking_makes_nothing(mbactor: ActorSystem) -> None:
    desk = await mbactor.spawn(Desk)
    view = seen(desk)
    assert (view.state, view.incarnation, view.host) == ("running", 1, "desk.example")
    assert (view.mailbox.depth, view.mailbox.accepted, view.capacity) == (0, 0, 1000)
    assert view.running == ()
    assert view.exits == ()
    cell = cell_of(desk)
    assert cell is not None
    assert cell.gates == ()


async def test_the_message_in_hand_and_those_that_wait_are_seen_with_their_ages(mbactor: ActorSystem) -> None:
    desk = await mbactor.spawn(Desk)
    desk.tell(Desk.serve, 60)
    await asyncio.sleep(2)
    desk.tell(Desk.serve, 60)
    await asyncio.sleep(3)
    view = seen(desk)
    assert [(message.method, message.sender) for message in view.running] == [("serve", None)]
    assert view.running[0].age == pytest.approx(5)
    assert (view.mailbox.depth, view.mailbox.highest, view.mailbox.accepted) == (1, 1, 2)
    assert view.mailbox.oldest_age == pytest.approx(3)
    await desk.kill()


@pytest.mark.mbactor(serialize_local=False)
async def test_each_message_that_waits_has_an_age_of_its_own(mbactor: ActorSystem) -> None:
    desk = await mbactor.spawn(Desk)
    for seconds in (60, 7, 7, 7):
        desk.tell(Desk.serve, seconds)  # by the first the short way is found, by which the others come
    for _ in range(3):
        await asyncio.sleep(5)
        desk.tell(Desk.serve, 7)
    desk.tell(Desk.serve, 7)
    await asyncio.sleep(44)
    ages: list[int] = []
    while seen(desk).mailbox.depth:
        await asyncio.sleep(2 if not ages else 7)
        ages.append(round(seen(desk).mailbox.oldest_age))
    assert ages == [61, 68, 70, 72, 74, 81, 0]
    await desk.kill()


async def test_a_message_that_an_actor_sent_names_its_method(mbactor: ActorSystem) -> None:
    desk, other = await mbactor.spawn(Desk), await mbactor.spawn(Other)
    await desk.ask(Desk.pass_on, 60)
    await asyncio.sleep(1)
    assert [message.sender for message in seen(other).running] == ["desk.example/pass-on"]
    await other.kill()


async def test_what_runs_beside_the_gate_counts_as_well_the_oldest_first(mbactor: ActorSystem) -> None:
    studio = await mbactor.spawn(Studio)
    for _ in range(66):
        studio.tell(Studio.paint, 60)
    await asyncio.sleep(1)
    studio.tell(Studio.serve, 60)
    studio.tell(Studio.serve, 60)
    await asyncio.sleep(1)
    view = seen(studio)
    assert [message.method for message in view.running] == ["paint"] * 64 + ["serve"]
    assert view.mailbox.depth == 3
    assert view.mailbox.accepted == 68
    assert view.mailbox.oldest_age == pytest.approx(2)
    await studio.kill()


async def test_what_was_refused_expired_or_dropped_is_counted(mbactor: ActorSystem) -> None:
    small, latest = await mbactor.spawn(Small), await mbactor.spawn(Latest)
    small.tell(Small.serve, 10)
    latest.tell(Latest.serve, 10)
    await asyncio.sleep(1)
    with pytest.raises(BudgetSpent), anyio.fail_after(1):
        await small.ask(Small.serve, 0)
    for _ in range(3):
        small.tell(Small.serve, 0)
        latest.tell(Latest.serve, 0)
    assert (seen(small).mailbox.rejected, seen(small).capacity) == (2, 2)
    assert seen(latest).mailbox.dropped == 2
    await asyncio.sleep(20)
    assert seen(small).mailbox.expired == 1
    assert seen(small).mailbox.depth == 0


async def test_past_ends_are_told_with_their_age_and_reason_the_newest_last(mbactor: ActorSystem) -> None:
    cell = Cell(mbactor.node, Desk, id="desk")
    now = asyncio.get_running_loop().time()
    cell.exits = deque([(now - 9, Exit("killed")), (now - 2, Exit("failed", ValueError("x" * 10_000)))])
    first, last = look(cell).exits
    assert [first.ago, last.ago] == pytest.approx([9, 2])
    assert (first.kind, first.reason, last.kind) == ("killed", "killed", "failed")
    assert last.reason.startswith("failed: ValueError: xxx")
    assert len(last.reason) == REASON_LIMIT


async def test_an_actor_that_crashed_twice_tells_when_and_why(mbactor: ActorSystem) -> None:
    desk = await mbactor.spawn(Desk)
    for _ in range(2):
        desk.tell(Desk.serve, -1)  # no such sleep: it raises
        await asyncio.sleep(3)
    ends = seen(desk).exits
    assert [end.kind for end in ends] == ["failed", "failed"]
    assert [round(end.ago) for end in ends] == [6, 3]
    assert "ValueError" in ends[0].reason


def test_what_is_no_actor_of_this_process_is_not_looked_at() -> None:
    assert cell_of(object()) is None
    assert cell_of(None) is None
