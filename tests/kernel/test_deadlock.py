"""Asks that can never be answered, because their receiver waits for the asker: they fail at once, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
import pytest

from mbactor import Actor, ActorRef, ActorSystem, BudgetSpent, Deadlock, Exit, Mailbox, MbactorError, child, endpoint

Ask = Callable[[], Awaitable[str]]
Way = Callable[[Any, Ask], Awaitable[str]]
Peers = dict[str, ActorRef[Any]]


@pytest.fixture(
    autouse=True,
    params=[
        pytest.param("handed over", marks=pytest.mark.mbactor(serialize_local=False)),
        pytest.param("serialized", marks=pytest.mark.mbactor(serialize_local=True)),
    ],
)
def values(request: pytest.FixtureRequest) -> Any:
    """Each rule holds however values pass between actors."""
    return request.param


# --- ways to wait for an ask ---------------------------------------------------------------------------------------


async def of(ask: Ask) -> str:
    return await ask()


async def plainly(actor: Actor, ask: Ask) -> str:
    return await ask()


async def gather(actor: Actor, ask: Ask) -> str:
    return (await asyncio.gather(ask(), asyncio.sleep(0)))[0]


async def task(actor: Actor, ask: Ask) -> str:
    return await asyncio.create_task(of(ask))


async def task_group(actor: Actor, ask: Ask) -> str:
    try:
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(of(ask))
    except* MbactorError as errors:
        raise errors.exceptions[0] from None
    return asked.result()


async def anyio_group(actor: Actor, ask: Ask) -> str:
    answers = []

    async def fetch() -> None:
        answers.append(await ask())

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(fetch)
    except* MbactorError as errors:
        raise errors.exceptions[0] from None
    return answers[0]


async def wait_for(actor: Actor, ask: Ask) -> str:
    return await asyncio.wait_for(ask(), 1000)


async def wait(actor: Actor, ask: Ask) -> str:
    asked = asyncio.ensure_future(ask())
    await asyncio.wait([asked, asyncio.ensure_future(asyncio.sleep(0))])
    return await asked


async def first_of_one(actor: Actor, ask: Ask) -> str:
    done, _ = await asyncio.wait([asyncio.ensure_future(ask())], return_when=asyncio.FIRST_COMPLETED)
    return await done.pop()


async def shield(actor: Actor, ask: Ask) -> str:
    return await asyncio.shield(ask())


async def spawn_task(actor: Actor, ask: Ask) -> str:
    answer: str = await actor.spawn_task(of(ask))
    return answer


async def nested(actor: Actor, ask: Ask) -> str:
    return (await asyncio.gather(asyncio.wait_for(asyncio.shield(task(actor, ask)), 1000)))[0]


async def late(actor: Actor, ask: Ask) -> str:
    asked = ask()
    await asyncio.sleep(0.32)
    return await asked


WAITING = [plainly, gather, task, task_group, anyio_group, wait_for, wait, first_of_one, shield, spawn_task, nested]


# --- ways to go on without its answer ------------------------------------------------------------------------------


async def task_left_alone(actor: Node, ask: Ask) -> str:
    actor.begun.append(asyncio.create_task(of(ask)))
    await asyncio.sleep(0.5)
    return "went on"


async def spawned_and_left(actor: Node, ask: Ask) -> str:
    actor.begun.append(actor.spawn_task(of(ask)))
    await asyncio.sleep(0.5)
    return "went on"


async def never_awaited(actor: Node, ask: Ask) -> str:
    actor.begun.append(asyncio.ensure_future(ask()))
    await asyncio.sleep(0.5)
    return "went on"


async def first_of_two(actor: Node, ask: Ask) -> str:
    asked = asyncio.ensure_future(ask())
    actor.begun.append(asked)
    await asyncio.wait([asked, asyncio.ensure_future(asyncio.sleep(0.5))], return_when=asyncio.FIRST_COMPLETED)
    return "went on"


async def waited_for_a_while(actor: Node, ask: Ask) -> str:
    asked = asyncio.ensure_future(ask())
    actor.begun.append(asked)
    await asyncio.wait([asked], timeout=0.5)
    return "went on"


async def cancelled(actor: Node, ask: Ask) -> str:
    asked = asyncio.ensure_future(ask())
    await asyncio.sleep(0)
    asked.cancel()
    await asyncio.sleep(0.5)
    return "went on"


GOING_ON = [task_left_alone, spawned_and_left, never_awaited, first_of_two, waited_for_a_while, cancelled]


# --- the actors ----------------------------------------------------------------------------------------------------


class Node(Actor):
    """Passes a question on along a path of peers, in a given way to wait for the answer."""

    def __init__(self, peers: Peers, way: Way | None = None) -> None:
        self.peers = peers
        self.way = way
        self.begun: list[asyncio.Future[Any]] = []

    @endpoint
    async def leaf(self) -> str:
        return "leaf"

    @endpoint
    async def go(self, path: list[str]) -> str:
        if not path:
            return "end"
        ref, rest = self.peers[path[0]], path[1:]
        if self.way is None:
            return await ref.ask(Node.go, rest)
        return await self.way(self, lambda: ref.ask(Node.go, rest))

    @endpoint
    async def go_later(self, seconds: float, path: list[str]) -> str:
        await asyncio.sleep(seconds)
        return await self.go(path)

    @endpoint
    async def work(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "worked"

    @endpoint
    async def told(self, path: list[str]) -> str:
        if path:
            assert self.peers[path[0]].tell(Node.told, path[1:])
        return "told"


class Crowd(Node):
    concurrency = 4


class Open(Node):
    reentrant = True


async def nodes(system: ActorSystem, names: str = "ABC", cls: type[Node] = Node, **options: Any) -> Peers:
    peers: Peers = {}
    way = options.pop("way", None)
    for name in names:
        peers[name] = await system.spawn(child(cls, id=name, positional=(peers, way), **options))
    return peers


def now() -> float:
    return asyncio.get_running_loop().time()


async def all_work(peers: Peers) -> None:
    """Each actor answers at once."""
    begin = now()
    for ref in peers.values():
        assert await ref.ask(Node.leaf) == "leaf"
    assert now() == begin


CYCLES = {
    "A": "Node.go -> Node.go",
    "BA": "Node.go of A -> Node.go of B -> Node.go of A",
    "BCA": "Node.go of A -> Node.go of B -> Node.go of C -> Node.go of A",
}


# --- what fails ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAITING)
@pytest.mark.parametrize("path", CYCLES)
async def test_an_ask_that_comes_back_to_its_asker_fails_at_once(mbactor: ActorSystem, way: Way, path: str) -> None:
    peers = await nodes(mbactor, way=way)
    begin = now()
    with pytest.raises(Deadlock) as caught:
        await peers["A"].ask(Node.go, list(path))
    assert now() == begin
    steps = [step for step in caught.value.cycle.split(" -> ") if not step.startswith("Node.background")]
    assert " -> ".join(steps) == CYCLES[path]
    await all_work(peers)


@pytest.mark.parametrize("path", CYCLES)
async def test_an_ask_awaited_late_fails_within_a_tenth_of_a_second(mbactor: ActorSystem, path: str) -> None:
    peers = await nodes(mbactor, way=late)
    begin = now()
    with pytest.raises(Deadlock):
        await peers["A"].ask(Node.go, list(path))
    assert 0.32 <= now() - begin < 0.42
    await all_work(peers)


async def test_of_two_calls_that_cross_one_fails_and_the_other_is_answered(mbactor: ActorSystem) -> None:
    peers = await nodes(mbactor, "AB")
    begin = now()
    crossing = [peers["A"].ask(Node.go_later, 0.1, ["B"]), peers["B"].ask(Node.go_later, 0.1, ["A"])]
    ends = await asyncio.gather(*crossing, return_exceptions=True)
    assert now() - begin == pytest.approx(0.1)
    assert "end" in ends
    (failed,) = (end for end in ends if isinstance(end, Deadlock))
    one, other = ("A", "B") if ends[0] == "end" else ("B", "A")
    assert failed.cycle == f"Node.go_later of {one} -> Node.go of {other} (behind Node.go_later) -> Node.go of {one}"
    await all_work(peers)


async def test_of_three_calls_that_chase_each_other_one_fails_and_two_are_answered(mbactor: ActorSystem) -> None:
    peers = await nodes(mbactor)
    begin = now()
    chase = [peers[a].ask(Node.go_later, 0.1, [b]) for a, b in ("AB", "BC", "CA")]
    ends = await asyncio.gather(*chase, return_exceptions=True)
    assert now() - begin == pytest.approx(0.1)
    assert sorted(type(end).__name__ for end in ends) == ["Deadlock", "str", "str"]
    await all_work(peers)


async def test_the_way_by_which_the_cycle_came_to_be_does_not_matter(mbactor: ActorSystem) -> None:
    """A waits for C, which waits for B, before B comes to ask A."""
    peers = await nodes(mbactor)
    b = asyncio.ensure_future(peers["B"].ask(Node.go_later, 0.3, ["A"]))
    await asyncio.sleep(0.1)
    a = asyncio.ensure_future(peers["A"].ask(Node.go, ["C", "B"]))
    assert isinstance((await asyncio.gather(b, return_exceptions=True))[0], Deadlock)
    assert now() == pytest.approx(0.3)
    assert await a == "end"
    await all_work(peers)


async def test_what_hangs_on_a_cycle_without_being_part_of_it_is_answered(mbactor: ActorSystem) -> None:
    peers = await nodes(mbactor, "ABCD")
    begin = now()
    crossing = [peers["A"].ask(Node.go_later, 0.1, ["B"]), peers["B"].ask(Node.go_later, 0.1, ["A"])]
    hanging = [peers["C"].ask(Node.go, ["D", "A"]), peers["A"].ask(Node.leaf), peers["B"].ask(Node.leaf)]
    assert await asyncio.gather(*hanging) == ["end", "leaf", "leaf"]
    assert now() - begin == pytest.approx(0.1)
    await asyncio.gather(*crossing, return_exceptions=True)


async def test_an_ask_queued_behind_another_closes_the_cycle_as_well(mbactor: ActorSystem) -> None:
    """A's ask waits at B behind two that do no harm, and all of them behind a call that comes to A."""
    peers = await nodes(mbactor)
    busy = peers["B"].ask(Node.go_later, 0.2, ["A"])
    others = [peers["B"].ask(Node.work, 1.0), peers["B"].ask(Node.leaf)]
    await asyncio.sleep(0.1)
    begin = now()
    a = asyncio.ensure_future(peers["A"].ask(Node.go, ["B"]))
    ends = await asyncio.gather(busy, return_exceptions=True)
    assert now() - begin == pytest.approx(0.1)
    assert isinstance(ends[0], Deadlock)
    assert ends[0].cycle == "Node.go of A -> Node.go of B (behind Node.go_later) -> Node.go of A"
    assert await asyncio.gather(*others, a) == ["worked", "leaf", "end"]
    await all_work(peers)


