"""Which fan-in each fan-out converges on, and where the branches of a graph do not converge (pure).

A walk over the edges carries the stack of fan-outs that are open at each node. A fan-out source opens a
frame; an edge into a fan-in closes the innermost. A node must have one stack, whichever way it is
reached; END must have an empty one. An override (goto, on_error, on_timeout, switch) opens nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

_END = "END"
Stack = tuple[str, ...]


class Edge(Protocol):
    """What the walk reads of a transition."""

    @property
    def source(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def spawns(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Lineage:
    """Fan-out source -> fan-in, every problem found, and the fan-outs open at each node."""

    fan_ins: Mapping[str, str]
    problems: tuple[str, ...]
    stacks: Mapping[str, Stack]


def trace(
    entry: str,
    out: Mapping[str, Sequence[Edge]],
    fan_out_sources: Container[str],
    fan_in_nodes: Container[str],
) -> Lineage:
    """Walk the graph from its entry point."""
    walk = _Walk(out, fan_out_sources, fan_in_nodes)
    if entry in out:
        walk.run(entry)
    return Lineage(walk.fan_ins, tuple(walk.problems), walk.stacks)


@dataclass
class _Walk:
    out: Mapping[str, Sequence[Edge]]
    fan_out_sources: Container[str]
    fan_in_nodes: Container[str]
    stacks: dict[str, Stack] = field(default_factory=dict)
    fan_ins: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def run(self, entry: str) -> None:
        self.stacks[entry] = ()
        waiting = deque([entry])
        while waiting:
            source = waiting.popleft()
            for edge in self.out.get(source, ()):
                stack = self.after(edge, self.stacks[source])
                if stack is not None and self.reach(edge, stack):
                    waiting.append(edge.target)
        self.problems += [self.unconverged(name) for name in self.stacks if self.lacks_fan_in(name)]

    def lacks_fan_in(self, name: str) -> bool:
        return name in self.fan_out_sources and name not in self.fan_ins

    def after(self, edge: Edge, stack: Stack) -> Stack | None:
        """The fan-outs open behind the edge; None where the edge itself is a problem."""
        if edge.target in self.fan_in_nodes:
            return self.into_fan_in(edge, stack)
        if edge.spawns and edge.source in self.fan_out_sources:
            return (*stack, edge.source)
        return stack

    def into_fan_in(self, edge: Edge, stack: Stack) -> Stack | None:
        if edge.source in self.fan_out_sources:
            self.converge(edge.source, edge)
            return stack
        if not stack:
            self.note(
                f"{_text(edge)}: {edge.target!r} is marked fan-in, but no fan-out is open here "
                "(no fan-out frame to pop); unmark it, or reach it only from the branches of a fan-out"
            )
            return None
        self.converge(stack[-1], edge)
        return stack[:-1]

    def converge(self, spawn: str, edge: Edge) -> None:
        known = self.fan_ins.setdefault(spawn, edge.target)
        if known != edge.target:
            self.note(
                f"{_text(edge)}: the branches of fan-out {spawn!r} converge on different fan-ins, "
                f"{known!r} and {edge.target!r}; all of them must meet at one"
            )

    def reach(self, edge: Edge, stack: Stack) -> bool:
        """Whether the target is new; says what is wrong where it has other fan-outs open already."""
        target = edge.target
        if target == _END:
            if stack:
                self.note(
                    f"{_text(edge)}: END inside the fan-out of {stack[-1]!r} (unpopped fan-out frames); "
                    "its branches must meet at a node marked with set_fan_in before the flow ends"
                )
            return False
        if target not in self.out:
            return False
        known = self.stacks.get(target)
        if known is None:
            self.stacks[target] = stack
            return True
        if known != stack:
            self.note(
                f"{_text(edge)}: node {target!r} is reached {_inside(stack)} here and {_inside(known)} "
                f"elsewhere; register the task under a second name with set_endpoint and use that here"
            )
        return False

    def unconverged(self, spawn: str) -> str:
        edges = [edge for edge in self.out[spawn] if edge.spawns]
        targets = ", ".join(repr(edge.target) for edge in edges)
        advice = "mark the node where its branches meet with set_fan_in"
        if len(edges) > 1 and all(edge.kind == "when" for edge in edges):
            advice += ", or, if only one of them is to be taken (if/else), use add_transition_switch"
        return f"node {spawn!r} fans out to {targets}, but its branches reach no fan-in; {advice}"

    def note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def _text(edge: Edge) -> str:
    return f"edge {edge.source} -> {edge.target}"


def _inside(stack: Stack) -> str:
    return "inside the fan-out of " + " > ".join(map(repr, stack)) if stack else "outside any fan-out"
