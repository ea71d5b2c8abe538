"""Random programs of actors that ask each other: each ask ends, as a deadlock if it is one and never if it is none.

The programs run on the real kernel in virtual time. What waits for what is written down by the programs themselves, as
they run, in `World`: which call awaits which asks, which asks have begun, which calls are run. From that alone the
world judges, and naively: an edge for each wait, and a deadlock is a circle of edges.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from mbactor import Actor, ActorRef, ActorSystem, BudgetSpent, Mailbox, MbactorError, child, endpoint
from mbactor.errors import Deadlock
from mbactor.kernel import waits
from mbactor.testing import VirtualTimeLoop

BUDGET = 40.0
"""Virtual seconds for an ask: far more than a program without a deadlock needs."""
BLINK = 0.15
"""Virtual seconds in which a deadlock has to be broken."""
PATIENCE = 60.0
"""Real seconds for a program."""
FUEL = 4
"""How deep calls go."""
CALLS = 40
"""How many asks and tells a program makes."""

Kind = Literal["serial", "narrow", "crowd", "reentrant"]
How = Literal["gather", "TaskGroup", "anyio", "wait"]


# --- programs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sleep:
    seconds: float


@dataclass(frozen=True)
class Ask:
    """Ask, and wait for the answer: at once, later, for so long at most; or only look whether it comes, or not even
    that.
    """

    actor: int
    method: int
    wait: Literal["await", "late", "hurry", "glance", "race", "shield", "leave"]
    seconds: float


@dataclass(frozen=True)
class Tell:
    actor: int
    method: int


@dataclass(frozen=True)
class Together:
    """Run branches at once, and wait for all of them."""

    how: How
    branches: list[Script]


@dataclass(frozen=True)
class Apart:
    """Run something beside itself, as a task of asyncio or of the actor, and wait for it or not."""

    supervised: bool
    awaited: bool
    script: Script


Step = Sleep | Ask | Tell | Together | Apart
Script = list[Step]


@dataclass(frozen=True)
class Program:
    """Actors, each with three methods, and the asks from outside that set them going, each at its time."""

    kinds: list[Kind]
    methods: list[Script]
    roots: list[tuple[float, int, int]]
    seed: int = 0

    def script(self, actor: int, method: int) -> Script:
        return self.methods[(actor * 3 + method) % len(self.methods)]


_short = st.sampled_from([0.0, 0.01, 0.03])
_long = st.sampled_from([0.1, 0.2])
_actors = st.integers(0, 5)
_methods = st.integers(0, 2)
_waits = st.sampled_from(["await", "await", "await", "late", "hurry", "glance", "race", "shield", "leave"])
_asks = st.builds(Ask, _actors, _methods, _waits, _long)
_simple = st.one_of(_asks, _asks, st.builds(Sleep, _short), st.builds(Tell, _actors, _methods))
_branches: st.SearchStrategy[Script] = st.lists(_simple, min_size=1, max_size=2)
_together = st.builds(
    Together, st.sampled_from(["gather", "TaskGroup", "anyio", "wait"]), st.lists(_branches, min_size=2, max_size=3)
)
_apart = st.builds(Apart, st.booleans(), st.booleans(), _branches)
_scripts: st.SearchStrategy[Script] = st.lists(
    st.one_of(_simple, _simple, _simple, _together, _apart), min_size=1, max_size=3
)
_kinds = st.sampled_from(["serial", "serial", "serial", "narrow", "crowd", "reentrant"])
programs = st.builds(
    Program,
    kinds=st.lists(_kinds, min_size=2, max_size=6),
    methods=st.lists(_scripts, min_size=2, max_size=18),
    roots=st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.02, 0.1]), _actors, _methods), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
)


# --- the world: what waits for what --------------------------------------------------------------------------------------

Node = tuple[str, int]
"""("ask", n) or ("task", n)."""
Edge = tuple[Node, Node]


@dataclass
class Asked:
    """An ask or a tell, as far as it is known outside of the runtime."""

    actor: int
    main: Node | None = None
    """The task that runs it, once it is run."""
    done: bool = False
    """Whether its asker has an answer."""
    let_in: tuple[float, Node] | None = None
    """When it began, and beside which call."""


@dataclass
class World:
    """Keeps who waits for whom while a program runs, and what of it must not be."""

    kinds: list[Kind]
    asked: dict[int, Asked] = field(default_factory=dict)
    waiting: dict[Node, set[Node]] = field(default_factory=dict)
    """What a task awaits, all of it."""
    running: dict[int, list[int]] = field(default_factory=dict)
    """The calls that an actor runs, in the order in which they began."""
    lane: dict[int, int] = field(default_factory=dict)
    """Of these the one that others wait for; what was let in beside it is not."""
    violations: list[str] = field(default_factory=list)
    outcomes: dict[int, str] = field(default_factory=dict)
    knotted: bool = False
    """Whether something waited in vain in a way that is left to the time budget."""
    _ids: int = 0

    # --- told by the program ---

    def next_id(self) -> int:
        self._ids += 1
        return self._ids

    def sends(self, actor: int) -> int:
        number = self.next_id()
        self.asked[number] = Asked(actor)
        return number

    @contextmanager
    def awaits(self, task: Node, *nodes: Node) -> Iterator[None]:
        self.waiting[task] = set(nodes)
        try:
            yield
        finally:
            del self.waiting[task]

    @contextmanager
    def runs(self, number: int) -> Iterator[Node]:
        asked = self.asked[number]
        running = self.running.setdefault(asked.actor, [])
        self._check_may_begin(number, asked, running)
        main = asked.main = ("task", number)
        running.append(number)
        try:
            yield main
        finally:
            running.remove(number)
            if self.lane.get(asked.actor) == number:
                del self.lane[asked.actor]

    def ended(self, number: int, future: asyncio.Future[Any]) -> None:
        """An asker has its answer. Told before anybody else learns of it."""
        error = None if future.cancelled() else future.exception()
        self.outcomes[number] = "cancelled" if future.cancelled() else type(error).__name__ if error else "answered"
        if isinstance(error, Deadlock):
            self._check_is_deadlock(number)
        elif isinstance(error, BudgetSpent) and not self.knotted:
            self.violations.append(f"ask {number} ended with its budget, and nothing explains why: {error}")
        elif error is not None and not isinstance(error, BudgetSpent):
            self.violations.append(f"ask {number} ended with {error!r}")
        self.asked[number].done = True

    # --- judged by the world ---

    def edges(self, *, let_in: bool) -> set[Edge]:
        """All waits. `let_in`: without those at reentrant actors, which let in what waits in a circle."""
        found = {(task, node) for task, nodes in self.waiting.items() for node in nodes if self._open(node)}
        for number, asked in self.asked.items():
            node = ("ask", number)
            if asked.done:
                continue
            if asked.main is not None:
                found.add((node, asked.main))
            elif asked.actor in self.lane and not (let_in and self.kinds[asked.actor] == "reentrant"):
                found.add((node, ("task", self.lane[asked.actor])))
        return found

    def _open(self, node: Node) -> bool:
        return node[0] == "task" or not self.asked[node[1]].done

    def _check_may_begin(self, number: int, asked: Asked, running: list[int]) -> None:
        kind, lane = self.kinds[asked.actor], self.lane.get(asked.actor)
        if kind == "crowd":
            if len(running) >= 2:
                self.violations.append(f"call {number} is the third at once of an actor with two places")
        elif lane is None:
            self.lane[asked.actor] = number
        elif kind != "reentrant":
            self.violations.append(f"call {number} runs beside call {lane} of a serial actor")
        else:
            if not reaches(self.edges(let_in=False) | self._just_let_in(), ("task", lane), ("ask", number)):
                self.violations.append(f"call {number} was let in beside call {lane}, which is just busy")
            asked.let_in = (asyncio.get_running_loop().time(), ("task", lane))

    def _just_let_in(self) -> set[Edge]:
        """Waits that ended at this very time: several calls may be let in together, and one of them begins first."""
        now = asyncio.get_running_loop().time()
        asked = ((("ask", number), asked.let_in) for number, asked in self.asked.items())
        return {(node, let_in[1]) for node, let_in in asked if let_in is not None and let_in[0] == now}

    def _check_is_deadlock(self, number: int) -> None:
        asked = self.asked[number]
        first = self.lane.get(asked.actor)
        if asked.main is not None:
            self.violations.append(f"ask {number} ended as a deadlock while it ran")
        elif first is None or not reaches(self.edges(let_in=True), ("task", first), ("ask", number)):
            self.violations.append(f"ask {number} ended as a deadlock, and call {first} before it does not wait for it")

    async def watch(self) -> None:
        """No circle lasts longer than a blink."""
        before: set[Edge] = set()
        while True:
            edges = self.edges(let_in=False)
            lasting = circle(edges & before)
            if lasting:
                self.violations.append(f"a deadlock was not broken: {lasting}")
                return
            self.knotted = self.knotted or bool(self._in_vain())
            before = edges
            await asyncio.sleep(BLINK)

    def _in_vain(self) -> set[Node]:
        """What waits for ever, where an actor with places for two has both taken by such."""
        nodes = {*self.waiting, *(("ask", number) for number, asked in self.asked.items() if not asked.done)}
        while True:
            goes_on = {node for node in nodes if self._goes_on(node, nodes)}
            if not goes_on:
                return nodes
            nodes -= goes_on

    def _goes_on(self, node: Node, stuck: set[Node]) -> bool:
        if node[0] == "task":
            return not any(one in stuck for one in self.waiting[node])
        asked = self.asked[node[1]]
        if asked.main is not None:
            return asked.main not in stuck
        running = [("task", number) for number in self.running.get(asked.actor, ())]
        return not running or any(one not in stuck for one in running)


def reaches(edges: Iterable[Edge], start: Node, goal: Node) -> bool:
    after: dict[Node, list[Node]] = {}
    for one, other in edges:
        after.setdefault(one, []).append(other)
    reached, rest = {start}, [start]
    while rest:
        for node in after.get(rest.pop(), ()):
            if node not in reached:
                reached.add(node)
                rest.append(node)
    return goal in reached


def circle(edges: set[Edge]) -> set[Edge]:
    """The edges that are part of a circle."""
    return {(one, other) for one, other in edges if reaches(edges, other, one)}


# --- the actors --------------------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """What the actors of one run share."""

    program: Program
    world: World
    refs: list[ActorRef[Any]] = field(default_factory=list)
    apart: set[asyncio.Task[None]] = field(default_factory=set)

    def ask(self, step: Ask, fuel: int) -> tuple[Node, asyncio.Future[None]]:
        actor = step.actor % len(self.refs)
        number = self.world.sends(actor)
        future: Any = None
        with anyio.CancelScope(deadline=anyio.current_time() + BUDGET):  # noqa: ASYNC100 - the ask reads it when made
            future = self.refs[actor].ask(Player.run, number, step.method, fuel)
        future.add_done_callback(lambda done: self.world.ended(number, done))
        return ("ask", number), future

    def tell(self, step: Tell, fuel: int) -> None:
        actor = step.actor % len(self.refs)
        number = self.world.sends(actor)
        self.world.asked[number].done = True
        self.refs[actor].tell(Player.run, number, step.method, fuel)


class Player(Actor):
    """Runs its scripts."""

    def __init__(self, place: int, stage: Any) -> None:
        self.place = place
        self.stage: Stage = stage

    @endpoint
    async def run(self, number: int, method: int, fuel: int) -> None:
        with self.stage.world.runs(number) as main:
            await self.play(self.stage.program.script(self.place, method), main, fuel)

    @endpoint
    async def ping(self) -> str:
        return "pong"

    async def play(self, script: Script, task: Node, fuel: int) -> None:
        for step in script:
            if isinstance(step, Sleep):
                await asyncio.sleep(step.seconds)
            elif isinstance(step, Together):
                await self.together(step, task, fuel)
            elif isinstance(step, Apart):
                await self.beside(step, task, fuel)
            elif fuel and len(self.stage.world.asked) < CALLS:
                if isinstance(step, Tell):
                    self.stage.tell(step, fuel - 1)
                else:
                    await self.asks(step, task, fuel - 1)

    async def asks(self, step: Ask, task: Node, fuel: int) -> None:
        node, future = self.stage.ask(step, fuel)
        with suppress(MbactorError, TimeoutError):  # the world has been told
            await WAITS[step.wait](self.stage.world, task, node, future, step.seconds)

    async def branch(self, script: Script, node: Node, fuel: int) -> None:
        world = self.stage.world
        try:
            await self.play(script, node, fuel)
        finally:
            for nodes in world.waiting.values():
                nodes.discard(node)

    async def together(self, step: Together, task: Node, fuel: int) -> None:
        nodes: list[Node] = [("task", self.stage.world.next_id()) for _ in step.branches]
        with self.stage.world.awaits(task, *nodes):
            await TOGETHER[step.how](
                [self.branch(script, node, fuel) for script, node in zip(step.branches, nodes, strict=True)]
            )

    async def beside(self, step: Apart, task: Node, fuel: int) -> None:
        node: Node = ("task", self.stage.world.next_id())
        work = self.branch(step.script, node, fuel)
        begun = self.spawn_task(work) if step.supervised else asyncio.create_task(work)
        self.stage.apart.add(begun)
        if step.awaited:
            with self.stage.world.awaits(task, node):
                await begun


class Narrow(Player):
    """Its senders wait for room."""

    mailbox = Mailbox(capacity=1, overflow="wait")


class Crowd(Player):
    concurrency = 2


class Reentrant(Player):
    reentrant = True


CLASSES: dict[Kind, type[Player]] = {"serial": Player, "narrow": Narrow, "crowd": Crowd, "reentrant": Reentrant}


# --- how they wait -----------------------------------------------------------------------------------------------------------

_Wait = Callable[[World, Node, Node, "asyncio.Future[None]", float], Awaitable[Any]]


async def _awaits(world: World, task: Node, node: Node, future: asyncio.Future[None], _: float) -> None:
    with world.awaits(task, node):
        await future


async def _late(world: World, task: Node, node: Node, future: asyncio.Future[None], seconds: float) -> None:
    await asyncio.sleep(seconds)
    with world.awaits(task, node):
        await future


async def _hurry(world: World, task: Node, node: Node, future: asyncio.Future[None], seconds: float) -> None:
    with world.awaits(task, node):
        async with asyncio.timeout(seconds):
            await future


async def _shield(world: World, task: Node, node: Node, future: asyncio.Future[None], _: float) -> None:
    with world.awaits(task, node):
        await asyncio.shield(future)


async def _glance(_: World, __: Node, ___: Node, future: asyncio.Future[None], seconds: float) -> None:
    await asyncio.wait([future], timeout=seconds)


async def _race(_: World, __: Node, ___: Node, future: asyncio.Future[None], seconds: float) -> None:
    sleeping = asyncio.create_task(asyncio.sleep(seconds))
    await asyncio.wait([future, sleeping], return_when=asyncio.FIRST_COMPLETED)
    await sleeping


async def _leave(_: World, __: Node, ___: Node, ____: asyncio.Future[None], _____: float) -> None:
    await asyncio.sleep(0)


WAITS: dict[str, _Wait] = {
    "await": _awaits, "late": _late, "hurry": _hurry, "glance": _glance, "race": _race, "shield": _shield,
    "leave": _leave,
}  # fmt: skip


async def _gather(branches: list[Any]) -> None:
    await asyncio.gather(*branches)


async def _group(branches: list[Any]) -> None:
    async with asyncio.TaskGroup() as group:
        for branch in branches:
            group.create_task(branch)


async def _anyio_group(branches: list[Any]) -> None:
    async def run(branch: Any) -> None:
        await branch

    try:
        async with anyio.create_task_group() as group:
            for branch in branches:
                group.start_soon(run, branch)
    finally:
        for branch in branches:
            branch.close()  # where it was cancelled before it began


async def _wait(branches: list[Any]) -> None:
    begun = [asyncio.create_task(branch) for branch in branches]
    try:
        await asyncio.wait(begun)
    finally:
        for one in begun:
            one.cancel()


TOGETHER: dict[How, Callable[[list[Any]], Awaitable[None]]] = {
    "gather": _gather, "TaskGroup": _group, "anyio": _anyio_group, "wait": _wait,
}  # fmt: skip


# --- a run -------------------------------------------------------------------------------------------------------------------


async def played(program: Program) -> World:
    """Run a program to its end, on the real kernel."""
    world = World(program.kinds)
    stage = Stage(program, world)
    async with ActorSystem() as system:
        for place, kind in enumerate(program.kinds):
            spec = child(CLASSES[kind], id=f"{kind}-{place}", args={"place": place, "stage": stage})
            stage.refs.append(await system.spawn(spec))
        watching = asyncio.create_task(world.watch())
        await asyncio.gather(*(_from_outside(stage, *root) for root in program.roots), return_exceptions=True)
        while (rest := [task for task in stage.apart if not task.done()]) or not world_rests(world):
            await asyncio.wait([*rest, asyncio.create_task(asyncio.sleep(1))], return_when=asyncio.FIRST_COMPLETED)
            assert asyncio.get_running_loop().time() < 20 * BUDGET, "every ask ends"
        began = asyncio.get_running_loop().time()
        for ref in stage.refs:
            assert await ref.ask(Player.ping) == "pong", "the actors go on working"
        assert asyncio.get_running_loop().time() - began < BLINK
        watching.cancel()
    return world


def world_rests(world: World) -> bool:
    return all(asked.done for asked in world.asked.values()) and not any(world.running.values())


async def _from_outside(stage: Stage, at: float, actor: int, method: int) -> None:
    await asyncio.sleep(at)
    _, future = stage.ask(Ask(actor, method, "await", 0), FUEL)
    await future


def run(program: Program) -> World:
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(program.seed, patience=PATIENCE)) as runner:
        return runner.run(played(program))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs)
def test_an_ask_ends_as_a_deadlock_at_once_if_and_only_if_it_is_one(program: Program) -> None:
    world = run(program)
    outcomes = set(world.outcomes.values())
    event(f"deadlock: {'Deadlock' in outcomes}, in vain: {world.knotted}")
    assert world.violations == []


# --- the judge -----------------------------------------------------------------------------------------------------------------

_NOTHING: Script = [Sleep(0)]
CROSSING = Program(
    ["serial", "serial"],
    [
        [Sleep(0.01), Ask(1, 1, "await", 0)],
        _NOTHING,
        _NOTHING,
        [Sleep(0.01), Ask(0, 1, "await", 0)],
        _NOTHING,
        _NOTHING,
    ],
    [(0.0, 0, 0), (0.0, 1, 0)],
)
PASSING = Program(
    ["serial", "serial"],
    [[Ask(1, 0, "leave", 0), Sleep(0.5)], _NOTHING, _NOTHING, [Ask(0, 1, "await", 0)], _NOTHING, _NOTHING],
    [(0.0, 0, 0)],
)
BUSY = Program(
    ["reentrant", "serial"],
    [[Sleep(0.5)], _NOTHING, _NOTHING, [Ask(0, 1, "await", 0)], _NOTHING, _NOTHING],
    [(0.0, 0, 0), (0.1, 1, 0)],
)
CROWDED = Program(["crowd", "serial"], [[Sleep(0.01), Ask(0, 1, "await", 0)], _NOTHING], [(0.0, 0, 0), (0.0, 0, 0)])


def test_two_that_cross_are_a_deadlock_of_one_of_them() -> None:
    world = run(CROSSING)
    assert (sorted(world.outcomes.values()).count("Deadlock"), world.violations) == (1, [])


@pytest.mark.parametrize("program", [PASSING, BUSY], ids=["passing", "busy"])
def test_none_that_merely_pass_or_are_busy_are_a_deadlock(program: Program) -> None:
    world = run(program)
    assert (set(world.outcomes.values()), world.violations) == ({"answered"}, [])


def test_places_that_are_all_taken_by_who_wants_another_are_left_to_the_time_budget() -> None:
    world = run(CROWDED)
    assert "BudgetSpent" in world.outcomes.values()
    assert (world.knotted, world.violations) == (True, [])


def test_the_judge_sees_a_deadlock_that_is_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits.Suspects, "add", lambda *_: None)
    assert any("was not broken" in violation for violation in run(CROSSING).violations)


def test_the_judge_sees_an_ask_that_ends_as_a_deadlock_and_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "waits_for", lambda *_: True)
    assert any("does not wait for it" in violation for violation in run(PASSING).violations)


def test_the_judge_sees_a_call_that_is_let_in_while_its_actor_is_just_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    def let_in(_: Any, ask: Any) -> None:
        ask.cell.gate(ask.route.gate).admit(ask)

    monkeypatch.setattr(waits.Suspects, "add", let_in)
    assert any("just busy" in violation for violation in run(BUSY).violations)
