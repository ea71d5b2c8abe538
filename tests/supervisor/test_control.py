"""The control socket: what it answers, and that nobody who talks to it can hold the system up."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import anyio
import msgspec
import pytest

from mbactor import Actor, ActorSystem, Supervisor, child, endpoint, observe
from mbactor.supervisor import SupervisorSpec
from mbactor.supervisor.operate import control
from mbactor.supervisor.operate.control import CONNECTIONS, REQUEST_LIMIT, Control, Snapshot
from tests.supervisor.test_supervisor import Events

pytestmark = pytest.mark.anyio

GET = b'{"get": "tree"}\n'


class Echo(Actor):
    @endpoint
    async def echo(self, value: int) -> int:
        return value


class Open:
    """A system with a control socket, and the means to talk to it."""

    def __init__(self, system: ActorSystem, control: Control) -> None:
        self.system = system
        self.control = control
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(str(self.control.path), limit=1 << 24)
        self._writers.append(writer)
        return reader, writer

    async def ask(self, request: bytes = GET) -> Any:
        reader, writer = await self.connect()
        writer.write(request)
        with anyio.fail_after(60):
            line = await reader.readline()
        writer.transport.abort()
        return json.loads(line)

    async def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def open_system(*children: Any) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mb"))
        async with ActorSystem("shop", tree=SupervisorSpec(children=children)) as system:
            async with Control(system, Path("shop.yaml"), [Path(folder) / "mbactor"]) as control:
                opened = Open(system, control)
                stack.push_async_callback(opened.hang_up)
                yield opened
            assert control.path is not None
            assert not control.path.exists()


async def test_the_tree_is_answered_as_one_line_of_json() -> None:
    async with open_system(child(Echo, id="first")) as opened:
        await (await opened.system.spawn(Echo)).ask(Echo.echo, 1)
        answer = await opened.ask()
        assert (answer["system"], answer["pid"], answer["dead_letters"]) == ("shop", os.getpid(), 0)
        assert answer["uptime"] >= 0
        first, spawned = answer["tree"]["children"]
        assert (first["id"], first["state"], first["mailbox"]["depth"]) == ("first", "running", 0)
        assert spawned["children"][0]["mailbox"]["accepted"] == 1
        snapshot = msgspec.convert(answer, Snapshot)
        assert [node.id for node in snapshot.tree.children] == ["first", "spawned"]


async def test_a_connection_takes_one_request_after_another_the_last_also_without_a_line_end() -> None:
    async with open_system() as opened:
        reader, writer = await opened.connect()
        writer.write(GET + GET.rstrip())
        writer.write_eof()
        with anyio.fail_after(60):
            answers = (await reader.read()).splitlines()
        assert [json.loads(answer)["system"] for answer in answers] == ["shop", "shop"]


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (b"tree\n", "a request is a JSON object on a line of its own"),
        (b"\xff\xfe\n", "a request is a JSON object on a line of its own"),
        (b"[" * 10_000 + b"\n", "a request is a JSON object on a line of its own"),
        (b"[]\n", '[] given, an object with one key expected, such as {"get": "tree"}'),
        (b'{"get": "tree", "stop": "x"}\n', "an object with one key expected"),
        (b'{"fly": 1}\n', "'fly' given, one of get, ask, plan, apply, stop, start, restart expected"),
        (
            b'{"ask": "https://echo.example/echo"}\n',
            """an object such as {"url": "https://orders.example/place"} expected""",
        ),
        (b'{"ask": {"url": 1}}\n', "an object such as"),
        (b'{"ask": {"url": "https://nobody.example/x"}}\n', "nobody serves https://nobody.example/x"),
        (b'{"get": "money"}\n', "get: 'money' given, one of tree expected"),
        (b'{"get": ["tree"]}\n', "get: ['tree'] given, one of tree expected"),
        (b'{"get": "' + b"x" * 1000 + b'"}\n', "x…"),
    ],
)
async def test_what_cannot_be_answered_is_answered_with_an_error(request_: bytes, told: str) -> None:
    async with open_system() as opened:
        reader, writer = await opened.connect()
        writer.write(request_ + GET)
        with anyio.fail_after(60):
            assert told in json.loads(await reader.readline())["error"]
            assert "tree" in json.loads(await reader.readline())


class Odd(Supervisor):
    """Answers a look at it with an error."""

    def which_children(self) -> NoReturn:
        raise RuntimeError("not today")


async def test_an_error_that_is_no_answer_is_told_and_ends_no_connection() -> None:
    events = Events()
    with observe.observing(events):
        async with open_system(child(Odd)) as opened:
            reader, writer = await opened.connect()
            for _ in range(2):
                writer.write(GET)
                with anyio.fail_after(60):
                    answer = json.loads(await reader.readline())
                assert answer["status"] == 500
                assert answer["error"].endswith("RuntimeError: not today")
    assert [name for name, _ in events.seen if name == "control.failed"] == ["control.failed"] * 2


async def test_a_request_that_is_too_long_is_refused_and_ends_the_connection() -> None:
    async with open_system() as opened:
        reader, writer = await opened.connect()
        writer.write(b"x" * (REQUEST_LIMIT + 2))
        with anyio.fail_after(60):
            assert "more than 65536 bytes" in json.loads(await reader.readline())["error"]
            assert await _ended(reader)
        assert "tree" in await opened.ask()


async def _ended(reader: asyncio.StreamReader) -> bool:
    """Whether the other end is gone, which may come as an end or as a reset."""
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


async def test_a_client_that_does_not_read_holds_up_nobody_and_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "PATIENCE", 0.2)
    many = [child(Echo, id=f"echo-{n}") for n in range(500)]
    async with open_system(*many) as opened:
        echo = await opened.system.spawn(Echo)
        reader, writer = await opened.connect()
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(GET * 200)
        for n in range(100):
            with anyio.fail_after(60):
                assert await echo.ask(Echo.echo, n) == n
                assert "tree" in await opened.ask()
        await _until(lambda: not opened.control._clients)


async def _answer(opened: Open) -> bytes:
    """The answer to `GET`, without a client."""
    (line,) = [line async for line in opened.control.answers(GET)]
    return line


async def _until(condition: Any) -> None:
    with anyio.fail_after(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_more_clients_than_there_is_room_for_are_told_so() -> None:
    async with open_system() as opened:
        for _ in range(CONNECTIONS):
            reader, writer = await opened.connect()
            writer.write(GET)
            await reader.readline()
        assert (await opened.ask())["error"] == "64 clients are connected already"


async def test_the_end_of_the_system_cuts_its_clients_off() -> None:
    async with open_system() as opened:
        reader, _ = await opened.connect()
        await opened.ask()
    with anyio.fail_after(60):
        assert await _ended(reader)


async def test_those_who_ask_too_soon_get_the_same_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "SHARE", 1e9)
    async with open_system() as opened:
        first = await _answer(opened)
        await opened.system.spawn(Echo)
        assert await _answer(opened) == first
        monkeypatch.setattr(control, "SHARE", 0)
        opened.control._good_until = 0
        assert "spawned" in (await _answer(opened)).decode()


async def test_an_id_that_is_no_unicode_is_shown_all_the_same() -> None:
    async with open_system(child(Echo, id="a\ud800")) as opened:
        answer = msgspec.json.decode(await _answer(opened), type=Snapshot)
        assert answer.tree.children[0].id == "a?"


async def test_a_system_can_be_looked_at_before_it_starts_and_after_it_stopped() -> None:
    system = ActorSystem("shop", tree=SupervisorSpec(children=(child(Echo, id="first"),)))
    with tempfile.TemporaryDirectory(prefix="mb") as folder:
        async with Control(system, Path("shop.yaml"), [Path(folder) / "mbactor"]) as control:
            opened = Open(system, control)
            assert (await opened.ask())["tree"]["state"] == "stopped"
            async with system:
                await _until(lambda: asyncio.get_running_loop().time() > control._good_until)
                assert (await opened.ask())["tree"]["children"][0]["state"] == "running"
            await _until(lambda: asyncio.get_running_loop().time() > control._good_until)
            assert (await opened.ask())["tree"]["children"][0]["state"] == "stopped"
        await opened.hang_up()
