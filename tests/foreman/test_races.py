"""Two things at once, forced through the seams, in both orders where the order matters.

What an engine of this kind gets wrong (a list from the history of others), and the test here, or the file, that forces
it. Fork, continue, restart and recover have theirs in `test_recovery_races.py`, scheduling in `test_scheduling.py`,
joins other than `all` in `test_engine_joins.py`.

State and crashes
* a completion without its successor: `tests/faults/test_seams.py`
* the write that ends a flow meets contention: `test_the_write_that_ends_a_flow_is_repeated_and_never_its_task`
* a write that cannot land, and the failure that is written instead: `test_committer.py` (poison, trouble)
* control characters in an error: `test_the_text_of_an_error_can_be_stored_whatever_it_holds`
* a payload that cannot be read: `test_a_row_that_cannot_be_read_fails_its_flow_and_no_other`
* a repeated batch wakes the caller of its flow once: `test_the_caller_is_answered_once_though_the_commit_was_not_answered`
* an ended flow changes, by whatever comes late: `test_what_ends_first_stands`
Fencing
* a late result, before and after its heir's: `test_engine_leases.py`, and for a branch
  `test_a_branch_that_two_workers_ran_arrives_once`
* a result between recovery and the next claim: `test_engine_leases.py`
* a lease on what waits: swept after every test (`world.MUST_BE_EMPTY`)
* a worker that meets its own lost step: `test_a_worker_that_hangs_takes_its_own_step_over`
* a process that stands still with rows locked:
  `test_who_stands_still_within_a_batch_keeps_others_waiting_for_a_bounded_time`
Fan-out
* an arrival counted twice, or one too few: `test_branches_that_arrive_at_the_same_moment_are_joined_once`
* a retry that counts: `tests/faults/busy.py` retries in a branch
* a branch that leads nowhere, direct joins, empty arrays, ordinals, failed cohorts: `test_engine_shapes.py`,
  `test_model_graph.py`
* a called flow that fails while a branch of it runs: `test_a_called_flow_fails_once_all_its_branches_have_ended`
Calls and interrupts
* the child before its caller is parked, or never: one transaction; `test_a_call_is_written_whole_or_not_at_all`
* a child inserted into a cancelled tree: `test_what_ends_first_stands` (call)
* the child's own waiters: `test_who_waits_for_a_called_flow_is_woken_by_its_own_end`
* interrupt, resume, cancel, delete on one tree: `test_of_two_operations_on_one_flow_one_wins`
* the question that the next answer is for: `test_engine_flows.py` (two branches that wait)
Waiting
* a stop between the read and the registration: `test_a_stop_is_seen_whenever_it_comes`
* another process's stop, which nobody here is told of: `test_engine_leases.py`
* shutdown: `test_waiting_ends_with_503_at_whatever_point_it_is`
* a flow that vanishes: `test_who_waits_for_a_flow_that_vanishes_is_told`
* an interrupt that is answered before its waiter looks: `test_a_waiter_never_returns_with_a_flow_that_goes_on`
* the budget that ends at that moment: `test_foreman.py` (a wait that ends by the budget)
Operations
* a closed engine, drain, a host that raises anything: `test_engine_flows.py`, `test_engine_leases.py`, `test_foreman.py`
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mbactor import seams
from mbactor.errors import FlowConflict, FlowNotFound, MbactorError, Unavailable
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.store import postgres
from mbactor.foreman.store.operations import Operation
from mbactor.foreman.store.store import StoreTrouble
from mbactor.foreman.sweep import sweep
from mbactor.testing import faults
from tests.foreman.world import Task, World, a_world, ok

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with a_world(database, poll_interval=0.05) as made:
        yield made


def line(*nodes: str) -> Graph:
    graph = Graph("line")
    graph.add_transition_chain(*nodes, END)
    return graph


def fan(name: str = "fan") -> Graph:
    """Two branches and their fan-in."""
    graph = Graph(name)
    graph.add_transition_fan_out("start", "a", "b")
    graph.add_transition("a", "join")
    graph.add_transition("b", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    return graph


async def after(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


# --- an end, and what comes late ----------------------------------------------------------------------------


def _fails(_: Flow) -> None:
    raise ValueError("late")


def _retries(flow: Flow) -> None:
    flow.retry()


def _asks(flow: Flow) -> None:
    flow.interrupt({})


def _spreads() -> Graph:
    graph = Graph("line")
    graph.add_transition_for_each("task", "each", for_each="items")
    graph.add_transition("each", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    return graph


def _calls() -> Graph:
    graph = Graph("line")
    graph.add_subgraph("task", "called")
    graph.add_transition("task", END)
    return graph


LATE: dict[str, tuple[Callable[[], Graph], Task, dict[str, Any]]] = {
    "complete": (lambda: line("task"), ok, {}),
    "advance": (lambda: line("task", "next"), ok, {}),
    "fail": (lambda: line("task"), _fails, {}),
    "retry": (lambda: line("task"), _retries, {}),
    "interrupt": (lambda: line("task"), _asks, {}),
    "fan out": (_spreads, ok, {"items": [1, 2]}),
    "fan in": (_spreads, ok, {"items": []}),
    "call": (_calls, ok, {}),
}
"""What a task may end with: a graph, the task, and the state it is given."""


async def forever(_: Flow) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("late", LATE)
async def test_what_ends_first_stands(world: World, late: str) -> None:
    graph, task, state = LATE[late]
    await world.graph(line("wait"), wait=forever)
    world.host.graphs["called"] = world.host.graphs["line"]
    await world.graph(graph(), task=task, next=forever, each=forever, join=forever)
    with faults.holding("foreman.settle.before", node="task") as held:
        key = await world.engine.create("line", state)
        await held.reached()
        await world.engine.cancel(key, "no longer wanted")
    await after(lambda: world.dispatchers[0].running == 0)
    outcome = await world.engine.wait(key)
    assert (outcome.status, outcome.cancel_reason) == ("cancelled", "no longer wanted")
    steps = await world.engine.history(key)
    assert [(step.node, step.status) for step in steps] == [("task", "cancelled")]
    assert await world.sql("SELECT count(*) FROM mbactor_flow") == [(1,)]
    with pytest.raises(FlowConflict, match="cancelled"):
        await world.engine.cancel(key)


@pytest.mark.parametrize("first", LATE)
async def test_what_is_written_first_is_cancelled_with_its_flow(world: World, first: str) -> None:
    graph, task, state = LATE[first]
    await world.graph(line("wait"), wait=forever)
    world.host.graphs["called"] = world.host.graphs["line"]
    await world.graph(graph(), task=task, next=forever, each=forever, join=forever)
    with faults.holding("foreman.settle.after", node="task") as held:
        key = await world.engine.create("line", state)
        await held.reached()
        if first in {"complete", "fail"}:
            with pytest.raises(FlowConflict, match=first):
                await world.engine.cancel(key)
        else:
            await world.engine.cancel(key)
    await after(lambda: world.dispatchers[0].running == 0)
    if first in {"advance", "fan out", "fan in"}:
        assert world.host.ran == ["task"], "what followed had been handed over, and was over before it began"
    status = {"complete": "completed", "fail": "failed"}.get(first, "cancelled")
    assert (await world.engine.wait(key)).status == status
    await world.check()


# --- writes that fail, or that nobody answers ---------------------------------------------------------------


@contextmanager
def troubled(kind: str, times: int = 2) -> Iterator[list[int]]:
    """The database refuses batches that hold an operation of that kind, so many times; how many are left."""
    left = [times]

    async def refuse(operations: list[Operation], **_: Any) -> None:
        if left[0] and any(type(one).__name__ == kind for one in operations):
            left[0] -= 1
            raise StoreTrouble("the database is locked")

    with seams.armed("foreman.write.before", refuse):
        yield left


@pytest.mark.parametrize("task", [ok, _fails])
async def test_the_write_that_ends_a_flow_is_repeated_and_never_its_task(world: World, task: Task) -> None:
    await world.graph(line("task"), task=task)
    with troubled("Settle") as left:
        outcome = await world.run("line")
    assert outcome.status == ("completed" if task is ok else "failed")
    assert left == [0]
    assert world.host.ran == ["task"]


@pytest.mark.parametrize("verb", ["Resume", "Cancel", "Delete", "Start"])
async def test_an_operation_on_a_flow_is_repeated_until_it_lands(world: World, verb: str) -> None:
    await world.graph(line("task"), task=_asks)
    key = await world.engine.create("line", start=verb != "Start")
    if verb != "Start":
        assert (await world.engine.wait(key)).status == "interrupted"
    with troubled(verb) as left:
        await getattr(world.engine, verb.lower())(key)
    assert left == [0]


async def test_a_call_is_written_whole_or_not_at_all(world: World) -> None:
    await world.graph(line("inner"), inner=ok)
    world.host.graphs["called"] = world.host.graphs["line"]
    await world.graph(_calls())
    seen: list[Any] = []

    async def refuse(operations: list[Any], **_: Any) -> None:
        if any(getattr(one, "child", None) is not None for one in operations) and len(seen) < 4:
            seen.append(await world.sql("SELECT count(*) FROM mbactor_flow WHERE caller_id IS NOT NULL"))
            seen.append(await world.sql("SELECT count(*) FROM mbactor_step WHERE parks IS NOT NULL"))
            raise StoreTrouble("the database is locked")

    with seams.armed("foreman.write.before", refuse):
        assert (await world.run("line")).status == "completed"
    assert seen == [[(0,)]] * 4
    assert await world.sql("SELECT count(*) FROM mbactor_flow WHERE caller_id IS NOT NULL") == [(1,)]


async def test_the_caller_is_answered_once_though_the_commit_was_not_answered(mbactor_postgres_server: Any) -> None:
    async with a_world(mbactor_postgres_server.fresh(), poll_interval=0.05) as world:
        await world.graph(line("inner"), inner=ok)
        world.host.graphs["called"] = world.host.graphs["line"]

        def outer(flow: Flow) -> None:
            flow.subgraph("called", {})

        await world.graph(line("outer"), outer=outer)
        lost: list[int] = []

        async def lose(number: int) -> None:
            lost.append(number)
            raise ConnectionResetError("the answer was lost")

        with seams.armed("foreman.commit.after", lose):
            assert (await world.run("line")).status == "completed"
        assert len(lost) >= 3
        assert world.host.ran == ["outer", "inner", "outer"]


@pytest.mark.parametrize("text", ["a\0b", "\x1b[31mred", "half \ud83d pair", "x" * 200_000])
async def test_the_text_of_an_error_can_be_stored_whatever_it_holds(world: World, text: str) -> None:
    def task(_: Flow) -> None:
        raise ValueError(text)

    await world.graph(line("task"), task=task)
    outcome = await world.run("line")
    assert outcome.status == "failed"
    assert "\0" not in str(outcome.failure)
    assert world.host.ran == ["task"]


@pytest.mark.parametrize("column", ["state", "changes", "parks", "baggage"])
async def test_a_row_that_cannot_be_read_fails_its_flow_and_no_other(database: str, column: str) -> None:
    async with a_world(database, workers=0, poll_interval=0.05) as world:
        await world.graph(line("task"), task=ok)
        keys = [await world.engine.create("line") for _ in range(3)]
        table = "mbactor_flow" if column == "baggage" else "mbactor_step"
        await world.sql(f"UPDATE {table} SET {column} = ? WHERE id = 2", b"{broken")
        world.work()
        async with asyncio.timeout(60):
            outcomes = [await world.engine.wait(key) for key in (keys[0], keys[2])]
            rows = [("pending",)]
            while rows[0][0] in {"pending", "running"}:
                rows = await world.sql("SELECT status FROM mbactor_step WHERE id = 2")
        assert [outcome.status for outcome in outcomes] == ["completed"] * 2
        assert rows == [("failed",)]


# --- two workers, one step ----------------------------------------------------------------------------------


class Turnstile:
    """Holds every passage of a seam that fits, and lets them go one by one in the order that the test wants."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields
        self.waiting: list[asyncio.Event] = []
        self.open = False

    async def __call__(self, **fields: Any) -> None:
        if self.open or any(fields[name] != value for name, value in self._fields.items()):
            return
        go = asyncio.Event()
        self.waiting.append(go)
        await go.wait()

    async def until(self, count: int) -> None:
        await after(lambda: len(self.waiting) == count)

    def let_all(self) -> None:
        self.open = True
        for go in self.waiting:
            go.set()


