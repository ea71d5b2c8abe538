"""What can be done with a flow that went wrong: restart, recover, retry, fork, continue, breakpoints; on each database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mbactor import seams
from mbactor.errors import BadRequest, FlowConflict, FlowNotFound, InvalidState
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.join import Join
from mbactor.foreman.model.outcome import StepRecord
from mbactor.foreman.model.query import FlowQuery
from mbactor.foreman.model.reducers import reducer
from mbactor.foreman.model.state import overrides_of
from mbactor.testing import Recorder
from tests.foreman.world import World, a_world, ok

pytestmark = pytest.mark.anyio


class Broken(Exception):
    """What a task fails with until it is mended."""


def chain(*nodes: str, name: str = "chain") -> Graph:
    graph = Graph(name)
    graph.add_transition_chain(*nodes, END)
    return graph


def fan(name: str = "fan", branches: tuple[str, ...] = ("left", "right")) -> Graph:
    graph = Graph(name)
    graph.add_transition_fan_out("begin", *branches)
    for branch in branches:
        graph.add_transition(branch, "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    return graph


class Tasks:
    """Tasks that note what they read, and fail as long as their name is in `broken`."""

    def __init__(self, *broken: str) -> None:
        self.broken = set(broken)
        self.ran: list[str] = []

    def task(self, name: str, **writes: Any) -> Callable[[Flow], None]:
        def run(flow: Flow) -> None:
            self.ran.append(name)
            if name in self.broken:
                raise Broken(name)
            flow[name] = flow.get("n", 0)
            for field, value in writes.items():
                flow[field] = value

        return run

    def all(self, *names: str) -> dict[str, Callable[[Flow], None]]:
        return {name: self.task(name) for name in names}


async def steps(world: World, key: str) -> dict[str, StepRecord]:
    return {step.node: step for step in await world.engine.history(key)}


async def test_a_failed_flow_goes_on_where_it_failed_with_what_was_corrected(database: str) -> None:
    async with a_world(database) as world:
        tasks = Tasks("b")
        key = await world.engine.create(await world.graph(chain("a", "b", "c"), **tasks.all("a", "b", "c")), {"n": 1})
        assert (await world.engine.wait(key)).status == "failed"
        tasks.broken.clear()
        await world.engine.recovery.recover(key, overrides_of({"n": 5}))
        outcome = await world.engine.wait(key)
        assert (outcome.status, outcome.state, outcome.error) == ("completed", {"n": 5, "a": 1, "b": 5, "c": 5}, None)
        assert tasks.ran == ["a", "b", "b", "c"]
        with pytest.raises(FlowConflict, match="is completed; recover is refused: restart or fork"):
            await world.engine.recovery.recover(key)
        with pytest.raises(FlowConflict, match="is completed; retry is refused"):
            await world.engine.recovery.retry(key)


async def test_each_way_of_running_steps_again_in_place_is_told(mbactor_recorder: Recorder) -> None:
    async with a_world() as world:
        tasks = Tasks("b")
        key = await world.engine.create(await world.graph(chain("a", "b"), **tasks.all("a", "b")))
        flow = "-".join(key.split("-")[:2])
        first = (await world.engine.history(key))[0].step_key
        again = world.engine.recovery
        for how, run, named in (
            ("recover", again.recover, key),
            ("retry", again.retry, key),
            ("restart", again.restart, key),
            ("restart_from", again.restart_from, first),
        ):
            await world.engine.wait(key)
            await run(named)
            await mbactor_recorder.wait_for("flow.rewound", flow=flow, how=how)


async def test_restart_forgets_everything_but_the_first_step(database: str) -> None:
    async with a_world(database) as world:
        tasks = Tasks()
        graph = await world.graph(chain("a", "b"), **tasks.all("a", "b"))
        key = await world.engine.create(graph, {"n": 1, "x": 1})
        await world.engine.wait(key)
        before = await steps(world, key)
        await world.engine.recovery.restart(key, overrides_of({"n": 2, "x": None}))
        outcome = await world.engine.wait(key)
        assert (outcome.status, outcome.state) == ("completed", {"n": 2, "a": 2, "b": 2})
        after = await steps(world, key)
        assert before["a"].step_key == after["a"].step_key
        assert before["b"].step_key != after["b"].step_key
        assert tasks.ran == ["a", "b", "a", "b"]
        with pytest.raises(FlowNotFound):
            await world.engine.recovery.restart(f"{key[:-1]}{'0' if key[-1] != '0' else '1'}")


async def test_a_flow_that_runs_is_not_restarted(database: str) -> None:
    async with a_world(database, workers=0) as world:
        key = await world.engine.create(await world.graph(chain("a"), a=lambda _: None))
        with pytest.raises(FlowConflict, match="is running; restart is refused: cancel it first"):
            await world.engine.recovery.restart(key)
        await world.engine.cancel(key)
        await world.engine.recovery.restart(key)
        world.work()
        assert (await world.engine.wait(key)).status == "completed"


async def test_both_failed_branches_are_recovered_at_once_and_joined(database: str) -> None:
    async with a_world(database) as world:
        tasks = Tasks("left", "right")
        key = await world.engine.create(await world.graph(fan(), **tasks.all("begin", "left", "right", "join")))
        assert (await world.engine.wait(key)).status == "failed"
        tasks.broken.clear()
        await world.engine.recovery.recover(key)
        assert (await world.engine.wait(key)).status == "completed"
        assert sorted(tasks.ran) == ["begin", "join", "left", "left", "right", "right"]


async def test_retry_runs_one_failed_branch_and_the_other_fails_the_flow_again(database: str) -> None:
    async with a_world(database) as world:
        tasks = Tasks("left", "right")
        key = await world.engine.create(await world.graph(fan(), **tasks.all("begin", "left", "right", "join")))
        await world.engine.wait(key)
        tasks.broken.clear()
        await world.engine.recovery.retry(key)
        assert (await world.engine.wait(key)).status == "failed"
        await world.engine.recovery.retry(key)
        assert (await world.engine.wait(key)).status == "completed"
        assert tasks.ran.count("begin") == tasks.ran.count("join") == 1


async def test_a_step_of_a_branch_runs_again_and_the_fan_in_anew(database: str) -> None:
    async with a_world(database) as world:
        tasks = Tasks()
        key = await world.engine.create(
            await world.graph(fan(), **tasks.all("begin", "left", "right", "join")), {"n": 1}
        )
        await world.engine.wait(key)
        left = (await steps(world, key))["left"]
        await world.engine.recovery.restart_from(left.step_key, overrides_of({"n": 7}))
        outcome = await world.engine.wait(key)
        assert outcome.state == {"n": 1, "begin": 1, "left": 7, "right": 1, "join": 1}
        assert [tasks.ran.count(name) for name in ("begin", "left", "right", "join")] == [1, 2, 1, 2]


async def test_a_step_that_waits_its_turn_is_not_restarted_from(database: str) -> None:
    async with a_world(database, workers=0) as world:
        key = await world.engine.create(await world.graph(chain("a"), a=lambda _: None))
        step = (await steps(world, key))["a"]
        with pytest.raises(FlowConflict, match=r"restart from 'a' \(step 1-1\) is refused: the step is pending"):
            await world.engine.recovery.restart_from(step.step_key)
        await world.engine.cancel(key)
        with pytest.raises(FlowConflict, match="is cancelled; restart from 'a' .*is refused.*fork"):
            await world.engine.recovery.restart_from(step.step_key)
        with pytest.raises(FlowNotFound):
            await world.engine.recovery.restart_from(step.step_key[:-1] + ("0" if step.step_key[-1] != "0" else "1"))


def calls(*, after: bool = True) -> Graph:
    graph = Graph("outer")
    graph.add_subgraph("call", "inner")
    graph.set_entry_point("first")
    graph.add_transition_chain("first", "call", *(["last"] if after else []), END)
    return graph


async def test_a_step_of_a_called_flow_runs_again_and_its_callers_wait_for_it(database: str) -> None:
    async with a_world(database) as world:
        tasks = Tasks()
        await world.graph(chain("p", "q", name="inner"), **tasks.all("p", "q"))
        key = await world.engine.create(await world.graph(calls(), **tasks.all("first", "last")), {"n": 1})
        assert (await world.engine.wait(key)).status == "completed"
        called = (await steps(world, key))["call"].subflow
        assert called is not None
        with pytest.raises(BadRequest, match="another flow called it"):
            await world.engine.recovery.restart(called.flow_key)
        await world.engine.recovery.restart_from(called.steps[1].step_key, overrides_of({"n": 3}))
        outcome = await world.engine.wait(key)
        assert (outcome.status, outcome.state["q"], outcome.state["last"]) == ("completed", 3, 3)
        assert tasks.ran == ["first", "p", "q", "last", "q", "last"]


async def test_what_a_failed_step_had_called_is_called_anew(database: str) -> None:
    async with a_world(database) as world:
        tasks = Tasks("q")
        await world.graph(chain("p", "q", name="inner"), **tasks.all("p", "q"))
        key = await world.engine.create(await world.graph(calls(), **tasks.all("first", "last")))
        assert (await world.engine.wait(key)).status == "failed"
        tasks.broken.clear()
        await world.engine.recovery.recover(key)
        assert (await world.engine.wait(key)).status == "completed"
        assert tasks.ran == ["first", "p", "q", "p", "q", "last"]
        assert await world.sql("SELECT count(*) FROM mbactor_flow") == [(2,)]


async def test_a_fork_goes_on_from_a_step_and_leaves_its_origin_alone(database: str) -> None:
    async with a_world(database) as world:
        tasks = Tasks()
        key = await world.engine.create(await world.graph(chain("a", "b", "c"), **tasks.all("a", "b", "c")), {"n": 1})
        origin = await world.engine.wait(key)
        history = await world.engine.history(key)
        fork = await world.engine.recovery.fork(history[1].step_key, overrides_of({"n": 2}))
        outcome = await world.engine.wait(fork)
        assert outcome.state == {"n": 2, "a": 1, "b": 2, "c": 2}
        assert await world.engine.snapshot(key) == origin
        assert await world.engine.history(key) == history
        assert tasks.ran == ["a", "b", "c", "b", "c"]
        assert {one.step_key for one in await world.engine.history(fork)}.isdisjoint(one.step_key for one in history)
        again = await world.engine.recovery.fork((await world.engine.history(fork))[2].step_key)
        assert (await world.engine.wait(again)).state == outcome.state


async def test_a_fork_heals_one_failed_branch_at_a_time(database: str) -> None:
    async with a_world(database) as world:
        tasks = Tasks("left", "right")
        key = await world.engine.create(await world.graph(fan(), **tasks.all("begin", "left", "right", "join")))
        await world.engine.wait(key)
        tasks.broken.clear()
        first = await world.engine.recovery.fork((await steps(world, key))["left"].step_key)
        assert (await world.engine.wait(first)).status == "failed"
        second = await world.engine.recovery.fork((await steps(world, first))["right"].step_key)
        assert (await world.engine.wait(second)).status == "completed"
        assert tasks.ran.count("begin") == tasks.ran.count("join") == 1


async def test_a_fork_of_a_cancelled_flow_takes_what_had_not_ended_as_arrived(database: str) -> None:
    async with a_world(database) as world:
        stuck = asyncio.Event()

        async def waits(flow: Flow) -> None:
            await stuck.wait()
            flow["right"] = 1

        tasks = Tasks()
        graph = await world.graph(fan(), **tasks.all("begin", "left", "join"), right=waits)
        key = await world.engine.create(graph)

        async def left_is_done() -> bool:
            found = (await steps(world, key)).get("left")
            return found is not None and found.status == "completed"

        await world.until(left_is_done)
        with pytest.raises(FlowConflict, match=r"is running; fork from 'left'.*cancel it first"):
            await world.engine.recovery.fork((await steps(world, key))["left"].step_key)
        await world.engine.cancel(key)
        fork = await world.engine.recovery.fork((await steps(world, key))["left"].step_key)
        outcome = await world.engine.wait(fork)
        assert (outcome.status, outcome.state) == ("completed", {"begin": 0, "left": 0, "join": 0})


async def test_a_fork_from_within_a_called_flow_takes_its_callers_along(database: str) -> None:
    async with a_world(database) as world:
        tasks = Tasks("q")
        await world.graph(chain("p", "q", name="inner"), **tasks.all("p", "q"))
        key = await world.engine.create(await world.graph(calls(), **tasks.all("first", "last")))
        await world.engine.wait(key)
        called = (await steps(world, key))["call"].subflow
        assert called is not None
        tasks.broken.clear()
        fork = await world.engine.recovery.fork(called.steps[1].step_key)
        assert (await world.engine.wait(fork)).status == "completed"
        assert tasks.ran == ["first", "p", "q", "q", "last"]
        copied = (await steps(world, fork))["call"].subflow
        assert copied is not None
        assert copied.flow_key != called.flow_key
        assert [one.node for one in copied.steps] == ["p", "q"]


async def test_the_next_turn_of_a_thread_begins_with_the_last_state(database: str) -> None:
    async with a_world(database) as world:
        tasks, go = Tasks(), asyncio.Event()
        go.set()

        async def a(flow: Flow) -> None:
            await go.wait()
            tasks.task("a")(flow)

        graph = chain("a", name="talk")
        graph.set_reducer("said", "append")
        key = await world.engine.create(await world.graph(graph, a=a), {"said": ["hi"], "n": 1})
        await world.engine.wait(key)
        turn = await world.engine.recovery.continue_thread(key, overrides_of({"said": ["again"], "n": None}))
        outcome = await world.engine.wait(turn)
        assert outcome.state == {"said": ["hi", "again"], "a": 0}
        go.clear()  # whichever turn begins is still under way when the other is asked for
        results = await asyncio.gather(
            *(world.engine.recovery.continue_thread(one) for one in (key, turn)), return_exceptions=True
        )
        go.set()
        assert sorted(type(one).__name__ for one in results) == ["FlowConflict", "str"]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (
            {"sumScore": "ten"},
            "state.sumScore: string given, to be reduced by 'add' onto the final state's number: the incoming value must",
        ),
        (
            {"said": {"by": 1}},
            "state.said: object given, .* onto the final state's array: union takes arrays and single",
        ),
        (
            {"odd": [1]},
            "state.odd: array given, to be reduced by 'add' onto the final state's string: the base must be",
        ),
        ({"sum_more": 1, "own": 1}, "state.own: number given, .* by 'refuses' onto the final state's nothing: no ones"),
    ],
)
async def test_what_cannot_be_reduced_onto_the_final_state_is_refused_by_name(wrong: dict[str, Any], text: str) -> None:
    async with a_world() as world:
        graph = chain("a", name="talk")
        for field, how in (("said", "union"), ("odd", "add"), ("own", "refuses")):
            graph.set_reducer(field, how)
        workflow = await world.graph(graph, a=lambda _: None)
        key = await world.engine.create(workflow, {"said": ["hi"], "sumScore": 1, "odd": "text"})
        await world.engine.wait(key)
        with pytest.raises(BadRequest, match=text) as refused:
            await world.engine.recovery.continue_thread(key, overrides_of(wrong))
        assert (refused.value.status, refused.value.fields["field"]) == (400, [*wrong][-1])
        assert len((await world.engine.list(FlowQuery())).flows) == 1


@reducer("refuses")
def refuses(_: Any, incoming: int) -> int:
    raise ValueError(f"no ones such as {incoming}")


async def test_only_a_completed_thread_is_continued(database: str) -> None:
    async with a_world(database) as world:
        tasks = Tasks("a")
        key = await world.engine.create(await world.graph(chain("a"), **tasks.all("a")))
        await world.engine.wait(key)
        with pytest.raises(FlowConflict, match="the latest of its thread, is failed and has to complete first"):
            await world.engine.recovery.continue_thread(key)


async def test_a_flow_pauses_before_a_breakpoint_and_goes_on_with_what_was_changed(database: str) -> None:
    async with a_world(database) as world:
        tasks = Tasks()
        graph = await world.graph(chain("a", "b", "c"), **tasks.all("a", "b", "c"))
        key = await world.engine.create(graph, {"n": 1}, start=False)
        await world.engine.recovery.break_before(key, "b")
        await world.engine.start(key)
        outcome = await world.engine.wait(key)
        assert outcome.status == "interrupted"
        assert [payload for _, payload in outcome.interrupts] == [{"breakpoint": "b"}]
        assert tasks.ran == ["a"]
        with pytest.raises(FlowConflict, match="resume_break lets it go on"):
            await world.engine.resume(key, {})
        await world.engine.recovery.resume_break(key, overrides_of({"n": 4}))
        outcome = await world.engine.wait(key)
        assert outcome.state == {"n": 4, "a": 1, "b": 4, "c": 4}
        with pytest.raises(FlowConflict, match="is completed; resume_break is refused"):
            await world.engine.recovery.resume_break(key)


async def test_a_breakpoint_holds_in_called_flows_and_may_be_taken_away(database: str) -> None:
    async with a_world(database) as world:
        tasks = Tasks()
        await world.graph(chain("p", "q", name="inner"), **tasks.all("p", "q"))
        key = await world.engine.create(await world.graph(calls(), **tasks.all("first", "last")), start=False)
        await world.engine.recovery.break_before(key, "p")
        await world.engine.recovery.break_before(key, "last")
        await world.engine.start(key)
        assert [payload for _, payload in (await world.engine.wait(key)).interrupts] == [{"breakpoint": "p"}]
        await world.engine.recovery.break_before(key, "last", on=False)
        await world.engine.recovery.resume_break(key)
        assert (await world.engine.wait(key)).status == "completed"
        assert tasks.ran == ["first", "p", "q", "last"]


async def test_an_interrupt_is_not_answered_by_resume_break(database: str) -> None:
    async with a_world(database) as world:

        def asks(flow: Flow) -> None:
            flow["answer"] = flow.interrupt({})

        key = await world.engine.create(await world.graph(chain("a"), a=asks))
        assert (await world.engine.wait(key)).status == "interrupted"
        with pytest.raises(FlowConflict, match="an interrupt is answered by resume"):
            await world.engine.recovery.resume_break(key)
        await world.engine.recovery.restart(key)
        assert (await world.engine.wait(key)).status == "interrupted"
        await world.engine.resume(key, 3)
        assert (await world.engine.wait(key)).state == {"answer": 3}


async def test_what_a_run_brings_after_its_step_was_restarted_is_refused(database: str) -> None:
    async with a_world(database) as world:
        left, release = asyncio.Event(), asyncio.Event()

        async def slow(flow: Flow) -> None:
            flow["run"] = flow.get("n")
            if not left.is_set():
                left.set()
                await release.wait()

        tasks = Tasks()
        graph = await world.graph(chain("a", "b", "c"), **tasks.all("a", "c"), b=slow)
        key = await world.engine.create(graph, {"n": 1})
        await left.wait()
        await world.engine.recovery.restart_from((await steps(world, key))["a"].step_key, overrides_of({"n": 2}))
        assert (await world.engine.wait(key)).state == {"n": 2, "a": 2, "run": 2, "c": 2}
        release.set()
        await world.engine.store.statuses([1])
        assert (await world.engine.snapshot(key)).state["run"] == 2
        assert tasks.ran.count("c") == 1


@pytest.mark.parametrize("first", ["recover", "delete", "both at once"])
async def test_of_recover_and_delete_one_wins(database: str, first: str) -> None:
    async with a_world(database) as world:
        key = await world.engine.create(await world.graph(chain("a"), **Tasks("a").all("a")))
        await world.engine.wait(key)
        world.kill()  # so that what is recovered does not end before it is deleted
        recover, delete = world.engine.recovery.recover(key), world.engine.delete(key)
        if first == "both at once":
            results = list(await asyncio.gather(recover, delete, return_exceptions=True))
        else:
            order = (recover, delete) if first == "recover" else (delete, recover)
            results = [(await asyncio.gather(one, return_exceptions=True))[0] for one in order]
            assert results[0] is None
        assert results.count(None) == 1
        assert [type(one) for one in results if one is not None] == [FlowConflict]


async def test_of_many_recoveries_at_once_one_wins(database: str) -> None:
    async with a_world(database) as world:
        tasks = Tasks("left", "right")
        key = await world.engine.create(await world.graph(fan(), **tasks.all("begin", "left", "right", "join")))
        await world.engine.wait(key)
        tasks.broken.clear()
        results = await asyncio.gather(*(world.engine.recovery.recover(key) for _ in range(5)), return_exceptions=True)
        assert results.count(None) >= 1
        assert all(one is None or isinstance(one, FlowConflict) for one in results)
        assert (await world.engine.wait(key)).status == "completed"
        assert tasks.ran.count("join") == 1


async def test_an_operation_that_does_not_land_leaves_the_flow_as_it_was(database: str) -> None:
    async with a_world(database) as world:
        tasks = Tasks("a")
        key = await world.engine.create(await world.graph(chain("a"), **tasks.all("a")))
        before = await world.engine.wait(key)
        with pytest.raises(InvalidState, match="NUL"):
            await world.engine.recovery.recover(key, overrides_of({"n": "\0"}))
        assert await world.engine.snapshot(key) == before
        tasks.broken.clear()
        with seams.armed("foreman.commit.before", _trouble(1)):
            await world.engine.recovery.recover(key)
        assert (await world.engine.wait(key)).status == "completed"


def _trouble(times: int) -> Callable[..., Any]:
    left = [times]

    async def fail(**_: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError("the connection is gone")

    return fail


async def test_a_fork_of_a_cancelled_flow_waits_for_no_cohort_within_a_branch(database: str) -> None:
    async with a_world(database) as world:
        stuck = asyncio.Event()

        async def waits(_: Flow) -> None:
            await stuck.wait()

        graph = Graph("nested")
        graph.add_transition_fan_out("begin", "left", "right")
        graph.add_transition_fan_out("right", "inner-a", "inner-b")
        graph.add_transition("inner-a", "inner-join")
        graph.add_transition("inner-b", "inner-join")
        graph.set_fan_in("inner-join")
        graph.add_transition("left", "join")
        graph.add_transition("inner-join", "join")
        graph.set_fan_in("join")
        graph.add_transition("join", END)
        waiting = {"inner-a": waits, "inner-b": waits}
        tasks = Tasks()
        await world.graph(graph, **tasks.all("begin", "left", "right", "inner-join", "join"), **waiting)
        key = await world.engine.create("nested")

        async def left_is_done() -> bool:
            found = await steps(world, key)
            return "inner-b" in found and found["left"].status == "completed"

        await world.until(left_is_done)
        await world.engine.cancel(key)
        fork = await world.engine.recovery.fork((await steps(world, key))["left"].step_key)
        outcome = await world.engine.wait(fork)
        # A branch that was stopped on its way brings what it had completed.
        assert (outcome.status, outcome.state) == ("completed", {"begin": 0, "left": 0, "right": 0, "join": 0})


def adds_up(flow: Flow) -> None:
    """Calls, and counts what came back."""
    flow["total"] = flow.get("total", 0) + flow.subgraph("inner", {"n": 1})["q"]


@pytest.mark.parametrize("how", ["restart_from", "fork"])
async def test_a_caller_that_waits_again_counts_what_comes_back_once(database: str, how: str) -> None:
    async with a_world(database) as world:
        await world.graph(chain("p", "q", name="inner"), **Tasks().all("p", "q"))
        key = await world.engine.create(await world.graph(chain("call"), call=adds_up), {"total": 10})
        assert (await world.engine.wait(key)).state["total"] == 11
        called = (await steps(world, key))["call"].subflow
        assert called is not None
        operation = getattr(world.engine.recovery, how)
        key = await operation(called.steps[1].step_key, overrides_of({"n": 4})) or key
        assert (await world.engine.wait(key)).state["total"] == 14


@pytest.mark.parametrize("how", ["restart_from", "fork"])
async def test_a_flow_whose_caller_was_tried_again_since_is_not_gone_back_to(database: str, how: str) -> None:
    async with a_world(database) as world:

        def call(flow: Flow) -> None:
            flow["q"] = flow.subgraph("inner", {"n": 1})["q"]
            if flow.attempt == 0:
                flow.retry()

        await world.graph(chain("p", "q", name="inner"), **Tasks().all("p", "q"))
        key = await world.engine.create(await world.graph(chain("call"), call=call))
        before = await world.engine.wait(key)
        query = "SELECT id, token FROM mbactor_step WHERE flow_id <> 1 ORDER BY id"
        older = [f"1-{id}-{token}" for id, token in await world.sql(query)]
        assert len(older) == 4
        operation = getattr(world.engine.recovery, how)
        with pytest.raises(FlowConflict, match="its caller was tried again since, and called another flow"):
            await operation(older[0])
        assert await world.engine.snapshot(key) == before
        key = await operation(older[2]) or key
        assert (await world.engine.wait(key)).status == "completed"


async def test_retry_takes_the_branch_that_failed_last(database: str) -> None:
    async with a_world(database) as world:
        tasks = Tasks("right")
        first = asyncio.Event()

        async def left(_: Flow) -> None:
            tasks.ran.append("left")
            if tasks.broken:
                await first.wait()
                raise Broken("left")

        key = await world.engine.create(await world.graph(fan(), **tasks.all("begin", "right", "join"), left=left))

        async def right_has_failed() -> bool:
            found = (await steps(world, key)).get("right")
            return found is not None and found.status == "failed"

        await world.until(right_has_failed)
        first.set()
        await world.engine.wait(key)
        tasks.broken.clear()
        await world.engine.recovery.retry(key)
        assert (await world.engine.wait(key)).status == "failed"
        assert (tasks.ran.count("left"), tasks.ran.count("right")) == (2, 1)


async def test_a_fork_of_a_cancelled_flow_says_that_a_fan_in_needs_what_was_cancelled(database: str) -> None:
    async with a_world(database) as world:
        stuck = asyncio.Event()

        async def waits(_: Flow) -> None:
            await stuck.wait()

        graph = fan()
        graph.set_fan_in("join", join=Join.FIRST_ERROR)
        await world.graph(graph, **Tasks().all("begin", "left", "join"), right=waits)
        key = await world.engine.create("fan")

        async def left_is_done() -> bool:
            found = (await steps(world, key)).get("left")
            return found is not None and found.status == "completed"

        await world.until(left_is_done)
        await world.engine.cancel(key)
        fork = await world.engine.recovery.fork((await steps(world, key))["left"].step_key)
        outcome = await world.engine.wait(fork)
        assert outcome.status == "failed"
        assert outcome.error is not None
        assert "had been cancelled before this flow was forked; fork the step that fans out" in str(outcome.error)
        with pytest.raises(FlowConflict, match="no step of it has failed; restart it"):
            await world.engine.recovery.recover(fork)


@pytest.mark.parametrize("how", ["restart_from", "fork"])
async def test_a_caller_that_was_given_up_waits_again_for_the_flow_that_is_gone_back_to(
    database: str, how: str
) -> None:
    async with a_world(database) as world:
        has_called, stuck = asyncio.Event(), asyncio.Event()

        async def calls(flow: Flow) -> None:
            flow["right"] = flow.subgraph("inner", {"n": flow["n"]})["q"]
            has_called.set()
            await stuck.wait()

        async def left(_: Flow) -> None:
            await has_called.wait()
            if stuck.is_set():
                raise Broken("left")

        graph = fan()
        graph.set_fan_in("join", join=Join.ANY)
        await world.graph(chain("p", "q", name="inner"), **Tasks().all("p", "q"))
        await world.graph(graph, **Tasks().all("begin", "join"), left=left, right=calls)
        key = await world.engine.create("fan", {"n": 1})
        assert "right" not in (await world.engine.wait(key)).state
        called = (await steps(world, key))["right"].subflow
        assert called is not None
        stuck.set()
        operation = getattr(world.engine.recovery, how)
        key = await operation(called.steps[1].step_key, overrides_of({"n": 5})) or key
        outcome = await asyncio.wait_for(world.engine.wait(key), 60)
        assert outcome.status == "completed"
        assert outcome.state.get("right") in {5, None}  # None: the left branch stands as it was, and may be enough
        assert (await steps(world, key))["right"].status in {"completed", "cancelled"}


@pytest.mark.parametrize("how", ["fork", "restart_from"])
async def test_a_step_that_goes_while_its_input_is_read_is_not_found(
    database: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(database) as world:
        key = await world.engine.create(await world.graph(chain("a", "b"), **Tasks().all("a", "b")), {"n": 1})
        await world.engine.wait(key)
        step_key = (await steps(world, key))["b"].step_key
        materials = world.store.materials

        async def after_a_restart(step_ids: Any) -> Any:
            await world.engine.recovery.restart(key)
            await world.engine.wait(key)
            return await materials(step_ids)

        monkeypatch.setattr(world.store, "materials", after_a_restart)
        with pytest.raises(FlowNotFound):
            await getattr(world.engine.recovery, how)(step_key, overrides_of({"n": 2}))


async def test_what_fails_while_it_is_looked_at_is_not_recovered_without_what_was_corrected(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(database, workers=0) as world:
        key = await world.engine.create(await world.graph(chain("a"), **Tasks("a").all("a")), {"n": 1})
        read = world.store.steps

        async def until_it_fails(flow_id: int) -> Any:
            monkeypatch.setattr(world.store, "steps", read)
            found = await read(flow_id)
            world.work()
            await world.engine.wait(key)
            return found

        monkeypatch.setattr(world.store, "steps", until_it_fails)
        with pytest.raises(FlowConflict, match="its steps have changed meanwhile; look at it again"):
            await world.engine.recovery.recover(key, overrides_of({"n": 2}))
        assert (await world.engine.snapshot(key)).status == "failed"


@pytest.mark.parametrize("how", ["restart_from", "fork"])
@pytest.mark.parametrize("nested", [False, True])
async def test_a_branch_that_fails_when_it_runs_again_leaves_the_fan_in_to_the_one_that_completed(
    database: str, how: str, nested: bool
) -> None:
    async with a_world(database) as world:
        failing = "inner" if nested else "right"

        async def fails(_: Flow) -> None:
            if not again:
                await asyncio.Event().wait()
            raise Broken(failing)

        async def left(_: Flow) -> None:
            await world.until(reached)

        async def reached() -> bool:
            return failing in await steps(world, key)

        again = False
        graph = Graph("race")
        graph.add_transition_fan_out("begin", "left", "right")
        graph.add_transition("left", "join")
        if nested:
            graph.add_transition_fan_out("right", "inner", "other")
            graph.add_transition("inner", "inner-join")
            graph.add_transition("other", "inner-join")
            graph.set_fan_in("inner-join")
        graph.add_transition("inner-join" if nested else "right", "join")
        graph.set_fan_in("join", join=Join.ANY)
        graph.add_transition("join", END)
        names = ("begin", "right", "other", "inner-join", "join")
        await world.graph(graph, **{**Tasks().all(*names), "left": left, failing: fails})
        key = await world.engine.create("race")
        assert (await world.engine.wait(key)).status == "completed"
        again = True
        key = await getattr(world.engine.recovery, how)((await steps(world, key))[failing].step_key) or key
        outcome = await asyncio.wait_for(world.engine.wait(key), 60)
        assert (outcome.status, outcome.state["join"]) == ("completed", 0)
        with pytest.raises(FlowConflict, match="is completed; recover is refused"):
            await world.engine.recovery.recover(key)


def raced() -> Graph:
    """Two branches, of which the first is enough; the other one waits until it is given up, or completes at once."""
    graph = Graph("race")
    graph.add_transition_fan_out("begin", "left", "right")
    graph.add_transition("left", "join")
    graph.add_transition("right", "join")
    graph.set_fan_in("join", join=Join.ANY)
    graph.add_transition("join", END)
    return graph


async def a_race_to_run_again(world: World) -> tuple[str, str]:
    """The keys of a flow that went on with its left branch, and of the right one's step."""
    await world.graph(raced(), begin=ok, left=ok, right=lambda _: asyncio.Event().wait(), join=ok)
    key = await world.engine.create("race")
    assert (await world.engine.wait(key)).status == "completed"
    return key, (await steps(world, key))["right"].step_key


async def test_a_branch_that_cannot_be_read_leaves_the_fan_in_to_the_one_that_completed(database: str) -> None:
    async with a_world(database) as world:
        key, right = await a_race_to_run_again(world)
        await world.sql("UPDATE mbactor_step SET state = ? WHERE node = 'right'", b"{broken")
        await world.engine.recovery.restart_from(right)
        assert (await asyncio.wait_for(world.engine.wait(key), 60)).status == "completed"
        error = (await steps(world, key))["right"].error
        assert isinstance(error, dict)
        assert (error["at"]["node"], error["at"]["run"]) == ("right", 1)


async def test_a_fan_in_that_nobody_can_read_fails_its_flow(shared_database: str) -> None:
    async with a_world(shared_database) as world:
        _, right = await a_race_to_run_again(world)
        await world.sql("DELETE FROM mbactor_graph")
    async with a_world(shared_database, poll_interval=0.05) as world:  # one that does not know the graph yet
        await world.engine.recovery.restart_from(right)

        async def failed() -> bool:
            return await world.sql("SELECT status FROM mbactor_flow") == [("failed",)]

        await world.until(failed)
        assert b"graph is missing" in (await world.sql("SELECT error FROM mbactor_flow"))[0][0]
