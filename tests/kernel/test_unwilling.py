"""A replica that is full, or away for long, gets nothing while another of its process takes messages."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from mbactor import Backoff, Mailbox, child
from mbactor.errors import ActorCrashed, ActorRestarting, MailboxFull
from tests.kernel.conftest import Start
from tests.kernel.desk import Bell, Desk, until

pytestmark = pytest.mark.anyio

ASKS = 40


def has(heard: list[tuple[str, int]], many: int) -> bool:
    return len(heard) == many


async def test_what_a_full_replica_cannot_take_another_of_its_process_has(start: Start) -> None:
    heard: list[tuple[str, int]] = []
    go_on = {name: asyncio.Event() for name in ("left", "right")}
    serves, asks = await start(), await start()
    left, right = [
        await serves.spawn(
            child(Desk, id=name, args={"name": name, "heard": heard, "go_on": go_on[name]}, mailbox=Mailbox(capacity=8))
        )
        for name in go_on
    ]
    await serves.node.remote.flush()
    held = [left.ask(Desk.hold)]
    await until(lambda: not left.cell.statistics().depth)
    held += [left.ask(Desk.hold) for _ in range(8)]
    for system in (serves, asks):
        assert {await system.ask(Desk.where) for _ in range(ASKS)} == {"right"}
    for n in range(ASKS):
        asks.tell(Desk.note, n)
        asks.publish(Bell.on_rung, n)
        await until(partial(has, heard, 2 * n + 2))
    assert heard == [("right", n) for n in range(ASKS) for _ in range(2)]
    assert not [*serves.dead_letters, *asks.dead_letters]

    held.append(right.ask(Desk.hold))
    await until(lambda: not right.cell.statistics().depth)
    held += [right.ask(Desk.hold) for _ in range(8)]
    for system in (serves, asks):
        with pytest.raises(MailboxFull):
            await system.ask(Desk.where)

    for event_ in go_on.values():
        event_.set()
    await asyncio.gather(*held)
    for system in (serves, asks):
        assert {await system.ask(Desk.where) for _ in range(ASKS)} == {"left", "right"}


async def test_one_in_a_long_backoff_is_asked_nothing_while_another_is_there(start: Start) -> None:
    serves, asks = await start(), await start()
    for name, initial in (("left", "1h"), ("right", "1h")):
        args = {"name": name, "heard": [], "go_on": asyncio.Event()}
        await serves.spawn(child(Desk, id=name, args=args, backoff=Backoff(initial, "1h")))
    await serves.node.remote.flush()
    with pytest.raises(ActorCrashed):
        await serves.ask(Desk.fall)
    await until(lambda: not all(cell.takes("where") for cell in serves.node.served["desk.example"].cells))
    for system in (serves, asks):
        assert len({await system.ask(Desk.where) for _ in range(ASKS)}) == 1
    with pytest.raises(ActorCrashed):
        await serves.ask(Desk.fall)
    await asyncio.sleep(0)
    for system in (serves, asks):
        with pytest.raises(ActorRestarting):
            await asyncio.wait_for(system.ask(Desk.where), 60)
