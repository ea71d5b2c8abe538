"""`NatsBus` keeps the contract of every bus with a real server, and says so when it cannot."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from nats.aio.client import Server

from mbactor import ActorSystem, observe
from mbactor.errors import Forbidden, InvalidSpec, NoSuchActor, NotAcknowledged, Unavailable
from mbactor.testing import Recorder
from mbactor.testing.buses import check_bus
from mbactor.transport import Address, Delivery, Envelope, Message, Requester, messages_of, nats_client, nats_refused
from mbactor.transport.nats import NatsBus
from mbactor.transport.nats_why import Who, why_not
from tests.loops import LOOPS, Factory, run
from tests.nats import NatsServer, nats_cluster, nats_server
from tests.proxy import Proxy, proxy
from tests.transport.inbox import Inbox

REAL = {name: factory for name, factory in LOOPS.items() if name != "virtual"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_server(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NatsServer]]:
    with nats_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(params=list(REAL.values()), ids=list(REAL))
def loop(request: pytest.FixtureRequest) -> Factory:
    factory: Factory = request.param
    return factory


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.005)


async def connected(url: str) -> NatsBus:
    bus = NatsBus(url)
    await bus.connect()
    return bus


async def is_up(bus: NatsBus) -> None:
    """Until it is connected again."""

    async def flushes() -> bool:
        try:
            await bus.flush()
        except Unavailable:
            return False
        return True

    async with asyncio.timeout(60):
        while not await flushes():
            await asyncio.sleep(0.01)


def test_it_keeps_the_contract_of_every_bus(server: NatsServer, loop: Factory) -> None:
    run(check_bus(partial(NatsBus, server.url)), loop)


def test_two_connections_keep_the_contract_on_a_cluster_of_three(cluster: list[NatsServer]) -> None:
    url = ",".join(server.url for server in cluster)
    run(check_bus(partial(NatsBus, url), beside=partial(NatsBus, cluster[1].url), apart=True))


def test_who_knows_one_server_of_a_cluster_goes_to_another_when_it_dies(tmp_path: Path) -> None:
    async def work(cluster: list[NatsServer]) -> None:
        first, _, third = cluster
        bus, other, seen = await connected(first.url.replace("//", "//ann:p%40ss@")), NatsBus(third.url), Inbox()
        with pytest.raises(Unavailable, match="refuses the credentials"):
            await other.connect()
        other = await connected(third.url.replace("//", "//ann:p%40ss@"))
        cut = asyncio.Event()
        bus.when_cut(cut.set)
        bus.subscribe("s", seen)
        await bus.flush()
        first.kill()
        await cut.wait()
        await is_up(bus)

        def arrived() -> bool:
            other.publish("s", b"x")
            return bool(seen.got)

        await until(arrived)
        await bus.close()
        await other.close()

    with nats_cluster(tmp_path, 'authorization { user: ann, password: "p@ss" }') as cluster:
        run(work(cluster))


def test_of_several_servers_the_one_that_answers_is_taken(server: NatsServer, tmp_path: Path) -> None:
    nobody = NatsServer(tmp_path)

    async def work() -> None:
        for _ in range(8):  # in whatever order they are tried
            bus = await connected(f"{nobody.url},{server.url}")
            await bus.close()

    run(work())


def test_two_connections_share_the_messages_of_a_queue_and_answer_each_other(server: NatsServer) -> None:
    async def work() -> None:
        one, two = await connected(server.url), await connected(server.url)
        here, there, answers = Inbox(), Inbox(), Inbox()
        one.subscribe("q", here, queue="w")
        two.subscribe("q", there, queue="w")
        one.subscribe("inbox.*", answers)
        await one.flush()
        await two.flush()
        for n in range(200):
            one.publish("q", b"%d" % n, reply=f"inbox.{n}")
        await until(lambda: len(here.got) + len(there.got) == 200)
        assert min(len(here.got), len(there.got)) > 20
        for delivery in there.got:
            two.publish(delivery.reply or "", delivery.data)
        assert [one.data for one in await answers.until(len(there.got))] == [one.data for one in there.got]
        await one.close()
        await two.close()

    run(work())


def test_what_was_published_before_a_flush_is_with_a_later_subscriber_not(server: NatsServer) -> None:
    """A flush is a barrier: after it, the server has what was subscribed, for whoever publishes elsewhere."""

    async def work() -> None:
        one, two = await connected(server.url), await connected(server.url)
        for n in range(300):
            seen = Inbox()
            one.subscribe(f"s.{n}", seen)
            await one.flush()
            two.publish(f"s.{n}", b"x")
            await two.flush()
            await one.flush()
            assert seen.got, f"missed at {n}"
        await one.close()
        await two.close()

    run(work())


def test_a_slow_subscriber_loses_none_of_a_hundred_thousand_and_sees_them_in_order(
    server: NatsServer, loop: Factory
) -> None:
    async def work() -> None:
        one, two = await connected(server.url), await connected(server.url)
        got: list[int] = []

        def slow(delivery: Delivery) -> None:
            got.append(int(delivery.data))
            if len(got) % 10_000 == 0:
                time.sleep(0.05)  # the loop is blocked, as an actor may do it

        two.subscribe("many", slow)
        await two.flush()
        for n in range(100_000):
            one.publish("many", b"%d" % n)
        await one.flush()
        await until(lambda: len(got) >= 100_000)
        assert got == list(range(100_000))
        await one.close()
        await two.close()

    run(work(), loop)


def test_closing_drains_what_is_on_its_way_and_the_answers_to_it(server: NatsServer) -> None:
    async def work() -> None:
        one, two = await connected(server.url), await connected(server.url)
        answers = Inbox()
        one.subscribe("inbox", answers)
        two.subscribe("s", lambda delivery: two.publish(delivery.reply or "", delivery.data))
        await two.flush()
        for n in range(1000):
            one.publish("s", b"%d" % n, reply="inbox")
        await one.flush()
        await two.close()
        one.publish("s", b"late", reply="inbox")
        got = await answers.until(1001)
        assert [one.data for one in got] == [*(b"%d" % n for n in range(1000)), b""]
        assert got[-1].failure == "no_responders"
        await one.close()

    run(work())


def test_closing_waits_until_the_server_has_all_that_was_answered_last(server: NatsServer) -> None:
    async def work(between: Proxy) -> None:
        one, two = await connected(server.url), await connected(between.url)
        answers, much = Inbox(), bytes(500_000)
        one.subscribe("inbox", answers)
        two.subscribe("s", lambda delivery: two.publish(delivery.reply or "", much))
        await two.flush()
        await one.flush()
        between.cut(back=True)
        for _ in range(60):  # whose answers are more than the sockets keep
            one.publish("s", b"", reply="inbox")
        await one.flush()
        closing = asyncio.ensure_future(two.close())
        await asyncio.sleep(0)
        between.heal()
        await closing
        assert [len(one.data) for one in await answers.until(60)] == [len(much)] * 60
        await one.close()

    with proxy(server.port) as between:
        run(work(between))


def test_who_asks_one_that_closes_is_answered_or_told_that_nobody_is_there(server: NatsServer) -> None:
    async def work() -> None:
        one, two = await connected(server.url), await connected(server.url)
        answers, asked = Inbox(), 0
        one.subscribe("inbox", answers)
        two.subscribe("s", lambda delivery: two.publish(delivery.reply or "", b"answer"))
        await two.flush()
        closing = asyncio.ensure_future(two.close())
        while not closing.done() or asked < 100:
            one.publish("s", b"", reply="inbox")
            asked += 1
            await asyncio.sleep(0)
        got = await answers.until(asked)
        assert len(got) == asked
        assert {(one.data, one.failure) for one in got} <= {(b"answer", None), (b"", "no_responders")}
        await one.close()

    run(work())


def test_what_a_server_does_not_read_is_refused_above_a_bound(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_client, "FULL", 1024 * 1024)

    async def work() -> None:
        bus, data = await connected(server.url), bytes(256 * 1024)
        server.pause()

        def publish_much() -> None:
            for _ in range(400):  # what the sockets take, and more
                bus.publish("s", data, reply="inbox")

        with pytest.raises(Unavailable, match="the broker does not read: 1048576 bytes wait for it"):
            publish_much()
        assert 1024 * 1024 <= bus.waiting() < 3 * 1024 * 1024
        server.signal(signal.SIGCONT)
        await bus.close()

    run(work())


def test_those_that_were_cut_off_together_do_not_all_come_back_at_once() -> None:
    first, second = (Server(urlparse(f"nats://{host}:4222")) for host in "ab")

    def drawn(*servers: Server) -> list[tuple[str, float]]:
        chosen = [nats_client._next_server(list(servers), {}) for _ in range(200)]
        return [(server.uri.geturl(), pause) for server, pause in chosen]

    for tries, most in (
        (0, nats_client.FIRST_PAUSE),
        (1, 2 * nats_client.FIRST_PAUSE),
        (50, nats_client.LONGEST_PAUSE),
    ):
        first.reconnects = tries
        pauses = [pause for _, pause in drawn(first)]
        assert 0 <= min(pauses) < most / 2 < max(pauses) <= most
    assert {url for url, _ in drawn(first, second)} == {"nats://b:4222"}
    second.reconnects = first.reconnects
    assert {url for url, _ in drawn(first, second)} == {"nats://a:4222", "nats://b:4222"}


def test_a_lone_message_leaves_at_once_and_what_is_read_begins_a_turn(server: NatsServer, loop: Factory) -> None:
    async def work() -> None:
        bus = await connected(server.url)
        got = Inbox()
        bus.subscribe("a", got)
        await bus.flush()
        bus.publish("a", b"1")
        await got.until(1)
        for count in (2, 3, 4):
            await until(lambda: bus.publish_alone("a", b"", None))
            assert not bus.publish_alone("a", b"", None)
            await got.until(count)
        await bus.close()

    run(work(), loop)


@pytest.mark.parametrize("subject", ["a b", "a\r\nPUB b 0", "", "a\tb"])
def test_a_subject_that_would_break_the_line_is_refused(server: NatsServer, subject: str) -> None:
    async def work() -> None:
        bus = await connected(server.url)
        with pytest.raises(ValueError, match="expected"):
            bus.publish(subject, b"")
        with pytest.raises(ValueError, match="expected"):
            bus.publish("a", b"", reply=subject or " ")
        with pytest.raises(ValueError, match="expected"):
            bus.subscribe(subject, Inbox())
        with pytest.raises(ValueError, match="expected"):
            bus.subscribe("a", Inbox(), queue=subject or " ")
        await bus.flush()
        await bus.close()

    run(work())


def test_a_receiver_that_raises_does_not_end_the_reading(server: NatsServer) -> None:
    async def work() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        bus, seen = await connected(server.url), Inbox()

        def faulty(_: Delivery) -> None:
            raise ZeroDivisionError

        bus.subscribe("s", faulty)
        bus.subscribe("s", seen)
        bus.publish("s", b"1")
        bus.publish("s", b"2")
        await seen.until(2)
        assert [one["message"] for one in told] == ["the receiver of s raised"] * 2
        await bus.close()

    run(work())


def test_who_was_cancelled_while_it_flushed_does_not_end_the_reading(server: NatsServer) -> None:
    async def work() -> None:
        bus = await connected(server.url)
        server.pause()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(bus.flush(), 0.05)
        server.signal(signal.SIGCONT)
        await bus.flush()
        await bus.flush()
        await bus.close()

    run(work())


# --- the server goes, and comes back --------------------------------------------------------------------------------


ADDRESS = Address("svc.example", "/work")


def ask(requester: Requester, budget: float = 30.0, address: Address = ADDRESS) -> asyncio.Future[Message]:
    deadline = asyncio.get_running_loop().time() + budget
    return requester.request(
        "me", address, Message(Envelope("ask", requester.new_id()), b""), deadline, lambda one: one
    )


def answer_to(delivery: Delivery, body: bytes = b"") -> bytes:
    [asked] = messages_of(delivery.data)
    return Message(Envelope("reply", asked.envelope.id), body).to_bytes()


def test_a_server_that_is_killed_and_started_again(server: NatsServer, loop: Factory) -> None:
    async def work() -> None:
        recorder = Recorder(asyncio.get_running_loop())
        with observe.observing(recorder):
            await killed_and_started(recorder)

    async def killed_and_started(recorder: Recorder) -> None:
        asker, server_bus = await connected(server.url), await connected(server.url)
        requester = Requester(asker, "p", "node", coalesce=False)
        await requester.open()
        asked, events, during = Inbox(), Inbox(), Inbox()
        server_bus.subscribe("p.*.*.*.svc_example.>", asked, queue="svc")
        server_bus.subscribe("events.*", events)
        await server_bus.flush()
        waiting = [ask(requester) for _ in range(100)]
        await asked.until(100)

        server.kill()
        outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 60)
        assert {type(one) for one in outcomes} == {NotAcknowledged}
        assert "the connection was lost before the answer came" in str(outcomes[0])
        with pytest.raises(Unavailable, match="is lost; it is tried again"):
            await ask(requester)
        with pytest.raises(Unavailable):
            await asker.flush()
        await until(lambda: len(recorder.find("bus.cut")) == 2)
        server_bus.subscribe("meanwhile", during)

        server.start()
        await is_up(asker)
        await is_up(server_bus)
        await until(lambda: len(recorder.find("bus.back")) == 2)
        assert all(event.fields["seconds"] > 0 for event in recorder.find("bus.back"))
        assert len(asked.got) == 100, "something was kept through the outage"
        again = ask(requester)
        delivery = (await asked.until(101))[100]
        server_bus.publish(delivery.reply or "", answer_to(delivery, b"42"))
        assert (await again).body == b"42"
        asker.publish("events.x", b"")
        asker.publish("meanwhile", b"")
        await events.until(1)
        await during.until(1)
        await asker.flush()
        assert (len(events.got), len(during.got)) == (1, 1), "something was subscribed twice"
        requester.close()
        await asker.close()
        await server_bus.close()

    run(work(), loop)


def test_every_ask_ends_while_the_server_comes_and_goes(server: NatsServer) -> None:
    async def work() -> None:
        asker, server_bus = await connected(server.url), await connected(server.url)
        requester = Requester(asker, "p", "node", coalesce=False)
        await requester.open()

        def answer(delivery: Delivery) -> None:
            with suppress(Unavailable):
                server_bus.publish(delivery.reply or "", answer_to(delivery))

        server_bus.subscribe("p.*.*.*.svc_example.>", answer, queue="svc")
        await server_bus.flush()
        ended: dict[str, int] = {}
        over = asyncio.Event()

        async def client() -> None:
            while not over.is_set():
                try:
                    await ask(requester, budget=20)
                    how = "answered"
                except (NotAcknowledged, NoSuchActor, Unavailable) as error:
                    how = type(error).__name__
                    await asyncio.sleep(0.002)
                ended[how] = ended.get(how, 0) + 1

        clients = [asyncio.create_task(client()) for _ in range(32)]
        for _ in range(3):
            before = ended.get("answered", 0)
            await until(lambda: ended.get("answered", 0) > before + 500)  # noqa: B023 - awaited here
            await asyncio.to_thread(server.kill)
            await until(lambda: not asker._client.up)  # type: ignore[union-attr]
            await asyncio.to_thread(server.start)
            await is_up(asker)
        over.set()
        await asyncio.wait_for(asyncio.gather(*clients), 60)
        assert ended["answered"] > 1500
        assert ended["NotAcknowledged"] >= 1
        print(ended)
        await asker.close()
        await server_bus.close()

    run(work())


def test_a_server_that_answers_is_not_left_however_often_it_is_asked(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_client, "PING", 0.01)

    async def work(between: Proxy) -> None:
        bus = await connected(between.url)
        cuts: list[None] = []
        bus.when_cut(lambda: cuts.append(None))
        before = between.sent
        await until(lambda: cuts != [] or between.sent >= before + 10 * nats_client.SILENT * len(b"PING\r\n"))
        assert cuts == []
        await bus.close()

    with proxy(server.port) as between:
        run(work(between))


def test_of_what_is_not_subscribed_to_any_more_nothing_is_kept(server: NatsServer) -> None:
    async def work() -> None:
        bus = await connected(server.url)
        for n in range(100):
            bus.subscribe(f"a.{n}", Inbox()).unsubscribe()
        await bus.flush()
        assert bus._client is not None
        assert (bus._client.dispatch.leaving, bus._client.dispatch.subscriptions) == ({}, {})
        await bus.close()

    run(work())


def test_a_server_that_falls_silent_is_left(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_client, "PING", 0.1)

    async def work() -> None:
        bus = await connected(server.url)
        cut = asyncio.Event()
        bus.when_cut(cut.set)
        server.pause()
        flushing = asyncio.ensure_future(bus.flush())
        await asyncio.wait_for(cut.wait(), 60)
        with pytest.raises(Unavailable):
            await flushing
        server.signal(signal.SIGCONT)
        await is_up(bus)
        await bus.close()

    run(work())


def test_it_can_be_closed_while_the_server_is_gone(server: NatsServer, loop: Factory) -> None:
    async def work() -> None:
        bus = await connected(server.url)
        cut = asyncio.Event()
        bus.when_cut(cut.set)
        server.kill()
        await cut.wait()
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="lost"):
            await asyncio.wait_for(bus._client.barrier(), 60)  # type: ignore[union-attr]
        async with asyncio.timeout(60):
            await bus.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        await until(lambda: all(task.done() for task in left))

    run(work(), loop)


def test_it_can_be_closed_at_any_moment_while_it_comes_back(server: NatsServer, loop: Factory) -> None:
    """Whatever keeps the cancellation of that to itself."""

    async def work() -> None:
        for turns in range(12):
            bus = await connected(server.url)
            server.kill()
            greeted, over = asyncio.Event(), asyncio.Event()

            async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(b'INFO {"headers": true, "max_payload": 1048576}\r\n')
                greeted.set()  # noqa: B023 - over before the next
                with suppress(ConnectionError):
                    await reader.read()  # until it is closed
                writer.close()
                over.set()  # noqa: B023

            async with await asyncio.start_server(greet, "127.0.0.1", server.port):
                await asyncio.wait_for(greeted.wait(), 60)
                for _ in range(turns):
                    await asyncio.sleep(0)
                await asyncio.wait_for(bus.close(), 60)
                await asyncio.wait_for(over.wait(), 60)
            server.start()

    run(work(), loop)


# --- what is wrong is said ------------------------------------------------------------------------------------------


def fails(url: str, loop: Factory = asyncio.SelectorEventLoop) -> str:
    async def work() -> str:
        bus = NatsBus(url)
        with pytest.raises(Unavailable) as caught:
            await asyncio.wait_for(bus.connect(), 60)
        with pytest.raises(Unavailable, match="closed"):
            bus.publish("s", b"")
        await bus.close()
        return str(caught.value)

    return run(work(), loop)


def test_nobody_listens(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    assert f"nobody listens at {server.url} (Connection refused)" in fails(server.url)
    # As asyncio says it of a name with two addresses.
    both = (
        "Multiple exceptions: [Errno 111] Connect call failed ('::1', 4222), [Errno 111] Connect call failed ('a', 1)"
    )
    assert "(Connection refused)" in why_not(OSError(both), server.url, 2.0, Who())
    assert "(no such thing)" in why_not(OSError("no such thing"), server.url, 2.0, Who())
    assert "the host of nats://no.such.invalid:4222 is not known" in fails("nats://no.such.invalid")


def test_who_listens_is_no_nats_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_client, "CONNECT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "has not answered as a NATS server does within 0.2 s" in fails(
            f"nats://127.0.0.1:{silent.getsockname()[1]}"
        )

    async def other(greeting: bytes) -> None:
        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(greeting)
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(greet, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            with pytest.raises(Unavailable, match="is no NATS server"):
                await connected(f"nats://127.0.0.1:{port}")

    for greeting in (b"SSH-2.0-OpenSSH_9.2\r\n", b"x" * 100_000):
        run(other(greeting))


def test_a_server_whose_messages_are_too_small_is_refused(tmp_path: Path) -> None:
    with nats_server(tmp_path, "max_payload: 1023") as small:
        why = fails(small.url)
    assert f"{small.url} carries messages of 1023 bytes at most: 1024 or more expected as its setting" in why


@pytest.mark.parametrize("greeting", [b"INFO\r\n", b"INFO [1]\r\n", b'INFO {"connect_urls": ["[::"]}\r\n'])
def test_whatever_greets_in_the_place_of_a_server_that_is_tried_again(
    server: NatsServer, loop: Factory, greeting: bytes
) -> None:
    async def work() -> None:
        bus = await connected(server.url)
        server.kill()
        tries = 0

        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal tries
            tries += 1
            writer.write(greeting)
            await asyncio.sleep(0.01)
            writer.close()

        async with await asyncio.start_server(greet, "127.0.0.1", server.port):
            assert "does not take the connection" in await asyncio.to_thread(fails, server.url, loop)
            await until(lambda: tries > 3)
        server.start()
        await is_up(bus)
        await bus.close()

    run(work(), loop)


def test_credentials_are_refused_and_the_password_is_not_shown(tmp_path: Path) -> None:
    async def right(url: str) -> None:
        bus = await connected(url)
        await bus.flush()
        await bus.close()

    with nats_server(tmp_path, "authorization { user: ann, password: s3cret }") as server:
        host = server.url.removeprefix("nats://")
        for url in (server.url, f"nats://ann:wr0ng@{host}"):
            text = fails(url)
            assert "refuses the credentials" in text
            assert "wr0ng" not in text
        run(right(f"nats://ann:s3cret@{host}"))


def with_permissions(folder: Path, permissions: str, work: Callable[[str], Coroutine[Any, Any, None]]) -> None:
    """Do something at a server that grants these and no others."""
    users = f"authorization {{ users: [{{user: a, password: b, permissions: {{ {permissions} }}}}] }}"
    with nats_server(folder, users) as server:
        run(work(server.url.replace("//", "//a:b@")))


def test_a_refused_subject_is_told_and_harms_nothing(tmp_path: Path) -> None:
    async def work(url: str) -> None:
        recorder = Recorder(asyncio.get_running_loop())
        with observe.observing(recorder):
            bus, seen = await connected(url), Inbox()
            right = bus.subscribe("mine.*", seen)
            wrong = bus.subscribe("others.*", seen)
            in_queue = bus.subscribe("others.x", seen, queue="Q")
            bus.publish("others.x", b"")
            bus.publish("mine.x", b"")
            await seen.until(1)
            await bus.flush()
            assert right.refused is None
            told = [
                'Permissions Violation for Subscription to "others.*"',
                'Permissions Violation for Subscription to "others.x" using queue "Q"',
                'Permissions Violation for Publish to "others.x"',
            ]
            assert [wrong.refused, in_queue.refused] == told[:2]
            assert [event.fields["reason"] for event in recorder.find("bus.refused")] == told
            assert not recorder.find("bus.cut")
            await bus.close()

    with_permissions(tmp_path, 'publish: "mine.>", subscribe: ["mine.>"]', work)


def test_a_request_that_the_broker_refuses_fails_at_once_with_its_reason(tmp_path: Path) -> None:
    async def work(url: str) -> None:
        bus = await connected(url)
        requester = Requester(bus, "p", "node")
        await requester.open()
        served = Inbox()
        bus.subscribe("p.safe.443.*.svc_example._.post.work", served)
        await bus.flush()
        permitted = ask(requester)
        await served.until(1)
        forbidden = Address("Big.example", "/Work")
        for _ in range(3):
            many = [ask(requester, address=forbidden) for _ in range(2000)]
            refused = await asyncio.wait_for(asyncio.gather(*many, return_exceptions=True), 60)
            assert {(type(one), one.taken) for one in refused} == {(Forbidden, "no")}  # type: ignore[union-attr]
            subject = "p.safe.443.me.Big_example._.post.Work"
            assert f'Permissions Violation for Publish to "{subject}"' in str(refused[0])
        assert not permitted.done()
        bus.publish(served.got[0].reply or "", answer_to(served.got[0], b"42"))
        assert (await permitted).body == b"42"
        requester.close()
        await bus.close()

    with_permissions(tmp_path, 'publish: ["p.*.*.*.svc_example.>", "p.reply.>"], subscribe: "p.>"', work)


def test_of_thousands_of_requests_each_that_is_refused_is_told_also_after_a_lost_connection(tmp_path: Path) -> None:
    may = "permissions: {publish: {allow: [good.>]}}"

    async def work(server: NatsServer) -> None:
        bus, told, back = await connected(server.url.replace("//", "//a:b@")), Inbox(), asyncio.Event()
        bus.subscribe("inbox.*", told)
        bus.subscribe("good.*", Inbox())
        bus.when_back(back.set)
        await bus.flush()

        async def ask_thousands() -> None:
            told.got.clear()
            for n in range(5 * nats_refused.MANY):
                bus.publish(f"bad.{n}" if n % 100 == 0 else "good.x", b"", reply=f"inbox.{n}")
            refused = [f"inbox.{n}" for n in range(0, 5 * nats_refused.MANY, 100)]
            assert [one.subject for one in await told.until(len(refused))] == refused
            assert {one.failure for one in told.got} == {"forbidden"}

        await ask_thousands()
        for n in range(nats_refused.MANY):  # so that it has to say what it has read, and cannot
            bus.publish("good.x", b"", reply=f"inbox.{n}")
        bus._client._transport.abort()  # type: ignore[union-attr]
        await back.wait()
        await ask_thousands()
        await bus.close()

    with nats_server(tmp_path, f"authorization {{ users: [{{user: a, password: b, {may}}}] }}") as server:
        run(work(server))


def test_a_system_that_may_not_receive_its_answers_does_not_start(tmp_path: Path) -> None:
    async def work(url: str) -> None:
        system = ActorSystem(transport=url)
        with pytest.raises(Forbidden, match='Permissions Violation for Subscription to "mbactor.reply'):
            await system.start()
        assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.done()]

    with_permissions(tmp_path, 'publish: ">", subscribe: "other.>"', work)


def test_a_server_that_takes_no_headers_is_refused_whatever_its_version(tmp_path: Path) -> None:
    with nats_server(tmp_path, "no_header_support: true") as without:
        why = fails(without.url)
    assert re.search(r"\(version 2\.\d+\.\d+\) takes no headers", why)
    assert "without no_header_support in its configuration" in why


def test_a_server_that_is_full_is_tried_until_it_has_room(server: NatsServer, loop: Factory) -> None:
    full = "does not take the connection: nats: 'maximum connections exceeded'"

    async def work() -> None:
        recorder = Recorder(asyncio.get_running_loop())
        with observe.observing(recorder):
            bus = await connected(server.url)
            server.kill()
            server.write("max_connections: 0")
            server.start()
            async with asyncio.timeout(60):
                while full not in await asyncio.to_thread(fails, server.url, loop):
                    """It was closed before its last words were read."""
            client: Any = bus._client
            tries = client._current_server.reconnects
            await until(lambda: client._current_server.reconnects > tries + 3)
            await until(lambda: full in (bus.unready() or ""))
            with pytest.raises(Unavailable, match="is lost; it is tried again: .*maximum connections"):
                bus.publish("s", b"")
            assert [full in str(event.fields["reason"]) for event in recorder.find("bus.refused")] == [True]
            server.write("")
            server.signal(signal.SIGHUP)
            await is_up(bus)
            assert bus.unready() is None
            await bus.close()

    run(work(), loop)


def test_who_comes_back_to_other_credentials_is_told_so(tmp_path: Path) -> None:
    async def work(server: NatsServer) -> None:
        recorder = Recorder(asyncio.get_running_loop())
        with observe.observing(recorder):
            bus = await connected(server.url.replace("//", "//a:b@"))
            server.kill()
            server.write("authorization { user: a, password: other }")
            server.start()
            await until(lambda: "refuses the credentials" in (bus.unready() or ""))
            [event] = recorder.find("bus.refused")
            assert "refuses the credentials" in str(event.fields["reason"])
            server.write("authorization { user: a, password: b }")
            server.signal(signal.SIGHUP)
            await is_up(bus)
            await bus.close()

    with nats_server(tmp_path, "authorization { user: a, password: b }") as server:
        run(work(server))


def test_encryption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: NatsServer, loop: Factory) -> None:
    assert "does not encrypt, and tls:// is given" in fails(server.url.replace("nats:", "tls:"))
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )

    async def right(url: str) -> None:
        bus = await connected(url)
        await bus.flush()
        transport: Any = bus._client._transport.transport  # type: ignore[union-attr]
        assert isinstance(transport.get_extra_info("ssl_object"), ssl.SSLObject)
        await bus.close()

    files = f'cert_file: "{certificate}", key_file: "{key}"'
    with nats_server(tmp_path, f"tls {{ {files} }}") as encrypting:
        url = f"tls://localhost:{encrypting.port}"
        assert "no encrypted connection to tls://localhost" in fails(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        for one in (url, url.replace("tls:", "nats:")):
            run(right(one))
    with nats_server(tmp_path, f'tls {{ {files}, ca_file: "{certificate}", verify: true }}') as verifying:
        assert "wants a certificate of who connects" in fails(f"tls://localhost:{verifying.port}", loop)


def test_a_wrong_url_is_refused_before_anything_is_connected() -> None:
    with pytest.raises(InvalidSpec, match="nats://host:port expected"):
        NatsBus("nats://")