async def expire(world: World) -> None:
    """As if the time of every lease had gone by."""
    await world.sql("UPDATE mbactor_step SET lease_expires = 1 WHERE status = 'running' AND lease_expires IS NOT NULL")
    assert await sweep(world.engine) > 0


@pytest.mark.parametrize("zombie_first", [True, False])
async def test_a_branch_that_two_workers_ran_arrives_once(database: str, zombie_first: bool) -> None:
    async with a_world(database, workers=0, poll_interval=0.02) as world:
        await world.graph(fan(), start=ok, a=lambda flow: flow.update(sum_a=1), b=ok, join=ok)
        turnstile = Turnstile(node="a")
        with seams.armed("foreman.settle.before", turnstile):
            zombie = world.work("zombie", slots=4)
            key = await world.engine.create("fan")
            await turnstile.until(1)
            await after(lambda: world.host.ran.count("b") == 1 and zombie.running == 1)
            world.work("heir", slots=4)
            await expire(world)
            await turnstile.until(2)
            first, second = turnstile.waiting if zombie_first else reversed(turnstile.waiting)
            with faults.holding("foreman.settle.after", node="a", times=None) as held:
                first.set()
                await held.reached()
            if zombie_first:
                assert await world.sql("SELECT cohort_arrivals FROM mbactor_step WHERE cohort_size = 2") == [(1,)]
            else:
                assert (await world.engine.wait(key)).status == "completed"
            second.set()
            outcome = await world.engine.wait(key)
            await after(lambda: zombie.running == 0)
        assert outcome.state == {"sum_a": 1}
        assert world.host.ran.count("join") == 1
        assert await world.sql("SELECT cohort_arrivals FROM mbactor_step WHERE cohort_size = 2") == [(2,)]


