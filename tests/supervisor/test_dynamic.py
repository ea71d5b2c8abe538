"""Children of a dynamic supervisor come and go, each for itself."""

from __future__ import annotations

import asyncio

import pytest

from mbactor import observe
from mbactor.errors import AlreadyPresent, AlreadyStarted, ChildRunning, Ignore, InvalidSpec, NoSuchChild, Unavailable
from mbactor.kernel.exit import NORMAL
from mbactor.supervisor.dynamic import DynamicSupervisor
from mbactor.supervisor.spec import Backoff, child
from mbactor.supervisor.state import StartFailed
from mbactor.supervisor.supervisor import Supervisor
from tests.supervisor.parts import Yard, running, timers, until
from tests.supervisor.test_supervisor import Events
from tests.supervisor.world import leaf

pytestmark = pytest.mark.anyio


async def test_one_child_that_spends_its_budget_is_forgotten_and_the_others_go_on() -> None:
    yard, events = Yard(), Events()
    with observe.observing(events):
        async with running(yard, DynamicSupervisor(max_restarts=1)) as pool:
            assert isinstance(pool, DynamicSupervisor)
            a = await pool.start_child(leaf("a"))
            await pool.start_child(leaf("b"))
            a.crash()
            await until(lambda: a.running)
            yard.parts["b"].crash()
            await until(lambda: yard.parts["b"].running)
            a.crash()
            await until(lambda: len(pool.which_children()) == 1)
            assert [row.id for row in pool.which_children()] == ["b"]
            assert yard.log[-1] == "close a"
            assert yard.parts["b"].running
    assert [fields["child"] for name, fields in events.seen if name == "supervisor.gave_up"] == ["a"]


@pytest.mark.parametrize("restart", ["transient", "temporary"])
async def test_a_child_that_ended_for_good_is_forgotten(restart: str) -> None:
    yard = Yard()
    async with running(yard, DynamicSupervisor()) as pool:
        a = await pool.start_child(leaf("a", restart=restart))
        a.end(NORMAL)
        await until(lambda: pool.count_children().specs == 0)
        assert "close a" in yard.log
        assert await pool.start_child(leaf("a")) is not a


async def test_children_are_stopped_at_the_same_time() -> None:
    yard = Yard()
    async with running(yard, DynamicSupervisor()) as pool:
        for id in "abc":
            await pool.start_child(leaf(id))
            yard.slow_stops[id] = asyncio.Event()
        yard.log.clear()
        stopping = asyncio.create_task(pool.stop())
        await until(lambda: len(yard.log) == 3)
        assert sorted(yard.log) == ["stopping a 5.0", "stopping b 5.0", "stopping c 5.0"]
        for event in yard.slow_stops.values():
            event.set()
        await stopping
        assert sorted(yard.log[-3:]) == ["close a", "close b", "close c"]
        with pytest.raises(Unavailable):
            await pool.start_child(leaf("d"))


async def test_run_time_calls_of_a_dynamic_supervisor() -> None:
    yard = Yard()
    async with running(yard, DynamicSupervisor(max_children=2)) as pool:
        a = await pool.start_child(leaf("a"))
        with pytest.raises(AlreadyStarted):
            await pool.start_child(leaf("a"))
        b = await pool.start_child(leaf("b", backoff=Backoff("1h", "1h")))
        b.crash()
        with pytest.raises(AlreadyPresent):
            await pool.start_child(leaf("b"))
        with pytest.raises(Unavailable, match="max_children is 2"):
            await pool.start_child(leaf("c"))
        for refused in (pool.restart_child, pool.delete_child):
            with pytest.raises(ChildRunning):
                await refused("a")
            with pytest.raises(NoSuchChild):
                await refused("z")
        await pool.terminate_child("b")
        await pool.terminate_child(a)
        with pytest.raises(NoSuchChild):
            await pool.terminate_child(a)
        assert pool.count_children().specs == 0
        assert timers() == []


async def test_a_child_that_does_not_start_is_forgotten() -> None:
    yard = Yard()
    yard.errors["a"] = [ValueError("no"), Ignore()]
    async with running(yard, DynamicSupervisor()) as pool:
        with pytest.raises(StartFailed, match="child 'a' failed to start: ValueError: no"):
            await pool.start_child(leaf("a"))
        assert await pool.start_child(leaf("a")) is None
        assert pool.which_children() == []
        yard.slow_starts["a"] = asyncio.Event()
        calling = asyncio.create_task(pool.start_child(leaf("a")))
        await until(lambda: yard.log[-1] == "starting a")
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert pool.which_children() == []


async def test_told_crashes_of_a_child_never_spend_its_budget() -> None:
    yard = Yard()
    async with running(yard, DynamicSupervisor(max_restarts=0)) as pool:
        a = await pool.start_child(leaf("a", backoff=Backoff("1ms", "1ms")))
        for _ in range(5):
            a.crash(told=True)
            await until(lambda: a.running)


async def test_under_a_supervisor_its_children_vanish_when_it_is_restarted() -> None:
    yard = Yard()
    top = Supervisor(strategy="one_for_all", children=[leaf("a"), child(DynamicSupervisor, id="pool")])
    async with running(yard, top):
        pool = top.which_children()[1].ref
        await pool.start_child(leaf("x"))
        yard.parts["a"].crash()
        await until(lambda: top.which_children()[1].incarnation == 2)
        await until(lambda: top.count_children().active == 2)
        assert top.which_children()[1].ref.which_children() == []
        assert "close x" in yard.log


async def test_it_takes_no_children_of_its_own() -> None:
    class Wrong(DynamicSupervisor):
        children = (leaf("a"),)

    with pytest.raises(InvalidSpec, match="Wrong: children: 1 given, none expected"):
        await Yard().bound(Wrong()).start()
