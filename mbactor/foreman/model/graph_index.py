"""What follows from the nodes and edges of a graph, worked out once for all questions of the planner.

index = index_of(nodes, transitions, entry_point, fan_ins)
index.out["check"]              # the edges that leave the node
index.fan_ins["check"]          # where the cohort that it spawns converges
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mbactor.foreman.model import lineage
from mbactor.foreman.model.transition import Node, Transition


@dataclass(frozen=True, slots=True)
class BranchEnd:
    """What it means for the cohorts around a step of a node that its branch ends with it."""

    fan_ins: tuple[str, ...]
    """Where these cohorts converge, innermost first."""
    makes_room: bool
    """Whether other branches may wait for that."""


@dataclass(frozen=True, slots=True)
class GraphIndex:
    """Of each node, by name: itself, its edges, the edge that is taken whatever the state is, and its fan-outs; of one
    that limits it how many branches may be under way at once.
    """

    nodes: Mapping[str, Node]
    out: Mapping[str, tuple[Transition, ...]]
    only_ways: Mapping[str, Transition]
    fan_out_sources: frozenset[str]
    most_at_once: Mapping[str, int]
    fan_ins: Mapping[str, str]
    stacks: Mapping[str, tuple[str, ...]]
    ends: Mapping[str, BranchEnd]
    branch_fields: Mapping[str, frozenset[str]]
    problems: tuple[str, ...]


def index_of(
    nodes: Iterable[Node], transitions: Iterable[Transition], entry_point: str, fan_ins: Collection[str]
) -> GraphIndex:
    """The index of a graph of these parts, which need not be a valid one."""
    by_name = {node.name: node for node in nodes}
    out: dict[str, tuple[Transition, ...]] = dict.fromkeys(by_name, ())
    for edge in transitions:
        out[edge.source] = (*out.get(edge.source, ()), edge)
    sources = frozenset(name for name, edges in out.items() if _fans_out(edges))
    found = lineage.trace(entry_point, out, sources, fan_ins)
    routed = {name: [edge for edge in edges if edge.routes] for name, edges in out.items()}
    only_ways = {name: ways[0] for name, ways in routed.items() if len(ways) == 1 and ways[0].kind == "plain"}
    limits = {
        name: [edge.max_parallel for edge in edges if edge.max_parallel is not None] for name, edges in out.items()
    }
    most = {name: min(given) for name, given in limits.items() if given}
    fields = _branch_fields(sources, out, found.stacks)
    ends = {name: _branch_end(stack, found.fan_ins, most) for name, stack in found.stacks.items()}
    return GraphIndex(by_name, out, only_ways, sources, most, found.fan_ins, found.stacks, ends, fields, found.problems)


def _branch_end(stack: Sequence[str], fan_ins: Mapping[str, str], most_at_once: Collection[str]) -> BranchEnd:
    known = tuple(fan_ins[name] for name in stack[::-1] if name in fan_ins)
    return BranchEnd(known, makes_room=not stack or stack[-1] in most_at_once)


def _fans_out(edges: Sequence[Transition]) -> bool:
    return any(edge.kind == "for_each" for edge in edges) or sum(edge.spawns for edge in edges) >= 2


def _branch_fields(
    sources: Collection[str], out: Mapping[str, Sequence[Transition]], stacks: Mapping[str, Sequence[str]]
) -> Mapping[str, frozenset[str]]:
    """Of each fan-out the fields that its branches have for themselves, and those of fan-outs within them."""
    own = {
        source: frozenset(name for edge in out[source] if edge.kind == "for_each" for name in edge.branch_fields)
        for source in sources
    }
    if not any(own.values()):
        return {}
    return {
        source: own[source].union(*(own[inner] for inner in sources if source in stacks.get(inner, ())))
        for source in sources
    }
