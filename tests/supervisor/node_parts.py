"""What runs in nodes: actors and subtrees that tell where they are, and that misbehave when asked to."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextvars import Context
from pathlib import Path
from typing import Any

from mbactor import Actor, DynamicSupervisor, Supervisor, child, endpoint
from mbactor.errors import Ignore, MbactorError
from mbactor.kernel.exit import Exit


class Worker(Actor):
    """Does as it is told."""

    host = "worker.node.example"

    def __init__(self, mark: str = "", notes: str | None = None) -> None:
        self.mark = mark
        self.notes = notes
        self.count = 0

    async def on_start(self) -> None:
        self.note(f"start {os.getpid()}")

    async def on_stop(self, exit: Exit) -> None:
        self.note(f"stop {exit.kind}")

    def note(self, text: str) -> None:
        if self.notes is not None:
            with Path(self.notes).open("a") as file:
                file.write(text + "\n")

    @endpoint
    async def pid(self) -> int:
        return os.getpid()

    @endpoint
    async def settings(self) -> list[str | float | bool | None]:
        """What its node was given."""
        node = self.ref.cell.node
        limits = [node.watchdog_limit, node.ack_window, node.max_body]
        return [node.plane, node.locality, node.serialize_local, node.coalesce, *limits]

    @endpoint
    async def marked(self) -> str:
        return self.mark

    @endpoint
    async def nap(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return os.getpid()

    @endpoint
    async def block(self, seconds: float) -> None:
        self.note("block")
        time.sleep(seconds)  # noqa: ASYNC251 - that is what it is about

    @endpoint
    async def crash(self) -> None:
        raise RuntimeError("boom")

    @endpoint
    async def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @endpoint
    async def leave(self, code: int) -> None:
        os._exit(code)

    @endpoint
    async def exit(self, code: int) -> None:
        sys.exit(code)

    @endpoint
    async def end(self) -> None:
        self.stop()

    @endpoint
    async def retire(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: loop.create_task(self.ref.stop()), context=Context())

    @endpoint
    async def say(self, text: str) -> None:
        print(text)
        print(text.upper(), file=sys.stderr)

    @endpoint
    async def log_it(self, text: str, size: int = 3) -> None:
        self.log.info(text, size=size)

    @endpoint
    async def write_note(self, text: str) -> None:
        self.note(text)

    @endpoint
    async def take(self, text: str) -> None:
        self.count += 1

    @endpoint
    async def taken(self) -> int:
        return self.count

    @endpoint
    async def flood(self, count: int, size: int) -> None:
        for _ in range(count):
            self.log.info("x" * size)
        raise RuntimeError("flooded")

    @endpoint
    async def write_out(self, size: int) -> None:
        sys.stdout.write("x" * size)
        sys.stdout.flush()

    @endpoint
    async def inherited_sockets(self) -> int:
        """How many sockets a program gets that is started with all that can be inherited."""
        command = ["ls", "-l", "/proc/self/fd"]
        done = subprocess.run(command, close_fds=False, capture_output=True, check=True, text=True)  # noqa: ASYNC221
        return done.stdout.count("socket:")


class Stubborn(Worker):
    """Swallows its cancellation."""

    host = "stubborn.node.example"

    @endpoint
    async def cling(self) -> None:
        self.note("cling")
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.note("clung")


class Refuses(Actor):
    async def on_start(self) -> None:
        raise ValueError("not today")


class OddlyRefuses(Actor):
    async def on_start(self) -> None:
        raise MbactorError("not today", number=2**70, text="\udc80")


class Ignored(Actor):
    async def on_start(self) -> None:
        raise Ignore


class Warm(Actor):
    """Takes its time to be ready."""

    host = "warm.node.example"

    async def on_start(self) -> None:
        await asyncio.sleep(0.3)
        self.ready = True

    @endpoint
    async def is_ready(self) -> bool:
        return self.ready


class Slow(Actor):
    async def on_start(self) -> None:
        await asyncio.sleep(3600)


class Pair(Supervisor):
    """A subtree; its own budget is small."""

    max_restarts, within = 1, 60.0

    def __init__(self, notes: str | None = None, *more: Any) -> None:
        super().__init__(children=[child(Warm), child(Worker, args={"notes": notes})])


class Flooded(Supervisor):
    """Gives up at the first crash."""

    max_restarts = 0
    children = (child(Worker),)


class Broken(Supervisor):
    children = (child(Worker), child(Refuses))


class Outer(Supervisor):
    """A node within a node."""

    children = (child(Pair, process=True),)


class Book(Worker):
    host = "book.node.example"


class Keeper(Worker):
    """Adds children to a supervisor beside it."""

    host = "keeper.node.example"

    @endpoint
    async def keep(self, count: int) -> list[str]:
        shelf = self.supervisor("shelf")
        for n in range(count):
            await shelf.start_child(child(Book, id=f"book-{n}"))
        return [row.id for row in self.supervisor("shelves/shelf").which_children()]


class Shelves(Supervisor):
    children = (child(DynamicSupervisor, id="shelf"), child(Keeper))
