"""Which flows could go on under another graph than their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mbactor.foreman.model.compatible import differences, reachable
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.reducers import Reducer


def shop(change: Callable[[Graph], None] = lambda graph: None, *, prefixes: bool = True) -> Graph:
    graph = Graph("Shop", prefix_reducers=prefixes)
    graph.add_transition_fan_out("split", "left", "right")
    graph.add_transition("left", "join")
    graph.add_transition("right", "join")
    graph.set_fan_in("join")
    graph.add_transition_switch("join", "pay", "total > 10")
    graph.add_transition_goto("pay", "split")
    graph.add_transition("pay", END)
    change(graph)
    return graph


def other(change: Callable[[str], str]) -> Graph:
    return Graph.from_json(change(shop().to_json()))


def test_a_flow_may_come_to_whatever_an_edge_of_any_kind_leads_to() -> None:
    assert reachable(shop(), ["join"]) == ["split", "left", "right", "join", "pay"]
    line = Graph("Line")
    line.add_transition_chain("a", "b", "c", END)
    assert reachable(line, ["b"]) == ["b", "c"]
    assert reachable(line, ["gone"]) == ["gone"]


def test_the_same_graph_and_what_was_only_added_stop_nobody() -> None:
    assert differences(shop(), shop(), ["split"]) == []
    assert differences(shop(), shop(lambda graph: graph.add_transition_on_error("pay", "repair")), ["split"]) == []


def test_what_lies_behind_a_flow_does_not_concern_it() -> None:
    old, new = Graph("Line"), Graph("Line")
    old.add_transition_chain("a", "b", "c", END)
    new.add_transition_chain("x", "b", "c", END)
    assert differences(old, new, ["b"]) == []
    assert differences(old, new, ["a"]) == ["node 'a' is gone"]


@pytest.mark.parametrize(
    ("new", "told"),
    [
        (other(lambda text: text.replace("total > 10", "total > 11")), "edge join -> pay (switch total > 10) is gone"),
        (
            shop(lambda graph: graph.set_reducer("note", Reducer.CONCAT)),
            "field 'note' is reduced by concat instead of replace",
        ),
        (
            shop(lambda graph: graph.set_reducer("sum_paid", Reducer.MAX)),
            "field 'sum_paid' is reduced by max instead of its prefix",
        ),
        (shop(prefixes=False), "reducers by prefix are off now"),
        (
            shop(lambda graph: graph.set_endpoint("pay", "https://new.example/pay")),
            "node 'pay' runs https://new.example",
        ),
        (shop(lambda graph: graph.set_fan_in("pay")), "node 'pay' is a fan-in now"),
    ],
)
def test_each_difference_is_told_with_its_place(new: Graph, told: str) -> None:
    (found,) = differences(shop(), new, ["join"])
    assert told in found
