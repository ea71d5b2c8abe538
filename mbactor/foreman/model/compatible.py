"""Whether a flow could go on under another graph than its own (pure).

    differences(old, new, at={"decide"})        # ["node 'decide' is gone"]

Only what the flow may still come to counts: what lies behind it is done. A flow keeps the graph it was created with, so
nothing here stops it; it is told what a fork or a new flow of its kind would meet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.reducers import Reducer, prefix_of
from mbactor.foreman.model.transition import Transition


def differences(old: Graph, new: Graph, at: Collection[str]) -> list[str]:
    """What a flow that is at these nodes of the old graph would miss, or find otherwise, in the new one."""
    ahead = reachable(old, at)
    return [*_nodes(old, new, ahead), *_edges(old, new, ahead), *_reducers(old, new)]


def reachable(graph: Graph, at: Collection[str]) -> list[str]:
    """The nodes where a flow that is at these is, or may come to, in the order of the graph."""
    found, left = set(at), list(at)
    while left:
        for edge in graph.out(left.pop()):
            if edge.target != END and edge.target not in found:
                found.add(edge.target)
                left.append(edge.target)
    return [node.name for node in graph.nodes if node.name in found] + sorted(
        name for name in found if not graph.has_node(name)
    )


def _nodes(old: Graph, new: Graph, ahead: Collection[str]) -> Iterator[str]:
    for name in ahead:
        if not new.has_node(name):
            yield f"node {name!r} is gone"
            continue
        before, after = old.node(name), new.node(name)
        if before.url != after.url:
            yield f"node {name!r} runs {after.url} instead of {before.url}"
        if old.is_fan_in(name) != new.is_fan_in(name):
            yield f"node {name!r} {'is no fan-in any more' if old.is_fan_in(name) else 'is a fan-in now'}"
        elif before.join != after.join:
            yield f"node {name!r} waits for {after.join} instead of {before.join}"


def _edges(old: Graph, new: Graph, ahead: Collection[str]) -> Iterator[str]:
    for name in ahead:
        there = set(new.out(name)) if new.has_node(name) else set()
        for edge in old.out(name):
            if new.has_node(name) and edge not in there:
                yield f"edge {told(edge)} is gone"


def told(edge: Transition) -> str:
    """An edge with what it depends on."""
    more = edge.when or edge.for_each
    kind = "" if edge.kind == "plain" else f" ({edge.kind.replace('_', ' ')}{f' {more}' if more else ''})"
    return f"{edge}{kind}"


def _reducers(old: Graph, new: Graph) -> Iterator[str]:
    for field in sorted({*old.reducers, *new.reducers}):
        before, after = _reducer(old, field), _reducer(new, field)
        if before != after:
            yield f"field {field!r} is reduced by {after} instead of {before}"
    if old.prefix_reducers != new.prefix_reducers:
        yield f"reducers by prefix are {'off' if old.prefix_reducers else 'on'} now"


def _reducer(graph: Graph, field: str) -> str:
    if field not in graph.reducers and graph.prefix_reducers and prefix_of(field) is not None:
        return "its prefix"
    return graph.reducers.get(field) or Reducer.REPLACE.value