@pytest.mark.parametrize("first", ["in line first", "asked first"])
async def test_an_ask_in_the_line_of_a_full_mailbox_closes_the_cycle_as_well(mbactor: ActorSystem, first: str) -> None:
    peers = await nodes(mbactor, mailbox=Mailbox(1, overflow="wait"))
    to_a, to_b = (0.2, 0.1) if first == "in line first" else (0.1, 0.2)
    b = asyncio.ensure_future(peers["B"].ask(Node.go_later, to_a, ["A"]))
    a = asyncio.ensure_future(peers["A"].ask(Node.go_later, to_b, ["B"]))
    await asyncio.sleep(0.01)
    assert peers["B"].tell(Node.told, [])
    assert peers["A"].tell(Node.told, [])
    assert peers["B"].statistics().depth == peers["A"].statistics().depth == 1
    ends = await asyncio.gather(a, b, return_exceptions=True)
    assert now() == pytest.approx(0.2)
    assert sorted(type(end).__name__ for end in ends) == ["Deadlock", "str"]
    await all_work(peers)


async def test_every_ask_of_a_gather_that_comes_back_fails(mbactor: ActorSystem) -> None:
    class Fan(Node):
        @endpoint
        async def fan(self, to: str) -> list[str]:
            asks = [self.peers[to].ask(Node.leaf) for _ in range(3)]
            ends = await asyncio.gather(*asks, return_exceptions=True)
            return [type(end).__name__ for end in ends]

    peers = await nodes(mbactor, "AB", Fan)
    assert await peers["A"].ask(Fan.fan, "A") == ["Deadlock"] * 3
    assert await peers["A"].ask(Fan.fan, "B") == ["str"] * 3
    assert now() == 0
    await all_work(peers)


