"""What nats-py does that a runtime of actors cannot live with, one by one, and that our client does not do it."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc
from collections.abc import Iterator
from functools import partial
from typing import Self

import pytest

from mbactor import Actor, ActorSystem, endpoint
from mbactor.errors import Forbidden, MessageTooLarge, NotAcknowledged, Unavailable
from mbactor.transport import Envelope, Message, nats_client
from mbactor.transport.nats import NatsBus
from tests.loops import run
from tests.nats import NatsServer, nats_server
from tests.transport.inbox import Inbox
from tests.transport.test_nats import connected, until

USERS = 'authorization { users: [{user: a, password: b}, {user: c, password: d, permissions: {publish: "Mine.>"}}] }'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats"), f"max_payload: 4096\n{USERS}") as running:
        yield running


def url_of(server: NatsServer, user: str = "a:b") -> str:
    return server.url.replace("//", f"//{user}@")


class Raw:
    """A client of a few lines: it shows what is on the wire."""

    def __init__(self, server: NatsServer) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), 10)
        self.lines = self.socket.makefile("rb")
        self.lines.readline()
        self.send(b'CONNECT {"verbose":false,"user":"a","pass":"b","headers":true,"no_responders":true}\r\n')

    def send(self, commands: bytes) -> None:
        """Returns once the server has taken them; whatever it sends before that is kept out."""
        self.socket.sendall(commands + b"PING\r\n")
        assert self.lines.readline() == b"PONG\r\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.lines.close()
        self.socket.close()


class Echo(Actor):
    host = "echo.example"
    concurrency = 16

    async def on_start(self) -> None:
        self.sixteen = asyncio.Barrier(16)

    @endpoint
    async def say(self, word: str) -> str:
        await asyncio.sleep(0.05)
        return word

    @endpoint
    async def meet(self) -> None:
        """Returns when sixteen are here at the same time."""
        await self.sixteen.wait()


def test_1_a_flush_is_a_barrier_for_what_was_subscribed_and_published_before(server: NatsServer) -> None:
    """nats-py writes its PING ahead of what waits to be written."""

    async def work() -> None:
        bus = await connected(url_of(server))
        for n in range(100):
            seen = Inbox()
            bus.subscribe(f"barrier.{n}", seen)
            bus.publish(f"barrier.{n}", b"x")
            await bus.flush()
            assert len(seen.got) == 1
        await bus.close()

    run(work())


def test_2_the_text_of_an_error_keeps_its_capitals(server: NatsServer) -> None:
    """nats-py makes it lower-case: a refused subject could not be matched to its request."""

    async def work() -> None:
        bus, told = await connected(url_of(server, "c:d")), Inbox()
        bus.subscribe("Inbox.*", told)
        bus.publish("Others.X", b"", reply="Inbox.1")
        [refused] = await told.until(1)
        assert (refused.subject, refused.failure) == ("Inbox.1", "forbidden")
        assert refused.data == b'Permissions Violation for Publish to "Others.X"'
        await bus.close()

    run(work())


def test_3_a_refused_request_fails_at_once(server: NatsServer) -> None:
    """nats-py tells a callback, and the request waits its whole time."""

    async def work() -> None:
        async with ActorSystem(transport=url_of(server, "c:d")) as system:
            with pytest.raises(Forbidden, match="Permissions Violation for Publish to"):
                await asyncio.wait_for(system.ask(Echo.say, "x"), 60)

    run(work())


def test_4_what_is_above_the_limit_is_refused_and_harms_nothing(server: NatsServer) -> None:
    """nats-py does not count the headers, and the server cuts the connection. We send none."""

    async def work() -> None:
        bus, seen = await connected(url_of(server)), Inbox()
        bus.subscribe("s", seen)
        with pytest.raises(MessageTooLarge):
            bus.publish("s", bytes(4097))
        bus.publish("s", bytes(4096), reply="r" * 200)
        assert len((await seen.until(1))[0].data) == 4096
        await bus.close()

    run(work())


def test_5_who_waits_is_told_of_an_outage_and_who_asks_during_it_is_refused(server: NatsServer) -> None:
    """nats-py lets both wait their whole time."""

    async def work() -> None:
        async with ActorSystem(transport=url_of(server)) as system, ActorSystem(transport=url_of(server)) as other:
            await other.spawn(Echo)
            await other.node.remote.flush()
            bus = system.node.remote.bus
            assert isinstance(bus, NatsBus)
            asked = [asyncio.ensure_future(system.ask(Echo.say, str(n))) for n in range(10)]
            await bus.flush()
            bus._client._transport.abort()  # type: ignore[union-attr]
            ended = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 60)
            assert {type(one) for one in ended} == {NotAcknowledged}
            with pytest.raises(Unavailable):
                await system.ask(Echo.say, "x")

    run(work())


def test_6_messages_of_one_subscription_are_worked_on_beside_each_other(server: NatsServer) -> None:
    """nats-py awaits one callback after the other."""

    async def work() -> None:
        async with ActorSystem(transport=url_of(server)) as system, ActorSystem(transport=url_of(server)) as other:
            await other.spawn(Echo)
            await other.node.remote.flush()
            await asyncio.gather(*(system.ask(Echo.meet) for _ in range(16)))

    run(work())


def test_7_a_subscription_has_no_task_and_takes_little(server: NatsServer) -> None:
    """nats-py's takes a task, a queue and 3.2 KB."""

    async def work() -> None:
        bus = await connected(url_of(server))
        tasks = len(asyncio.all_tasks())
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        made = [bus.subscribe(f"many.{n}", Inbox) for n in range(1000)]  # type: ignore[arg-type]
        await bus.flush()
        each = (tracemalloc.get_traced_memory()[0] - before) / len(made)
        tracemalloc.stop()
        assert len(asyncio.all_tasks()) <= tasks
        assert each < 1000, f"{each:.0f} bytes"
        await bus.close()

    run(work())