async def test_branches_that_arrive_at_the_same_moment_are_joined_once(shared_database: str) -> None:
    url = shared_database
    async with a_world(url, workers=0, poll_interval=0.02) as one, a_world(url, workers=0, poll_interval=0.02) as two:
        graph = Graph("wide")
        graph.add_transition_for_each("start", "each", for_each="items")
        graph.add_transition("each", "join")
        graph.set_fan_in("join")
        graph.add_transition("join", END)
        for world in (one, two):
            await world.graph(graph, start=ok, each=lambda flow: flow.update(sum_items=flow["item"]), join=ok)
            world.work(slots=8)
        turnstile = Turnstile(node="each")
        with seams.armed("foreman.settle.before", turnstile):
            key = await one.engine.create("wide", {"items": list(range(16))})
            await turnstile.until(16)
            turnstile.let_all()
            outcome = await one.engine.wait(key)
        assert outcome.state["sum_items"] == sum(range(16))
        assert (one.host.ran + two.host.ran).count("join") == 1
        assert two.host.ran.count("each") == 8, "both had half of them"


@pytest.mark.parametrize("first_ends", [True, False])
async def test_a_worker_that_hangs_takes_its_own_step_over(world: World, first_ends: bool) -> None:
    await world.graph(line("task", "next"), task=lambda flow: flow.update(runs=1), next=ok)
    turnstile = Turnstile(node="task")
    with seams.armed("foreman.settle.before", turnstile):
        key = await world.engine.create("line")
        await turnstile.until(1)
        await expire(world)
        await turnstile.until(2)
        first, second = turnstile.waiting if first_ends else reversed(turnstile.waiting)
        first.set()
        if not first_ends:
            assert (await world.engine.wait(key)).status == "completed"
        second.set()
        outcome = await world.engine.wait(key)
    await after(lambda: world.dispatchers[0].running == 0)
    assert outcome.state == {"runs": 1}
    assert [step.node for step in await world.engine.history(key)] == ["task", "next"]
    assert world.host.ran == ["task", "task", "next"]