async def test_a_method_that_deals_with_its_deadlock_goes_on(mbactor: ActorSystem) -> None:
    class Careful(Node):
        @endpoint
        async def careful(self) -> str:
            try:
                return await self.ref.ask(Node.leaf)
            except Deadlock as error:
                return f"{error.cycle}, taken: {error.taken}"

    peers = await nodes(mbactor, "A", Careful)
    assert await peers["A"].ask(Careful.careful) == "Careful.careful -> Careful.leaf, taken: no"


# --- hooks ---------------------------------------------------------------------------------------------------------


class Hooked(Actor):
    """Asks along the path in one of its hooks, and writes down how that ended."""

    def __init__(self, peers: Peers, diary: list[str], hook: str, to: str) -> None:
        self.peers = peers
        self.diary = diary
        self.hook = hook
        self.to = to

    async def on_start(self) -> None:
        self.peers["H"] = self.ref
        if self.hook == "on_start":
            await self.try_it()

    async def on_stop(self, exit: Exit) -> None:
        if self.hook == "on_stop":
            await self.try_it()

    async def try_it(self) -> None:
        try:
            await self.peers[self.to].ask(Node.go, ["H"] if self.to != "H" else [])
        except Deadlock as error:
            self.diary.append(error.cycle)

    @endpoint
    async def go(self, path: list[str]) -> str:
        return "end"


