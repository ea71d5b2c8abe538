"""A system that cannot be reached through the broker says so, also where its connection looks good."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mbactor import Actor, ActorSystem, NoSuchActor, endpoint, observe
from mbactor.services.gateway import Gateway
from mbactor.testing import Recorder
from mbactor.transport import nats_watch
from mbactor.transport.nats import NatsBus
from mbactor.transport.nats_watch import subscriptions_in
from tests.loops import run
from tests.nats import NatsServer, nats_cluster, nats_server
from tests.transport.test_nats import until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


class Adder(Actor):
    host = "adder.example"
    concurrency = 8
    held: asyncio.Event

    @endpoint
    async def add(self, a: int, b: int) -> int:
        return a + b

    @endpoint
    async def hold(self) -> str:
        await Adder.held.wait()
        return "held"

    @endpoint
    async def let_go(self) -> None:
        Adder.held.set()


def unready(system: ActorSystem) -> Callable[[], bool]:
    return lambda: system.unready is not None


def ready(system: ActorSystem) -> Callable[[], bool]:
    return lambda: system.unready is None


def test_a_connection_that_has_lost_its_subscriptions_is_noticed_and_made_anew(server: NatsServer) -> None:
    async def work() -> None:
        recorder = Recorder(asyncio.get_running_loop())
        bus = NatsBus(server.url, every=0.05)
        async with ActorSystem(transport=bus) as system, ActorSystem(transport=server.url) as other:
            await other.spawn(Adder)
            await other.node.remote.flush()
            assert await system.ask(Adder.add, 1, 2) == 3
            with observe.observing(recorder):
                client: Any = bus._client
                client.send(b"".join(b"UNSUB %d\r\n" % sid for sid in client.subscribed()))
                await until(lambda: "nothing comes back through" in (system.unready or ""))
                await until(ready(system))
                await until(lambda: recorder.find("bus.back") != [])
            names = [event.name for event in recorder.events if event.name.startswith("bus.")]
            assert names == ["bus.deaf", "bus.cut", "bus.back"]
            assert await system.ask(Adder.add, 1, 2) == 3

    run(work())


def sid_of(system: ActorSystem, part: str) -> int:
    bus: Any = system.node.remote.bus
    [sid] = [sid for sid, one in bus._client.dispatch.subscriptions.items() if part in one._subject]
    return int(sid)


def told_of(recorder: Recorder) -> list[tuple[str, Any, Any]]:
    events = [event for event in recorder.events if event.name.startswith("bus.")]
    return [(event.name, event.fields.get("has"), event.fields.get("made")) for event in events]


@pytest.mark.parametrize("lost", ["_.*.add", ".adder_example.id-"], ids=["of the endpoint", "of the replica"])
def test_a_single_subscription_that_the_server_has_lost_is_noticed_and_made_again(
    server: NatsServer, lost: str
) -> None:
    """What is under way on the connection goes on."""

    async def work() -> None:
        recorder = Recorder(asyncio.get_running_loop())
        bus = NatsBus(server.url, every=0.05)
        async with ActorSystem(transport=bus) as system, ActorSystem(transport=server.url) as other:
            Adder.held = asyncio.Event()
            ref = await system.spawn(Adder)
            [replica] = [cell.replica for cell in system.node.served["adder.example"].cells]
            await system.node.remote.flush()
            held = asyncio.ensure_future(other.ask(Adder.hold))
            assert await other.ask(Adder.add, 1, 2) == 3
            with observe.observing(recorder):
                client: Any = bus._client
                made = len(client.dispatch.subscriptions)
                client.send(b"UNSUB %d\r\n" % sid_of(system, lost))
                await until(lambda: f"has {made - 1} subscriptions of this process, which" in (system.unready or ""))
                await until(ready(system))
            assert told_of(recorder) == [("bus.forgot", made - 1, made)]
            assert await other.ask(Adder.add, 1, 2) == 3
            assert await other.at(f"{replica}.adder.example").ask(Adder.add, 1, 2) == 3
            ref.tell(Adder.let_go)
            assert await held == "held"

    run(work())


def test_a_subscription_that_the_server_has_and_nobody_here_is_noticed_and_ends(server: NatsServer) -> None:
    """Its share of what is sent to the queue would be lost."""

    async def work() -> None:
        recorder = Recorder(asyncio.get_running_loop())
        bus = NatsBus(server.url, every=0.05)
        async with ActorSystem(transport=bus) as system, ActorSystem(transport=server.url) as other:
            await other.spawn(Adder)
            await other.node.remote.flush()
            with observe.observing(recorder):
                client: Any = bus._client
                made = len(client.dispatch.subscriptions)
                client.send(b"SUB mbactor.safe.443.*.adder_example._.*.add adder.example 4711\r\n")
                await until(unready(system))
                await until(ready(system))
                await until(lambda: recorder.find("bus.back") != [])
            names = [told[0] for told in told_of(recorder)]
            assert (names, told_of(recorder)[0][1:]) == (["bus.forgot", "bus.cut", "bus.back"], (made + 1, made))
            assert [await system.ask(Adder.add, 1, n) for n in range(20)] == [1 + n for n in range(20)]

    run(work())


def test_who_has_more_subscriptions_than_the_server_takes_is_unready_and_goes_on(tmp_path: Path) -> None:
    async def work(server: NatsServer) -> None:
        recorder = Recorder(asyncio.get_running_loop())
        with observe.observing(recorder):
            bus = NatsBus(server.url, every=0.02)
            async with ActorSystem(transport=bus) as system:
                await system.spawn(Adder)
                await until(lambda: len(recorder.find("bus.back")) == 1)
                watching: Any = bus._watching
                await until(lambda: watching._wrong > 5)
                assert "has 3 subscriptions of this process, which made" in (system.unready or "")
                told = [(event.name, event.fields) for event in recorder.events if event.name.startswith("bus.")]
                assert [name for name, _ in told if name != "bus.refused"] == ["bus.forgot", "bus.cut", "bus.back"], (
                    told
                )
                server.kill()
                server.write("")
                server.start()
                await until(ready(system))

    with nats_server(tmp_path, "max_subscriptions: 3") as server:
        run(work(server))


def test_in_a_cluster_the_server_that_is_connected_to_says_what_it_has(tmp_path: Path) -> None:
    async def work(url: str) -> None:
        async with ActorSystem(transport=NatsBus(url, every=0.05)) as system:
            await system.spawn(Adder)
            await system.node.remote.flush()
            bus: Any = system.node.remote.bus
            bus._client.send(b"UNSUB %d\r\n" % sid_of(system, "_.*.add"))
            await until(unready(system))
            await until(ready(system))

    with nats_cluster(tmp_path, size=2) as servers:
        run(work(servers[0].url))


async def answer(system: ActorSystem) -> int | None:
    """None where nobody is there."""
    try:
        return await system.ask(Adder.add, 1, 2)
    except NoSuchActor:
        return None


def test_what_the_server_refuses_is_tried_again_and_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its permissions may change, and it tells nobody."""
    monkeypatch.setattr(nats_watch, "AGAIN", 0.0)
    users = 'authorization {{ users: [{{user: a, password: b, permissions: {{subscribe: {{deny: "{}"}}}}}}] }}'
    endpoint_of = "mbactor.safe.443.*.adder_example._.*.add"

    async def work(server: NatsServer) -> None:
        url = server.url.replace("//", "//a:b@")
        recorder = Recorder(asyncio.get_running_loop())
        with observe.observing(recorder):
            async with ActorSystem(transport=NatsBus(url, every=0.02)) as system, ActorSystem(transport=url) as other:
                await system.spawn(Adder)
                client: Any = system.node.remote.bus.__dict__["_client"]
                for times in (1, 2):
                    server.write(users.format(endpoint_of))
                    server.signal(signal.SIGHUP)
                    await until(lambda times=times: len(recorder.find("bus.refused")) == times)  # type: ignore[misc]
                    for _ in range(3):
                        client.dispatch.heard = False
                        await until(lambda: client.dispatch.heard)
                    assert await answer(other) is None
                    assert len(recorder.find("bus.refused")) == times
                    server.write(users.format("nothing"))
                    server.signal(signal.SIGHUP)
                    async with asyncio.timeout(60):
                        while await answer(other) != 3:
                            await asyncio.sleep(0.005)
                    await until(ready(system))

    with nats_server(tmp_path, users.format("nothing")) as server:
        run(work(server))


