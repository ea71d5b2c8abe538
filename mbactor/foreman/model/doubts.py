"""What a graph can run with but probably does not mean, as a function for each kind (pure).

    doubts(graph, {"verify": {"score": int}})

Each doubt names its node or edge and says what to do. What keeps a graph from running is `validation`'s part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mbactor.foreman.model import reducers
from mbactor.foreman.model.annotations import options, text_of
from mbactor.foreman.model.transition import END, Transition

if TYPE_CHECKING:
    from mbactor.foreman.model.graph import Graph

Doubts = Iterator[str]
ResultFields = Mapping[str, Mapping[str, Any]]
"""Node -> field that it writes -> annotation."""


def doubts(graph: Graph, result_fields: ResultFields) -> list[str]:
    """Everything that is doubtful about a graph, given what its nodes write."""
    return [
        *_dead_ends(graph),
        *_shadowed(graph),
        *_unbounded(graph),
        *_unfit_prefixes(graph, result_fields),
        *_overwritten(graph, result_fields),
    ]


def _dead_ends(graph: Graph) -> Doubts:
    for name, stack in graph.open_fan_outs.items():
        if not stack or graph.is_fan_out_source(name):
            continue
        onward = [edge for edge in graph.out(name) if edge.routes]
        inside = f"node {name!r} is inside the fan-out of {stack[-1]!r} and"
        if not graph.out(name):
            yield f"{inside} has no edge that leads on: its branch will fail there; lead it to the fan-in"
        elif onward and all(edge.when is not None and not _always(edge) for edge in onward):
            conditions = " and ".join(repr(edge.when) for edge in onward)
            yield (
                f"{inside} leads on under conditions only: where {conditions} are false its branch fails; "
                "add_transition_switch(source, target, 'true') is the default"
            )


def _always(edge: Transition) -> bool:
    return (edge.when or "").strip().lower() == "true"


def _shadowed(graph: Graph) -> Doubts:
    for node in graph.nodes:
        default: Transition | None = None
        for edge in graph.out(node.name):
            if edge.kind != "switch":
                continue
            if default is not None:
                yield f"edge {edge}: never taken, since the default {default} stands before it; move the default last"
            elif _always(edge):
                default = edge


def _unbounded(graph: Graph) -> Doubts:
    for name in graph.time_budgets:
        if graph.has_node(name) and graph.node(name).subgraph:
            yield (
                f"node {name!r} calls a workflow, so its time budget bounds nothing: it waits as long as that takes; "
                "give budgets to the nodes of the workflow that it calls"
            )


# --- prefixes --------------------------------------------------------------------------------------------------


def _unfit_prefixes(graph: Graph, result_fields: ResultFields) -> Doubts:
    if not graph.prefix_reducers:
        return
    for node, fields in result_fields.items():
        for field, annotation in fields.items():
            prefix = reducers.prefix_of(field)
            if prefix is None or field in graph.reducers or _may_fit(prefix, annotation):
                continue
            yield (
                f"node {node!r} writes {field!r} of type {text_of(annotation)}, whose name asks for the "
                f"reducer of {prefix}*; rename the field, or say what is meant with set_reducer({field!r}, ...)"
            )


_UNFIT: Mapping[str, tuple[type, ...]] = {
    "sum": (str, bytes, bool, list, tuple, set, frozenset, dict),
    "list": (str, bytes, bool, int, float, dict),
    "set": (str, bytes, bool, int, float),
}


def _may_fit(prefix: str, annotation: Any) -> bool:
    """False only where no value of the annotation fits the prefix."""
    types = options(annotation)
    return not types or not all(isinstance(option, type) and issubclass(option, _UNFIT[prefix]) for option in types)


# --- writes of several branches ------------------------------------------------------------------------------


def _overwritten(graph: Graph, result_fields: ResultFields) -> Doubts:
    """Fields that several branches of one fan-out write and that nothing combines."""
    for node in graph.nodes:
        fan_in = graph.fan_in_of(node.name)
        if fan_in is None:
            continue
        branches = [edge for edge in graph.out(node.name) if edge.spawns and edge.target != fan_in]
        for field, writers in _writers(graph, branches, fan_in, result_fields).items():
            combined = field in graph.reducers or (graph.prefix_reducers and reducers.prefix_of(field) is not None)
            by_each = [edge for edge, _ in writers if edge.kind == "for_each"]
            local = field in graph.branch_fields_of(node.name)
            if not combined and not local and (len(writers) > 1 or by_each):
                yield _lost(node.name, field, writers)


def _writers(
    graph: Graph, branches: list[Transition], fan_in: str, result_fields: ResultFields
) -> dict[str, list[tuple[Transition, str]]]:
    """Field -> for each branch that writes it, its edge and the first node that does."""
    found: dict[str, list[tuple[Transition, str]]] = {}
    for edge in branches:
        written: dict[str, str] = {}
        for node in _within(graph, edge.target, fan_in):
            for field in result_fields.get(node, ()):
                written.setdefault(field, node)
        for field, node in written.items():
            found.setdefault(field, []).append((edge, node))
    return found


def _within(graph: Graph, start: str, fan_in: str) -> Iterator[str]:
    """The nodes of a branch, in the order in which they can be reached."""
    seen, waiting = {start, fan_in, END}, deque([start])
    while waiting:
        node = waiting.popleft()
        yield node
        for edge in graph.out(node):
            if edge.target not in seen:
                seen.add(edge.target)
                waiting.append(edge.target)


def _lost(source: str, field: str, writers: list[tuple[Transition, str]]) -> str:
    nodes = " and ".join(dict.fromkeys(repr(node) for _, node in writers))
    if len(writers) == 1:
        where = f"each branch of the for_each {writers[0][0]} writes {field!r} (in {nodes})"
    else:
        where = f"branches of the fan-out of {source!r} write one field {field!r} (in {nodes})"
    return (
        f"{where} and it has no reducer: the last branch wins, what the others wrote is lost; say how they combine "
        f"with set_reducer({field!r}, Reducer.APPEND) or another, or with Reducer.REPLACE that this is meant"
    )