async def test_who_stands_still_within_a_batch_keeps_others_waiting_for_a_bounded_time(
    mbactor_postgres_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres._SETTINGS, "idle_in_transaction_session_timeout", "2s")
    url = mbactor_postgres_server.fresh()
    async with a_world(url, workers=0) as still, a_world(url, workers=0) as other:
        await still.graph(line("task"), task=ok)
        key = await still.engine.create("line")
        with faults.holding("foreman.commit.before") as held:
            cancelling = asyncio.create_task(still.engine.cancel(key, "by who stands still"))
            await held.reached()
            await asyncio.wait_for(other.engine.cancel(key, "by the other"), 60)
        with pytest.raises(FlowConflict, match="cancelled"):
            await asyncio.wait_for(cancelling, 60)
        assert (await other.engine.snapshot(key)).cancel_reason == "by the other"


# --- calls and interrupts -----------------------------------------------------------------------------------


async def test_a_called_flow_fails_once_all_its_branches_have_ended(world: World) -> None:
    go = asyncio.Event()

    async def slow(_: Flow) -> None:
        await go.wait()

    await world.graph(fan("called"), start=ok, a=_fails, b=slow, join=ok)
    await world.graph(_calls())
    key = await world.engine.create("line")
    await after(lambda: "a" in world.host.ran and world.dispatchers[0].running == 1)
    assert (await world.engine.snapshot(key)).status == "running"
    assert await world.sql("SELECT status FROM mbactor_flow ORDER BY id") == [("running",), ("running",)]
    go.set()
    outcome = await world.engine.wait(key)
    assert (outcome.status, str(outcome.failure)) == ("failed", "ValueError: late")