def test_what_the_server_takes_away_is_told_and_is_there_again_with_the_next_connection(tmp_path: Path) -> None:
    users = 'authorization {{ users: [{{user: a, password: b, permissions: {{subscribe: {{deny: "{}"}}}}}}] }}'
    endpoint_of = "mbactor.safe.443.*.adder_example._.*.add"

    async def work(server: NatsServer) -> None:
        url = server.url.replace("//", "//a:b@")
        recorder = Recorder(asyncio.get_running_loop())
        with observe.observing(recorder):
            async with ActorSystem(transport=NatsBus(url, every=600)) as system, ActorSystem(transport=url) as other:
                await system.spawn(Adder)
                client: Any = system.node.remote.bus.__dict__["_client"]
                made = client.dispatch.permitted()
                await system.node.remote.flush()
                server.write(users.format(endpoint_of))
                server.signal(signal.SIGHUP)
                await until(lambda: recorder.find("bus.refused") != [])
                assert client.dispatch.permitted() == made - 1
                server.write(users.format("nothing"))
                server.signal(signal.SIGHUP)
                async with asyncio.timeout(60):
                    while await answer(other) != 3:
                        await client.renew("its permissions may have changed")
                        await until(lambda: client.up)
                assert client.dispatch.permitted() == made
                assert len(recorder.find("bus.refused")) == 1

    with nats_server(tmp_path, users.format("nothing")) as server:
        run(work(server))


