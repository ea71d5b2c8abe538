"""The broker is killed, paused and restarted under load, and a client stands still: every ask ends, by its budget."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from mbactor import Actor, ActorSystem, Mailbox, child, endpoint, observe
from mbactor.errors import MbactorError, NotAcknowledged
from mbactor.kernel.dead_letters import DeadLetters
from mbactor.testing import Recorder
from mbactor.transport import Requester, nats_client
from tests.loops import run
from tests.nats import NatsServer, nats_server
from tests.transport.inbox import Inbox
from tests.transport.test_nats import ask, connected, is_up, until

BUDGET = 2.0
LATE = 20.0
"""Seconds that an ask may end after its budget, on a machine that has much to do."""
CLIENTS = 32


class Doubler(Actor):
    host = "doubler.example"
    concurrency = 64

    @endpoint
    async def double(self, number: int) -> int:
        return 2 * number


class Load:
    """Clients that ask one thing after the other, and what came of it."""

    def __init__(self, system: ActorSystem) -> None:
        self.system = system
        self.ended: Counter[str] = Counter()
        self.longest = 0.0
        self.stalled = 0.0
        self.over = False

    async def client(self, number: int) -> None:
        while not self.over:
            began, stalled = time.monotonic(), self.stalled
            try:
                with anyio.fail_after(BUDGET):
                    assert await self.system.ask(Doubler.double, number) == 2 * number
                how = "answered"
            except (MbactorError, TimeoutError) as error:  # this where the loop was busy as the budget ended
                how = type(error).__name__
                await asyncio.sleep(0.005)
            self.ended[how] += 1
            self.longest = max(self.longest, time.monotonic() - began - (self.stalled - stalled))

    async def answered(self, count: int) -> None:
        before = self.ended["answered"]
        await until(lambda: self.ended["answered"] > before + count)

    def stall(self, seconds: float) -> None:
        """The loop of the client stands still."""
        self.stalled += seconds
        time.sleep(seconds)


async def killed(server: NatsServer, load: Load) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(0.1)
    await asyncio.to_thread(server.start)


async def restarted(server: NatsServer, load: Load) -> None:
    server.signal(signal.SIGTERM)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


async def paused(server: NatsServer, load: Load) -> None:
    server.pause()
    await asyncio.sleep(0.2)
    server.signal(signal.SIGCONT)


async def paused_for_long(server: NatsServer, load: Load) -> None:
    server.pause()
    await asyncio.sleep(1.0)
    server.signal(signal.SIGCONT)


async def killed_while_the_client_stalls(server: NatsServer, load: Load) -> None:
    server.kill()
    load.stall(0.3)
    await asyncio.to_thread(server.start)


async def paused_while_the_client_stalls(server: NatsServer, load: Load) -> None:
    server.pause()
    load.stall(0.3)
    server.signal(signal.SIGCONT)
    load.stall(0.3)


FORCES: list[Callable[[NatsServer, Load], Awaitable[None]]] = [
    killed,
    restarted,
    paused,
    paused_for_long,
    killed_while_the_client_stalls,
    paused_while_the_client_stalls,
]


def test_every_ask_ends_in_time_whatever_is_done_to_the_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_client, "PING", 0.2)
    seed = random.randrange(10**6)
    forces = random.Random(seed).sample(FORCES, len(FORCES))

    async def work(server: NatsServer) -> None:
        async with ActorSystem(transport=server.url) as other, ActorSystem(transport=server.url) as system:
            await other.spawn(Doubler)
            load = Load(system)
            clients = [asyncio.create_task(load.client(number)) for number in range(CLIENTS)]
            for force in forces:
                await load.answered(200)
                before = load.ended.copy()
                await force(server, load)
                await load.answered(1)
                print(f"{force.__name__:32} {dict(load.ended - before)}")
            await load.answered(200)
            load.over = True
            await asyncio.wait_for(asyncio.gather(*clients), 60)
            print(f"seed {seed}: {load.ended.total()} asks, the longest took {load.longest:.2f} s; {dict(load.ended)}")
            known = {"answered", "NotAcknowledged", "Unavailable", "NoSuchActor", "BudgetSpent", "TimeoutError"}
            assert {*load.ended} <= known, f"seed {seed}"
            assert load.longest < BUDGET + LATE, f"seed {seed}"

    with nats_server(tmp_path) as server:
        run(work(server))


class Book(Actor):
    host = "book.example"

    def __init__(self) -> None:
        self.noted: Counter[int] = Counter()

    @endpoint
    async def note(self, number: int) -> None:
        self.noted[number] += 1

    @endpoint
    async def notes(self) -> dict[int, int]:
        return dict(self.noted)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_told_ran_or_is_a_dead_letter_or_is_counted_as_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """A dead letter never ran, nothing runs twice, and what is neither is no more than was said when the broker died."""
    monkeypatch.setattr("mbactor.transport.requester._NOBODY_WITHIN", 600.0)
    seed = random.randrange(10**6)
    drawn = random.Random(seed)

    async def told(system: ActorSystem, over: asyncio.Event) -> int:
        count = 0
        while not over.is_set():
            for _ in range(drawn.randint(1, 100)):
                system.tell(Book.note, count)
                count += 1
            await asyncio.sleep(drawn.choice([0, 0, 0.001]))
        return count

    async def work(server: NatsServer) -> None:
        recorder = Recorder(asyncio.get_running_loop())
        async with ActorSystem(transport=server.url) as other, ActorSystem(transport=server.url) as system:
            book, over = await other.spawn(child(Book, mailbox=Mailbox(capacity=10**6))), asyncio.Event()
            system.node.dead_letters = DeadLetters(keep=10**6)
            telling = asyncio.create_task(told(system, over))

            async def noted(more: int) -> None:
                until_then = sum((await book.ask(Book.notes)).values()) + more
                while sum((await book.ask(Book.notes)).values()) < until_then:
                    await asyncio.sleep(0.01)

            with observe.observing(recorder):
                for _ in range(3):
                    await asyncio.wait_for(noted(500), 60)
                    server.signal(number)
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)
                await asyncio.wait_for(noted(500), 60)
                over.set()
                count = await telling
                await system.ask(Book.notes)  # over the broker, after all of them
            ran = await book.ask(Book.notes)
            letters = Counter((letter.arguments or {})["number"] for letter in system.dead_letters)
            unknown = sum(event.fields["count"] for event in recorder.find("message.unknown"))
            neither = count - len(ran.keys() | letters.keys())
            print(f"seed {seed}: {count} told, {len(ran)} ran, {len(letters)} dead letters, {neither} neither")
            assert not ran.keys() & letters.keys(), f"seed {seed}"
            assert {*ran.values(), *letters.values()} == {1}, f"seed {seed}"
            assert neither <= unknown, f"seed {seed}"

    with nats_server(tmp_path) as server:
        run(work(server))


def test_who_does_not_read_is_cut_off_and_its_askers_are_told(tmp_path: Path) -> None:
    """A client that stands still for too long loses messages; it is told so, and has its subscriptions again."""

    async def work(server: NatsServer) -> None:
        recorder = Recorder(asyncio.get_running_loop())
        bus, seen = await connected(server.url), Inbox()
        requester = Requester(bus, "p", "node")
        await requester.open()
        bus.subscribe("flood", seen)
        bus.subscribe("p.*.*.*.svc_example.>", Inbox(), queue="svc")
        await bus.flush()
        asked = ask(requester)
        await bus.flush()
        flood = threading.Thread(target=pour, args=(server.port, 400))
        flood.start()
        flood.join()  # the loop is blocked for as long
        with observe.observing(recorder):
            with pytest.raises(NotAcknowledged, match="connection was lost"):
                await asyncio.wait_for(asked, 60)
            await is_up(bus)
        [cut] = recorder.find("bus.cut")
        print(cut.fields["error"])
        assert len(seen.got) < 400
        lost = len(seen.got)
        bus.publish("flood", b"again")
        assert (await seen.until(lost + 1))[-1].data == b"again"
        requester.close()
        await bus.close()

    def pour(port: int, count: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 10) as raw, raw.makefile("rb") as lines:
            lines.readline()
            raw.sendall(b'CONNECT {"verbose":false}\r\n')
            for _ in range(count):
                raw.sendall(b"PUB flood 100000\r\n" + bytes(100_000) + b"\r\n")
            raw.sendall(b"PING\r\n")
            assert lines.readline() == b"PONG\r\n"

    with nats_server(tmp_path, 'max_pending: 1MB\nwrite_deadline: "100ms"') as server:
        run(work(server))
