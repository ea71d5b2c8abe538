"""Joins and bounds in a graph: what is refused, how they are written down, drawn and folded."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbactor.foreman.model.compatible import differences
from mbactor.foreman.model.fold_order import fold_order
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.join import Join, has_joined

JOINS = st.sampled_from([Join.ALL, Join.FIRST_ERROR]) | st.integers(1, 9).map(Join.at_least)


def made(join: Join = Join.ALL, *, for_each: bool = False, max_parallel: int | None = None) -> Graph:
    graph = Graph("made")
    graph.add_transition_fan_out("start", "a", "b")
    if for_each:
        graph.add_transition_for_each("start", "c", for_each="items", max_parallel=max_parallel)
        graph.add_transition("c", "join")
    graph.add_transition("a", "join")
    graph.add_transition("b", "join")
    graph.set_fan_in("join", join=join)
    graph.add_transition("join", END)
    return graph


@given(JOINS, st.none() | st.integers(1, 99))
def test_a_graph_with_a_join_and_a_bound_comes_back_from_json(join: Join, max_parallel: int | None) -> None:
    graph = made(join, for_each=True, max_parallel=max_parallel)
    again = Graph.from_json(graph.to_json())
    assert again.to_dict() == graph.to_dict()
    assert again.problems() == []
    assert (again.join_of("join"), again.node("join").join) == (join, join)
    assert again.max_parallel_of("start") == max_parallel


def test_json_without_them_has_no_keys_for_them() -> None:
    assert "join" not in {key for task in made().to_dict()["tasks"] for key in task}
    assert all("maxParallel" not in edge for edge in made(for_each=True).to_dict()["transitions"])


@pytest.mark.parametrize("count", [0, -1])
def test_a_join_needs_at_least_one_branch(count: int) -> None:
    (problem,) = made(Join.at_least(count)).problems()
    assert problem == f"node 'join' waits for {count} branches; at least 1 is needed, or Join.ALL"


def test_a_join_needs_no_more_branches_than_there_are() -> None:
    assert made(Join.at_least(2)).problems() == []
    (problem,) = made(Join.at_least(3)).problems()
    assert "waits for 3 branches" in problem
    assert "'start' has 2" in problem
    assert made(Join.at_least(3), for_each=True).problems() == []


def test_a_bound_is_at_least_one_and_one_for_the_whole_fan_out() -> None:
    (problem,) = made(for_each=True, max_parallel=0).problems()
    assert problem == "edge start -> c: max_parallel is 0; at least 1 is needed, None is no bound"
    graph = made(for_each=True, max_parallel=2)
    graph.add_transition_for_each("start", "a", for_each="others", max_parallel=3)
    (problem,) = graph.problems()
    assert "max_parallel 2 and 3" in problem


def test_json_that_makes_no_sense_is_a_problem() -> None:
    plain = made(Join.ANY).to_dict()
    for task in plain["tasks"]:
        task.pop("fanIn", None)
    plain["transitions"][0]["maxParallel"] = 2
    problems = "\n".join(Graph.from_dict(plain).problems())
    assert "has a join=1 and is no fan-in" in problems
    assert "maxParallel=2 without forEach" in problems


def test_what_is_no_join_is_refused_where_it_is_given() -> None:
    with pytest.raises(TypeError, match=r"needs a Join such as Join.ANY .* got join='any'"):
        Graph("g").set_fan_in("join", join="any")  # type: ignore[arg-type]


def test_a_diagram_shows_both() -> None:
    text = made(Join.at_least(2), for_each=True, max_parallel=4).mermaid()
    assert '(("reduce: 2 of them"))' in text
    assert '|"for each, 4 at once"|' in text
    assert '(("reduce"))' in made().mermaid()


def test_another_join_is_a_difference_for_flows_under_way() -> None:
    assert differences(made(), made(Join.ANY), ["start"]) == ["node 'join' waits for any instead of all"]


@given(st.integers(1, 6), st.data())
def test_a_cohort_is_decided_once_and_as_its_join_says(size: int, data: st.DataObject) -> None:
    join = data.draw(st.sampled_from([Join.ALL, Join.FIRST_ERROR, *map(Join.at_least, range(1, size + 1))]))
    needed, done, failed, decided = join.of(size), 0, 0, None
    for fails in data.draw(st.lists(st.booleans(), min_size=size, max_size=size)):
        assert decided is None or join != Join.ALL
        if decided is not None:
            break
        done, failed = done + (not fails), failed + fails
        decided = has_joined(size, needed, done + failed, failed)
    assert decided is not None
    match join.needed:
        case "all":
            assert (decided, done + failed) == (failed == 0, size)
        case "every":
            assert decided == (failed == 0)
        case count:
            assert decided == (done == count)
            assert decided or size - failed < count


@dataclass
class Row:
    id: int
    spawn_id: int | None
    ordinal: int
    depth: int
    status: str = "completed"
    successor_id: int | None = None
    cohort_id: int | None = None
    cohort_needed: int = 0


def test_only_branches_that_arrived_are_folded_into_a_fan_in() -> None:
    rows = [
        Row(2, 1, 0, 2, successor_id=4), Row(3, 1, 1, 2), Row(4, 1, 0, 3, "cancelled"),
        Row(5, 1, 2, 2, successor_id=6, cohort_needed=1), Row(6, 5, 0, 3), Row(7, 5, 1, 3, "cancelled"), Row(8, 1, 2, 4, cohort_id=5),
    ]  # fmt: skip
    assert [row.id for _, row in fold_order(rows, 1, arrived_only=True)] == [3, 5, 6, 8]
    assert [row.id for _, row in fold_order(rows, 1)] == [2, 3, 5, 6, 8]