async def test_who_waits_for_a_called_flow_is_woken_by_its_own_end(world: World) -> None:
    go = asyncio.Event()

    async def inner(flow: Flow) -> None:
        await go.wait()
        flow["inner"] = 1

    await world.graph(line("inner", "next"), inner=inner, next=ok)
    world.host.graphs["called"] = world.host.graphs["line"]
    await world.graph(_calls())
    key = await world.engine.create("line")
    await after(lambda: "inner" in world.host.ran)
    (record,) = await world.engine.history(key)
    assert record.subflow is not None
    waiting = asyncio.create_task(world.engine.wait(record.subflow.flow_key))
    await asyncio.sleep(0)
    go.set()
    assert (await waiting).state == {"inner": 1}
    for operation in (world.engine.cancel, world.engine.resume, world.engine.delete):
        with pytest.raises(MbactorError, match="another flow called it"):
            await operation(record.subflow.flow_key)
    assert (await world.engine.wait(key)).status == "completed"


OPERATIONS = ("resume", "cancel", "delete")


@pytest.mark.parametrize("first", OPERATIONS)
@pytest.mark.parametrize("second", OPERATIONS)
@pytest.mark.parametrize("how", ["one batch", "one by one"])
async def test_of_two_operations_on_one_flow_one_wins(world: World, first: str, second: str, how: str) -> None:
    """At the flow that was called there waits a question; the operations are on the one that began."""
    await world.graph(line("task"), task=_asks)
    world.host.graphs["called"] = world.host.graphs["line"]
    await world.graph(_calls())
    key = await world.engine.create("line")
    assert (await world.engine.wait(key)).status == "interrupted"
    one, two = getattr(world.engine, first), getattr(world.engine, second)
    if how == "one batch":
        results: list[Any] = list(await asyncio.gather(one(key), two(key), return_exceptions=True))
    else:
        results = []
        for operation in (one, two):
            try:
                results.append(await operation(key))
            except MbactorError as error:
                results.append(error)
    told = {name: result for name, result in zip((first, second), results, strict=True) if result is None}
    # Who answers twice, or answers what is ended, is told so; ending what goes on again is right, and so is removing
    # what was cancelled.
    allowed = {("resume", "cancel"), ("cancel", "delete"), ("delete", "delete")}
    assert len([result for result in results if result is None]) == (2 if (first, second) in allowed else 1) or (
        how == "one batch" and len(told) >= 1
    )
    for result in results:
        assert result is None or isinstance(result, FlowConflict), result
    if "delete" not in told:
        status = "cancelled" if "cancel" in told else "completed"
        assert (await world.engine.wait(key)).status == status


