"""Every structural rule of a graph, as a function that yields what breaks it (pure).

Whether branches converge is `lineage`'s part, what is merely doubtful that of `doubts`. Each problem names its node or
edge and says what to do.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mbactor import expressions
from mbactor.errors import InvalidExpression
from mbactor.foreman.model import reducers
from mbactor.foreman.model.state import is_storable
from mbactor.foreman.model.transition import END, Transition

if TYPE_CHECKING:
    from mbactor.foreman.model.graph import Graph

Problems = Iterator[str]


def structural_problems(graph: Graph) -> list[str]:
    """What is wrong with the graph, apart from the convergence of its branches."""
    found = [problem for rule in _RULES for problem in rule(graph)]
    for edge in graph.transitions:
        found += [f"edge {edge}: {problem}" for rule in _EDGE_RULES for problem in rule(graph, edge)]
    return found


# --- rules over the whole graph -----------------------------------------------------------------------------


def _named(graph: Graph) -> Problems:
    if not graph.name:
        yield "the graph has no name; give it one: Graph('Name')"


def _populated(graph: Graph) -> Problems:
    if not graph.nodes:
        yield "the graph has no nodes; add a transition"
    for node in graph.nodes:
        if not node.name:
            yield "a node has an empty name; give it one"
        if not node.url:
            yield f"node {node.name!r} has an empty URL; set it with set_endpoint"


def _storable(graph: Graph) -> Problems:
    """Every text of the graph can go into a database."""
    texts = {graph.name: "the graph's name"}
    for node in graph.nodes:
        texts |= dict.fromkeys((*(node.inputs or ()), *(node.outputs or ()), node.url), f"node {node.name!r}")
        texts[node.name] = f"node {node.name!r}"
    for edge in graph.transitions:
        texts |= {text: f"edge {edge}" for text in (edge.when, edge.for_each, edge.as_) if text}
    texts |= dict.fromkeys((*graph.reducers, *graph.reducers.values()), "a reducer's field or name")
    for text, where in texts.items():
        if not is_storable(text):
            yield f"{where}: {text!r} holds a NUL or half a surrogate pair, which cannot be stored; leave it out"


def _entered(graph: Graph) -> Problems:
    if graph.nodes and not graph.has_node(graph.entry_point):
        yield f"entry point {graph.entry_point!r} is no node of the graph; {_known(graph)}"


def _fan_ins_known(graph: Graph) -> Problems:
    for name in graph.fan_ins:
        if name == END:
            yield f"node {END!r} cannot be a fan-in; let the branches meet at a node before it"
        elif not graph.has_node(name):
            yield f"node {name!r} is marked fan-in but is no node of the graph; {_known(graph)}"
        elif not any(edge.target == name for edge in graph.transitions):
            yield f"node {name!r} is marked fan-in, but no edge leads to it; unmark it or lead branches to it"


def _joins_possible(graph: Graph) -> Problems:
    for name in graph.fan_ins:
        needed = graph.join_of(name).needed
        if not isinstance(needed, int):
            continue
        if needed < 1:
            yield f"node {name!r} waits for {needed} branches; at least 1 is needed, or Join.ALL"
            continue
        for source in graph.nodes:
            branches = [edge for edge in graph.out(source.name) if edge.spawns]
            bounded = not any(edge.kind == "for_each" for edge in branches)
            if graph.fan_in_of(source.name) == name and bounded and len(branches) < needed:
                yield (
                    f"node {name!r} waits for {needed} branches and the fan-out of {source.name!r} has "
                    f"{len(branches)}; ask for at most so many"
                )


def _one_bound(graph: Graph) -> Problems:
    for node in graph.nodes:
        bounds = sorted({edge.max_parallel for edge in graph.out(node.name) if edge.max_parallel is not None})
        if len(bounds) > 1:
            yield (
                f"node {node.name!r} has for_each edges with max_parallel {' and '.join(map(str, bounds))}; it bounds "
                "the whole fan-out: give one of them, or all the same"
            )


def _budgets_known(graph: Graph) -> Problems:
    for name, budget in graph.time_budgets.items():
        if not graph.has_node(name):
            yield f"node {name!r} has a time budget but is no node of the graph; {_known(graph)}"
        elif budget < 0.001:
            yield f"node {name!r} has a time budget of {budget:g} s; at least 1ms is needed"


def _reducers_known(graph: Graph) -> Problems:
    for field, name in graph.reducers.items():
        if not reducers.is_known(name):
            yield (
                f"field {field!r} has the reducer {name!r}, which this process does not know: {reducers.UNKNOWN};"
                f" known: {', '.join(reducers.known_names())}"
            )


def _one_failure_edge(graph: Graph) -> Problems:
    counted = Counter((edge.source, edge.kind) for edge in graph.transitions)
    for (source, kind), count in counted.items():
        if kind in _FAILURE_BUILDERS and count > 1:
            yield f"node {source!r} has {count} {kind} edges; only one can be taken, remove the others"


def _switch_alone(graph: Graph) -> Problems:
    for node in graph.nodes:
        edges = graph.out(node.name)
        beside = [edge for edge in edges if edge.spawns]
        if beside and any(edge.kind == "switch" for edge in edges):
            listed = ", ".join(map(str, beside))
            yield (
                f"node {node.name!r} has switch edges and beside them {listed}; make those switch edges too "
                "(the default is written add_transition_switch(source, target, 'true'))"
            )


def _reachable(graph: Graph) -> Problems:
    if not graph.has_node(graph.entry_point):
        return
    reached = _reached_from(graph, graph.entry_point)
    for node in graph.nodes:
        if node.name not in reached:
            yield (
                f"node {node.name!r} cannot be reached from the entry point {graph.entry_point!r}; "
                "add a transition to it or leave it out"
            )


def _reached_from(graph: Graph, entry: str) -> set[str]:
    reached, waiting = {entry}, deque([entry])
    while waiting:
        for edge in graph.out(waiting.popleft()):
            if edge.target not in reached and edge.target != END:
                reached.add(edge.target)
                waiting.append(edge.target)
    return reached


def _ends(graph: Graph) -> Problems:
    if graph.nodes and not any(edge.target == END for edge in graph.transitions):
        yield f"graph {graph.name!r} has no edge to END; add_transition(last node, END)"


# --- rules over one edge ---------------------------------------------------------------------------------------


def _from_known(graph: Graph, edge: Transition) -> Problems:
    if edge.source == END:
        yield "leaves END, where the flow is over; start it at a node"
    elif not graph.has_node(edge.source):
        yield f"its source {edge.source!r} is no node of the graph; {_known(graph)}"


def _to_known(graph: Graph, edge: Transition) -> Problems:
    if edge.target != END and not graph.has_node(edge.target):
        yield f"its target {edge.target!r} is no node of the graph; {_known(graph)}"


def _complete(_: Graph, edge: Transition) -> Problems:
    if edge.kind == "switch" and not edge.when:
        yield "a switch edge needs a condition; the default branch is written 'true'"
    if edge.kind == "when" and not edge.when:
        yield "add_transition_when needs a condition; without one use add_transition"
    if edge.kind == "for_each":
        if not edge.for_each:
            yield "for_each names no field; give the array field whose elements become branches"
        if edge.target == END:
            yield "for_each leads to END; let each branch run a node"
        if edge.max_parallel is not None and edge.max_parallel < 1:
            yield f"max_parallel is {edge.max_parallel}; at least 1 is needed, None is no bound"


def _no_failure_loop(_: Graph, edge: Transition) -> Problems:
    if edge.kind in _FAILURE_BUILDERS and edge.source == edge.target:
        yield f"{edge.kind} leads back to its own node; to run the task again call flow.retry() in it"


def _parses(_: Graph, edge: Transition) -> Problems:
    if edge.when:
        try:
            expressions.parse(edge.when)
        except InvalidExpression as error:
            yield f"its condition does not parse: {error}"


_RULES = (
    _named,
    _storable,
    _populated,
    _entered,
    _fan_ins_known,
    _joins_possible,
    _one_bound,
    _budgets_known,
    _reducers_known,
    _one_failure_edge,
    _switch_alone,
    _reachable,
    _ends,
)
_EDGE_RULES = (_from_known, _to_known, _complete, _no_failure_loop, _parses)
_FAILURE_BUILDERS = frozenset({"on_error", "on_timeout"})


def _known(graph: Graph) -> str:
    return "nodes: " + (", ".join(node.name for node in graph.nodes) or "none")
