"""Real actors under real supervisors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import ClassVar

import pytest

from mbactor.errors import ActorCrashed, ActorStopped, Ignore
from mbactor.kernel import Actor, endpoint
from mbactor.kernel.exit import SHUTDOWN, Exit
from mbactor.kernel.node import Node
from mbactor.supervisor.dynamic import DynamicSupervisor
from mbactor.supervisor.spec import SupervisorSpec, child
from mbactor.supervisor.state import StartFailed
from mbactor.supervisor.supervisor import Supervisor
from mbactor.supervisor.system import ActorSystem
from mbactor.transport import LocalBus
from tests.supervisor.parts import until

pytestmark = pytest.mark.anyio


class Counter(Actor):
    host = "counter.example"

    def __init__(self, start: int = 0) -> None:
        self.total = start

    @endpoint
    async def add(self, by: int = 1) -> int:
        self.total += by
        return self.total

    @endpoint
    async def crash(self) -> None:
        raise ValueError("boom")

    @endpoint
    async def end(self) -> None:
        self.stop()


class Faulty(Actor):
    async def on_start(self) -> None:
        raise ValueError("no disk")


class Shy(Actor):
    async def on_start(self) -> None:
        raise Ignore


@asynccontextmanager
async def tree(supervisor: Supervisor) -> AsyncIterator[Supervisor]:
    node = Node("test", LocalBus())
    await node.open()
    supervisor.bind(node, "test")
    try:
        await supervisor.start()
        yield supervisor
    finally:
        await supervisor.stop()
        supervisor.close(SHUTDOWN)
        await node.close()


async def test_a_crash_nobody_was_told_of_restarts_the_actor_and_the_ref_stays() -> None:
    async with tree(Supervisor(children=[child(Counter, args={"start": 10})])) as top:
        ref = top.which_children()[0].ref
        assert await ref.ask(Counter.add, by=5) == 15
        ref.tell(Counter.crash)
        assert await ref.ask(Counter.add) == 11
        row = top.which_children()[0]
        assert (row.incarnation, row.restarts) == (2, 1)
        assert row.ref == ref


ROOM: ContextVar[str] = ContextVar("room", default="none")


class Guest(Actor):
    """Notes in which room it is constructed; `crash` enters another one first."""

    rooms: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self.rooms.append(ROOM.get())

    @endpoint
    async def crash(self) -> None:
        ROOM.set("that of the crash")
        raise ValueError("boom")

    @endpoint
    async def room(self) -> str:
        return ROOM.get()


class Leaving(Guest):
    async def on_stop(self, exit: Exit) -> None:
        await asyncio.sleep(0)


class Working(Guest):
    @endpoint
    async def crash(self) -> None:
        self.spawn_task(asyncio.sleep(3600))
        raise ValueError("boom")


@pytest.mark.parametrize("cls", [Guest, Leaving, Working])
async def test_the_next_incarnation_runs_in_the_context_of_its_supervisor_not_in_that_of_the_crash(
    cls: type[Guest],
) -> None:
    Guest.rooms.clear()
    ROOM.set("that of the tree")
    async with tree(Supervisor(children=[child(cls)])) as top:
        ref = top.which_children()[0].ref
        ref.tell(Guest.crash)
        assert await ref.ask(Guest.room) == "that of the tree"
        assert Guest.rooms == ["that of the tree"] * 2


async def test_a_crash_that_leaves_nothing_to_end_takes_no_task_but_that_of_the_next_message() -> None:
    async with tree(Supervisor(children=[child(Guest)])) as top:
        ref = top.which_children()[0].ref
        before = asyncio.all_tasks()
        ref.tell(Guest.crash)
        [worker] = asyncio.all_tasks() - before
        await asyncio.wait([worker])
        assert top.which_children()[0].incarnation == 2
        assert asyncio.all_tasks() == before


async def test_bad_clients_cannot_switch_a_tree_off() -> None:
    async with tree(Supervisor(max_restarts=0, children=[child(Counter)])) as top:
        ref = top.which_children()[0].ref
        for _ in range(4):
            with pytest.raises(ActorCrashed):
                await ref.ask(Counter.crash)
        assert await ref.ask(Counter.add) == 1
        assert top.phase == "running"


async def test_crashes_nobody_was_told_of_make_it_give_up() -> None:
    async with tree(Supervisor(max_restarts=1, children=[child(Counter)])) as top:
        ref = top.which_children()[0].ref
        ref.tell(Counter.crash)
        ref.tell(Counter.crash)
        await until(lambda: top.phase == "ended")


async def test_where_the_tree_has_given_up_nobody_waits_for_its_actors() -> None:
    async with ActorSystem(tree=SupervisorSpec(max_restarts=0, children=[child(Counter), child(Guest)])) as system:
        counter, guest = [row.ref for row in system.supervisor("main").which_children()]
        counter.tell(Counter.crash)
        async with asyncio.timeout(60):
            assert (await system.wait()).kind == "gave_up"
        for ask in (counter.ask(Counter.add), guest.ask(Guest.room)):
            with pytest.raises(ActorStopped):
                await ask


@pytest.mark.parametrize("order", ["ab", "ba"])
async def test_two_that_crash_at_the_same_time_are_one_restart_of_their_group(order: str) -> None:
    class Starting(Counter):
        async def on_start(self) -> None:
            """Takes a task of its own."""

        async def on_stop(self, exit: Exit) -> None:
            """So does this."""

    children = [child(Starting, id=id) for id in "ab"]
    async with tree(Supervisor(strategy="one_for_all", max_restarts=1, children=children)) as top:
        refs = {row.id: row.ref for row in top.which_children()}
        for id in order:
            refs[id].tell(Counter.crash)
        await until(lambda: [row.incarnation for row in top.which_children()] == [2, 2])
        assert await refs["a"].ask(Counter.add) == await refs["b"].ask(Counter.add) == 1
        assert top.phase == "running"
        assert [row.incarnation for row in top.which_children()] == [2, 2]


async def test_refs_survive_the_restart_of_the_supervisor_above() -> None:
    inner = child(Supervisor, id="inner", args={"max_restarts": 0, "children": [child(Counter)]})
    async with tree(Supervisor(children=[inner])) as top:
        ref = top.which_children()[0].ref.which_children()[0].ref
        ref.tell(Counter.crash)
        assert await ref.ask(Counter.add) == 1
        assert top.which_children()[0].incarnation == 2


async def test_a_terminated_actor_answers_as_stopped_until_it_is_restarted() -> None:
    async with tree(Supervisor(children=[child(Counter)])) as top:
        ref = top.which_children()[0].ref
        await top.terminate_child(ref)
        with pytest.raises(ActorStopped):
            await ref.ask(Counter.add)
        await top.restart_child("counter")
        assert await ref.ask(Counter.add) == 1


async def test_a_failing_on_start_is_a_failed_start_and_ignore_is_none() -> None:
    async with tree(DynamicSupervisor()) as pool:
        with pytest.raises(StartFailed, match="child 'faulty' failed to start: ValueError: no disk"):
            await pool.start_child(child(Faulty))
        assert await pool.start_child(child(Shy)) is None
        assert pool.which_children() == []


async def test_a_spawned_actor_whose_budget_is_spent_has_stopped_for_good() -> None:
    async with tree(DynamicSupervisor(max_restarts=0)) as pool:
        ref = await pool.start_child(child(Counter))
        other = await pool.start_child(child(Counter, id="other"))
        ref.tell(Counter.crash)
        await until(lambda: len(pool.which_children()) == 1)
        with pytest.raises(ActorStopped):
            await ref.ask(Counter.add)
        assert await other.ask(Counter.add) == 1


async def test_a_transient_actor_that_ends_by_itself_stays_down() -> None:
    async with tree(Supervisor(children=[child(Counter, restart="transient")])) as top:
        ref = top.which_children()[0].ref
        await ref.ask(Counter.end)
        await until(lambda: top.which_children()[0].state == "stopped")
        with pytest.raises(ActorStopped):
            await ref.ask(Counter.add)
