"""Graphs: building, the questions of the planner, every rule of validation, the JSON form."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbactor.errors import InvalidExpression, InvalidGraph
from mbactor.foreman.model.graph import END, Graph, GraphWarning, Transition, holds
from mbactor.foreman.model.reducers import Reducer, reducer
from mbactor.foreman.model.state import initial_state

Build = Callable[[Graph], object]


@dataclass
class Task:
    """A task reference, as `Credit.verify_credit` is one."""

    node_name: str
    url: str
    result_fields: Mapping[str, Any] = field(default_factory=dict)


INTAKE = Task("intake", "https://credit.example:428/intake")


@reducer("graph_longest")
def longest(base: str | None, incoming: str) -> str:
    return max(base or "", incoming, key=len)


def graph(*builds: Build) -> Graph:
    made = Graph("G")
    for build in builds:
        build(made)
    return made


def fan_out(*branches: str, source: str = "s", fan_in: str = "j") -> Build:
    def build(g: Graph) -> None:
        g.add_transition_fan_out(source, *branches)
        for branch in branches:
            g.add_transition(branch, fan_in)
        g.set_fan_in(fan_in)

    return build


def chain(*nodes: str) -> Build:
    return lambda g: g.add_transition_chain(*nodes)


# --- building ---------------------------------------------------------------------------------------------


def test_the_first_node_is_the_entry_point_unless_another_is_set() -> None:
    g = graph(chain("a", "b", END))
    assert g.entry_point == "a"
    g.set_entry_point("b")
    assert g.entry_point == "b"
    assert Graph("empty").entry_point == ""


def test_a_name_is_its_own_url_until_an_endpoint_is_set() -> None:
    g = graph(chain("a", "b", END))
    g.set_endpoint("b", "https://x.example:428/b")
    g.set_endpoint("c", INTAKE)
    g.set_endpoint(END, INTAKE)
    assert [g.url_of(name) for name in ("a", "b", "c", END)] == ["a", "https://x.example:428/b", INTAKE.url, END]
    assert [node.name for node in g.nodes] == ["a", "b", "c"]


def test_a_task_reference_brings_its_name_and_its_url() -> None:
    g = Graph("G")
    g.add_transition(INTAKE, END)
    g.set_time_budget(INTAKE, "5s")
    g.set_entry_point(INTAKE)
    assert (g.entry_point, g.url_of("intake"), g.node("intake").time_budget) == ("intake", INTAKE.url, 5.0)
    g.validate()


def test_a_reference_gives_a_url_to_a_node_first_named_by_a_string() -> None:
    g = graph(chain("intake", END))
    g.add_transition_goto(INTAKE, "intake")
    assert g.url_of("intake") == INTAKE.url


def test_two_tasks_of_one_name_are_a_problem_until_one_is_renamed() -> None:
    other = Task("intake", "https://identity.example:428/intake")
    g = Graph("G")
    g.add_transition(INTAKE, other)
    g.add_transition(other, END)
    assert any("stands for two tasks" in problem and "set_endpoint" in problem for problem in g.problems())
    g = Graph("G")
    g.set_endpoint("intake2", other)
    g.set_entry_point(INTAKE)
    g.add_transition(INTAKE, "intake2")
    g.add_transition("intake2", END)
    g.validate()


def test_a_chain_of_one_and_a_fan_out_to_nobody_do_nothing() -> None:
    g = Graph("G")
    g.add_transition_chain("a")
    g.add_transition_fan_out("a")
    assert g.nodes == ()


def test_a_node_is_named_by_a_string_or_a_reference_only() -> None:
    with pytest.raises(TypeError, match=r"Credit\.verify_credit"):
        Graph("G").add_transition(5, END)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="URL"):
        Graph("G").set_endpoint("a", 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="list of field names"):
        Graph("G").add_subgraph("a", "w", inputs="amount")


class Approval:
    """A workflow reference, as `Credit.approval` is one."""

    url = "https://credit.example:428/approval"

    def __repr__(self) -> str:
        return "Credit.approval"


def test_a_task_and_a_workflow_are_not_taken_for_each_other() -> None:
    g = Graph("G")
    with pytest.raises(
        TypeError, match=r"Credit.approval is no task; make a workflow a node with add_subgraph\(name, "
    ):
        g.add_transition(Approval(), END)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"set_endpoint\('x'\) needs a task, Credit.approval is none; use add_subgraph"):
        g.set_endpoint("x", Approval())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"add_subgraph\('x'\) needs a workflow, .*'intake'.* is a task"):
        g.add_subgraph("x", INTAKE)
    with pytest.raises(TypeError, match="name of a field, got 5"):
        g.set_reducer(5, Reducer.ADD)  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"set_reducer\('title'\) needs the name of a reducer, .*did you mean 'graph_longest'"
    ):
        g.set_reducer("title", longest)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"set_reducer\('title'\) needs the name of a reducer, got None"):
        g.set_reducer("title", None)  # type: ignore[arg-type]
    assert g.to_dict() == Graph("G").to_dict()


@pytest.mark.parametrize("bad", ["\0", "\ud800"])
def test_what_cannot_be_stored_is_a_problem_wherever_it_stands(bad: str) -> None:
    g = Graph("G" + bad)
    g.set_endpoint("a", "https://x/" + bad)
    g.add_transition_when("a", "b" + bad, f"x == '{bad}'")
    g.add_transition_for_each("b" + bad, END, for_each="f" + bad, as_="i" + bad)
    g.add_subgraph("s", "w", inputs=["in" + bad])
    g.set_reducer("r" + bad, Reducer.ADD)
    found = [problem for problem in g.problems() if "cannot be stored" in problem]
    assert len(found) == 8, found
    assert [problem.partition(":")[0] for problem in found][:2] == ["the graph's name", "node 'a'"]
    with pytest.raises(InvalidGraph, match="cannot be stored"):
        g.to_json() if bad == "\ud800" else g.validate()


def test_a_for_each_without_a_name_for_its_element_calls_it_item() -> None:
    g = Graph("G")
    g.add_transition_for_each("a", "b", for_each="items", as_="")
    assert Graph.from_json(g.to_json()).transitions == g.transitions
    assert g.transitions[0].branch_fields == ("item", "item_index", "item_count")


def test_a_subgraph_is_a_node_with_the_fields_that_cross() -> None:
    class Workflow:
        url = "https://credit.example:428/approval"

    g = graph(chain("a", "child", END))
    g.add_subgraph("child", Workflow(), inputs=["amount"], outputs=["approved"])
    node = g.node("child")
    assert (node.subgraph, node.url, node.inputs, node.outputs) == (True, Workflow.url, ("amount",), ("approved",))
    g.add_subgraph("child", "https://x.example/w")
    assert (g.node("child").inputs, g.node("child").outputs) == (None, None)


def test_an_unknown_node_is_a_key_error_that_lists_those_there_are() -> None:
    with pytest.raises(KeyError, match="a, b"):
        graph(chain("a", "b", END)).node("c")


# --- the questions of the planner ------------------------------------------------------------------------


def test_edges_leave_a_node_in_the_order_of_registration() -> None:
    g = graph(chain("a", "b", END))
    g.add_transition_goto("a", "a")
    g.add_transition_for_each("b", "c", for_each="items", as_="x")
    assert [str(edge) for edge in g.out("a")] == ["a -> b", "a -> a"]
    assert g.out("b")[1] == Transition("b", "c", "for_each", None, "items", "x")
    assert g.out("b")[1].branch_fields == ("x", "x_index", "x_count")
    assert g.out("nobody") == ()


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda g: g.add_transition("s", "a"), False),
        (lambda g: g.add_transition_fan_out("s", "a", "b"), True),
        (lambda g: g.add_transition_fan_out("s", "a", "a"), True),
        (lambda g: g.add_transition_for_each("s", "a", for_each="x"), True),
        (lambda g: [g.add_transition_when("s", name, "x") for name in "ab"], True),
        (lambda g: [g.add_transition_switch("s", name, "x") for name in "ab"], False),
        (lambda g: [g.add_transition("s", "a"), g.add_transition_goto("s", "b")], False),
        (lambda g: [g.add_transition("s", "a"), g.add_transition_on_error("s", "b")], False),
        (lambda g: [g.add_transition("s", "a"), g.add_transition_on_timeout("s", "b")], False),
    ],
)
def test_a_fan_out_source_has_a_for_each_edge_or_two_that_spawn(build: Build, expected: bool) -> None:
    assert graph(build).is_fan_out_source("s") is expected


def test_each_fan_out_knows_its_fan_in_nested_ones_too() -> None:
    g = Graph("nested")
    g.add_transition_fan_out("s", "a", "b")
    g.add_transition_fan_out("b", "x", "y")
    g.add_transition_chain("x", "k", "j", END)
    g.add_transition("y", "k")
    g.add_transition("a", "j")
    g.set_fan_in("k")
    g.set_fan_in("j")
    g.validate()
    assert (g.fan_in_of("s"), g.fan_in_of("b"), g.fan_in_of("x")) == ("j", "k", None)
    assert g.open_fan_outs["x"] == ("s", "b")


def test_the_index_follows_later_building() -> None:
    g = graph(chain("a", "b", END))
    assert not g.is_fan_out_source("a")
    g.add_transition("a", "c")
    assert g.is_fan_out_source("a")
    g.set_fan_in("b")
    assert g.node("b").fan_in
    assert g.is_fan_in("b")
    assert repr(g) == "Graph('G', nodes=['a', 'b', 'c'])"


def test_a_timeout_takes_its_own_edge_and_other_failures_the_general_one() -> None:
    g = graph(chain("a", END))
    g.add_transition_on_error("a", "e")
    g.add_transition_on_timeout("a", "t")
    g.add_transition_on_error("b", "e")
    taken = [g.failure_transition("a", 408), g.failure_transition("a", 500), g.failure_transition("b", 408)]
    assert [edge.target for edge in taken if edge] == ["t", "e", "e"]
    assert g.failure_transition("e", 500) is None


def test_conditions_hold_on_fields_of_the_state() -> None:
    fields = initial_state({"amount": 2**60 + 1, "roles": ["admin"], "unused": [1]})
    assert holds(f"amount == {2**60 + 1} && roles.admin", fields)
    assert not holds("missing", fields)
    with pytest.raises(InvalidExpression):
        holds("amount ==", fields)


# --- validation -------------------------------------------------------------------------------------------


def for_each(source: str, target: str) -> Build:
    return lambda g: g.add_transition_for_each(source, target, for_each="items")


def goto(source: str, target: str) -> Build:
    return lambda g: g.add_transition_goto(source, target)


def on_error(source: str, target: str) -> Build:
    return lambda g: g.add_transition_on_error(source, target)


def switch(source: str, target: str, when: str = "x") -> Build:
    return lambda g: g.add_transition_switch(source, target, when)


def when(source: str, target: str, condition: str = "x") -> Build:
    return lambda g: g.add_transition_when(source, target, condition)


VALID: dict[str, list[Build]] = {
    "a single node": [chain("a", END)],
    "a loop by goto": [chain("a", END), goto("a", "a")],
    "a fan-out": [fan_out("a", "b"), chain("j", END)],
    "a for-each": [for_each("s", "a"), chain("a", "j", END), lambda g: g.set_fan_in("j")],
    "a switch": [switch("a", "b"), switch("a", "c", "true"), chain("b", END), chain("c", END)],
    "a switch beside goto and onError": [
        switch("a", "b"), switch("a", END, "true"), goto("a", "b"), on_error("a", "b"), chain("b", END),
    ],
    "a single condition": [when("a", "b"), chain("b", END)],
    "a sink that leads nowhere": [when("a", "b"), chain("c", END), goto("a", "c")],
    "a fan-out straight to its fan-in beside branches": [fan_out("a", "b"), chain("s", "j", END)],
    "goto from a branch to itself": [fan_out("a", "b"), chain("j", END), goto("a", "a")],
    "goto from a branch to the fan-in": [fan_out("a", "b"), chain("j", END), goto("a", "j")],
    "goto from the source to END": [fan_out("a", "b"), chain("j", END), goto("s", END)],
    "onError from the source to its fan-in": [fan_out("a", "b"), chain("j", END), on_error("s", "j")],
    "onError in a branch that meets at the fan-in": [
        fan_out("a", "b"), chain("j", END), on_error("a", "h"), chain("h", "j"),
    ],
    "the same branch twice": [chain("s", "a", "j", END), chain("s", "a"), lambda g: g.set_fan_in("j")],
    "the entry point as the fan-in of its own loop": [
        fan_out("a", "b", source="s", fan_in="s"), goto("s", END),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", VALID)
def test_a_valid_graph_has_no_problems(name: str) -> None:
    g = graph(*VALID[name])
    assert g.problems() == []
    g.validate()
    assert Graph.from_json(g.to_json()).problems() == []


INVALID: dict[str, tuple[list[Build], str]] = {
    "no nodes": ([], "the graph has no nodes"),
    "unknown entry point": ([chain("a", END), lambda g: g.set_entry_point("x")], "entry point 'x' is no node"),
    "unknown fan-in": ([chain("a", END), lambda g: g.set_fan_in("x")], "node 'x' is marked fan-in but is no node"),
    "END as fan-in": ([chain("a", END), lambda g: g.set_fan_in(END)], "'END' cannot be a fan-in"),
    "fan-in nobody leads to": ([chain("a", END), lambda g: g.set_fan_in("a")], "no edge leads to it"),
    "unknown node with a budget": (
        [chain("a", END), lambda g: g.set_time_budget("x", 1)], "node 'x' has a time budget but is no node",
    ),
    "a budget of nothing": ([chain("a", END), lambda g: g.set_time_budget("a", 0)], "at least 1ms"),
    "unknown reducer": ([chain("a", END), lambda g: g.set_reducer("f", "glue")], "reducer 'glue', which this process does not"),
    "an edge out of END": ([chain("a", END), chain(END, "b")], "edge END -> b: leaves END"),
    "an edge out of END makes nothing reachable": ([chain("a", END), chain(END, "b")], "node 'b' cannot be reached"),
    "two onError edges": ([chain("a", END), on_error("a", "b"), on_error("a", "c")], "'a' has 2 on_error edges"),
    "onError to itself": ([chain("a", END), on_error("a", "a")], "flow.retry()"),
    "switch without a condition": ([switch("a", END, "")], "needs a condition; the default branch is written 'true'"),
    "when without a condition": ([when("a", END, "")], "use add_transition"),
    "switch beside a plain edge": (
        [switch("a", "b"), chain("a", "c", END), chain("b", END)], "node 'a' has switch edges and beside them a -> c",
    ),
    "a condition that does not parse": ([when("a", END, "x ==")], "edge a -> END: its condition does not parse"),
    "for-each without a field": (
        [lambda g: g.add_transition_for_each("a", "b", for_each=""), chain("b", "j", END), lambda g: g.set_fan_in("j")],
        "for_each names no field",
    ),
    "for-each to END": ([for_each("a", END)], "for_each leads to END"),
    "unreachable": ([chain("a", END), chain("b", END)], "node 'b' cannot be reached from the entry point 'a'"),
    "no edge to END": ([chain("a", "b")], "has no edge to END"),
    "a fan-in on a sequential node": (
        [chain("a", "b", END), lambda g: g.set_fan_in("b")], "edge a -> b: 'b' is marked fan-in, but no fan-out is open",
    ),
    "two fan-ins": (
        [fan_out("a", "b"), chain("b", "k", END), chain("j", END), lambda g: g.set_fan_in("k")], "different fan-ins",
    ),
    "END inside a fan-out": ([fan_out("a", "b"), chain("j", END), chain("c", END), when("a", "c")], "END inside"),
    "a fan-out without a fan-in": (
        [chain("s", "a", "j", END), chain("s", "b", "j")], "node 's' fans out to 'a', 'b', but its branches reach no fan-in",
    ),
    "a for-each without a fan-in": ([for_each("s", "a"), chain("a", END)], "node 's' fans out to 'a'"),
    "conditions meant as if/else": (
        [when("a", "b"), when("a", "c", "!x"), chain("b", END), chain("c", END)], "use add_transition_switch",
    ),
    "goto out of a fan-out beyond its fan-in": (
        [fan_out("a", "b"), chain("j", "k", END), goto("a", "k")], "node 'k' is reached",
    ),
    "goto from a fan-out source into its branch": (
        [fan_out("a", "b"), chain("j", END), goto("s", "a")], "register the task under a second name",
    ),
    "a branch's onError to END": ([fan_out("a", "b"), chain("j", END), on_error("a", END)], "edge a -> END: END inside"),
    "a node shared by a branch and what follows": (
        [fan_out("a", "b"), chain("j", "k", END), switch("k", "a", "true")], "switch edges and beside them",
    ),
    "an if/else behind the fan-in that leads back into a branch": (
        [fan_out("a", "b"), switch("j", "a"), switch("j", END, "true")], "node 'a' is reached outside any fan-out here",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_each_broken_rule_is_reported_with_its_place(name: str) -> None:
    builds, expected = INVALID[name]
    g = graph(*builds)
    assert any(expected in problem for problem in g.problems()), g.problems()
    with pytest.raises(InvalidGraph) as caught:
        g.validate()
    assert caught.value.problems == g.problems()
    assert caught.value.status == 400
    assert "'G'" in str(caught.value)


def test_a_graph_needs_a_name() -> None:
    g = Graph("")
    g.add_transition("a", END)
    assert g.problems() == ["the graph has no name; give it one: Graph('Name')"]


def test_a_node_needs_a_name_and_a_url() -> None:
    g = graph(chain("a", "", END))
    g.set_endpoint("a", "")
    found = g.problems()
    assert "a node has an empty name; give it one" in found
    assert "node 'a' has an empty URL; set it with set_endpoint" in found


def test_every_problem_is_reported_at_once() -> None:
    g = Graph("G")
    g.add_transition_switch("a", "b", "(")
    g.add_transition("a", "c")
    g.add_transition_on_error("b", "b")
    g.add_transition("lost", "c")
    g.set_fan_in("c")
    g.set_fan_in("ghost")
    found = "\n".join(g.problems())
    for part in ("ghost", "switch edges", "'lost'", "END", "does not parse", "retry()", "no fan-out is open"):
        assert part in found


def test_a_parse_error_in_a_condition_points_at_its_place() -> None:
    problem = graph(when("a", END, "x && (y")).problems()[0]
    assert "never closed" in problem
    assert "x && (y\n       ^" in problem


@pytest.mark.parametrize(
    ("edge", "problem"),
    [
        ({"forEach": "x", "withGoto": True}, "withGoto and forEach exclude each other"),
        ({"as": "x"}, "as='x' without forEach"),
        ({"onError": True, "forEach": "x"}, "forEach and onError exclude each other"),
        ({"onError": True, "withGoto": True}, "withGoto and onError exclude each other"),
        ({"onError": True, "when": "x"}, "onError takes no when"),
        ({"switch": True, "when": "x", "withGoto": True}, "withGoto and switch exclude each other"),
        ({"switch": True, "when": "x", "forEach": "y"}, "forEach and switch exclude each other"),
        ({"switch": True}, "a switch edge needs a condition"),
        ({"to": "nobody"}, "its target 'nobody' is no node"),
        ({"from": "nobody"}, "its source 'nobody' is no node"),
    ],
)
def test_contradictions_in_json_are_problems_of_the_graph(edge: dict[str, Any], problem: str) -> None:
    data = {
        "name": "G",
        "entryPoint": "a",
        "tasks": [{"name": "a"}],
        "transitions": [{"from": "a", "to": "END"}, {"from": "a", "to": "a"} | edge],
    }
    assert any(problem in found for found in Graph.from_dict(data).problems())


def test_double_and_reserved_node_names_in_json_are_problems() -> None:
    tasks = [{"name": "a"}, {"name": "a", "url": "x"}, {"name": "END"}]
    data = {"name": "G", "entryPoint": "a", "tasks": tasks, "transitions": [{"from": "a", "to": "END"}]}
    found = Graph.from_dict(data).problems()
    assert any("'a' is defined twice" in problem for problem in found)
    assert any("'END' is reserved" in problem for problem in found)


# --- doubts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "annotation", "doubtful"),
    [
        ("list_price", float, True),
        ("listPrice", float, True),
        ("list_items", list[str], False),
        ("sum_score", int | None, False),
        ("sum_label", str, True),
        ("sum_label", str | None, True),
        ("set_point", float | int, True),
        ("set_users", dict[str, int], False),
        ("set_users", Any, False),
        ("list_price", Annotated[float, "EUR"], True),
        ("summary", str, False),
    ],
)
def test_a_result_field_whose_annotation_does_not_fit_its_prefix_is_doubtful(
    name: str, annotation: Any, doubtful: bool
) -> None:
    task = Task("quote", "u", {name: annotation})
    g = Graph("G")
    g.add_transition(task, END)
    if not doubtful:
        g.validate()
        return
    with pytest.warns(GraphWarning, match=f"'quote' writes '{name}'.*set_reducer"):
        g.validate()
    g.set_reducer(name, Reducer.REPLACE)
    assert g.warnings() == []


def test_without_prefix_reducers_no_name_is_doubtful() -> None:
    g = Graph("G", prefix_reducers=False)
    g.add_transition(Task("quote", "u", {"list_price": float}), END)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        g.validate()


def shared_write(field: str, *, prefix_reducers: bool = True) -> Graph:
    g = Graph("G", prefix_reducers=prefix_reducers)
    a, b, c = (Task(name, name, fields) for name, fields in (("a", {field: int}), ("b", {}), ("c", {field: int})))
    g.add_transition_fan_out("s", a, b)
    g.add_transition_chain(b, c, "j", END)
    g.add_transition(a, "j")
    g.set_fan_in("j")
    return g


def test_a_field_that_two_branches_write_with_no_reducer_is_doubtful() -> None:
    g = shared_write("score")
    with pytest.warns(GraphWarning, match=r"fan-out of 's' write one field 'score' \(in 'a' and 'c'\).*set_reducer"):
        g.validate()
    g.set_reducer("score", Reducer.REPLACE)
    assert g.warnings() == []


def test_a_prefix_that_combines_what_branches_write_is_not_doubtful_unless_prefixes_are_off() -> None:
    assert shared_write("sumScore").warnings() == shared_write("sum_score").warnings() == []
    assert len(shared_write("sumScore", prefix_reducers=False).warnings()) == 1


def test_each_branch_of_a_for_each_writes_its_fields_over_those_of_the_others() -> None:
    g = Graph("G")
    g.add_transition_for_each("s", Task("a", "a", {"score": int}), for_each="items")
    g.add_transition_chain("a", Task("j", "j", {"total": int}), END)
    g.set_fan_in("j")
    (doubt,) = g.warnings()
    assert doubt.startswith("each branch of the for_each s -> a writes 'score' (in 'a')")
    g.set_endpoint("a", Task("a", "a", {"item": int, "item_index": int}))
    assert g.warnings() == []


def test_branches_that_share_a_node_and_subgraphs_with_named_outputs_write_one_field() -> None:
    g = Graph("G")
    g.add_transition_fan_out("s", "a", "b")
    g.add_transition_chain("a", Task("shared", "u", {"x": int}), "j", END)
    g.add_transition("b", "shared")
    g.set_fan_in("j")
    assert ["(in 'shared')" in doubt for doubt in g.warnings()] == [True]
    g = graph(fan_out("a", "b"), chain("j", END))
    g.add_subgraph("a", "w1", outputs=["y"])
    g.add_subgraph("b", "w2", outputs=["y", "z"])
    assert ["field 'y'" in doubt for doubt in g.warnings()] == [True]


def test_what_is_written_one_after_the_other_is_not_doubtful() -> None:
    g = Graph("G")
    write = {"score": int}
    g.add_transition_fan_out(Task("s", "s", write), Task("a", "a", write), "b")
    g.add_transition_chain("a", Task("a2", "a2", write), Task("j", "j", write), END)
    g.add_transition("b", "j")
    g.set_fan_in("j")
    assert g.problems() == g.warnings() == []


def test_a_switch_edge_behind_the_default_is_doubtful() -> None:
    g = graph(switch("a", "b"), switch("a", END, " TRUE "), switch("a", "c"), chain("b", END), chain("c", END))
    (doubt,) = g.warnings()
    assert doubt.startswith("edge a -> c: never taken, since the default a -> END")


def test_a_time_budget_of_a_node_that_calls_a_workflow_is_doubtful() -> None:
    g = graph(chain("a", "b", END))
    g.add_subgraph("a", "https://x.example/w")
    g.set_time_budget("b", "1s")
    assert g.warnings() == []
    g.set_time_budget("a", "1s")
    (doubt,) = g.warnings()
    assert doubt.startswith("node 'a' calls a workflow, so its time budget bounds nothing")


def test_a_branch_that_leads_nowhere_is_doubtful() -> None:
    g = Graph("G")
    g.add_transition_fan_out("s", "a", "b")
    g.add_transition("a", "j")
    g.set_fan_in("j")
    g.add_transition("j", END)
    assert g.problems() == []
    assert [doubt for doubt in g.warnings() if "'b'" in doubt]


def test_conditions_without_a_default_are_doubtful_in_a_branch_and_not_on_the_trunk() -> None:
    g = graph(fan_out("a", "b"), chain("c", "j", "k"), switch("d", "j", "x"), switch("k", END, "x"))
    g.add_transition("s", "d")
    g.add_transition_when("s", "c", "y")
    (doubt,) = g.warnings()
    assert doubt.startswith("node 'd' is inside the fan-out of 's' and leads on under conditions only: where 'x'")
    g.add_transition_switch("d", "j", "true")
    assert g.problems() == g.warnings() == []


# --- JSON ---------------------------------------------------------------------------------------------------


def test_the_json_form_has_the_keys_of_the_reference() -> None:
    g = Graph("Approval")
    g.add_transition_when("a", "b", "x > 1")
    g.add_transition_for_each("a", "b", for_each="items")
    g.add_transition_switch("b", "c", "true")
    g.add_transition_goto("c", "a")
    g.add_transition_on_error("c", "e")
    g.add_transition_on_timeout("c", "t")
    g.add_transition("c", END)
    g.set_fan_in("b")
    g.set_time_budget("a", "1m30s")
    g.set_reducer("messages", Reducer.APPEND)
    assert json.loads(g.to_json()) == {
        "name": "Approval",
        "entryPoint": "a",
        "tasks": [
            {"name": "a", "url": "a", "timeBudget": 90.0},
            {"name": "b", "url": "b", "fanIn": True},
            {"name": "c", "url": "c"},
            {"name": "e", "url": "e"},
            {"name": "t", "url": "t"},
        ],
        "transitions": [
            {"from": "a", "to": "b", "when": "x > 1"},
            {"from": "a", "to": "b", "forEach": "items", "as": "item"},
            {"from": "b", "to": "c", "switch": True, "when": "true"},
            {"from": "c", "to": "a", "withGoto": True},
            {"from": "c", "to": "e", "onError": True},
            {"from": "c", "to": "t", "onTimeout": True},
            {"from": "c", "to": "END"},
        ],
        "reducers": {"messages": "append"},
    }
    assert Graph("x", prefix_reducers=False).to_dict()["prefixReducers"] is False


def test_a_task_without_url_gets_its_name_for_one() -> None:
    assert Graph.from_dict({"name": "G", "tasks": [{"name": "a"}]}).url_of("a") == "a"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": 5}', '{"name":"G","tasks":[{}]}', b"\xff"])
def test_what_is_no_graph_is_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidGraph, match="not the JSON form"):
        Graph.from_json(text)
    with pytest.raises(InvalidGraph, match="not the JSON form"):
        Graph.from_dict({"name": "G", "transitions": [{"from": 1}]})


nodes = st.sampled_from(["a", "b", "c", "d"])
targets = st.sampled_from(["a", "b", "c", "d", END])


@st.composite
def any_graphs(draw: st.DrawFn) -> Graph:
    """Graphs of any shape, most of them invalid."""
    g = Graph(draw(st.sampled_from(["G", "H"])), prefix_reducers=draw(st.booleans()))
    for _ in range(draw(st.integers(0, 8))):
        source, target = draw(nodes), draw(targets)
        match draw(st.integers(0, 6)):
            case 0:
                g.add_transition(source, target)
            case 1:
                g.add_transition_when(source, target, draw(st.sampled_from(["x", "y > 1"])))
            case 2:
                g.add_transition_switch(source, target, draw(st.sampled_from(["x", "true"])))
            case 3:
                g.add_transition_goto(source, target)
            case 4:
                g.add_transition_for_each(source, target, for_each="items", as_=draw(st.sampled_from(["item", "x"])))
            case 5:
                g.add_transition_on_error(source, target)
            case _:
                g.add_transition_on_timeout(source, target)
    for name in draw(st.lists(nodes, max_size=2)):
        g.set_fan_in(name) if g.has_node(name) else g.set_endpoint(name, "https://x/" + name)
    if draw(st.booleans()):
        g.add_subgraph("d", "https://x/w", inputs=draw(st.none() | st.just(["x"])), outputs=["y"])
        g.set_time_budget("d", draw(st.floats(0.001, 1e6)))
    g.set_reducer("f", draw(st.sampled_from(list(Reducer))))
    return g


@given(any_graphs())
@settings(deadline=None, max_examples=300)
def test_a_graph_survives_its_json_form_with_all_its_answers(g: Graph) -> None:
    again = Graph.from_json(g.to_json())
    assert again.to_dict() == g.to_dict() == Graph.from_dict(g.to_dict()).to_dict()
    assert (again.nodes, again.transitions, again.reducers) == (g.nodes, g.transitions, g.reducers)
    assert again.problems() == g.problems()
    for node in g.nodes:
        assert again.out(node.name) == g.out(node.name)
        assert again.fan_in_of(node.name) == g.fan_in_of(node.name)


@given(any_graphs())
@settings(deadline=None, max_examples=300)
def test_any_graph_can_be_judged_and_a_valid_one_knows_every_fan_in(g: Graph) -> None:
    if g.problems():
        with pytest.raises(InvalidGraph):
            g.validate()
        return
    for node in g.nodes:
        assert g.is_fan_out_source(node.name) is (g.fan_in_of(node.name) is not None)
    assert all(g.open_fan_outs[edge.source] == () for edge in g.transitions if edge.target == END)
