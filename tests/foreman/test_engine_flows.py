"""Operations on flows: create, start, interrupt and resume, cancel, delete, wait, lists and histories."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from msgspec import structs

from mbactor import clock
from mbactor.errors import (
    BadRequest,
    FlowConflict,
    FlowNotFound,
    InvalidGraph,
    InvalidKey,
    InvalidState,
    NoSuchActor,
    Unavailable,
)
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.outcome import FlowOptions, StepRecord, Subflow
from mbactor.foreman.model.query import FlowQuery
from tests.foreman.world import World, a_world, ok

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with a_world(database, poll_interval=0.05) as made:
        yield made


def line(name: str, *nodes: str) -> Graph:
    graph = Graph(name)
    graph.add_transition_chain(*nodes, END)
    return graph


def ask(flow: Flow) -> None:
    flow["before"] = True
    flow["answer"] = flow.interrupt({"question": "approve?"})


class Held:
    """A task that waits until the test lets it go on, and remembers whether it was cancelled."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.ended = asyncio.Event()
        self.cancelled = False

    async def __call__(self, flow: Flow) -> None:
        self.entered.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.ended.set()
        flow["held"] = True


def held_task() -> tuple[Held, Any]:
    held = Held()

    async def task(flow: Flow) -> None:
        await held(flow)

    return held, task


# --- create ------------------------------------------------------------------------------------------------


async def test_nothing_is_written_for_a_graph_that_cannot_run(world: World) -> None:
    graph = Graph("broken")
    graph.add_transition("start", "nowhere")
    await world.graph(graph)
    with pytest.raises(InvalidGraph):
        await world.engine.create("broken")
    assert await world.sql("SELECT count(*) FROM mbactor_flow") == [(0,)]


@pytest.mark.parametrize("state", [[1], "text", {"x": float("nan")}, {"x": "a\0b"}])
async def test_a_state_that_cannot_be_stored_is_refused(world: World, state: Any) -> None:
    await world.graph(line("line", "start"), start=ok)
    with pytest.raises(InvalidState) as refused:
        await world.engine.create("line", state)
    assert refused.value.status == 400


async def test_create_passes_on_the_error_of_whoever_has_the_graph(world: World) -> None:
    with pytest.raises(FlowNotFound, match="unknown"):
        await world.engine.create("unknown")
    with pytest.raises(BadRequest):
        await world.engine.create("")


async def test_an_idempotency_key_names_one_flow(world: World) -> None:
    await world.graph(line("line", "start"), start=ok)
    await world.graph(line("other", "start"), start=ok)
    options = FlowOptions(idempotency_key="order-17")
    keys = await asyncio.gather(*(world.engine.create("line", {"n": n}, options) for n in range(20)))
    assert len(set(keys)) == 1
    await world.engine.wait(keys[0])
    assert await world.engine.create("line", None, options) == keys[0]
    assert world.host.ran == ["start"]
    with pytest.raises(FlowConflict, match="order-17"):
        await world.engine.create("other", None, options)


async def test_a_flow_created_unstarted_waits_for_start(world: World) -> None:
    await world.graph(line("line", "start"), start=ok)
    key = await world.engine.create("line", start=False)
    assert (await world.engine.poll(key, 0.1)).status == "created"
    await world.engine.start(key)
    assert (await world.engine.wait(key)).status == "completed"
    with pytest.raises(FlowConflict, match="completed"):
        await world.engine.start(key)


@pytest.mark.parametrize("absolute", [False, True])
async def test_start_at_delays_the_first_task(world: World, absolute: bool) -> None:
    await world.graph(line("line", "start"), start=ok)
    moment = clock.utcnow() + dt.timedelta(seconds=0.1)
    start_at = moment if absolute else 0.1
    await world.engine.wait(await world.engine.create("line", None, FlowOptions(start_at=start_at)))
    created, started = (await world.sql("SELECT f.created_at, s.started_at FROM mbactor_flow f, mbactor_step s"))[0]
    assert started >= (moment.timestamp() if absolute else created + 0.1) - 0.01


async def test_a_history_says_when_a_step_that_is_put_off_is_due(world: World) -> None:
    def waits(flow: Flow) -> None:
        flow.sleep("2h")

    def tries(flow: Flow) -> None:
        flow.retry("3h")

    await world.graph(line("later", "fine"), fine=ok)
    await world.graph(line("sleeping", "waits", "fine"), waits=waits)
    await world.graph(line("trying", "tries"), tries=tries)
    later = await world.engine.create("later", None, FlowOptions(start_at="1h"))
    sleeping, trying = [await world.engine.create(name) for name in ("sleeping", "trying")]
    for key, hours in ((later, 1), (sleeping, 2), (trying, 3)):
        while (step := (await world.engine.history(key))[-1]).due_at is None:
            await asyncio.sleep(0.01)
        assert step.status == "pending"
        assert (
            dt.timedelta(minutes=-1)
            < step.due_at - clock.utcnow() - dt.timedelta(hours=hours)
            < dt.timedelta(minutes=1)
        )
    done = await world.engine.create("later")
    await world.engine.wait(done)
    assert [step.due_at for step in await world.engine.history(done)] == [None]