@pytest.mark.parametrize("hook", ["on_start", "on_stop"])
@pytest.mark.parametrize("to", ["H", "A"])
async def test_a_hook_cannot_ask_its_own_actor(mbactor: ActorSystem, hook: str, to: str) -> None:
    peers = await nodes(mbactor, "A")
    diary: list[str] = []
    begin = now()
    ref = await mbactor.spawn(Hooked, peers, diary, hook, to)
    if hook == "on_start":
        assert await ref.ask(Hooked.go, []) == "end"
    await ref.stop()
    assert now() == begin
    through = " -> Node.go" if to == "A" else ""
    assert diary == [f"Hooked.{hook}{through} -> Hooked.go"]
    del peers["H"]
    await all_work(peers)


# --- what does not fail --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", GOING_ON)
@pytest.mark.parametrize("path", CYCLES)
async def test_a_call_that_goes_on_without_the_answer_is_in_no_cycle(mbactor: ActorSystem, way: Way, path: str) -> None:
    peers = await nodes(mbactor, way=way)
    assert await peers["A"].ask(Node.go, list(path)) == "went on"
    await asyncio.sleep(5)
    await all_work(peers)
    assert not mbactor.dead_letters


@pytest.mark.parametrize("path", CYCLES)
async def test_a_tell_closes_no_cycle(mbactor: ActorSystem, path: str) -> None:
    peers = await nodes(mbactor)
    assert await peers["A"].ask(Node.told, list(path)) == "told"
    await all_work(peers)
    assert not mbactor.dead_letters


@pytest.mark.parametrize("limit", [anyio.fail_after, asyncio.timeout])
async def test_an_ask_that_ran_out_of_time_is_in_no_cycle(mbactor: ActorSystem, limit: Any) -> None:
    """A has given up on B before B comes to A: that ask waits for A like any other."""

    class Hasty(Node):
        @endpoint
        async def hasty(self) -> str:
            with suppress(TimeoutError, BudgetSpent):
                async with AsyncExitStack() as stack:
                    scope = limit(0.1)
                    await stack.enter_async_context(scope) if limit is asyncio.timeout else stack.enter_context(scope)
                    await self.peers["B"].ask(Node.go_later, 0.2, ["A"])
            late_comer = self.peers["B"].ask(Node.go_later, 0.2, ["A"])
            self.begun.append(asyncio.ensure_future(late_comer))
            await asyncio.sleep(0.5)
            return "went on"

    peers = await nodes(mbactor, "AB", Hasty)
    assert await peers["A"].ask(Hasty.hasty) == "went on"
    assert now() == pytest.approx(0.6, abs=0.01)
    await asyncio.sleep(1)
    await all_work(peers)


