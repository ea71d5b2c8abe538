"""The JSON form of a graph, with the keys of the reference system and ours beside them (pure).

    {"name": "Approval", "entryPoint": "intake",
     "tasks": [{"name": "intake", "url": "https://credit.example:428/intake"}, ...],
     "transitions": [{"from": "intake", "to": "decide", "when": "amount > 10"}, ...],
     "reducers": {"messages": "append"}}

A task may have fanIn, join ("first_error" or how many branches are enough), timeBudget (seconds), workflow (true: the
URL is a workflow's), inputs, outputs; a transition withGoto, switch, onError, onTimeout, forEach, as, maxParallel.
Falsy keys are left out. Combinations that no transition can have are read as problems of the graph, for `validate` to
report with all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import msgspec

from mbactor.errors import InvalidGraph
from mbactor.foreman.model.join import Join
from mbactor.foreman.model.transition import END, Node, Transition, TransitionKind

if TYPE_CHECKING:
    from mbactor.foreman.model.graph import Graph


class _Task(msgspec.Struct, rename="camel", omit_defaults=True):
    name: str
    url: str = ""
    fan_in: bool = False
    join: int | Literal["first_error"] | None = None
    time_budget: float | None = None
    workflow: bool = False
    inputs: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    rate: str = ""


class _Edge(msgspec.Struct, omit_defaults=True):
    source: str = msgspec.field(name="from")
    target: str = msgspec.field(name="to")
    when: str = ""
    goto: bool = msgspec.field(default=False, name="withGoto")
    for_each: str = msgspec.field(default="", name="forEach")
    as_: str = msgspec.field(default="", name="as")
    on_error: bool = msgspec.field(default=False, name="onError")
    on_timeout: bool = msgspec.field(default=False, name="onTimeout")
    switch: bool = False
    max_parallel: int | None = msgspec.field(default=None, name="maxParallel")


class _Graph(msgspec.Struct, rename="camel", omit_defaults=True):
    name: str
    entry_point: str = ""
    tasks: list[_Task] = []
    transitions: list[_Edge] = []
    reducers: dict[str, str] = {}
    prefix_reducers: bool = True


@dataclass(frozen=True, slots=True)
class Parts:
    """What a JSON form says, and what is wrong with it."""

    name: str
    entry_point: str | None
    prefix_reducers: bool
    nodes: tuple[Node, ...]
    transitions: tuple[Transition, ...]
    reducers: Mapping[str, str]
    problems: tuple[str, ...]


def to_dict(graph: Graph) -> dict[str, Any]:
    """The graph as plain values."""
    whole = _Graph(
        name=graph.name,
        entry_point=graph.entry_point,
        tasks=[_task_of(node) for node in graph.nodes],
        transitions=[_edge_of(transition) for transition in graph.transitions],
        reducers=dict(graph.reducers),
        prefix_reducers=graph.prefix_reducers,
    )
    plain: dict[str, Any] = msgspec.to_builtins(whole)
    return {"name": graph.name, "entryPoint": "", "tasks": [], "transitions": []} | plain


def to_text(data: Mapping[str, Any]) -> str:
    return msgspec.json.encode(data).decode()


def parts_of_dict(data: Mapping[str, Any]) -> Parts:
    """`InvalidGraph` names the place where the data has another shape than a graph."""
    try:
        return _parts(msgspec.convert(data, _Graph))
    except msgspec.ValidationError as error:
        _refuse(data, error)


def parts_of_text(text: str | bytes) -> Parts:
    """As `parts_of_dict`, of JSON text."""
    try:
        return _parts(msgspec.json.decode(text, type=_Graph))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        _refuse({}, error)


def _refuse(data: Any, error: Exception) -> NoReturn:
    name = data.get("name") if isinstance(data, Mapping) else None
    raise InvalidGraph(str(name or "?"), [f"not the JSON form of a graph: {error}"]) from None


def _parts(whole: _Graph) -> Parts:
    problems: list[str] = []
    nodes: dict[str, Node] = {}
    for task in whole.tasks:
        if task.join is not None and not task.fan_in:
            problems.append(f"node {task.name!r} has a join={task.join!r} and is no fan-in; mark it fanIn")
        if task.name in nodes or task.name == END:
            problems.append(f"node {task.name!r} is defined twice; give each node a name of its own")
        nodes.setdefault(task.name, _node_of(task))
    if nodes.pop(END, None) is not None:
        problems.append(f"node {END!r} is reserved for the end of the flow; name the node otherwise")
    for edge in whole.transitions:
        problems += [f"edge {edge.source} -> {edge.target}: {problem}" for problem in _contradictions(edge)]
    return Parts(
        whole.name,
        whole.entry_point or None,
        whole.prefix_reducers,
        tuple(nodes.values()),
        tuple(_transition_of(edge) for edge in whole.transitions),
        whole.reducers,
        tuple(problems),
    )


def _contradictions(edge: _Edge) -> list[str]:
    given = {
        "withGoto": edge.goto,
        "forEach": bool(edge.for_each),
        "onError": edge.on_error,
        "onTimeout": edge.on_timeout,
        "switch": edge.switch,
    }
    kinds = [name for name, is_set in given.items() if is_set]
    found = []
    if len(kinds) > 1:
        found.append(f"{' and '.join(kinds)} exclude each other; use one edge for each")
    if edge.as_ and not edge.for_each:
        found.append(f"as={edge.as_!r} without forEach; as names the element of a forEach")
    if edge.max_parallel is not None and not edge.for_each:
        found.append(f"maxParallel={edge.max_parallel} without forEach; it bounds the branches of a forEach")
    if edge.when and (edge.on_error or edge.on_timeout or edge.goto):
        found.append(f"{kinds[0]} takes no when; decide in the task, or in an edge behind it")
    return found


def _kind_of(edge: _Edge) -> TransitionKind:
    if edge.on_timeout:
        return "on_timeout"
    if edge.on_error:
        return "on_error"
    if edge.switch:
        return "switch"
    if edge.goto:
        return "goto"
    if edge.for_each:
        return "for_each"
    return "when" if edge.when else "plain"


def _transition_of(edge: _Edge) -> Transition:
    item = edge.as_ or ("item" if edge.for_each else None)
    return Transition(
        edge.source, edge.target, _kind_of(edge), edge.when or None, edge.for_each or None, item, edge.max_parallel
    )


def _edge_of(transition: Transition) -> _Edge:
    kind = transition.kind
    return _Edge(
        source=transition.source,
        target=transition.target,
        when=transition.when or "",
        goto=kind == "goto",
        for_each=transition.for_each or "",
        as_=transition.as_ or "",
        on_error=kind == "on_error",
        on_timeout=kind == "on_timeout",
        switch=kind == "switch",
        max_parallel=transition.max_parallel,
    )


def _node_of(task: _Task) -> Node:
    return Node(
        task.name, task.url or task.name, task.fan_in, task.time_budget, task.workflow, task.inputs, task.outputs,
        _join_of(task), task.rate,
    )  # fmt: skip


def _join_of(task: _Task) -> Join:
    if task.join is None:
        return Join.ALL
    return Join.FIRST_ERROR if task.join == "first_error" else Join.at_least(task.join)


def _task_of(node: Node) -> _Task:
    needed = node.join.needed
    return _Task(
        name=node.name,
        url=node.url,
        fan_in=node.fan_in,
        join=needed if isinstance(needed, int) else "first_error" if needed == "every" else None,
        time_budget=node.time_budget,
        workflow=node.subgraph,
        inputs=node.inputs,
        outputs=node.outputs,
        rate=node.rate,
    )
