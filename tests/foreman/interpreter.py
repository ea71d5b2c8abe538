"""What must come of a random workflow, worked out one step after the other with no engine at all.

expected(Program(body))               # how it must end
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.foreman.oracle import Fan, Handled, Program, State, Sub, Switch, Work, is_odd, writes_of


@dataclass
class Expected:
    status: str | None
    state: State | None
    """None: it depends on which branch is faster. So may the status."""


class _Failed(Exception):
    """A branch, or the trunk, ends here. `kept` is what the failing step wrote in earlier runs."""

    def __init__(self, kept: State) -> None:
        self.kept = kept


class _Line:
    """Steps one after another: the state they reached, and the delta of each step that completed.

    Where a line `heals`, whatever fails is run again, and from then on it is `healed`: nothing of it fails any more.
    """

    def __init__(self, oracle: Oracle, state: State, *, heals: bool = False, healed: bool = False) -> None:
        self.oracle = oracle
        self.state = dict(state)
        self.deltas: list[State] = []
        self.failed = False
        self.heals = heals
        self.healed = healed

    def done(self, delta: State) -> None:
        self.deltas.append(delta)
        self.state = applied(self.state, delta)

    def again(self, act: Callable[[], None]) -> None:
        try:
            act()
        except _Failed:
            if not self.heals or self.healed:
                raise
            self.healed = True
            act()

    def run(self, body: list[Any]) -> None:
        for block in body:
            self.block(block)

    def block(self, block: Any) -> None:
        match block:
            case Work():
                self.again(lambda: self.work(block))
            case Sub():
                self.again(lambda: self.call(block))
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

    def call(self, block: Sub) -> None:
        child = self.oracle.whole(block.body, self.state, healed=self.healed)
        if child.status == "failed":
            raise _Failed({})
        returned = (child.state or {}).items()
        self.done({name: value for name, value in returned if name not in self.state or self.state[name] != value})

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
            fails = "" if self.healed else work.fails
            if fails in {"always", "late"} or (fails == "odd" and is_odd(applied(self.state, delta))):
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
            self.oracle.fuzzy |= self.heals
            self.oracle.hopeless = True
            raise _Failed({})
        lines = [self.oracle.branch(body, state, self) for body, state in starts]
        if any(line.healed for line in lines) and not self.healed:
            self.healed = True
            self.oracle.fuzzy |= needed != "all"
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
        self.hopeless = False
        """A fan-out had fewer branches than its fan-in needs: that does not heal."""

    def branch(self, body: list[Any], state: State, within: _Line) -> _Line:
        line = _Line(self, state, heals=within.heals, healed=within.healed)
        try:
            line.run(body)
        except _Failed:
            line.failed = True
        return line

    def whole(self, body: list[Any], state: State, *, heals: bool = False, healed: bool = False) -> Expected:
        line = _Line(self, state, heals=heals, healed=healed)
        try:
            line.run(body)
        except _Cohort as failure:
            return Expected("failed", failure.kept)
        except _Failed as failure:
            return Expected("failed", applied(line.state, failure.kept))
        return Expected("completed", line.state)


def expected(program: Program, *, heals: bool = False) -> Expected:
    """How the program ends; where it heals, once what fails is run again and fails no more."""
    oracle = Oracle()
    found = oracle.whole(program.body, program.state, heals=heals)
    if not oracle.fuzzy:
        return found
    # Which branch is faster decides what is read later, and so whether a task fails that is never reached here.
    return Expected("completed" if not oracle.hopeless and (heals or not may_fail(program.body)) else None, None)


def may_fail(body: list[Any]) -> bool:
    """Whether any task of it fails in some state."""
    match body:
        case [Work() as block, *rest] | [Handled(work=Work() as block), *rest]:
            return bool(block.fails) or may_fail(rest)
        case [Sub(body=inner), *rest]:
            return may_fail(inner) or may_fail(rest)
        case [Switch() as block, *rest]:
            return may_fail([block.work, block.end, *block.odd, *block.even, *rest])
        case [Fan() as block, *rest]:
            return may_fail([block.work, block.end, *(one for branch in block.branches for one in branch), *rest])
        case _:
            return False


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
