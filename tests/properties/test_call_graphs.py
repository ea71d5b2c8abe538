"""Random graphs of calls between actors, on the real kernel: what waits in a circle fails, nothing else does.

The scripts themselves write down who awaits what, when each call was asked, began and ended. A naive judge follows
those records; it knows nothing of how the kernel looks for cycles.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from mbactor import Actor, ActorRef, ActorSystem, Deadlock, MbactorError, child, endpoint
from mbactor.testing.stage import Stage

How = Literal["await", "gather", "gather all", "task", "late", "left", "tell", "sleep"]
Kind = Literal["serial", "concurrent", "reentrant"]
NOTICED = 0.11
"""Seconds within which a circle has to be broken: an ask that is awaited late is looked at again every 0.05."""


# --- scripts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    how: How
    calls: tuple[Script, ...] = ()
    milliseconds: int = 0


@dataclass(frozen=True)
class Script:
    """What one call does, at one actor."""

    actor: int
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Plan:
    kinds: tuple[Kind, ...]
    roots: tuple[tuple[int, Script], ...]
    """With the millisecond at which each is asked."""
    seed: int


SLEEPS = st.builds(Step, st.just("sleep"), milliseconds=st.integers(0, 9))


def scripts(depth: int) -> st.SearchStrategy[Script]:
    steps = SLEEPS
    if depth:
        deeper = scripts(depth - 1)
        one = st.builds(
            Step,
            st.sampled_from(["await", "task", "late", "left", "tell"]),
            st.tuples(deeper),
            st.integers(0, 9),
        )
        several = st.builds(
            Step, st.sampled_from(["gather", "gather all"]), st.lists(deeper, min_size=2, max_size=3).map(tuple)
        )
        steps = st.one_of(one, SLEEPS, several)
    return st.builds(Script, st.integers(0, 4), st.lists(steps, max_size=3).map(tuple))


PLANS = st.builds(
    Plan,
    st.lists(st.sampled_from(["serial", "serial", "concurrent", "reentrant"]), min_size=2, max_size=5).map(tuple),
    st.lists(st.tuples(st.integers(0, 9), scripts(3)), min_size=1, max_size=4).map(tuple),
    st.integers(0, 3),
)


# --- what is recorded, and the judge -----------------------------------------------------------------------------------


@dataclass(eq=False)
class Record:
    """One call: a script that was asked, or told, once."""

    number: int
    actor: int
    asked: bool
    began: bool = False
    admitted: bool = False
    """It ran beside the call that waited for it. That may give up, and leave it running."""
    ended: bool = False
    end: str | None = None
    """How the ask ended, as its asker saw it."""
    awaits: list[Record] = field(default_factory=list)
    """What its method cannot go on without, at this moment."""

    def __repr__(self) -> str:
        return f"#{self.number} at {self.actor}"


@dataclass(eq=False)
class World:
    kinds: tuple[Kind, ...]
    refs: list[ActorRef[Any]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    scripts: dict[int, Script] = field(default_factory=dict)
    begun: list[Record] = field(default_factory=list)
    tasks: list[asyncio.Future[Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def recorded(self, script: Script, *, asked: bool) -> Record:
        record = Record(len(self.records), script.actor % len(self.kinds), asked)
        self.records.append(record)
        self.scripts[record.number] = script
        return record

    def runs(self, actor: int) -> list[Record]:
        return [one for one in self.begun if one.actor == actor and not one.ended]

    def waits_for(self, record: Record, *, reentrant: bool) -> list[Record]:
        """What has to end before this one can go on; `reentrant`: what may be admitted beside it counts as well."""
        if record.began:
            return [] if record.ended else record.awaits
        kind, runs = self.kinds[record.actor], self.runs(record.actor)
        if kind == "serial" or (kind == "reentrant" and reentrant):
            return runs if len(runs) == 1 else []
        return []

    def reaches(self, start: Record, goal: Record, *, reentrant: bool) -> bool:
        """Whether one waits for the other, through any number of others."""
        seen: set[int] = set()
        ahead = [*self.waits_for(start, reentrant=reentrant)]
        while ahead:
            one = ahead.pop()
            if one is goal:
                return True
            if one.number not in seen and one.end is None:
                seen.add(one.number)
                ahead += self.waits_for(one, reentrant=reentrant)
        return False

    def circles(self) -> frozenset[int]:
        """The calls that wait for themselves."""
        waiting = (one for one in self.records if not one.ended and one.end is None)
        return frozenset(one.number for one in waiting if self.reaches(one, one, reentrant=True))

    # --- as it happens

    def begins(self, record: Record) -> None:
        beside = self.runs(record.actor)
        if self.kinds[record.actor] == "serial" and beside:
            self.wrong.append(f"{record} ran beside {beside}")
        if self.kinds[record.actor] == "reentrant" and beside:
            record.admitted = True
            if not any(one.admitted or one.awaits for one in beside):
                self.wrong.append(f"{record} ran beside {beside}, none of which waits")
        if record.end is not None:
            self.wrong.append(f"{record} ran after its asker had been told {record.end}")
        record.began = True
        self.begun.append(record)

    def ends(self, record: Record, error: BaseException | None) -> None:
        """An ask has its answer; who waited for it has not gone on yet."""
        if isinstance(error, Deadlock) and not self.reaches(record, record, reentrant=False):
            self.wrong.append(f"{record} ended by {error}, and waits in no circle")
        if error is not None and not isinstance(error, Deadlock):
            self.wrong.append(f"{record} ended by {error!r}")
        if error is None and not record.ended:
            self.wrong.append(f"{record} was answered before it ended")
        record.end = "answered" if error is None else type(error).__name__

    def in_order(self) -> Iterator[str]:
        """Serial actors run what was sent in the order in which it was sent."""
        for actor, kind in enumerate(self.kinds):
            ran = [one.number for one in self.begun if one.actor == actor]
            if kind == "serial" and ran != sorted(ran):
                yield f"actor {actor} ran {ran}"

    def verdict(self) -> list[str]:
        lost = [f"{one} did not end" for one in self.records if one.asked and one.end is None]
        lost += [f"{one} was told and did not run" for one in self.records if not (one.asked or one.ended)]
        return [*self.wrong, *lost, *self.in_order()]


# --- actors that play the scripts --------------------------------------------------------------------------------------


class Player(Actor):
    def __init__(self, world: World) -> None:
        self.world = world

    @endpoint
    async def play(self, number: int) -> int:
        record = self.world.records[number]
        self.world.begins(record)
        try:
            for step in self.world.scripts[number].steps:
                await self.take(step, record)
        finally:
            record.ended = True
        return number

    async def take(self, step: Step, record: Record) -> None:
        world, pause = self.world, step.milliseconds / 1000
        if step.how == "sleep":
            await asyncio.sleep(pause)
        elif step.how == "tell":
            told = world.recorded(step.calls[0], asked=False)
            world.refs[told.actor].tell(Player.play, told.number)
        elif step.how == "left":
            world.tasks.append(asyncio.create_task(asked(world, step.calls[0])))
        elif step.how == "late":
            one, answer = begin(world, step.calls[0])
            await asyncio.sleep(pause)
            await awaited(record, [one], answer)
        elif step.how == "task":
            one, answer = begin(world, step.calls[0])
            await awaited(record, [one], asyncio.create_task(of(answer)))
        else:
            several = [begin(world, script) for script in step.calls]
            answers = [answer for _, answer in several]
            together = asyncio.gather(*answers, return_exceptions=step.how == "gather all")
            await awaited(record, [one for one, _ in several], together if len(answers) > 1 else answers[0])


class Crowd(Player):
    concurrency = 1000


class Open(Player):
    reentrant = True


CLASSES: dict[Kind, type[Player]] = {"serial": Player, "concurrent": Crowd, "reentrant": Open}


def begin(world: World, script: Script) -> tuple[Record, Any]:
    record = world.recorded(script, asked=True)
    answer: Any = world.refs[record.actor].ask(Player.play, record.number)

    def over(done: asyncio.Future[Any]) -> None:
        if not done.cancelled():
            world.ends(record, done.exception())

    answer.add_done_callback(over)
    return record, answer


async def of(answer: Any) -> Any:
    return await answer


async def awaited(record: Record, what: list[Record], future: Any) -> None:
    record.awaits = what
    try:
        await future
    except MbactorError:
        pass
    finally:
        record.awaits = []


async def asked(world: World, script: Script) -> None:
    _, answer = begin(world, script)
    await asyncio.gather(answer, return_exceptions=True)


async def watch_circles(world: World) -> None:
    """No circle is left alone."""
    since: dict[frozenset[int], float] = {}
    while True:
        await asyncio.sleep(0.01)
        now, circles = asyncio.get_running_loop().time(), world.circles()
        since = {circles: since.get(circles, now)} if circles else {}
        if circles and now - since[circles] > NOTICED:
            world.wrong.append(f"{sorted(circles)} wait in a circle since {since[circles]:.3f}")
            return


async def perform(plan: Plan) -> World:
    world = World(plan.kinds)
    async with ActorSystem() as system:
        for kind in plan.kinds:
            world.refs.append(await system.spawn(child(CLASSES[kind], id=f"{len(world.refs)}", positional=(world,))))
        watch = asyncio.create_task(watch_circles(world))
        await asyncio.gather(*(root(world, at, script) for at, script in plan.roots))
        while waiting := [one for one in world.tasks if not one.done()]:
            await asyncio.wait(waiting)
        await asyncio.sleep(1)  # what was told
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
    return world


async def root(world: World, at: int, script: Script) -> None:
    await asyncio.sleep(at / 1000)
    await asked(world, script)


def played(plan: Plan) -> World:
    stage = Stage(seed=plan.seed)
    try:
        return stage.run(perform(plan))
    finally:
        stage.close()


@settings(max_examples=150, deadline=None)
@given(PLANS)
def test_what_waits_in_a_circle_fails_at_once_and_all_else_is_answered(plan: Plan) -> None:
    world = played(plan)
    assert not world.verdict(), "\n".join(world.verdict())