async def test_a_step_that_is_due_after_the_end_of_the_calendar_is_told_as_of_its_last_day(world: World) -> None:
    await world.graph(line("far", "fine"), fine=ok)
    behind = dt.datetime(9999, 12, 31, 23, tzinfo=dt.timezone(dt.timedelta(hours=-12)))
    for start_at in (dt.timedelta.max, 1e300, behind):
        key = await world.engine.create("far", None, FlowOptions(start_at=start_at))
        (step,) = await world.engine.history(key)
        assert step.due_at == dt.datetime(9999, 12, 31, tzinfo=dt.UTC)


async def test_baggage_reaches_every_task(world: World) -> None:
    seen: list[Any] = []
    await world.graph(line("line", "start"), start=lambda flow: seen.append(dict(flow.baggage)))
    await world.run("line", options=FlowOptions(baggage={"tenant": "t1"}))
    assert seen == [{"tenant": "t1"}]


async def test_urgent_flows_are_claimed_before_older_ones() -> None:
    order: list[str] = []
    async with a_world(workers=0) as world:
        await world.graph(line("line", "start"), start=lambda flow: order.append(flow["name"]))
        keys = [await world.engine.create("line", {"name": "late"}, FlowOptions(priority=200))]
        keys += [await world.engine.create("line", {"name": f"usual {n}"}) for n in range(2)]
        keys.append(await world.engine.create("line", {"name": "urgent"}, FlowOptions(priority=1)))
        world.work("one", slots=1)
        for key in keys:
            await world.engine.wait(key)
    assert order == ["urgent", "usual 0", "usual 1", "late"]


async def test_an_urgent_flow_goes_before_the_next_step_of_one_that_runs() -> None:
    order: list[str] = []
    held, task = held_task()
    async with a_world(workers=0) as world:
        await world.graph(line("slow", "hold", "after"), hold=task, after=lambda _: order.append("after"))
        await world.graph(line("urgent", "now"), now=lambda _: order.append("now"))
        world.work("one", slots=1)
        slow = await world.engine.create("slow")
        await held.entered.wait()
        urgent = await world.engine.create("urgent", None, FlowOptions(priority=1))
        held.release.set()
        await world.engine.wait(slow)
        await world.engine.wait(urgent)
    assert order == ["now", "after"]


# --- interrupt and resume ------------------------------------------------------------------------------------


async def test_an_interrupted_flow_waits_for_its_answer_and_the_task_runs_again(world: World) -> None:
    await world.graph(line("line", "ask", "after"), ask=ask, after=ok)
    key = await world.engine.create("line", {"n": 1})
    outcome = await world.engine.wait(key)
    assert outcome.status == "interrupted"
    assert [payload for _, payload in outcome.interrupts] == [{"question": "approve?"}]
    assert outcome.state == {"n": 1, "before": True}
    await world.engine.resume(key, {"yes": True})
    outcome = await world.engine.wait(key)
    assert outcome.state == {"n": 1, "before": True, "answer": {"yes": True}}
    assert world.host.ran == ["ask", "ask", "after"]
    with pytest.raises(FlowConflict, match="completed"):
        await world.engine.resume(key)


async def test_the_nth_interrupt_of_a_task_gets_the_nth_answer(world: World) -> None:
    def twice(flow: Flow) -> None:
        flow["answers"] = [flow.interrupt("first"), flow.interrupt("second")]

    await world.graph(line("line", "twice"), twice=twice)
    key = await world.engine.create("line")
    assert (await world.engine.wait(key)).interrupts[0][1] == "first"
    await world.engine.resume(key, 1)
    assert (await world.engine.wait(key)).interrupts[0][1] == "second"
    await world.engine.resume(key)
    outcome = await world.engine.wait(key)
    assert outcome.state == {"answers": [1, {}]}
    assert (await world.engine.step((await world.engine.history(key))[0].step_key)).interrupts == ["first", "second"]


