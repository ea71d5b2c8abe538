"""A system that cannot be reached through the broker says so, also where its connection looks good."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mbactor import Actor, ActorSystem, endpoint, observe
from mbactor.services.gateway import Gateway
from mbactor.testing import Recorder
from mbactor.transport.nats import NatsBus
from tests.loops import run
from tests.nats import NatsServer, nats_server
from tests.transport.test_nats import until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


class Adder(Actor):
    host = "adder.example"

    @endpoint
    async def add(self, a: int, b: int) -> int:
        return a + b


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
            names = [event.name for event in recorder.events if event.name.startswith("bus.")]
            assert names == ["bus.deaf", "bus.cut", "bus.back"]
            assert await system.ask(Adder.add, 1, 2) == 3

    run(work())


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
                await until(lambda: bus._watching is not None and bus._watching.done())
                assert system.unready is None
        assert len(refused(recorder)) == 1
        assert not recorder.find("bus.deaf")

    users = 'authorization { users: [{user: a, password: b, permissions: {publish: "x"}}] }'
    with nats_server(tmp_path_factory.mktemp("nats"), users) as refusing:
        run(work(refusing.url.replace("//", "//a:b@")))


def health(url: str, method: str = "GET") -> tuple[int, Any]:
    asked = urllib.request.Request(f"{url}/_health", method=method)
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
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