@pytest.mark.parametrize("path", CYCLES)
async def test_actors_that_handle_several_messages_at_once_are_in_no_cycle(mbactor: ActorSystem, path: str) -> None:
    peers = await nodes(mbactor, cls=Crowd)
    assert await peers["A"].ask(Node.go, list(path)) == "end"
    assert now() == 0


async def test_a_busy_actor_is_waited_for_however_long_it_takes(mbactor: ActorSystem) -> None:
    peers = await nodes(mbactor)
    works = peers["B"].ask(Node.work, 8)
    assert await peers["A"].ask(Node.go, ["C", "B"]) == "end"
    assert now() == pytest.approx(8)
    assert await works == "worked"


# --- reentrant actors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*CYCLES, "BABA", "BCABCA", "AAA"])
@pytest.mark.parametrize("way", WAITING)
async def test_a_reentrant_actor_admits_what_its_own_call_waits_for(mbactor: ActorSystem, path: str, way: Way) -> None:
    peers = await nodes(mbactor, cls=Open, way=way)
    assert await peers["A"].ask(Node.go, list(path)) == "end"
    assert now() == 0
    await all_work(peers)


async def test_reentrant_actors_whose_calls_cross_answer_both(mbactor: ActorSystem) -> None:
    peers = await nodes(mbactor, "AB", Open)
    crossing = [peers["A"].ask(Node.go_later, 0.1, ["B"]), peers["B"].ask(Node.go_later, 0.1, ["A"])]
    assert await asyncio.gather(*crossing) == ["end", "end"]
    assert now() == pytest.approx(0.1)


async def test_one_reentrant_actor_in_a_cycle_is_enough(mbactor: ActorSystem) -> None:
    peers: Peers = {}
    for name, cls in {"A": Node, "B": Open, "C": Node}.items():
        peers[name] = await mbactor.spawn(child(cls, id=name, positional=(peers,)))
    assert await peers["B"].ask(Node.go, ["C", "A", "B"]) == "end"
    crossing = [peers["A"].ask(Node.go_later, 0.1, ["B"]), peers["B"].ask(Node.go_later, 0.1, ["A"])]
    assert await asyncio.gather(*crossing) == ["end", "end"]
    with pytest.raises(Deadlock):
        await peers["A"].ask(Node.go, ["C", "A"])
    await all_work(peers)


async def test_a_reentrant_actor_admits_all_that_stand_in_the_way_of_one_ask(mbactor: ActorSystem) -> None:
    """C's ask to A closes two circles at once: A waits for two asks at B, and B waits for C."""

    class Fan(Open):
        @endpoint
        async def fan(self) -> list[str]:
            return [*await asyncio.gather(self.peers["B"].ask(Node.leaf), self.peers["B"].ask(Node.go, []))]

    peers = await nodes(mbactor, "AB", Fan)
    peers["C"] = await mbactor.spawn(child(Node, id="C", positional=(peers,)))
    b = peers["B"].ask(Node.go, ["C", "A"])
    assert await peers["A"].ask(Fan.fan) == ["leaf", "end"]
    assert await b == "end"
    assert now() == 0


async def test_what_a_reentrant_actor_does_not_have_to_run_at_once_keeps_its_turn(mbactor: ActorSystem) -> None:
    peers = await nodes(mbactor, "AB", Open)
    a = peers["A"].ask(Node.go_later, 1, ["B", "A"])
    others = [peers["A"].ask(Node.work, 3), peers["A"].ask(Node.leaf)]
    assert await a == "end"
    assert now() == pytest.approx(1)
    assert await asyncio.gather(*others) == ["worked", "leaf"]
    assert now() == pytest.approx(4)


async def test_a_reentrant_actor_that_is_merely_busy_runs_one_message_at_a_time(mbactor: ActorSystem) -> None:
    peers = await nodes(mbactor, "AB", Open)
    first, second = peers["A"].ask(Node.work, 3), peers["A"].ask(Node.work, 1)
    through = peers["B"].ask(Node.go, ["A"])
    await first
    assert now() == pytest.approx(3)
    await second
    assert now() == pytest.approx(4)
    assert await through == "end"
