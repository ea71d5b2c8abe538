"""The planner: what follows from a run of a task. Pure, so nothing here is started."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbactor.errors import MbactorError
from mbactor.foreman.model.flow import Flow, finish
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.state import decode_all, initial_state
from mbactor.foreman.plan import Plan, Run, Target, decide


def after(
    graph: Graph,
    node: str,
    state: Any = None,
    *,
    in_cohort: bool = False,
    error: BaseException | None = None,
    task: Any = None,
) -> Plan:
    """The plan after a run of `task` at the node, or after it raised `error`."""
    flow = Flow(initial_state(state))
    try:
        if task is not None:
            task(flow)
        if error is not None:
            raise error
    except BaseException as raised:  # noqa: BLE001 - a task may raise anything
        error = raised
    outcome = finish(flow, error)
    run = Run(outcome, flow.changes, {}, flow.signals)
    return decide(graph, node, in_cohort=in_cohort, state=initial_state(state), run=run)


def line() -> Graph:
    graph = Graph("line")
    graph.add_transition_chain("a", "b", END)
    return graph


def fan() -> Graph:
    graph = Graph("fan")
    graph.add_transition_fan_out("a", "b", "c", "join")
    graph.add_transition("b", "join")
    graph.add_transition_switch("c", "join", "ready")
    graph.add_transition_goto("c", "c")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    return graph


def each() -> Graph:
    graph = Graph("each")
    graph.add_transition_for_each("a", "b", for_each="items", as_="it")
    graph.add_transition("b", "join")
    graph.add_transition_goto("a", END)
    graph.add_transition_goto("a", "side")
    graph.add_transition_goto("a", "join")
    graph.add_transition("side", END)
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    return graph


def nodes(plan: Plan) -> list[str]:
    return [target.node for target in plan.targets]


def test_a_plain_edge_advances() -> None:
    plan = after(line(), "a", task=lambda flow: flow.__setitem__("x", 1))
    assert (plan.kind, nodes(plan)) == ("advance", ["b"])
    assert decode_all(plan.changes) == {"x": 1}


def test_the_edge_to_end_completes_the_flow() -> None:
    assert after(line(), "b").kind == "complete"


def test_no_edge_at_all_completes_a_flow_on_the_trunk_and_fails_a_branch() -> None:
    graph = Graph("switch")
    graph.add_transition_switch("a", "b", "x > 1")
    assert after(graph, "a", {"x": 1}).kind == "complete"
    plan = after(graph, "a", {"x": 1}, in_cohort=True)
    assert plan.kind == "fail"
    assert "matched no onward transition" in str(plan.error)


def test_end_inside_a_cohort_fails_the_branch() -> None:
    assert after(line(), "b", in_cohort=True).kind == "fail"


def test_the_first_switch_that_holds_is_the_only_one_taken() -> None:
    graph = Graph("switch")
    graph.add_transition_switch("a", "small", "x < 10")
    graph.add_transition_switch("a", "other", "true")
    assert nodes(after(graph, "a", {"x": 5})) == ["small"]
    assert nodes(after(graph, "a", {"x": 50})) == ["other"]


def test_conditions_see_what_the_task_has_just_written() -> None:
    graph = Graph("switch")
    graph.add_transition_switch("a", "yes", "x == 2")
    graph.add_transition_switch("a", "no", "true")
    assert nodes(after(graph, "a", {"x": 1}, task=lambda flow: flow.__setitem__("x", 2))) == ["yes"]


def test_an_expression_that_cannot_be_evaluated_fails_the_step() -> None:
    graph = Graph("when")
    graph.add_transition_switch("a", "b", "name =~ pattern")
    plan = after(graph, "a", {"name": "n", "pattern": "("})
    assert plan.kind == "fail"
    assert "a -> b: its condition 'name =~ pattern' cannot be evaluated: '(' is not a regular" in str(plan.error)


def test_a_fan_out_spawns_its_branches_and_counts_the_direct_edge_as_arrived() -> None:
    plan = after(fan(), "a")
    assert (plan.kind, nodes(plan), plan.cohort_size, plan.arrivals, plan.fan_in) == (
        "fan_out",
        ["b", "c"],
        3,
        1,
        "join",
    )


def test_a_branch_that_reaches_the_fan_in_arrives() -> None:
    plan = after(fan(), "b", in_cohort=True)
    assert (plan.kind, plan.fan_in, plan.targets) == ("arrive", "join", ())


def test_a_loop_inside_a_branch_advances_in_its_cohort() -> None:
    plan = after(fan(), "c", in_cohort=True, task=lambda flow: flow.goto("c"))
    assert (plan.kind, nodes(plan)) == ("advance", ["c"])


def test_a_fan_in_reached_from_the_trunk_fails_the_step() -> None:
    plan = after(fan(), "b")
    assert plan.kind == "fail"
    assert "only from inside a fan-out" in str(plan.error)


def test_duplicate_edges_spawn_two_branches() -> None:
    graph = Graph("twice")
    graph.add_transition("a", "b")
    graph.add_transition("a", "b")
    graph.add_transition("b", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    plan = after(graph, "a")
    assert (nodes(plan), plan.cohort_size) == (["b", "b"], 2)


def test_for_each_gives_each_branch_its_element_index_and_count() -> None:
    plan = after(each(), "a", {"items": ["x", None]})
    added = [decode_all(target.added or {}) for target in plan.targets]
    assert added == [{"it": "x", "it_index": 0, "it_count": 2}, {"it_index": 1, "it_count": 2}]
    assert plan.cohort_size == 2


@given(st.lists(st.integers() | st.text("abc") | st.none(), max_size=30))
def test_for_each_keeps_the_order_of_any_array(items: list[Any]) -> None:
    plan = after(each(), "a", {"items": items})
    if not items:
        assert (plan.kind, plan.fan_in) == ("fan_in", "join")
    else:
        assert [decode_all(target.added or {}).get("it") for target in plan.targets] == items


@pytest.mark.parametrize("state", [None, {"items": []}])
def test_a_for_each_over_nothing_goes_straight_to_the_fan_in(state: Any) -> None:
    assert after(each(), "a", state).kind == "fan_in"


@pytest.mark.parametrize("value", [5, "text", {"a": 1}, True])
def test_a_for_each_over_what_is_no_array_fails_the_step(value: Any) -> None:
    plan = after(each(), "a", {"items": value})
    assert plan.kind == "fail"
    assert "'items'" in str(plan.error)


def test_overrides_of_a_fan_out_source_spawn_no_cohort() -> None:
    items = {"items": [1, 2]}
    assert after(each(), "a", items, task=lambda flow: flow.goto("side")).targets == (Target("side"),)
    assert after(each(), "a", items, task=lambda flow: flow.goto(END)).kind == "complete"
    assert after(each(), "a", items, task=lambda flow: flow.goto("join")).kind == "fan_in"


def test_goto_without_its_edge_fails_and_names_those_there_are() -> None:
    plan = after(fan(), "c", task=lambda flow: flow.goto("b"))
    assert plan.kind == "fail"
    assert "goto('b')" in str(plan.error)
    assert "lead to c" in str(plan.error)


def test_an_error_without_a_transition_fails_the_step_and_voids_its_changes() -> None:
    plan = after(line(), "a", task=lambda flow: flow.__setitem__("x", 1), error=ValueError("no"))
    assert (plan.kind, plan.changes) == ("fail", {})
    assert isinstance(plan.error, ValueError)


def test_an_error_transition_advances_with_what_happened() -> None:
    graph = line()
    graph.add_transition_on_error("a", "handler")
    plan = after(graph, "a", error=MbactorError("bad", status=422, field="x"))
    assert (plan.kind, nodes(plan)) == ("advance", ["handler"])
    error = decode_all(plan.changes)["on_err"]
    assert (error["error"], error["statusCode"], error["fields"]) == ("bad", 422, {"field": "x"})
    assert isinstance(plan.handled, MbactorError)


def test_an_error_whose_fields_cannot_be_stored_is_still_told() -> None:
    graph = line()
    graph.add_transition_on_error("a", "handler")
    plan = after(graph, "a", error=MbactorError("bad\0", what=object()))
    error = decode_all(plan.changes)["on_err"]
    assert (error["error"], error["fields"]) == ("bad\ufffd", {})


def test_a_timeout_takes_its_own_transition_before_the_general_one() -> None:
    graph = line()
    graph.add_transition_on_error("a", "general")
    graph.add_transition_on_timeout("a", "late")
    assert nodes(after(graph, "a", error=TimeoutError())) == ["late"]
    assert nodes(after(graph, "a", error=ValueError())) == ["general"]


def test_an_error_wins_over_every_signal_and_drops_the_sleep() -> None:
    graph = line()
    graph.add_transition_on_error("a", "handler")

    def task(flow: Flow) -> None:
        flow.sleep(5)
        flow.retry(1)
        raise ValueError

    plan = after(graph, "a", task=task)
    assert (plan.kind, plan.delay) == ("advance", 0)


def test_retry_and_sleep_add_up() -> None:
    def task(flow: Flow) -> None:
        flow.retry(2)
        flow.sleep(3)

    plan = after(line(), "a", task=task)
    assert (plan.kind, plan.delay) == ("retry", 5)


@pytest.mark.parametrize(("graph", "node", "cohort"), [(line(), "a", False), (fan(), "a", False), (fan(), "b", True)])
def test_sleep_delays_whatever_follows(graph: Graph, node: str, cohort: bool) -> None:
    assert after(graph, node, in_cohort=cohort, task=lambda flow: flow.sleep(3)).delay == 3


def test_an_interrupt_parks_with_its_payload() -> None:
    plan = after(line(), "a", task=lambda flow: flow.interrupt({"q": 1}))
    assert plan.kind == "park"
    assert plan.park is not None
    assert plan.park.kind == "interrupt"
    assert msgspec.json.decode(plan.park.payload) == {"q": 1}


def test_deciding_changes_neither_state_nor_changes() -> None:
    state, changes = initial_state({"x": 1}), initial_state({"y": 2})
    flow = Flow(state, changes)
    run = Run(finish(flow, None), flow.changes, {}, flow.signals)
    decide(fan(), "a", in_cohort=False, state=state, run=run)
    assert (decode_all(state), decode_all(changes)) == ({"x": 1}, {"y": 2})