def test_who_may_not_ask_for_its_subscriptions_is_told_once_and_is_ready(tmp_path: Path) -> None:
    async def work(url: str) -> None:
        recorder = Recorder(asyncio.get_running_loop())
        with observe.observing(recorder):
            async with ActorSystem(transport=NatsBus(url, every=0.02)) as system:
                bus: Any = system.node.remote.bus
                for _ in range(3):
                    await until(lambda: bus._client.dispatch.heard)
                    bus._client.dispatch.heard = False
                assert system.unready is None
        reasons = [str(event.fields["reason"]) for event in recorder.find("bus.refused")]
        assert len([reason for reason in reasons if "CONNZ" in reason]) == 1

    users = 'authorization { users: [{user: a, password: b, permissions: {publish: "mbactor.>"}}] }'
    with nats_server(tmp_path, users) as refusing:
        run(work(refusing.url.replace("//", "//a:b@")))


@pytest.mark.parametrize("answer", [b"", b"\xff", b"[]", b"{}", b'{"data": null}', b'{"data": {"server_id": 1}}'])
def test_whatever_a_server_answers_is_no_error(answer: bytes) -> None:
    assert subscriptions_in(answer, "A", 6) is None


def test_only_the_server_that_is_connected_to_is_believed() -> None:
    answer = json.dumps({"data": {"server_id": "A", "connections": [{"cid": 6, "subscriptions": 9}]}}).encode()
    assert [subscriptions_in(answer, *known_as) for known_as in [("A", 6), ("A", 7), ("B", 6)]] == [9, None, None]