async def test_two_branches_that_wait_are_answered_one_by_one_or_by_step_key(world: World) -> None:
    graph = Graph("fan")
    graph.add_transition_fan_out("start", "a", "b")
    graph.add_transition("a", "join")
    graph.add_transition("b", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    tasks = {name: (lambda flow, name=name: flow.__setitem__(name, flow.interrupt(name))) for name in ("a", "b")}
    await world.graph(graph, start=ok, join=ok, **tasks)
    key = await world.engine.create("fan")

    async def both_wait() -> bool:
        return len((await world.engine.snapshot(key)).interrupts) == 2

    await world.until(both_wait)
    interrupts = {payload: step for step, payload in (await world.engine.snapshot(key)).interrupts}
    await world.engine.resume(key, "for b", step_key=interrupts["b"])
    assert (await world.engine.snapshot(key)).status == "interrupted"
    await world.engine.resume(key, "for a")
    assert (await world.engine.wait(key)).state == {"a": "for a", "b": "for b"}
    with pytest.raises(FlowConflict):
        await world.engine.resume(key, "late", step_key=interrupts["b"])


async def test_an_interrupt_in_a_called_flow_is_answered_through_the_flow_that_began(world: World) -> None:
    outer = line("outer", "call", "after")
    await world.graph(line("inner", "ask"), ask=ask)
    await world.graph(outer, call=lambda flow: flow.update(flow.subgraph("inner", {"x": 1})), after=ok)
    key = await world.engine.create("outer")
    outcome = await world.engine.wait(key)
    assert (outcome.status, outcome.interrupts[0][1]) == ("interrupted", {"question": "approve?"})
    child = (await world.engine.history(key))[0].subflow
    assert child is not None
    for operation in (world.engine.resume, world.engine.cancel, world.engine.delete):
        with pytest.raises(BadRequest, match="another flow called it"):
            await operation(child.flow_key)
    await world.engine.resume(key, "yes")
    assert (await world.engine.wait(key)).state == {"x": 1, "before": True, "answer": "yes"}


async def test_a_history_goes_64_flows_deep_and_says_so(world: World) -> None:
    def down(flow: Flow) -> None:
        if flow["left"]:
            flow.update(flow.subgraph("line", {"left": flow["left"] - 1}))
        else:
            flow["end"] = "reached"

    await world.graph(line("line", "down"), down=down)
    key = await world.engine.create("line", {"left": 70})
    assert (await world.engine.wait(key)).state["end"] == "reached"
    subflows = [*_called(await world.engine.history(key))]
    assert [one.cut for one in subflows] == [False] * 64 + [True]
    assert subflows[-1].steps == []
    rest = await world.engine.history(subflows[-1].flow_key)
    assert len([*_called(rest)]) == 70 - 65


def _called(steps: list[StepRecord]) -> Iterator[Subflow]:
    """The flows below a history, each within the one before."""
    while (subflow := steps[0].subflow) is not None:
        yield subflow
        if not subflow.steps:
            return
        steps = subflow.steps


async def test_of_two_answers_to_one_interrupt_one_is_refused(world: World) -> None:
    await world.graph(line("line", "ask"), ask=ask)
    key = await world.engine.create("line")
    await world.engine.wait(key)
    results = await asyncio.gather(world.engine.resume(key, 1), world.engine.resume(key, 2), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), FlowConflict]
    assert (await world.engine.wait(key)).state["answer"] == 1


# --- cancel -----------------------------------------------------------------------------------------


async def test_cancel_ends_the_flow_and_the_task_that_runs(world: World) -> None:
    held, task = held_task()
    await world.graph(line("line", "start", "hold"), start=lambda flow: flow.__setitem__("a", 1), hold=task)
    key = await world.engine.create("line")
    await held.entered.wait()
    waiting = asyncio.create_task(world.engine.wait(key))
    await asyncio.sleep(0)
    await world.engine.cancel(key, " not\0 \udc80needed ")
    outcome = await waiting
    assert (outcome.status, outcome.cancel_reason, outcome.state) == ("cancelled", "not\ufffd \ufffdneeded", {"a": 1})
    await held.ended.wait()
    assert held.cancelled
    with pytest.raises(FlowConflict, match="cancelled"):
        await world.engine.cancel(key)
    await world.graph(line("next", "start"), start=ok)
    assert (await world.run("next")).status == "completed"


async def test_cancel_ends_the_flows_that_were_called_too(world: World) -> None:
    held, task = held_task()
    await world.graph(line("inner", "hold"), hold=task)
    await world.graph(line("outer", "call"), call=lambda flow: flow.subgraph("inner", {}))
    key = await world.engine.create("outer")
    await held.entered.wait()
    await world.engine.cancel(key)
    assert {status for (status,) in await world.sql("SELECT status FROM mbactor_flow")} == {"cancelled"}


