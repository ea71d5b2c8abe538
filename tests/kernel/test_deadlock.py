"""Asks that can never be answered, because their receiver waits for the asker: they fail at once, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from mbactor import Actor, ActorRef, ActorSystem, Deadlock, Exit, Mailbox, MbactorError, child, endpoint

Ask = Callable[[], Awaitable[str]]
Way = Callable[[Any, Ask], Awaitable[str]]
Peers = dict[str, ActorRef[Any]]


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
