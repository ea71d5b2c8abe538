"""The Foreman in the tree: flows through actors, workers that are restarted, and the client's promises."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar, cast

import anyio
import msgspec
import pytest

from mbactor import Actor, ActorSystem, BadRequest, BudgetSpent, MbactorError, NoSuchActor, clock, endpoint, seams
from mbactor.errors import FlowConflict, FlowNotFound, InvalidGraph, InvalidKey, InvalidSpec, InvalidState
from mbactor.foreman import END, Filters, Flow, FlowOptions, FlowPage, Flows, Foreman, Graph, task, workflow
from tests.foreman.conftest import url_of

pytestmark = pytest.mark.anyio


class Verdict(msgspec.Struct):
    good: bool
    note: str = ""


class Work(Actor):
    host = "work.example"

    def __init__(self) -> None:
        self.asked = 0

    @endpoint
    async def next_number(self) -> int:
        self.asked += 1
        return self.asked

    @task
    async def begin(self, number: int) -> Verdict:
        return Verdict(good=number > 0)

    @task
    async def ask_the_actor(self) -> dict[str, int]:
        return {"asked": await self.ask(Work.next_number)}

    @task
    def in_a_thread(self, number: int) -> dict[str, Any]:
        return {"thread": threading.current_thread() is not threading.main_thread(), "double": number * 2}

    @task
    def in_a_thread_with_signals(self, flow: Flow) -> None:
        flow["answer"] = flow.interrupt({"why": "asked in a thread"})

    @task
    async def fails(self) -> None:
        raise ValueError("no luck")

    @task
    async def answers_409(self) -> None:
        raise MbactorError("taken", status=409, by="Ada")

    @task
    async def returns_a_list(self) -> list[int]:
        return [1]

    @task
    async def slow(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    @workflow
    def straight(self) -> Graph:
        graph = Graph("Straight")
        graph.add_transition_chain(Work.begin, Work.ask_the_actor, Work.in_a_thread, END)
        return graph

    @workflow
    def in_thread(self) -> Graph:
        return _one(Work.in_a_thread_with_signals)

    @workflow
    def failing(self) -> Graph:
        return _one(Work.fails)

    @workflow
    def refusing(self) -> Graph:
        return _one(Work.answers_409)

    @workflow
    def listing(self) -> Graph:
        return _one(Work.returns_a_list)

    @workflow
    def waiting(self) -> Graph:
        graph = _one(Work.slow)
        graph.set_time_budget(Work.slow, "100ms")
        return graph

    @workflow
    def sleeping(self) -> Graph:
        graph = Graph("Sleeping")
        graph.add_transition_chain(Work.sleep_first, Work.ask_the_actor, END)
        return graph

    @task
    async def sleep_first(self, flow: Flow) -> None:
        flow.sleep("1h")

    @workflow
    def broken(self) -> Graph:
        graph = Graph("Broken")
        graph.add_transition_fan_out(Work.begin, Work.fails, Work.slow)
        graph.add_transition(Work.fails, END)
        graph.add_transition("lonely", END)
        return graph

    @workflow
    def misnamed(self) -> Graph:
        return _one("https://work.example/next-number")

    @workflow
    def no_graph(self) -> Graph:
        return "a graph"  # type: ignore[return-value]


def _one(node: Any) -> Graph:
    graph = Graph("One")
    graph.add_transition(node, END)
    return graph


@pytest.fixture(params=[("file", False), ("memory", True), ("postgres", False)], ids=lambda kind: kind[0])
async def system(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ActorSystem]:
    """Tasks are handed over as they are, or serialized as those on other machines."""
    kind, serialize = request.param
    async with ActorSystem(serialize_local=serialize) as system:
        await system.spawn(Foreman, database=url_of(kind, tmp_path, request), workers=2, lease=1)
        await system.spawn(Work)
        yield system


async def test_tasks_are_methods_of_actors_and_may_ask_them(system: ActorSystem) -> None:
    outcome = await Flows(system).run(Work.straight, {"number": 2**70})
    assert outcome.status == "completed"
    assert outcome.state == {
        "number": 2**70, "good": True, "note": "", "asked": 1, "thread": True, "double": 2**71,
    }  # fmt: skip


async def test_a_plain_def_task_may_park_in_its_thread(system: ActorSystem) -> None:
    flows = Flows(system)
    outcome = await flows.run(Work.in_thread)
    assert outcome.interrupts[0][1] == {"why": "asked in a thread"}
    await flows.resume(outcome.flow_key, [1, None])
    outcome = await flows.wait(outcome.flow_key)
    assert outcome.state == {"answer": [1, None]}


async def test_a_failing_task_fails_its_flow_with_the_error_and_the_actor_goes_on(system: ActorSystem) -> None:
    flows = Flows(system)
    outcome = await flows.run(Work.failing)
    assert outcome.status == "failed"
    assert "ValueError: no luck" in str(outcome.failure)
    refused = await flows.run(Work.refusing)
    assert (refused.failure and refused.failure.status) == 409
    assert await system.ask(Work.next_number) == 1


async def test_a_task_that_returns_no_fields_fails_by_name(system: ActorSystem) -> None:
    outcome = await Flows(system).run(Work.listing)
    assert "returns_a_list returned list; a task returns fields" in str(outcome.failure)


async def test_a_missing_field_fails_the_step_by_name(system: ActorSystem) -> None:
    outcome = await Flows(system).run(Work.straight, {})
    assert "Work.begin needs the field `number`" in str(outcome.failure)
    outcome = await Flows(system).run(Work.straight, {"number": "x"})
    assert "the field `number` of the state does not fit" in str(outcome.failure)
    assert "Expected `int`, got `str`" in str(outcome.failure)


async def test_a_task_that_overruns_its_budget_fails_with_408(system: ActorSystem) -> None:
    outcome = await Flows(system).run(Work.waiting, {"seconds": 60})
    assert outcome.status == "failed"
    assert (outcome.failure and outcome.failure.status) == 408


async def test_what_cannot_be_created_is_refused_and_leaves_nothing(system: ActorSystem) -> None:
    flows = Flows(system)
    with pytest.raises(InvalidGraph) as invalid:
        await flows.create(Work.broken)
    problems = "\n".join(invalid.value.problems)
    assert "begin" in problems
    assert "lonely" in problems
    with pytest.raises(InvalidState, match="NaN|nan"):
        await flows.create(Work.straight, {"number": float("nan")})
    with pytest.raises(InvalidState):
        await flows.create(Work.straight, [1, 2])
    with pytest.raises(MbactorError, match="returned str; a workflow returns a Graph"):
        await flows.create(Work.no_graph)
    with pytest.raises(NoSuchActor):
        await flows.create("https://nobody.example:428/nothing")
    with pytest.raises(BadRequest, match="priority"):
        await flows.create(Work.straight, {}, FlowOptions(priority=-1))
    assert (await flows.list()).flows == []


async def test_a_created_flow_waits_for_start(system: ActorSystem) -> None:
    flows = Flows(system)
    key = await flows.create(Work.straight, {"number": 1}, start=False)
    assert (await flows.snapshot(key)).status == "created"
    assert (await flows.poll(key, "10ms")).status == "created"
    await flows.start(key)
    assert (await flows.wait(key)).status == "completed"
    with pytest.raises(FlowConflict):
        await flows.start(key)


async def test_creating_again_with_the_same_idempotency_key_is_the_same_flow(system: ActorSystem) -> None:
    flows = Flows(system)
    options = FlowOptions(idempotency_key="order-17")
    keys = await asyncio.gather(*(flows.create(Work.straight, {"number": n}, options) for n in range(5)))
    assert len(set(keys)) == 1


async def test_unknown_and_malformed_keys_are_told_apart(system: ActorSystem) -> None:
    flows = Flows(system)
    key = await flows.create(Work.straight, {"number": 1})
    with pytest.raises(FlowNotFound):
        await flows.snapshot(key[:-1] + ("0" if key[-1] != "0" else "1"))
    with pytest.raises(InvalidKey):
        await flows.snapshot("nonsense")


async def test_a_wait_that_ends_by_the_budget_tells_the_key_and_the_flow_goes_on(system: ActorSystem) -> None:
    flows = Flows(system)
    with pytest.raises(BudgetSpent) as spent:
        with anyio.fail_after(0.5):
            await flows.run(Work.sleeping)
    assert (await flows.snapshot(spent.value.flow_key)).status == "running"


@pytest.mark.parametrize(("within", "status", "waited"), [("2h", "completed", 3600), ("30m", "running", 1800)])
async def test_a_poll_waits_for_as_long_as_it_says(
    mbactor: ActorSystem, within: str, status: str, waited: float
) -> None:
    await mbactor.spawn(Work)
    await mbactor.spawn(Foreman, poll_interval="10m", lease="1h")
    flows = Flows(mbactor)
    key = await flows.create(Work.sleeping)
    begun = asyncio.get_running_loop().time()
    assert (await flows.poll(key, within)).status == status
    assert waited - 1 <= asyncio.get_running_loop().time() - begun <= waited + 601  # a Foreman looks each ten minutes


async def test_a_poll_ends_with_the_budget_of_its_caller_and_tells_the_key(mbactor: ActorSystem) -> None:
    await mbactor.spawn(Work)
    await mbactor.spawn(Foreman)
    flows = Flows(mbactor)
    key = await flows.create(Work.sleeping)
    with pytest.raises(BudgetSpent, match="it goes on") as spent:
        with anyio.fail_after(5):
            await flows.poll(key, "1h")
    assert spent.value.flow_key == key


async def test_a_cancelled_flow_is_cancelled_with_its_reason(system: ActorSystem) -> None:
    flows = Flows(system)
    key = (await flows.run(Work.in_thread)).flow_key
    await flows.cancel(key, "no longer wanted")
    outcome = await flows.wait(key)
    assert (outcome.status, outcome.cancel_reason) == ("cancelled", "no longer wanted")
    with pytest.raises(FlowConflict):
        await flows.resume(key, {})


async def test_history_tells_what_ran_and_step_shows_one(system: ActorSystem) -> None:
    flows = Flows(system)
    key = (await flows.run(Work.straight, {"number": 1})).flow_key
    history = await flows.history(key)
    assert [(step.node, step.status) for step in history] == [
        ("begin", "completed"), ("ask_the_actor", "completed"), ("in_a_thread", "completed"),
    ]  # fmt: skip
    step = await flows.step(history[0].step_key)
    assert step.changes == {"good": True, "note": ""}


async def test_a_deleted_flow_is_gone(system: ActorSystem) -> None:
    flows = Flows(system)
    key = (await flows.run(Work.straight, {"number": 1})).flow_key
    await flows.delete(key)
    assert (await flows.list()).flows == []
    with pytest.raises(FlowNotFound):
        await flows.history(key)


async def test_flows_are_listed_and_purged_by_the_same_filters(system: ActorSystem) -> None:
    flows = Flows(system)
    key = (await flows.run(Work.straight, {"number": 1})).flow_key
    filters: Filters = {"older_than": "0s", "search": "work.example", "shard": 1}
    (found,) = (await flows.list("completed", Work.straight, **filters)).flows
    assert (found.flow_key, found.steps_done) == (key, found.steps)
    assert await flows.list(task=Work.slow, newer_than="1h") == FlowPage([])
    drawn, page = await flows.history_mermaid(key), await flows.history_page(key)
    assert drawn.startswith(f'---\ntitle: "{found.workflow_name}"')
    assert page.startswith("<!doctype html>")
    assert key in page
    digest, status = await flows.fingerprint(key)
    assert (len(digest), status) == (64, "completed")
    assert await flows.purge("failed") == 0
    assert await flows.purge(workflow=Work.straight, **filters) == 1
    with pytest.raises(BadRequest, match="at least one of status"):
        await flows.purge()
    with pytest.raises(BadRequest, match="no such shard; there are 1"):
        await flows.list(shard=7)
    with pytest.raises(BadRequest, match="older_than"):
        await flows.list(older_than="soon")
    with pytest.raises(BadRequest, match="older_than"):
        await flows.purge(older_than=dt.timedelta(days=-30))  # of everything that rests
    with pytest.raises(BadRequest, match="within: -1 is not a duration"):
        await flows.poll(key, -1)
    with pytest.raises(BadRequest, match=r"Work\.straight given, a task expected"):
        await flows.break_before(key, cast("Any", Work.straight))


async def test_a_filter_that_is_not_there_removes_nothing(system: ActorSystem) -> None:
    flows = Flows(system)
    await flows.run(Work.straight, {"number": 1})
    misspelt: Any = {"older_thn": "30d"}
    for operation in (flows.purge, flows.list):
        with pytest.raises(BadRequest, match="no filter is called 'older_thn', did you mean 'older_than'"):
            await operation("completed", **misspelt)
    assert len((await flows.list("completed")).flows) == 1


async def test_what_is_no_workflow_and_no_task_is_not_run_as_one() -> None:
    async with ActorSystem() as system:
        await system.spawn(Foreman)
        work = await system.spawn(Work)
        flows = Flows(system)
        with pytest.raises(BadRequest, match=r"/begin is Work\.begin, which is no workflow; decorate with @workflow"):
            await flows.create("https://work.example:428/begin")
        with pytest.raises(BadRequest, match=r"/next-number is at port 443, and workflows are at 428"):
            await flows.create("https://work.example/next-number")
        outcome = await flows.run(Work.misnamed)
        assert outcome.status == "failed"
        assert "Work.next_number, which is no task; decorate with @task" in str(outcome.failure)
        assert await work.ask(Work.next_number) == 1


@pytest.mark.parametrize("days", [-1, "7", True, float("nan")])
def test_a_retention_is_a_number_of_days(days: Any) -> None:
    with pytest.raises(InvalidSpec, match="retention_days.*number of days"):
        Foreman(retention_days=days)


class Late(Actor):
    host = "late.example"

    @task
    async def come(self) -> dict[str, bool]:
        return {"came": True}

    @workflow
    def coming(self) -> Graph:
        return _one(Late.come)


class Early(Actor):
    host = "early.example"

    @task
    async def begin(self, flow: Flow) -> None:
        flow["begun"] = True

    @task
    async def call(self, flow: Flow) -> None:
        flow.update(flow.subgraph(Late.coming))

    @workflow
    def calling(self) -> Graph:
        graph = Graph("Calling")
        graph.add_transition_chain(Early.begin, Early.call, END)
        return graph

    @workflow
    def meeting(self) -> Graph:
        return _one(Late.come)


async def test_a_task_whose_actor_is_not_there_yet_is_offered_again(system: ActorSystem) -> None:
    await system.spawn(Early)
    flows = Flows(system)
    key = await flows.create(Early.meeting, {}, FlowOptions(time_budget="4s"))  # asked again after an eighth
    assert (await flows.poll(key, "50ms")).status == "running"
    await system.spawn(Late)
    outcome = await flows.wait(key)
    assert outcome.state == {"came": True}
    assert [step.attempt for step in await flows.history(key)] == [0]


async def test_a_workflow_whose_actor_is_not_there_yet_is_called_again(system: ActorSystem) -> None:
    await system.spawn(Early)
    flows = Flows(system)
    key = await flows.create(Early.calling, {}, FlowOptions(time_budget="4s"))
    assert (await flows.poll(key, "50ms")).status == "running"
    await system.spawn(Late)
    outcome = await flows.wait(key)
    assert outcome.state == {"came": True, "begun": True}
    assert [step.attempt for step in await flows.history(key)] == [0, 0]


async def test_a_workflow_whose_actor_stays_away_fails_the_step_that_calls_it(system: ActorSystem) -> None:
    await system.spawn(Early)
    outcome = await Flows(system).run(Early.calling, {}, FlowOptions(time_budget="200ms"))
    assert outcome.status == "failed"
    assert isinstance(outcome.failure, NoSuchActor)
    assert "late.example" in str(outcome.failure)


async def test_a_worker_that_crashes_is_restarted_and_its_steps_go_on(system: ActorSystem) -> None:
    flows = Flows(system)
    crashes = 2

    async def crash(**_: Any) -> None:
        nonlocal crashes
        if crashes:
            crashes -= 1
            raise RuntimeError("a fault of the worker")

    with seams.armed("foreman.execute.before", crash):
        keys = [await flows.create(Work.straight, {"number": n}) for n in range(1, 20)]
        outcomes = [await flows.wait(key) for key in keys]
    assert crashes == 0
    assert [outcome.status for outcome in outcomes] == ["completed"] * 19


async def test_a_foreman_that_is_stopped_keeps_its_flows_for_the_next(shared_database: str) -> None:
    async with ActorSystem() as system:
        await system.spawn(Work)
        await system.spawn(Foreman, database=shared_database, workers=1)
        key = (await Flows(system).run(Work.in_thread)).flow_key
    async with ActorSystem() as system:
        await system.spawn(Foreman, database=shared_database, workers=1)
        await system.spawn(Work)
        flows = Flows(system)
        await flows.resume(key, "yes")
        assert (await flows.wait(key)).state == {"answer": "yes"}


@pytest.mark.parametrize(
    "database", ["postgresql://localhost/x", "nonsense", "sqlite:///", "sqlite:///no/such/folder/x.db"]
)
async def test_a_database_that_cannot_be_used_is_a_failed_start(database: str) -> None:
    async with ActorSystem() as system:
        with pytest.raises(MbactorError, match="database"):
            await system.spawn(Foreman, database=database)


@pytest.mark.parametrize("name", ["workers", "slots"])
async def test_a_foreman_without_workers_or_slots_is_refused(name: str) -> None:
    with pytest.raises(InvalidSpec, match=name):
        Foreman(**{name: 0})  # type: ignore[arg-type]


class Awkward(Actor):
    host = "awkward.example"
    runs: ClassVar[list[str]] = []

    @task
    async def exits(self) -> None:
        sys.exit(3)

    @task
    def exits_in_a_thread(self) -> None:
        sys.exit(4)

    @task
    def runs_out(self) -> None:
        next(iter([]))

    @task
    async def nests(self, flow: Flow, deep: int) -> None:
        flow["x"] = msgspec.Raw(b"[" * deep + b"]" * deep)

    @task
    def blocks(self) -> dict[str, bool]:
        time.sleep(0.2)
        return {"done": True}

    @task
    async def takes_long(self) -> dict[str, bool]:
        self.runs.append(self.id)
        await anyio.sleep(1.5)
        return {"done": True}

    @workflow
    def exit_flow(self) -> Graph:
        return _one(Awkward.exits)

    @workflow
    def exit_thread_flow(self) -> Graph:
        return _one(Awkward.exits_in_a_thread)

    @workflow
    def run_out_flow(self) -> Graph:
        return _one(Awkward.runs_out)

    @workflow
    def nest_flow(self) -> Graph:
        return _one(Awkward.nests)

    @workflow
    def block_flow(self) -> Graph:
        return _one(Awkward.blocks)

    @workflow
    def long_flow(self) -> Graph:
        return _one(Awkward.takes_long)


@pytest.mark.parametrize(
    ("flow", "told"),
    [
        (Awkward.exit_flow, r"called sys.exit\(3\)"),
        (Awkward.exit_thread_flow, r"called sys.exit\(4\)"),
        (Awkward.run_out_flow, "StopIteration"),
        (Awkward.nest_flow, "nested 300 deep; the limit is 200"),
    ],
)
async def test_a_task_that_would_take_the_process_with_it_fails_its_step_only(
    system: ActorSystem, flow: Any, told: str
) -> None:
    await system.spawn(Awkward)
    outcome = await Flows(system).run(flow, {"deep": 300})
    assert outcome.status == "failed"
    assert re.search(told, str(outcome.failure)), outcome.failure


async def test_a_state_nested_too_deep_is_refused_at_the_door(system: ActorSystem) -> None:
    await system.spawn(Awkward)
    deep: Any = []
    for _ in range(300):
        deep = [deep]
    with pytest.raises(InvalidState, match="the limit is 200"):
        await Flows(system).create(Awkward.nest_flow, {"deep": deep})


async def test_the_budget_of_a_plain_def_task_counts_from_its_start_not_from_its_wait_for_a_thread(
    system: ActorSystem,
) -> None:
    await system.spawn(Awkward)
    flows = Flows(system)
    options = FlowOptions(time_budget=2)
    # 40 threads take three seconds for all of them.
    keys = [await flows.create(Awkward.block_flow, {}, options) for _ in range(600)]
    outcomes = [await flows.wait(key) for key in keys]
    assert {outcome.status for outcome in outcomes} == {"completed"}


async def test_a_clock_that_jumps_over_a_lease_makes_the_step_run_again_and_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ahead = 0.0
    real = clock.unix
    monkeypatch.setattr(clock, "unix", lambda: real() + ahead)
    Awkward.runs.clear()
    async with ActorSystem() as system:
        await system.spawn(Awkward)
        await system.spawn(Foreman, database=f"sqlite:///{tmp_path}/flows.db", workers=1, lease=1)
        flows = Flows(system)
        key = await flows.create(Awkward.long_flow)
        for _ in range(3):
            await anyio.sleep(0.4)
            ahead += 10
        assert (await flows.poll(key, "15s")).status == "completed"
    assert 2 <= len(Awkward.runs) <= 4


@pytest.mark.parametrize("key", ["1-1-zz", "1-1-\ud800", "1-1-" + "A" * 16, "1--1-" + "0" * 16])
async def test_a_key_that_can_be_none_is_a_400_for_every_operation(system: ActorSystem, key: str) -> None:
    flows = Flows(system)
    for call in (flows.snapshot, flows.resume, flows.cancel, flows.delete, flows.wait):
        with pytest.raises(MbactorError) as refused:
            await call(key)
        assert refused.value.status == 400


class Meeting(Actor):
    """Two tasks of one actor that each wait for the other."""

    host = "meeting.example"

    def __init__(self) -> None:
        self.both = asyncio.Barrier(2)

    @endpoint
    async def meet(self) -> str:
        return (await Flows(self).run(Meeting.appointment)).status

    @task
    async def arrange(self) -> None: ...

    @task
    async def left(self) -> None:
        await self.both.wait()

    @task
    async def right(self) -> None:
        await self.both.wait()

    @task
    async def leave(self) -> None: ...

    @workflow
    def appointment(self) -> Graph:
        graph = Graph("Appointment")
        graph.add_transition_fan_out(Meeting.arrange, Meeting.left, Meeting.right)
        graph.add_transition(Meeting.left, Meeting.leave)
        graph.add_transition(Meeting.right, Meeting.leave)
        graph.set_fan_in(Meeting.leave)
        graph.add_transition(Meeting.leave, END)
        return graph


async def test_branches_of_one_actor_run_in_parallel_beside_the_endpoint_that_waits_for_them(
    system: ActorSystem,
) -> None:
    await system.spawn(Meeting)
    assert await system.ask(Meeting.meet) == "completed"
