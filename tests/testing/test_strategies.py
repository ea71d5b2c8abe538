"""What the strategies make: states that can be stored, graphs that can run."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings

from mbactor.foreman import END, Graph
from mbactor.foreman.model.state import comparable, decode_all, initial_state
from mbactor.testing import graphs, states


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
