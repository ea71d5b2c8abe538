"""Every shape of a workflow, run from create to outcome over a real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext

import pytest

from mbactor import observe
from mbactor.errors import MbactorError
from mbactor.foreman import loader
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.reducers import Reducer
from mbactor.testing import Recorder
from tests.foreman.world import Task, World, a_world, ok

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with a_world(database, poll_interval=0.05) as made:
        yield made


def fan(name: str = "fan", *branches: str) -> Graph:
    graph = Graph(name)
    graph.add_transition_fan_out("start", *branches)
    for branch in branches:
        graph.add_transition(branch, "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    return graph


def each(name: str = "each") -> Graph:
    graph = Graph(name)
    graph.add_transition_for_each("start", "branch", for_each="items")
    graph.add_transition("branch", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    return graph


async def test_a_linear_flow_runs_its_tasks_in_order_and_each_sees_what_came_before(world: World) -> None:
    def first(flow: Flow) -> None:
        flow["seen"] = ["first"]

    async def second(flow: Flow) -> None:
        flow["seen"] = [*flow["seen"], "second"]
        del flow["gone"]

    graph = Graph("line")
    graph.add_transition_chain("first", "second", "third", END)
    await world.graph(graph, first=first, second=second, third=ok)
    outcome = await world.run("line", {"gone": 1, "kept": 2})
    assert outcome.status == "completed"
    assert outcome.state == {"kept": 2, "seen": ["first", "second"]}
    assert world.host.ran == ["first", "second", "third"]


async def test_conditional_edges_are_a_fan_out_and_those_that_hold_are_taken(world: World) -> None:
    graph = Graph("when")
    graph.add_transition_when("start", "big", "amount > 10")
    graph.add_transition_when("start", "odd", "amount == 11")
    graph.add_transition_when("start", "small", "amount < 10")
    for branch in ("big", "odd", "small"):
        graph.add_transition(branch, "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    tasks = {name: (lambda flow, name=name: flow.__setitem__("list_taken", [name])) for name in ("big", "odd", "small")}
    await world.graph(graph, start=ok, join=ok, **tasks)
    assert (await world.run("when", {"amount": 11})).state["list_taken"] == ["big", "odd"]
    assert (await world.run("when", {"amount": 12})).state["list_taken"] == ["big"]
    assert (await world.run("when", {"amount": 10})).state == {"amount": 10}


async def test_the_first_switch_edge_that_holds_is_taken(world: World) -> None:
    graph = Graph("switch")
    graph.add_transition_switch("start", "small", "amount < 10")
    graph.add_transition_switch("start", "medium", "amount < 100")
    graph.add_transition_switch("start", "large", "true")
    for name in ("small", "medium", "large"):
        graph.add_transition(name, END)
    await world.graph(graph, start=ok, small=ok, medium=ok, large=ok)
    for amount, expected in ((5, "small"), (50, "medium"), (500, "large")):
        world.host.ran.clear()
        await world.run("switch", {"amount": amount})
        assert world.host.ran == ["start", expected]


async def test_branches_meet_at_the_fan_in_and_reducers_combine_what_they_wrote(world: World) -> None:
    def a(flow: Flow) -> None:
        flow.update({"sum_score": 3, "list_names": ["a"], "set_tags": ["x", "y"], "last": "a", "best": 1})

    def b(flow: Flow) -> None:
        flow.update({"sum_score": 10**30, "list_names": ["b"], "set_tags": ["y", "z"], "last": "b", "best": 7})

    graph = fan("fan", "a", "b")
    graph.set_reducer("best", Reducer.MAX)
    await world.graph(graph, start=ok, a=a, b=b, join=ok)
    outcome = await world.run("fan", {"sum_score": 1, "list_names": ["0"]})
    assert outcome.state == {
        "sum_score": 10**30 + 4,
        "list_names": ["0", "a", "b"],
        "set_tags": ["x", "y", "z"],
        "last": "b",
        "best": 7,
    }
    assert world.host.ran.count("join") == 1


async def test_the_history_says_whose_value_won_where_branches_wrote_one_field(world: World) -> None:
    def writes(**fields: object) -> Callable[[Flow], None]:
        return lambda flow: flow.update(fields)

    graph = fan("fan", "a", "b")
    graph.add_transition("start", "c")
    graph.add_transition_fan_out("c", "c1", "c2")
    graph.add_transition_chain("c1", "inner", "join")
    graph.add_transition("c2", "inner")
    graph.set_fan_in("inner")
    work = {
        "start": writes(gone=1, x=0),
        "a": writes(x=1, sum_x=1, only_a=1, both=1),
        "b": lambda flow: flow.update(x=2, sum_x=2, both=2, gone=None),
        "c": ok,
        "c1": writes(x=3, twice=1, gone=None),
        "c2": writes(x=4, twice=2),
        "inner": writes(y=1),
        "join": ok,
    }
    await world.graph(graph, **work)
    key = await world.engine.create("fan", {})
    outcome = await world.engine.wait(key)
    steps = {step.node: step for step in await world.engine.history(key)}
    nodes = {step.step_key: node for node, step in steps.items()}
    assert outcome.state == {"x": 4, "sum_x": 3, "only_a": 1, "both": 2, "twice": 2, "y": 1}
    won = {field: nodes[winner] for field, winner in steps["join"].winners.items()}
    assert won == {"x": "c2", "both": "b", "gone": "c1"}
    assert {field: nodes[winner] for field, winner in steps["inner"].winners.items()} == {"x": "c2", "twice": "c2"}


async def test_what_is_doubtful_in_a_graph_is_told_once_and_the_flow_runs(world: World) -> None:
    graph = fan("fan", "a", "b")
    graph.add_subgraph("a", "child", outputs=["score"])
    graph.add_subgraph("b", "child", outputs=["score"])
    child = Graph("child")
    child.add_transition("work", END)
    await world.graph(child, work=lambda flow: flow.update(score=1))
    await world.graph(graph, start=ok, join=ok)
    with observe.observing(recorder := Recorder(asyncio.get_running_loop())):
        assert [(await world.run("fan")).status for _ in range(2)] == ["completed"] * 2
    (doubt,) = recorder.find("foreman.doubtful", graph="fan")
    assert "one field 'score'" in doubt.fields["text"]


async def test_a_branch_of_several_steps_contributes_all_of_them(world: World) -> None:
    graph = Graph("long")
    graph.add_transition_fan_out("start", "a", "b")
    graph.add_transition("a", "a2")
    graph.add_transition("a2", "join")
    graph.add_transition("b", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    add = {name: (lambda flow, name=name: flow.__setitem__("list_x", [name])) for name in ("a", "a2", "b")}
    await world.graph(graph, start=ok, join=ok, **add)
    assert (await world.run("long")).state == {"list_x": ["a", "a2", "b"]}


async def test_for_each_makes_a_branch_an_element_and_the_elements_stay_in_their_branch(world: World) -> None:
    def branch(flow: Flow) -> None:
        flow["list_out"] = [[flow["item"], flow["item_index"], flow["item_count"]]]

    await world.graph(each(), start=ok, branch=branch, join=ok)
    outcome = await world.run("each", {"items": ["p", {"q": 1}, 3]})
    assert outcome.state == {
        "items": ["p", {"q": 1}, 3],
        "list_out": [["p", 0, 3], [{"q": 1}, 1, 3], [3, 2, 3]],
    }


async def test_what_a_branch_makes_of_its_element_stays_in_it_also_around_an_inner_fan_out(world: World) -> None:
    graph = Graph("rows")
    graph.add_transition_for_each("start", "row", for_each="rows", as_="row")
    graph.add_transition_for_each("row", "cell", for_each="row")
    graph.add_transition_chain("cell", "again", "inner", "after", "outer", END)
    graph.set_fan_in("inner")
    graph.set_fan_in("outer")

    def cell(flow: Flow) -> None:
        flow.update({"item": flow["item"] * 10, "row": "mine", "item_count": None})

    def again(flow: Flow) -> None:
        flow["list_cells"] = [flow["item"]]

    def after(flow: Flow) -> None:
        flow["list_rows"] = [[flow["row"], "item" in flow]]
        flow["row"] = "gone"

    tasks: dict[str, Task] = {"start": lambda flow: flow.__setitem__("item", "of the trunk"), "row": ok, "cell": cell}
    await world.graph(graph, **tasks, again=again, inner=ok, after=after, outer=ok)
    outcome = await world.run("rows", {"rows": [[1, 2], [3]]})
    assert outcome.state == {
        "rows": [[1, 2], [3]],
        "item": "of the trunk",
        "list_cells": [10, 20, 30],
        "list_rows": [["mine", True], ["mine", True]],
    }
    (*_, last) = await world.engine.history(outcome.flow_key)
    assert (last.node, set(last.reducers), last.winners) == ("outer", {"item", "list_cells", "list_rows"}, {})


@pytest.mark.parametrize("items", [{}, {"items": []}])
async def test_an_empty_for_each_goes_straight_to_its_fan_in(world: World, items: dict[str, list[int]]) -> None:
    await world.graph(each(), start=lambda flow: flow.__setitem__("sum_n", 2), branch=ok, join=ok)
    outcome = await world.run("each", {**items, "sum_n": 1})
    assert outcome.state == {**items, "sum_n": 3}
    assert world.host.ran == ["start", "join"]


async def test_a_for_each_over_what_is_no_array_fails_and_names_the_field(world: World) -> None:
    await world.graph(each(), start=ok, branch=ok, join=ok)
    outcome = await world.run("each", {"items": 5})
    assert outcome.status == "failed"
    assert "'items'" in str(outcome.failure)


async def test_a_wide_fan_out_beyond_the_slots_is_joined_once_in_the_order_of_the_input() -> None:
    async with a_world(workers=0) as world:
        world.work("one", slots=8)
        world.work("two", slots=8)

        async def branch(flow: Flow) -> None:
            await asyncio.sleep(0.001 * (flow["item"] % 3))
            flow["list_out"] = [flow["item"]]

        await world.graph(each(), start=ok, branch=branch, join=ok)
        outcome = await world.run("each", {"items": list(range(100))})
        assert outcome.state["list_out"] == list(range(100))
        assert world.host.ran.count("join") == 1


async def test_nested_fan_outs_hand_the_changes_of_inner_branches_to_the_outer_fan_in(world: World) -> None:
    graph = Graph("nested")
    graph.add_transition_for_each("start", "outer", for_each="rows", as_="row")
    graph.add_transition_for_each("outer", "inner", for_each="row", as_="cell")
    graph.add_transition("inner", "inner_join")
    graph.set_fan_in("inner_join")
    graph.add_transition("inner_join", "outer_join")
    graph.set_fan_in("outer_join")
    graph.add_transition("outer_join", END)

    def inner(flow: Flow) -> None:
        flow["sum_all"] = flow["cell"]
        flow["list_cells"] = [flow["cell"]]

    def inner_join(flow: Flow) -> None:
        assert "cell" not in flow
        flow["list_sums"] = [[flow["row_index"], flow["sum_all"]]]

    await world.graph(graph, start=ok, outer=ok, inner=inner, inner_join=inner_join, outer_join=ok)
    outcome = await world.run("nested", {"rows": [[1, 2], [], [3, 4, 5]], "sum_all": 100})
    assert outcome.state == {
        "rows": [[1, 2], [], [3, 4, 5]],
        "sum_all": 115,
        "list_cells": [1, 2, 3, 4, 5],
        "list_sums": [[0, 103], [1, 100], [2, 112]],
    }


async def test_a_goto_loop_ends_when_the_task_stops_asking_for_it(world: World) -> None:
    def loop(flow: Flow) -> None:
        flow["n"] = flow["n"] + 1
        if flow["n"] < 100:
            flow.goto("loop")

    graph = Graph("loop")
    graph.add_transition_goto("loop", "loop")
    graph.add_transition("loop", END)
    await world.graph(graph, loop=loop)
    outcome = await world.run("loop", {"n": 0})
    assert outcome.state == {"n": 100}
    longest = (await world.sql("SELECT max(chain), count(*) FROM mbactor_step"))[0]
    assert longest == (15, 100)


@pytest.mark.parametrize("heard", [True, False])
async def test_who_handles_an_error_knows_its_trace(world: World, heard: bool) -> None:
    """That of the run that failed; where nobody listens, that of whoever created the flow; none where there is none."""

    def bad(_: Flow) -> None:
        raise ValueError("no")

    graph = Graph("bad")
    graph.add_transition_on_error("start", "handler")
    graph.add_transition("handler", END)
    await world.graph(graph, start=bad, handler=ok)
    recorder = Recorder(asyncio.get_running_loop())
    with observe.observing(recorder) if heard else nullcontext():
        outcome = await world.run("bad")
    failed = [span.trace_id for span in recorder.spans if span.name == "start"]
    assert ([outcome.state["on_err"]["trace_id"]] if heard else []) == failed
    assert heard or "trace_id" not in outcome.state["on_err"]
    token = observe.current_trace.set(f"00-{'a' * 32}-{'b' * 16}-01")
    try:
        outcome = await world.run("bad")
    finally:
        observe.current_trace.reset(token)
    assert outcome.state["on_err"]["trace_id"] == "a" * 32


async def test_goto_without_its_edge_fails_and_takes_no_error_transition(world: World) -> None:
    graph = Graph("bad")
    graph.add_transition("start", END)
    graph.add_transition_on_error("start", "handler")
    graph.add_transition("handler", END)
    await world.graph(graph, start=lambda flow: flow.goto("elsewhere"), handler=ok)
    outcome = await world.run("bad")
    assert outcome.status == "failed"
    assert "goto('elsewhere')" in str(outcome.failure)
    assert world.host.ran == ["start"]


async def test_retry_runs_the_same_step_again_and_keeps_what_it_wrote(world: World) -> None:
    keys: list[str] = []

    def flaky(flow: Flow) -> None:
        keys.append(flow.step_key)
        flow["tries"] = [*flow.get("tries", []), flow.attempt]
        if flow.attempt < 3:
            flow.retry(0.001, multiplier=2)

    graph = Graph("retry")
    graph.add_transition_chain("flaky", END)
    await world.graph(graph, flaky=flaky)
    assert (await world.run("retry")).state == {"tries": [0, 1, 2, 3]}
    assert len(set(keys)) == 1


async def test_an_error_voids_the_changes_of_its_own_attempt_only(world: World) -> None:
    def flaky(flow: Flow) -> None:
        flow[f"attempt_{flow.attempt}"] = True
        if flow.attempt == 0:
            flow.retry()
        else:
            raise ValueError("no")

    graph = Graph("void")
    graph.add_transition_chain("flaky", END)
    await world.graph(graph, flaky=flaky)
    outcome = await world.run("void", {"in": 1})
    assert outcome.status == "failed"
    assert outcome.state == {"in": 1, "attempt_0": True}
    assert "ValueError: no" in str(outcome.failure)


async def test_sleep_delays_the_next_step_by_the_clock_of_the_database(world: World) -> None:
    graph = Graph("sleep")
    graph.add_transition_chain("start", "later", END)
    await world.graph(graph, start=lambda flow: flow.sleep(0.1), later=ok)
    assert (await world.run("sleep")).status == "completed"
    ended, started = (await world.sql("SELECT min(updated_at), max(started_at) FROM mbactor_step"))[0]
    assert started - ended >= 0.1


async def test_a_failed_branch_fails_the_flow_once_all_have_arrived_and_keeps_what_others_wrote(world: World) -> None:
    release = asyncio.Event()

    async def slow(flow: Flow) -> None:
        await release.wait()
        flow["list_done"] = ["slow"]

    def bad(flow: Flow) -> None:
        flow["list_done"] = ["bad"]
        raise MbactorError("broken", status=422)

    await world.graph(fan("fan", "slow", "bad"), start=ok, slow=slow, bad=bad, join=ok)
    key = await world.engine.create("fan", {"list_done": ["start"]})

    async def has_failed() -> bool:
        return bool(await world.sql("SELECT 1 FROM mbactor_step WHERE status = 'failed'"))

    await world.until(has_failed)
    assert (await world.engine.snapshot(key)).status == "running"
    release.set()
    outcome = await world.engine.wait(key)
    assert outcome.status == "failed"
    assert outcome.failure is not None
    assert (str(outcome.failure), outcome.failure.status) == ("broken", 422)
    assert outcome.state == {"list_done": ["start", "slow"]}
    assert "join" not in world.host.ran


async def test_a_failure_in_an_inner_cohort_fails_the_outer_one(world: World) -> None:
    graph = Graph("nested")
    graph.add_transition_for_each("start", "outer", for_each="rows", as_="row")
    graph.add_transition_for_each("outer", "inner", for_each="row", as_="cell")
    graph.add_transition("inner", "inner_join")
    graph.set_fan_in("inner_join")
    graph.add_transition("inner_join", "outer_join")
    graph.set_fan_in("outer_join")
    graph.add_transition("outer_join", END)

    def inner(flow: Flow) -> None:
        if flow["cell"] == 0:
            raise ValueError("zero")
        flow["sum_all"] = flow["cell"]

    await world.graph(graph, start=ok, outer=ok, inner=inner, inner_join=ok, outer_join=ok)
    outcome = await world.run("nested", {"rows": [[1, 2], [0, 4], [8]]})
    assert outcome.status == "failed"
    assert outcome.state["sum_all"] == 15
    assert "outer_join" not in world.host.ran
    assert world.host.ran.count("inner_join") == 2


async def test_a_branch_that_matches_no_edge_fails_and_never_completes_the_flow(world: World) -> None:
    graph = Graph("dead")
    graph.add_transition_fan_out("start", "a", "b")
    graph.add_transition_switch("a", "join", "false")
    graph.add_transition("b", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    await world.graph(graph, start=ok, a=ok, b=ok, join=ok)
    outcome = await world.run("dead")
    assert outcome.status == "failed"
    assert "matched no onward transition" in str(outcome.failure)


async def test_an_error_transition_leads_to_a_handler_that_reads_what_happened(world: World) -> None:
    def bad(flow: Flow) -> None:
        flow["lost"] = True
        raise MbactorError("no stock", status=409, sku="17")

    graph = Graph("handled")
    graph.add_transition("bad", END)
    graph.add_transition_on_error("bad", "handler")
    graph.add_transition("handler", END)
    await world.graph(graph, bad=bad, handler=ok)
    outcome = await world.run("handled")
    assert outcome.status == "completed"
    error = outcome.state["on_err"]
    assert (error["error"], error["statusCode"], error["fields"]) == ("no stock", 409, {"sku": "17"})
    assert "lost" not in outcome.state
    assert "trace" not in error


async def test_a_timeout_takes_its_own_transition(world: World) -> None:
    async def slow(_: Flow) -> None:
        await asyncio.Event().wait()

    graph = Graph("late")
    graph.add_transition("slow", END)
    graph.add_transition_on_error("slow", "other")
    graph.add_transition_on_timeout("slow", "late")
    graph.add_transition("other", END)
    graph.add_transition("late", END)
    graph.set_time_budget("slow", 0.02)
    await world.graph(graph, slow=slow, other=ok, late=ok)
    assert (await world.run("late")).status == "completed"
    assert world.host.ran == ["slow", "late"]


async def test_values_that_no_reducer_can_combine_fail_the_fan_in_and_name_the_field(world: World) -> None:
    await world.graph(
        fan("fan", "a", "b"),
        start=ok,
        a=lambda flow: flow.__setitem__("sumScore", 1),
        b=lambda flow: flow.__setitem__("sumScore", "two"),
        join=ok,
    )
    outcome = await world.run("fan")
    assert outcome.status == "failed"
    assert "'sumScore'" in str(outcome.failure)
    assert "join" not in world.host.ran
    assert [step.status for step in await world.engine.history(outcome.flow_key)][-1] == "failed"


async def test_a_called_workflow_runs_as_a_flow_of_its_own_and_its_state_comes_back(world: World) -> None:
    inner = Graph("inner")
    inner.add_transition_chain("double", END)
    outer = Graph("outer")
    outer.add_subgraph("child", "inner", inputs=["n"], outputs=["n"])
    outer.add_transition_chain("start", "child", "finish", END)
    outer.set_entry_point("start")
    await world.graph(inner, double=lambda flow: flow.update({"n": flow["n"] * 2, "private": True}))
    await world.graph(outer, start=ok, finish=ok)
    outcome = await world.run("outer", {"n": 21, "mine": 1})
    assert outcome.state == {"n": 42, "mine": 1}
    history = await world.engine.history(outcome.flow_key)
    assert history[1].subflow is not None
    assert [step.node for step in history[1].subflow.steps] == ["double"]


async def test_what_a_called_workflow_leaves_as_it_was_is_no_change_of_its_branch(world: World) -> None:
    inner = Graph("inner")
    inner.add_transition_chain("look", END)
    outer = Graph("outer")
    outer.add_transition("start", "plain")
    outer.add_transition_for_each("start", "child", for_each="items")
    outer.add_subgraph("child", "inner")
    for branch in ("plain", "child"):
        outer.add_transition(branch, "join")
    outer.set_fan_in("join")
    outer.add_transition("join", END)
    await world.graph(inner, look=lambda flow: flow.__setitem__("listSeen", [flow["item"]]))
    await world.graph(outer, start=ok, plain=lambda flow: flow.update({"owner": "me", "sumScore": 1}), join=ok)
    outcome = await world.run("outer", {"items": [7, 8], "owner": "nobody", "sumScore": 5})
    assert outcome.state == {"items": [7, 8], "owner": "me", "sumScore": 6, "listSeen": [7, 8]}


async def test_a_failed_child_raises_in_the_task_that_called_it(world: World) -> None:
    def bad(_: Flow) -> None:
        raise MbactorError("inner trouble", status=418)

    def caller(flow: Flow) -> None:
        try:
            flow.subgraph("inner", {"x": 1})
        except MbactorError as error:
            flow["caught"] = [str(error), error.status]

    inner = Graph("inner")
    inner.add_transition_chain("bad", END)
    outer = Graph("outer")
    outer.add_transition_chain("caller", END)
    await world.graph(inner, bad=bad)
    await world.graph(outer, caller=caller)
    assert (await world.run("outer")).state == {"caught": ["inner trouble", 418]}


async def test_a_workflow_that_calls_itself_without_end_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else would end it before the disk is full."""
    monkeypatch.setattr(loader, "MOST_NESTED", 8)
    again = Graph("again")
    again.add_subgraph("itself", "again", inputs=["n"])
    again.add_transition_chain("count", "itself", END)
    again.set_entry_point("count")
    await world.graph(again, count=lambda flow: flow.__setitem__("n", flow["n"] + 1))
    outcome = await world.run("again", {"n": 0})
    assert outcome.status == "failed"
    assert outcome.failure is not None
    assert outcome.failure.status == 508
    assert "again would be flow number 9, each called by the one before; the limit is 8" in str(outcome.failure)
    assert "8 of those before it are of again too: does it call itself without end?" in str(outcome.failure)
    assert world.host.ran.count("count") == 8


async def test_a_workflow_may_call_itself_until_it_has_enough(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def descend(flow: Flow) -> None:
        if flow["left"]:
            flow.update(flow.subgraph("again", {"left": flow["left"] - 1, "depth": 0}))
        flow["depth"] += 1

    monkeypatch.setattr(loader, "MOST_NESTED", 8)
    again = Graph("again")
    again.add_transition_chain("descend", END)
    await world.graph(again, descend=descend)
    assert (await world.run("again", {"left": 7, "depth": 0})).state["depth"] == 8


async def test_a_workflow_that_nobody_has_fails_the_step_that_calls_it(world: World) -> None:
    outer = Graph("outer")
    outer.add_transition_chain("caller", END)
    await world.graph(outer, caller=lambda flow: flow.subgraph("nowhere", {}))
    outcome = await world.run("outer")
    assert outcome.status == "failed"
    assert "nowhere" in str(outcome.failure)