def test_a_server_that_does_not_answer_makes_unready_before_it_is_left(server: NatsServer) -> None:
    async def work() -> None:
        async with ActorSystem(transport=NatsBus(server.url, every=0.05)) as system:
            server.pause()
            await until(unready(system))
            assert "has not answered for 0.05 s" in (system.unready or "")
            server.signal(signal.SIGCONT)
            await until(ready(system))

    run(work())


def refused(recorder: Recorder) -> list[str]:
    reasons = [str(event.fields["reason"]) for event in recorder.find("bus.refused")]
    return [reason for reason in reasons if '.watch"' in reason]


def test_who_may_not_look_is_not_taken_for_deaf(tmp_path_factory: pytest.TempPathFactory) -> None:
    async def work(url: str) -> None:
        recorder = Recorder(asyncio.get_running_loop())
        with observe.observing(recorder):
            bus = NatsBus(url, every=0.02)
            async with ActorSystem(transport=bus) as system:
                client: Any = bus._client
                await until(lambda: not client.dispatch.watchable)
                assert system.unready is None
        assert len(refused(recorder)) == 1
        assert not recorder.find("bus.deaf")

    users = 'authorization { users: [{user: a, password: b, permissions: {publish: "x"}}] }'
    with nats_server(tmp_path_factory.mktemp("nats"), users) as refusing:
        run(work(refusing.url.replace("//", "//a:b@")))


def test_who_may_look_again_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_watch, "AGAIN", 0.1)
    users = 'authorization {{ users: [{{user: a, password: b, permissions: {{publish: {{deny: "{}"}}}}}}] }}'

    async def work(server: NatsServer) -> None:
        recorder = Recorder(asyncio.get_running_loop())
        with observe.observing(recorder):
            bus = NatsBus(server.url.replace("//", "//a:b@"), every=0.02)
            async with ActorSystem(transport=bus) as system:
                client: Any = bus._client
                server.write(users.format("mbactor.reply.>"))
                server.signal(signal.SIGHUP)
                await until(lambda: not client.dispatch.watchable)
                for _ in range(3):  # it is tried, and refused, which is told once
                    tried = bus._watching._try_again  # type: ignore[union-attr]
                    await until(lambda tried=tried: bus._watching._try_again > tried)  # type: ignore[misc, union-attr]
                assert len(refused(recorder)) == 1
                server.write(users.format("nothing"))
                server.signal(signal.SIGHUP)
                await until(lambda: client.dispatch.watchable)
                assert system.unready is None
                client.send(b"".join(b"UNSUB %d\r\n" % sid for sid in client.subscribed()))
                await until(lambda: recorder.find("bus.deaf") != [])
                await until(ready(system))

    with nats_server(tmp_path, users.format("nothing")) as server:
        run(work(server))


def health(url: str, method: str = "GET") -> tuple[int, Any]:
    asked = urllib.request.Request(f"{url}/_health", method=method)
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"null")


def test_the_gateway_tells_whether_its_process_does_its_work(server: NatsServer) -> None:
    async def work() -> None:
        recorder = Recorder(asyncio.get_running_loop())
        system = ActorSystem(transport=server.url)
        assert system.unready == "it does not run"
        async with system:
            with observe.observing(recorder):
                await system.spawn(Gateway, port=0)
            [serving] = recorder.find("gateway.serving")
            url = serving.fields["url"]
            assert await asyncio.to_thread(health, url) == (200, {"status": "ready"})
            assert await asyncio.to_thread(health, url, "HEAD") == (200, None)
            assert (await asyncio.to_thread(health, url, "POST"))[0] == 405
            server.kill()
            await until(unready(system))
            status, told = await asyncio.to_thread(health, url)
            assert (status, told["status"]) == (503, "unready")
            assert "is lost; it is tried again" in told["reason"]
            server.start()
            await until(ready(system))
            assert (await asyncio.to_thread(health, url))[0] == 200
            system.node.serving = False
            assert await asyncio.to_thread(health, url) == (503, {"status": "unready", "reason": "it is being started"})
        assert system.unready == "it does not run"

    run(work())