async def test_the_result_of_a_task_that_will_not_stop_is_refused_after_cancel(world: World) -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    async def stubborn(flow: Flow) -> None:
        entered.set()
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue
        flow["late"] = True

    await world.graph(line("line", "stubborn", "after"), stubborn=stubborn, after=ok)
    key = await world.engine.create("line")
    await entered.wait()
    await world.engine.cancel(key)
    go.set()
    outcome = await world.engine.wait(key)
    assert (outcome.status, outcome.state) == ("cancelled", {})
    await world.graph(line("next", "start"), start=ok)
    assert (await world.run("next")).status == "completed"
    assert "after" not in world.host.ran


# --- keys, lists, histories ----------------------------------------------------------------------------------


async def test_a_wrong_token_and_an_unknown_id_are_the_same_404(world: World) -> None:
    await world.graph(line("line", "start"), start=ok)
    key = await world.engine.create("line")
    await world.engine.wait(key)
    messages = set()
    for wrong in (key[:-1] + ("0" if key[-1] != "0" else "1"), "1-999-0123456789abcdef", "2-1-0123456789abcdef"):
        for operation in (world.engine.snapshot, world.engine.wait, world.engine.cancel, world.engine.step):
            with pytest.raises(FlowNotFound) as refused:
                await operation(wrong)
            messages.add(str(refused.value).replace(wrong.rpartition("-")[0], "1-1"))
    gone, else_ = "has this key (1-1-...): it was removed, or the key is", "not whole, or of another database"
    a_flows = "a flow's (its history has those of its steps)"
    assert messages == {f"no flow {gone} a step's, {else_}", f"no step {gone} {a_flows}, {else_}"}
    for malformed in ("", "1", "1-2", "x-2-abc", "0-2-abc", "1--2-abc", "1-99999999999999999999-a"):
        with pytest.raises(InvalidKey):
            await world.engine.snapshot(malformed)


