"""Random workflows and what must come of them, worked out one step after the other with no engine at all.

    program = Program(body)               # `body` is drawn from PROGRAMS
    program.graphs, program.tasks         # for the engine
    expected(program)                     # what it must end with

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


def _blocks(inner: st.SearchStrategy[list[Any]]) -> st.SearchStrategy[list[Any]]:
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
    block = st.one_of(
        WORK, WORK, fans, eaches, st.builds(Switch, QUIET, inner, inner, QUIET), st.builds(Handled, WORK, QUIET, QUIET),
        st.builds(Sub, inner),
    )  # fmt: skip
    return st.lists(block, min_size=1, max_size=3)


PROGRAMS = st.recursive(st.lists(WORK, min_size=1, max_size=2), _blocks, max_leaves=6)


# --- for the engine -------------------------------------------------------------------------------------------


class Program:
    """A program with names: its graphs, its tasks, and its initial state."""

    def __init__(self, body: list[Any], pace: float = 1.0) -> None:
        self.body = body
        self.pace = pace
        """Seconds that stand for one."""
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
        self.tasks[work.name] = lambda flow: perform(work, flow, self.pace)
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


async def perform(work: Work, flow: Flow, pace: float) -> None:
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
    if work.fails == "late":
        await asyncio.sleep(30 * pace)
    if work.fails == "always" or (work.fails == "odd" and is_odd(flow)):
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


# --- with no engine -------------------------------------------------------------------------------------------


@dataclass
class Expected:
    status: str
    state: State | None
    """None: it depends on which branch is faster."""


class _Failed(Exception):
    """A branch, or the trunk, ends here. `kept` is what the failing step wrote in earlier runs."""

    def __init__(self, kept: State) -> None:
        self.kept = kept


class _Line:
    """Steps one after another: the state they reached, and the delta of each step that completed."""

    def __init__(self, oracle: Oracle, state: State) -> None:
        self.oracle = oracle
        self.state = dict(state)
        self.deltas: list[State] = []
        self.failed = False

    def done(self, delta: State) -> None:
        self.deltas.append(delta)
        self.state = applied(self.state, delta)

    def run(self, body: list[Any]) -> None:
        for block in body:
            self.block(block)

    def block(self, block: Any) -> None:
        match block:
            case Work():
                self.work(block)
            case Sub():
                child = self.oracle.whole(block.body, self.state)
                if child.status == "failed":
                    raise _Failed({})
                self.done(dict(child.state or {}))
            case Handled():
                try:
                    self.work(block.work)
                except _Failed as failure:
                    if isinstance(failure, _Cohort):
                        raise
                    self.done({**failure.kept, "on_err": True})
                    self.work(block.handler)
                self.work(block.end)
            case Switch():
                self.work(block.work)
                self.run(block.odd if is_odd(self.state) else block.even)
                self.work(block.end)
            case Fan():
                self.fan(block)

    def work(self, work: Work) -> None:
        while True:
            delta: State = {}
            if work.retries:
                delta[f"tries_{work.name}"] = work.retries
            kept = dict(delta)
            for number in range(work.asks):
                kept = dict(delta)
                delta[f"answer_{work.name}"] = number + 10
            live = applied(self.state, delta)
            looped = live.get(f"loops_{work.name}", 0)
            delta |= writes_of(work, live)
            if work.fails in {"always", "late"} or (work.fails == "odd" and is_odd(applied(self.state, delta))):
                raise _Failed(kept)
            if looped < work.loops:
                delta[f"loops_{work.name}"] = looped + 1
            self.done(delta)
            if looped >= work.loops:
                return

    def fan(self, block: Fan) -> None:
        before, needed = self.state, block.join.needed
        own = writes_of(block.work, before)
        live = applied(before, own)
        if block.each is not None:
            name = f"item_{block.work.name}"
            fields = [{name: n, f"{name}_index": n, f"{name}_count": block.each} for n in range(block.each)]
            starts = [(block.branches[0], live | more) for more in fields]
        else:
            starts = [
                (body, live) for body, when in zip(block.branches, block.conditions, strict=True) if when is not False
            ]
        if isinstance(needed, int) and len(starts) < needed:
            raise _Failed({})
        lines = [self.oracle.branch(body, state) for body, state in starts]
        good = [line for line in lines if not line.failed]
        enough = len(good) >= (needed if isinstance(needed, int) else len(lines))
        if isinstance(needed, int) and len(good) != needed:
            self.oracle.fuzzy = True
        if not enough and needed != "all":
            self.oracle.fuzzy = True
        arrived = good if isinstance(needed, int) and enough else lines
        deltas = [own, *(delta for line in arrived for delta in line.deltas)]
        self.deltas += deltas
        if not enough:
            raise _Cohort(reduced(before, deltas))
        self.state = reduced(before, deltas)
        self.work(block.end)


class _Cohort(_Failed):
    """A fan-out failed; `kept` is the whole state then."""


class Oracle:
    def __init__(self) -> None:
        self.fuzzy = False

    def branch(self, body: list[Any], state: State) -> _Line:
        line = _Line(self, state)
        try:
            line.run(body)
        except _Failed:
            line.failed = True
        return line

    def whole(self, body: list[Any], state: State) -> Expected:
        line = _Line(self, state)
        try:
            line.run(body)
        except _Cohort as failure:
            return Expected("failed", failure.kept)
        except _Failed as failure:
            return Expected("failed", applied(line.state, failure.kept))
        return Expected("completed", line.state)


def expected(program: Program) -> Expected:
    """How the program ends."""
    oracle = Oracle()
    found = oracle.whole(program.body, program.state)
    return Expected(found.status, None) if oracle.fuzzy else found


def applied(state: State, delta: State) -> State:
    return {name: value for name, value in {**state, **delta}.items() if value is not None}


def reduced(state: State, deltas: list[State]) -> State:
    for delta in deltas:
        state = {**state}
        for name, value in delta.items():
            base = state.get(name)
            if (name == "sum_s" and base is not None) or (name == "list_l" and base is not None):
                state[name] = base + value
            elif name == "set_t" and base is not None:
                state[name] = base + [one for one in value if one not in base]
            else:
                state[name] = value
        state = {name: value for name, value in state.items() if value is not None}
    return state
