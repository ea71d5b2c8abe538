"""A Foreman, or only its tasks, in a process of its own, which a test starts by `replica(...)`.

It says "ready", and then what is asked of it, a line each.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mbactor import Actor, ActorSystem
from mbactor.foreman import END, Flow, Flows, Foreman, Graph, task, workflow


class Clerk(Actor):
    """Where it `hangs`, its `hold` never ends."""

    host = "clerk.example"

    def __init__(self, hangs: bool = False) -> None:
        self.go = asyncio.Event()
        if not hangs:
            self.go.set()

    @task
    async def note(self) -> dict[str, int]:
        return {"process": os.getpid()}

    @task
    async def hold(self) -> dict[str, int]:
        await self.go.wait()
        return {"process": os.getpid()}

    @task
    async def sign(self, flow: Flow) -> None:
        flow["signed"] = flow.interrupt({"sign": "here"})

    @task
    async def deal(self, flow: Flow) -> None:
        flow["runs"] = flow.get("runs", 0) + 1
        flow["price"] = flow.interrupt({"offer": 5})
        flow["noted"] = flow.subgraph(Clerk.noting, {})["process"]
        flow["signed"] = flow.interrupt({"sign": "here"})

    @workflow
    def noting(self) -> Graph:
        return _one(Clerk.note)

    @workflow
    def holding_on(self) -> Graph:
        return _one(Clerk.hold)

    @workflow
    def signing(self) -> Graph:
        return _one(Clerk.sign)

    @workflow
    def dealing(self) -> Graph:
        return _one(Clerk.deal)


def _one(task: Any) -> Graph:
    graph = Graph("One")
    graph.add_transition(task, END)
    return graph


class Replica:
    """The process, from the outside."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            return (await self.process.stdout.readline()).decode().strip()

    async def hold(self) -> str:
        """Have it begin a flow that it is to hold; its key."""
        self._say("hold")
        return await self.line()

    def wait_for(self, flow_key: str) -> None:
        """Have it wait for a flow; it tells in a line."""
        self._say(flow_key)

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())


@asynccontextmanager
async def replica(
    transport: str = "local", hangs: bool = False, only_tasks: bool = False, **foreman: Any
) -> AsyncIterator[Replica]:
    """A process with a `Clerk`, and a Foreman unless it is to have `only_tasks`, ready; killed when the block ends."""
    settings = json.dumps({"transport": transport, "hangs": hangs, "foreman": None if only_tasks else foreman})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.foreman.replica", settings,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    running = Replica(process)
    try:
        assert await running.line() == "ready"
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _main(transport: str, hangs: bool, foreman: dict[str, Any] | None) -> None:
    async with ActorSystem("replica", transport=transport) as system:
        await system.spawn(Clerk, hangs=hangs)
        if foreman is not None:
            await system.spawn(Foreman, **foreman)
        print("ready", flush=True)
        flows = Flows(system)
        while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
            told = await flows.create(Clerk.holding_on) if line == "hold" else (await flows.wait(line)).status
            print(told, flush=True)


if __name__ == "__main__":
    asyncio.run(_main(**json.loads(sys.argv[1])))