async def test_history_tells_the_steps_and_step_their_payloads(world: World) -> None:
    graph = Graph("each")
    graph.add_transition_for_each("start", "branch", for_each="items")
    graph.add_transition("branch", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    await world.graph(graph, start=ok, branch=lambda flow: flow.__setitem__("sum_x", flow["item"]), join=ok)
    outcome = await world.run("each", {"items": [1, 2]})
    start, one, two, join = await world.engine.history(outcome.flow_key)
    assert [start.depth, one.depth, two.depth, join.depth] == [1, 2, 2, 3]
    assert one.predecessor == two.predecessor == start.step_key
    assert one.successor == two.successor == join.step_key
    assert start.successor == one.step_key
    assert join.reducers == {"sum_x": "add (prefix sum_)"}
    assert join.ended_at is not None
    detail = await world.engine.step(two.step_key)
    assert detail.state == {"items": [1, 2], "item": 2, "item_index": 1, "item_count": 2}
    assert detail.changes == {"sum_x": 2}
    joined = await world.engine.step(join.step_key)
    assert joined.state == {"items": [1, 2], "sum_x": 3}
    for listed, shown in ((two, detail), (join, joined)):
        assert structs.replace(shown, state=None, changes=None, interrupts=None) == listed


async def test_a_step_tells_which_flow_it_called_and_which_branch_won(world: World) -> None:
    child, parent = line("child", "fill"), Graph("parent")
    await world.graph(child, fill=ok)
    parent.add_transition("begin", "call")
    parent.add_transition_fan_out("call", "left", "right")
    for branch in ("left", "right"):
        parent.add_transition(branch, "join")
    parent.set_fan_in("join")
    parent.add_transition("join", END)

    def writes(number: int) -> Callable[[Flow], None]:
        return lambda flow: flow.__setitem__("x", number)

    await world.graph(
        parent, begin=ok, call=lambda flow: flow.subgraph("child"), left=writes(1), right=writes(2), join=ok
    )
    history = {step.node: step for step in await world.engine.history((await world.run("parent")).flow_key)}
    called = (await world.engine.step(history["call"].step_key)).subflow
    below = history["call"].subflow
    assert called is not None
    assert below is not None
    assert (called.flow_key, called.workflow_name) == (below.flow_key, "child")
    assert (len(below.steps), called.steps, called.cut) == (1, [], True)
    assert (await world.engine.step(history["join"].step_key)).winners == {"x": history["right"].step_key}


async def test_a_big_document_is_stored_once_however_long_the_flow() -> None:
    document = "x" * 50_000
    async with a_world() as world:
        await world.graph(line("long", *(f"n{i}" for i in range(100))), **{f"n{i}": ok for i in range(100)})
        outcome = await world.run("long", {"document": document})
        assert outcome.state == {"document": document}
        (size,) = (await world.sql("SELECT sum(length(state)) FROM mbactor_step"))[0]
        assert size < 2 * len(document)
        last = (await world.engine.history(outcome.flow_key))[-1]
        assert (await world.engine.step(last.step_key)).state == {"document": document}


# --- dispatch --------------------------------------------------------------------------------------------------


async def test_a_task_that_nobody_serves_is_offered_again_without_using_an_attempt(world: World) -> None:
    attempts: list[int] = []
    graph = line("line", "absent")
    graph.set_time_budget("absent", 0.4)
    await world.graph(graph)
    key = await world.engine.create("line")

    async def was_refused() -> bool:
        return bool(await world.sql("SELECT 1 FROM mbactor_step WHERE refused_at IS NOT NULL"))

    await world.until(was_refused)
    world.host.tasks["absent"] = lambda flow: attempts.append(flow.attempt)
    assert (await world.engine.wait(key)).status == "completed"
    assert attempts == [0]


async def test_a_time_in_which_no_worker_was_up_is_not_spent_on_offering(world: World) -> None:
    offers: list[int] = []

    def absent(_: Flow) -> None:
        offers.append(len(offers))
        if len(offers) < 3:
            error = NoSuchActor("nobody serves it")
            error.taken = "no"
            raise error

    graph = line("line", "absent")
    graph.set_time_budget("absent", 3600)
    await world.graph(graph, absent=absent)
    key = await world.engine.create("line")

    async def is_refused_long_ago() -> bool:
        if await world.sql("SELECT 1 FROM mbactor_flow WHERE status = 'failed'"):
            pytest.fail("an hour without a worker was counted")
        return bool(
            await world.sql(
                "UPDATE mbactor_step SET refused_at = refused_at - 7200, not_before = 0 WHERE refused_at IS NOT NULL"
                " AND status = 'pending' AND not_before > created_at + 60 RETURNING id"
            )
        )

    for _ in range(2):
        await world.until(is_refused_long_ago)
    assert (await world.engine.wait(key)).status == "completed"
    assert offers == [0, 1, 2]


async def test_a_task_that_stays_absent_fails_when_its_budget_is_spent(world: World) -> None:
    graph = line("line", "absent")
    graph.set_time_budget("absent", 0.1)
    await world.graph(graph)
    outcome = await world.run("line")
    assert outcome.status == "failed"
    assert isinstance(outcome.failure, NoSuchActor)


async def test_a_refusal_that_the_task_itself_met_is_an_ordinary_error(world: World) -> None:
    def calls(_: Flow) -> None:
        error = Unavailable("the other one is full")
        error.taken = "yes"
        raise error

    await world.graph(line("line", "calls"), calls=calls)
    assert (await world.run("line")).status == "failed"
    assert world.host.ran == ["calls"]


async def test_a_cancelled_error_that_a_task_raises_itself_is_its_failure(world: World) -> None:
    async def odd(_: Flow) -> None:
        raise asyncio.CancelledError

    await world.graph(line("line", "odd"), odd=odd)
    assert (await world.run("line")).status == "failed"


async def test_waiting_stops_with_503_when_the_engine_is_closed() -> None:
    async with a_world(workers=0) as world:
        await world.graph(line("line", "start"), start=ok)
        key = await world.engine.create("line")
        waiting = asyncio.create_task(world.engine.wait(key))
        await asyncio.sleep(0)
        await world.engine.close()
        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable):
            await world.engine.create("line")


async def test_every_operation_on_an_engine_that_is_closed_is_a_503() -> None:
    async with a_world() as world:
        await world.graph(line("line", "start"), start=ok)
        key = await world.engine.create("line")
        await world.engine.wait(key)
        step_key = (await world.engine.history(key))[0].step_key
        engine, recovery = world.engine, world.engine.recovery
        await engine.close()
        for asked in (
            engine.start(key), engine.resume(key), engine.cancel(key), engine.delete(key), engine.wait(key),
            engine.poll(key, 1.0), engine.snapshot(key), engine.history(key), engine.step(step_key),
            engine.fingerprint(key), engine.list(FlowQuery()), engine.purge(FlowQuery(status="failed")),
            recovery.restart(key), recovery.restart_from(step_key), recovery.recover(key), recovery.retry(key),
            recovery.fork(step_key), recovery.continue_thread(key), recovery.break_before(key, "start"),
            recovery.resume_break(key),
        ):  # fmt: skip
            with pytest.raises(Unavailable):
                await asked
