"""A process that serves one actor on a NATS server, and whatever may happen to such a process.

It says when it serves, and ends with its input.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mbactor import Actor, ActorSystem, endpoint
from mbactor.mailbox import Mailbox
from tests.process import ROOT

PLANE = "plane"


class Taker(Actor):
    host = "taker.example"
    mailbox = Mailbox(capacity=5000)

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.runs = 0

    @endpoint
    async def who(self) -> str:
        return self.name

    @endpoint
    async def pid(self) -> int:
        return os.getpid()

    @endpoint(queue="every")
    async def each(self) -> str:
        return self.name

    @endpoint
    async def slow(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        self.runs += 1
        return self.runs

    @endpoint
    async def held(self, file: str) -> int:
        """Until there is such a file."""
        while not Path(file).exists():  # noqa: ASYNC240 - a look at a small folder
            await asyncio.sleep(0.01)
        self.runs += 1
        return self.runs

    @endpoint
    async def block(self, after: float, seconds: float) -> str:
        """Keep the loop to itself, some time after the start."""
        await asyncio.sleep(after)
        time.sleep(seconds)  # noqa: ASYNC251 - the point of it
        return "done"


@contextmanager
def taker(url: str, name: str = "one", window: str = "400ms") -> Iterator[subprocess.Popen[bytes]]:
    """Such a process, once it serves; killed at the end."""
    command = [sys.executable, "-c", "from tests.supervisor import taker; taker.main()", url, name, window]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    try:
        assert process.stdout.readline() == b"serving\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


async def _serve(url: str, name: str, window: str) -> None:
    async with ActorSystem(name, url, PLANE, ack_window=window) as system:
        await system.spawn(Taker, name)
        await system.node.remote.flush()
        print("serving", flush=True)
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    asyncio.run(_serve(*sys.argv[1:]))
