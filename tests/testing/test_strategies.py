"""What the strategies make: states that can be stored, graphs that can run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from mbactor import Actor, ActorSystem, InvalidSpec, child
from mbactor.foreman import END, Graph
from mbactor.foreman.model.state import comparable, decode_all, initial_state
from mbactor.supervisor.spec import ChildSpec
from mbactor.supervisor.tree import TreeNode
from mbactor.testing import VirtualTimeLoop, child_trees, graphs, states


@given(states())
@settings(deadline=None, max_examples=100)
def test_a_state_can_be_stored_and_read_back(state: dict[str, Any]) -> None:
    assert len(state) <= 6
    assert None not in state.values()
    assert comparable(decode_all(initial_state(state))) == comparable(state)


@given(graphs())
@settings(deadline=None, max_examples=100)
def test_a_graph_is_valid_and_survives_its_json_form(graph: Graph) -> None:
    assert graph.problems() == []
    assert Graph.from_json(graph.to_json()).to_dict() == graph.to_dict()
    assert graph.mermaid()


def test_every_kind_of_edge_is_made() -> None:
    made: set[str] = set()

    @given(graphs())
    @settings(deadline=None, max_examples=60, derandomize=True, database=None)
    def collect(graph: Graph) -> None:
        made.update(edge.kind for edge in graph.transitions)

    collect()
    assert made == {"plain", "when", "switch", "goto", "for_each", "on_error", "on_timeout"}


def test_depth_bounds_how_far_they_nest() -> None:
    @given(graphs(depth=0))
    @settings(deadline=None, max_examples=20)
    def flat(graph: Graph) -> None:
        assert graph.fan_ins == ()
        assert any(edge.target == END for edge in graph.transitions)

    flat()


class Kept(Actor):
    def __init__(self, things: int = 0) -> None:
        self.things = things


@given(
    child_trees(
        Kept, child(Kept, args={"things": 3}, restart="transient", significant=True, after=("elsewhere",)), max_leaves=5
    )
)
@settings(deadline=None, max_examples=40)
def test_a_tree_can_be_started_and_stopped(tree: ChildSpec) -> None:
    async def run() -> None:
        async with ActorSystem() as system:
            await system.spawn(tree)
            (row,) = system.tree().children
            assert ids_of_row(row) == ids_of(tree)

    loop = VirtualTimeLoop()
    try:
        loop.run_until_complete(run())
    finally:
        loop.close()


def test_trees_differ_in_all_that_is_said_of_a_child() -> None:
    made: dict[str, set[object]] = {}

    @given(child_trees(Kept))
    @settings(deadline=None, max_examples=100, derandomize=True, database=None)
    def collect(tree: ChildSpec) -> None:
        for one in all_of(tree):
            told = {"restart": one.restart, "shutdown": one.shutdown, "backoff": one.backoff is None, "kind": one.kind}
            for name, value in (told | {name: one.args[name] for name in one.args if name != "children"}).items():
                made.setdefault(name, set()).add(value)

    collect()
    assert {name: len(found) for name, found in made.items()} == {
        "restart": 3, "shutdown": 6, "backoff": 2, "kind": 2, "strategy": 3, "max_restarts": 7, "within": 3,
    }  # fmt: skip


def test_a_tree_of_no_actors_is_refused() -> None:
    with pytest.raises(InvalidSpec, match=r"child_trees: no actor given, .* expected: child_trees\(Orders\)"):
        child_trees()


def all_of(tree: ChildSpec) -> list[ChildSpec]:
    return [tree, *(below for one in tree.args.get("children", ()) for below in all_of(one))]


Ids = tuple[str, tuple["Ids", ...]]


def ids_of(tree: ChildSpec) -> Ids:
    return tree.id, tuple(map(ids_of, tree.args.get("children", ())))


def ids_of_row(row: TreeNode) -> Ids:
    assert row.state == "running"
    return row.id, tuple(map(ids_of_row, row.children))