def test_8_and_9_messages_have_no_headers_and_answers_give_none_back(server: NatsServer) -> None:
    """nats-py's headers cost more than a message, and `respond` sends those of the request back."""

    async def work() -> None:
        async with ActorSystem(transport=url_of(server)) as system:
            await system.spawn(Echo)
            await system.node.remote.flush()
            with Raw(server) as raw:
                plane = system.node.plane
                inbox = f"{plane}.reply._.echo_example.raw.id-raw.1"
                body = Message(Envelope("ask", "1", 5.0, content_type="application/json"), b'{"word": "hi"}').to_bytes()
                raw.send(b"SUB %s.safe.> 1\r\nSUB %s 2\r\n" % (plane.encode(), inbox.encode()))
                headers = b"NATS/1.0\r\nMine: 1\r\n\r\n"
                raw.socket.sendall(
                    b"HPUB %s.safe.443.raw.echo_example._.post.say %s %d %d\r\n%s%s\r\n"
                    % (plane.encode(), inbox.encode(), len(headers), len(headers) + len(body), headers, body)
                )
                assert (await asyncio.to_thread(raw.lines.readline)).startswith(b"HMSG ")
                raw.lines.read(len(headers) + len(body) + 2)
                assert (await asyncio.to_thread(raw.lines.readline)).startswith(b"MSG " + inbox.encode())

    run(work())


def test_10_a_server_that_says_nothing_is_left_for_another(
    server: NatsServer, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-py waits until the silent peer agrees to the end of the connection, for a quarter of an hour."""
    monkeypatch.setattr(nats_client, "PING", 0.05)

    async def work(silent: NatsServer) -> None:
        bus = await connected(silent.url)
        bus._client._setup_server_pool([url_of(server)])  # type: ignore[union-attr]
        cut = asyncio.Event()
        bus.when_cut(cut.set)
        for _ in range(64):
            bus.publish("s", bytes(100_000))
        silent.pause()
        for _ in range(256):
            bus.publish("s", bytes(100_000))  # more than fits between, so that the end has to wait for it
        await asyncio.wait_for(cut.wait(), 60)
        await asyncio.wait_for(until_up(bus), 60)
        await bus.close()

    async def until_up(bus: NatsBus) -> None:
        await until(partial(lambda: bool(bus._client.up)))  # type: ignore[union-attr]
        await bus.flush()

    with nats_server(tmp_path_factory.mktemp("silent")) as silent:
        run(work(silent))