# --- waiting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seam", ["foreman.wait.before", "foreman.wait.after"])
async def test_a_stop_is_seen_whenever_it_comes(database: str, seam: str) -> None:
    # No poll helps: what is missed here would never be seen.
    async with a_world(database, poll_interval=3600) as world:
        await world.graph(line("task"), task=forever)
        key = await world.engine.create("line")
        world.engine._fresh.clear()
        with faults.holding(seam) as held:
            waiting = asyncio.create_task(world.engine.wait(key))
            await held.reached()
            await world.engine.cancel(key)
        assert (await asyncio.wait_for(waiting, 60)).status == "cancelled"


@pytest.mark.parametrize("seam", ["foreman.wait.before", "foreman.wait.after"])
async def test_waiting_ends_with_503_at_whatever_point_it_is(database: str, seam: str) -> None:
    async with a_world(database, workers=0) as world:
        await world.graph(line("task"), task=ok)
        key = await world.engine.create("line")
        world.engine._fresh.clear()
        with faults.holding(seam) as held:
            waiting = asyncio.create_task(world.engine.wait(key))
            await held.reached()
            await world.engine.close()
        with pytest.raises(Unavailable):
            await asyncio.wait_for(waiting, 60)


@pytest.mark.parametrize("here", [True, False])
async def test_who_waits_for_a_flow_that_vanishes_is_told(shared_database: str, here: bool) -> None:
    async with (
        a_world(shared_database, poll_interval=0.02) as world,
        a_world(shared_database, workers=0) as elsewhere,
    ):
        await world.graph(line("task"), task=_asks)
        key = await world.engine.create("line")
        assert (await world.engine.wait(key)).status == "interrupted"
        with faults.holding("foreman.wait.before") as held:
            waiting = asyncio.create_task(world.engine.wait(key))
            await held.reached()
            engine = world.engine if here else elsewhere.engine
            await engine.delete(key)
            await sweep(engine)
            await world.sql("DELETE FROM mbactor_step")
            await world.sql("DELETE FROM mbactor_flow")
        with pytest.raises(FlowNotFound):
            await asyncio.wait_for(waiting, 60)


async def test_a_waiter_never_returns_with_a_flow_that_goes_on(world: World) -> None:
    await world.graph(line("task"), task=_asks)
    key = await world.engine.create("line")
    with faults.holding("foreman.wait.before", at=2) as held:
        waiting = asyncio.create_task(world.engine.wait(key))
        await held.reached()
        # It has been told of the interrupt, and by now there is none.
        await world.engine.resume(key)
    assert (await asyncio.wait_for(waiting, 60)).status == "completed"
