"""Small children that do as they are told, to see what a supervisor does with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import anyio

from mbactor.kernel.exit import KILLED, SHUTDOWN, Exit
from mbactor.kernel.node import Node
from mbactor.supervisor.children import Child
from mbactor.supervisor.spec import ChildSpec
from mbactor.supervisor.supervisor import Supervisor

NOWHERE: Any = SimpleNamespace(abandoned=0, time=lambda: asyncio.get_running_loop().time())
"""The parts need no node: a supervisor passes it on, asks it for the time, and counts on it what it leaves behind."""


class Part:
    """Keeps the `Child` contract."""

    def __init__(self, spec: ChildSpec, yard: Yard) -> None:
        self.spec = spec
        self.yard = yard
        self.incarnation = 0
        self.on_exit: Callable[[Exit], None] | None = None
        self.terminate: Callable[[], Awaitable[None]] | None = None
        self.running = False

    @property
    def ref(self) -> Part:
        return self

    async def start(self) -> None:
        id = self.spec.id
        assert not self.running
        self.incarnation += 1
        self.yard.log.append(f"starting {id}")
        if id in self.yard.slow_starts:
            await self.yard.slow_starts[id].wait()
        if self.yard.errors.get(id):
            raise self.yard.errors[id].pop(0)
        self.running = True
        self.yard.log.append(f"start {id}")

    async def stop(self, timeout: float | None, exit: Exit = SHUTDOWN) -> Exit:
        id = self.spec.id
        self.yard.log.append(f"stopping {id} {timeout}")
        if id in self.yard.slow_stops and timeout != 0:
            with anyio.move_on_after(timeout):
                await self.yard.slow_stops[id].wait()
        self.running = False
        self.yard.log.append(f"stop {id}")
        return KILLED if timeout == 0 else exit

    def pause(self, seconds: float) -> None:
        self.yard.log.append(f"pause {self.spec.id}")

    def close(self, exit: Exit) -> None:
        self.yard.closed[self.spec.id] = exit
        self.yard.log.append(f"close {self.spec.id}")

    def end(self, exit: Exit) -> None:
        assert self.running
        self.running = False
        assert self.on_exit is not None
        self.on_exit(exit)

    def crash(self, *, told: bool = False) -> None:
        self.end(Exit("failed", RuntimeError("boom"), told=told))


class PromptPart(Part):
    """Starts and stops at once, where nothing holds it up."""

    def start_now(self) -> bool:
        id = self.spec.id
        if id in self.yard.slow_starts:
            return False
        self.incarnation += 1
        self.yard.log.append(f"starting {id}")
        if self.yard.errors.get(id):
            raise self.yard.errors[id].pop(0)
        self.running = True
        self.yard.log.append(f"start {id}")
        return True

    def stop_now(self, exit: Exit) -> bool:
        id = self.spec.id
        if id in self.yard.slow_stops or not self.running:
            return False
        self.running = False
        self.yard.log.append(f"stop {id}")
        return True


class Yard:
    """Builds parts, of the `usual` kind where none is given, and says how they behave."""

    usual: ClassVar[type[Part]] = Part

    def __init__(self, part: type[Part] | None = None) -> None:
        self.part = part or self.usual
        self.parts: dict[str, Part] = {}
        self.closed: dict[str, Exit] = {}
        self.log: list[str] = []
        self.errors: dict[str, list[BaseException]] = {}
        self.slow_starts: dict[str, asyncio.Event] = {}
        self.slow_stops: dict[str, asyncio.Event] = {}

    def build(self, spec: ChildSpec, node: Node) -> Child:
        self.parts[spec.id] = self.part(spec, self)
        return self.parts[spec.id]

    def bound(self, supervisor: Supervisor, path: str = "top") -> Supervisor:
        supervisor.bind(NOWHERE, path, build=self.build)
        return supervisor

    def took(self) -> list[str]:
        """The starts and stops since the last look."""
        log = [line for line in self.log if line.split()[0] in {"start", "stop"}]
        self.log.clear()
        return log


@asynccontextmanager
async def running(yard: Yard, supervisor: Supervisor) -> AsyncIterator[Supervisor]:
    """The supervisor, started and stopped; it leaves neither task nor timer."""
    before = asyncio.all_tasks()
    yard.bound(supervisor)
    await supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()
        assert asyncio.all_tasks() == before
        assert timers() == []


def timers() -> list[Any]:
    """The timers of the running loop that are still to ring."""
    loop: Any = asyncio.get_running_loop()
    return [handle for handle in loop._scheduled if not handle.cancelled()]


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not condition():
            await asyncio.sleep(0.001)
