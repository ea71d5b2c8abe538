"""Random workflows, whose tasks do everything a task may; `interpreter` says what must come of them.

    program = Program(body)               # `body` is drawn from PROGRAMS
    program.graphs, program.tasks         # for the engine

A program is a list of blocks, each with one way in and one way out: so every graph made of them is valid.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.join import Join

State = dict[str, Any]


@dataclass
class Work:
    """What a task does: it runs `retries` times more than once, asks, writes, and then may fail."""

    writes: tuple[str, ...] = ()
    retries: int = 0
    asks: int = 0
    sleeps: bool = False
    fails: str = ""
    """"always", "odd" (where its `acc` is odd), "late" (over its time budget)."""
    loops: int = 0
    name: str = ""


@dataclass
class Switch:
    work: Work
    odd: list[Any]
    even: list[Any]
    end: Work = field(default_factory=Work)


@dataclass
class Handled:
    work: Work
    handler: Work
    end: Work = field(default_factory=Work)


@dataclass
class Sub:
    body: list[Any]
    name: str = ""


@dataclass
class Fan:
    """Static branches, or with `each` a branch for each of so many elements."""

    work: Work
    branches: list[list[Any]]
    conditions: list[bool | None]
    each: int | None = None
    at_once: int | None = None
    join: Join = Join.ALL
    end: Work = field(default_factory=Work)


WORK = st.builds(
    Work,
    st.lists(st.sampled_from(["x", "acc", "sum_s", "list_l", "set_t", "-x"]), max_size=3).map(tuple),
    st.sampled_from([0, 0, 0, 1, 2]),
    st.sampled_from([0, 0, 0, 0, 1, 2]),
    st.sampled_from([False, False, True]),
    st.sampled_from([""] * 12 + ["always", "odd", "late"]),
    st.sampled_from([0, 0, 0, 1, 3]),
)
QUIET = st.builds(Work, st.lists(st.sampled_from(["x", "acc", "sum_s", "list_l"]), max_size=2).map(tuple))
JOINS = st.sampled_from([Join.ALL] * 6 + [Join.FIRST_ERROR, Join.ANY, Join.at_least(2)])


def _fans(inner: st.SearchStrategy[list[Any]]) -> st.SearchStrategy[Fan]:
    fans = st.lists(inner, min_size=2, max_size=3).flatmap(
        lambda branches: st.builds(
            Fan, QUIET, st.just(branches),
            st.lists(st.sampled_from([None, None, True, False]), min_size=len(branches), max_size=len(branches)),
            join=JOINS, end=QUIET,
        )
    )  # fmt: skip
    eaches = st.builds(
        Fan, QUIET, st.lists(inner, min_size=1, max_size=1), st.just([None]), st.integers(0, 3),
        st.sampled_from([None, 1, 2]), JOINS, QUIET,
    )  # fmt: skip
    return st.one_of(fans, eaches)


def _blocks(inner: st.SearchStrategy[list[Any]]) -> st.SearchStrategy[list[Any]]:
    block = st.one_of(
        WORK, WORK, _fans(inner), _fans(inner), st.builds(Switch, QUIET, inner, inner, QUIET),
        st.builds(Handled, WORK, QUIET, QUIET), st.builds(Sub, inner),
    )  # fmt: skip
    return st.lists(block, min_size=1, max_size=3)


PROGRAMS = st.recursive(st.lists(WORK, min_size=1, max_size=2), _blocks, max_leaves=6)
FANNED = st.builds(
    lambda before, fan, after: [*before, fan, *after], st.lists(WORK, max_size=1),
    _fans(st.one_of(PROGRAMS, st.lists(_fans(PROGRAMS), min_size=1, max_size=1))), st.lists(WORK, max_size=1),
)  # fmt: skip
"""Programs that fan out, and often again within."""


def healthy(body: list[Any]) -> list[Any]:
    """The same program, in which nothing fails."""
    for block in body:
        match block:
            case Work():
                block.fails = ""
            case Sub():
                healthy(block.body)
            case Handled():
                block.work.fails = ""
            case Switch():
                healthy(block.odd + block.even)
            case Fan():
                healthy([one for branch in block.branches for one in branch])
    return body


# --- for the engine -------------------------------------------------------------------------------------------


class Program:
    """A program with names: its graphs, its tasks, and its initial state."""

    def __init__(self, body: list[Any], pace: float = 1.0) -> None:
        self.body = body
        self.pace = pace
        """Seconds that stand for one."""
        self.healed = False
        """From now on no task fails."""
        self.graphs: dict[str, Graph] = {}
        self.tasks: dict[str, Callable[[Flow], Any]] = {}
        self.state: State = {}
        self._names = 0
        self.graph = self._graph("root", body)

    def _name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}{self._names}"

    def _graph(self, name: str, body: list[Any]) -> Graph:
        graph = self.graphs[name] = Graph(name)
        entry, exit = self._line(graph, body)
        graph.set_entry_point(entry)
        graph.add_transition(exit, END)
        return graph

    def _node(self, graph: Graph, work: Work) -> str:
        work.name = self._name("t")
        self.tasks[work.name] = lambda flow: perform(work, flow, self.pace, healed=self.healed)
        graph.set_endpoint(work.name, work.name)
        if work.loops:
            graph.add_transition_goto(work.name, work.name)
        if work.fails == "late":
            graph.set_time_budget(work.name, self.pace)
        return work.name

    def _line(self, graph: Graph, body: list[Any]) -> tuple[str, str]:
        ends = [self._block(graph, block) for block in body]
        for (_, before), (after, _) in pairwise(ends):
            graph.add_transition(before, after)
        return ends[0][0], ends[-1][1]

    def _block(self, graph: Graph, block: Any) -> tuple[str, str]:
        match block:
            case Work():
                name = self._node(graph, block)
                return name, name
            case Sub():
                child = self._name("child")
                self._graph(child, block.body)
                block.name = self._name("call")
                graph.add_subgraph(block.name, child)
                return block.name, block.name
        start, end = self._node(graph, block.work), self._node(graph, block.end)
        match block:
            case Handled():
                handler = self._node(graph, block.handler)
                graph.add_transition(start, end)
                (graph.add_transition_on_timeout if block.work.fails == "late" else graph.add_transition_on_error)(
                    start, handler
                )
                graph.add_transition(handler, end)
            case Switch():
                for when, body in (("acc =~ '[13579]$'", block.odd), ("true", block.even)):
                    first, last = self._line(graph, body)
                    graph.add_transition_switch(start, first, when)
                    graph.add_transition(last, end)
            case Fan():
                for body, condition in zip(block.branches, block.conditions, strict=True):
                    first, last = self._line(graph, body)
                    graph.add_transition(last, end)
                    if block.each is not None:
                        items = f"items_{start}"
                        self.state[items] = list(range(block.each))
                        graph.add_transition_for_each(
                            start, first, for_each=items, as_=f"item_{start}", max_parallel=block.at_once
                        )
                    elif condition is None:
                        graph.add_transition(start, first)
                    else:
                        graph.add_transition_when(start, first, str(condition).lower())
                graph.set_fan_in(end, join=block.join)
        return start, end


async def perform(work: Work, flow: Flow, pace: float, *, healed: bool) -> None:
    """The task of a node."""
    if flow.attempt < work.retries:
        flow[f"tries_{work.name}"] = flow.attempt + 1
        flow.retry(0.01 * pace)
        return
    for number in range(work.asks):
        flow[f"answer_{work.name}"] = flow.interrupt({"number": number})
    looped = flow.get(f"loops_{work.name}", 0)
    for name, value in writes_of(work, flow).items():
        flow[name] = value
    if work.sleeps:
        flow.sleep(0.5 * pace)
    fails = "" if healed else work.fails
    if fails == "late":
        await asyncio.sleep(30 * pace)
    if fails == "always" or (fails == "odd" and is_odd(flow)):
        raise ValueError(work.name)
    if looped < work.loops:
        flow[f"loops_{work.name}"] = looped + 1
        flow.goto(work.name)


def writes_of(work: Work, state: Any) -> State:
    """What a run writes, from what it reads."""
    found: State = {}
    for name in work.writes:
        match name:
            case "x":
                found["x"] = work.name
            case "-x":
                found["x"] = None
            case "acc":
                found["acc"] = str((int(state.get("acc", "0")) * 3 + len(work.writes)) % 997)
            case "sum_s":
                found["sum_s"] = 1
            case name:
                found[name] = [work.name]
    return found


def is_odd(state: Any) -> bool:
    return int(state.get("acc", "0")) % 2 == 1
