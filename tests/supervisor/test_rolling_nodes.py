"""One file run by two nodes: they find each other, and each is stopped and started again under load without a failure."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mbactor import Actor, ActorSystem, endpoint
from mbactor.errors import ActorCrashed
from tests.nats import NatsServer, nats_server
from tests.process import Served, of_threads, serving

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

TOPOLOGY = """
version: 1
name: shop
transport: ${NATS}
supervisor:
  children:
    - actor: "tests.supervisor.test_rolling_nodes:Till"
      args: {notes: "${NOTES}"}
      process: true
      replicas: 2
"""
CLIENTS = 24
LARGE = 600_000
"""Bytes that go in ten fragments."""


class Till(Actor):
    """Notes what it does, each replica in a file of its own."""

    host = "till.example"

    def __init__(self, notes: str) -> None:
        self.notes = Path(f"{notes}.{os.getpid()}")

    def note(self, number: int) -> None:
        with self.notes.open("a") as file:
            file.write(f"{number}\n")

    @endpoint(concurrency=8)
    async def pid(self) -> int:
        return os.getpid()

    @endpoint
    async def add(self, number: int) -> int:
        self.note(number)
        return number + 1

    @endpoint
    async def slow(self, number: int) -> int:
        self.note(number)
        await asyncio.sleep(0.02)
        return number + 1

    @endpoint
    async def size(self, number: int, data: bytes) -> int:
        """Takes a while, so that others wait for it, of which all has left."""
        self.note(number)
        await asyncio.sleep(0.02)
        return len(data)

    @endpoint(concurrency=8)
    async def nap(self) -> None:
        await asyncio.sleep(60)

    @endpoint(queue="every", concurrency=8)
    async def each(self) -> int:
        return os.getpid()

    @endpoint(queue="every", concurrency=8)
    async def seen(self) -> list[int]:
        """Who is there, as this replica finds them."""
        return sorted([reply.result() async for reply in self.ask_all(Till.each)])


class Nodes:
    """Two processes that run the file, each with two more for its replicas."""

    def __init__(self, folder: Path, url: str, stack: ExitStack) -> None:
        self.folder = folder
        self.url = url
        self.stack = stack
        (folder / "shop.yaml").write_text(TOPOLOGY)
        self.running = [self.start() for _ in range(2)]

    def start(self) -> Served:
        files = self.folder / "shop.yaml", self.folder
        return self.stack.enter_context(serving(*files, NATS=self.url, NOTES=str(self.folder / "notes")))

    async def are_up(self) -> None:
        for node in self.running:
            await asyncio.to_thread(node.until, "Ctrl-C stops it")

    async def roll(self) -> None:
        """Stop each, and start another in its place."""
        for number, node in enumerate(self.running):
            node.signal(signal.SIGTERM)
            assert await asyncio.to_thread(node.end) == 0, node.told()
            self.running[number] = self.start()
            await asyncio.to_thread(self.running[number].until, "Ctrl-C stops it")

    def kill(self) -> None:
        """All their processes at once."""
        for process in [one.process.pid for one in self.running]:
            for pid in (process, *(int(pid) for line in of_threads(process, "children") for pid in line.split())):
                os.kill(pid, signal.SIGKILL)

    def ran(self) -> Counter[int]:
        return Counter(int(line) for file in self.folder.glob("notes.*") for line in file.read_text().split())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats"), "max_payload: 65536") as running:
        yield running


@pytest.fixture
def nodes(server: NatsServer, tmp_path: Path) -> Iterator[Nodes]:
    with ExitStack() as stack:
        yield Nodes(tmp_path, server.url, stack)


@pytest.fixture
async def asks(server: NatsServer) -> AsyncIterator[ActorSystem]:
    async with ActorSystem("asks", server.url) as running:
        yield running


async def test_what_two_nodes_run_of_one_file_is_found_by_all_of_it(nodes: Nodes, asks: ActorSystem) -> None:
    """They are started at the same moment."""
    await nodes.are_up()
    pids = sorted([reply.result() async for reply in asks.ask_all(Till.each)])
    assert len({*pids}) == 4
    assert [reply.result() async for reply in asks.ask_all(Till.seen)] == [pids] * 4
    answers = Counter([await asks.ask(Till.pid) for _ in range(400)])
    assert sorted(answers) == pids
    assert min(answers.values()) >= 50, "each replica of each node takes its share"


async def test_each_node_is_stopped_and_started_again_under_load_and_no_request_fails(
    nodes: Nodes, asks: ActorSystem
) -> None:
    await nodes.are_up()
    over = asyncio.Event()
    asked: set[int] = set()
    counted: Counter[int] = Counter()

    async def client() -> None:
        while not over.is_set():
            number = len(asked)
            asked.add(number)
            match number % 4:
                case 0:
                    assert await asks.ask(Till.size, number, bytes(LARGE)) == LARGE
                case 1:
                    assert await asks.ask(Till.slow, number) == number + 1
                case _:
                    assert await asks.ask(Till.add, number) == number + 1
            if number % 50 == 0:
                counted[len({reply.result() async for reply in asks.ask_all(Till.each)})] += 1

    async with asyncio.timeout(150), asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client())
        await nodes.roll()
        over.set()
    print(f"{len(asked)} asks; replicas that answered a request to all: {dict(counted)}")
    assert nodes.ran() == Counter(asked), "each has run, and none twice"
    assert {*counted} <= {2, 3, 4}


async def test_who_waits_for_a_node_that_is_killed_with_all_its_processes_learns_of_it_within_the_window(
    nodes: Nodes, asks: ActorSystem
) -> None:
    await nodes.are_up()
    async with asyncio.timeout(120):
        held = [asyncio.ensure_future(asks.ask(Till.nap)) for _ in range(16)]
        requester: Any = asks.node.remote._requester
        while not all(one.holder for one in requester._waiting.everyone()):
            await asyncio.sleep(0.01)
        nodes.kill()
        errors: list[Any] = await asyncio.gather(*held, return_exceptions=True)
        # By the window: it is no BudgetSpent.
        assert {(type(error), error.taken) for error in errors} == {(ActorCrashed, "unknown")}
