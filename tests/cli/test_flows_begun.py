"""A person who has a flow go on is told where nobody takes it up."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from mbactor.cli.flows import begun
from mbactor.cli.flows.begun import is_idle, tell_unless_begun
from mbactor.errors import FlowNotFound, Unavailable
from mbactor.foreman import END, Flow, Graph
from mbactor.foreman.model.outcome import StepRecord, Subflow
from mbactor.foreman.model.status import StepStatus
from tests.foreman.world import World, a_world, ok
from tests.process import PATIENCE, ROOT

URL = "https://shop.example:428/order"
TOLD = "nothing of it has begun in 2 s; a flow goes on while a tree with a Foreman on this database runs (`mbactor run FILE`)"


def steps(
    *statuses: StepStatus, calls: Sequence[StepRecord] | None = None, due_in: float | None = None
) -> list[StepRecord]:
    """Steps; the last has called a flow of these steps, and is put off for so many hours."""
    made = [StepRecord(step_key=str(at), node="a", status=status) for at, status in enumerate(statuses)]
    if calls is not None:
        made[-1].subflow = Subflow(flow_key="1", steps=list(calls))
    if due_in is not None:
        made[-1].due_at = dt.datetime.now(dt.UTC) + dt.timedelta(hours=due_in)
    return made


@pytest.mark.parametrize(
    ("found", "idle"),
    [
        ([], False),
        (steps("completed", "pending"), True),
        (steps("interrupted", "pending", "created"), True),
        (steps("running", "pending"), False),
        (steps("completed", "failed"), False),
        (steps("running", calls=steps("completed", "pending")), True),
        (steps("pending", "running", calls=steps("running")), False),
        (steps("running", calls=steps("running", calls=steps("pending"))), True),
        (steps("pending", calls=steps("failed")), True),  # what it called has failed, and is called again
        (steps("completed", "pending", due_in=1), False),  # the one that waited has been run meanwhile
        (steps("pending", "pending", due_in=1), True),
        (steps("completed", "pending", due_in=-1), True),
    ],
)
def test_a_flow_is_idle_where_something_waits_and_nothing_runs(found: list[StepRecord], idle: bool) -> None:
    assert is_idle(found) is idle


async def filled(world: World) -> dict[str, str]:
    """A flow that waits for an answer, one that has failed, and one that has completed."""

    def question(flow: Flow) -> None:
        flow.interrupt({})

    def fails(_: Flow) -> None:
        raise ValueError("no")

    world.host.tasks |= {"ok": ok, "question": question, "fails": fails}
    found: dict[str, str] = {}
    for name in world.host.tasks:
        world.host.graphs[name] = graph = Graph(name)
        graph.add_transition(name, END)
        found[name] = await world.engine.create(name, {})
        await world.engine.wait(found[name])
    found["step of ok"] = (await world.engine.history(found["ok"]))[0].step_key
    found["again"] = await world.engine.create("ok", {})
    await world.engine.wait(found["again"])
    return {**found, "created": await world.engine.create("ok", {}, start=False)}


def at_a_terminal(folder: Path, *arguments: str) -> str:
    """What a person sees of the command."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "mbactor", "flows", *arguments]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "MBACTOR_DATABASE": "sqlite:///flows.db"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=variables)
    os.close(theirs)
    seen = bytearray()
    with suppress(OSError):  # the other end is closed
        while read := os.read(ours, 1 << 16):
            seen += read
    os.close(ours)
    assert process.wait(PATIENCE) == 0, seen.decode()
    return seen.decode().replace("\r\n", "\n")


def test_who_sits_at_a_terminal_is_told_that_nobody_goes_on_with_a_flow(tmp_path: Path) -> None:
    async def made() -> dict[str, str]:
        async with a_world(f"sqlite:///{tmp_path}/flows.db") as world:
            return await filled(world)

    keys = asyncio.run(made())
    commands = {
        ("resume", keys["question"]): f"{keys['question']}: resumed, running",
        ("recover", keys["fails"]): f"{keys['fails']}: its failed steps run again, running",
        ("fork", keys["step of ok"]): "",
        ("continue", keys["again"]): "",
        ("start", keys["created"]): keys["created"],
    }
    with ThreadPoolExecutor() as pool:
        seen = pool.map(lambda arguments: at_a_terminal(tmp_path, *arguments).splitlines(), commands)
    for (arguments, said), (first, second) in zip(commands.items(), seen, strict=True):
        assert (first if said else said, second) == (said, TOLD), arguments
    again = at_a_terminal(tmp_path, "restart-from", keys["step of ok"])
    assert again.splitlines() == [f"{keys['step of ok']}: runs again, and all that follows from it", TOLD]
    cancelled = at_a_terminal(tmp_path, "cancel", keys["ok"])
    assert cancelled.splitlines() == [f"{keys['ok']}: cancelled"]
    anew = at_a_terminal(tmp_path, "restart", keys["ok"])
    assert anew.splitlines() == [f"{keys['ok']}: restarted, running", TOLD]


def test_nothing_is_said_of_a_flow_that_is_taken_up_or_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(begun, "PAUSES", (0.01,) * int(100 * PATIENCE))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    held, release = asyncio.Event(), asyncio.Event()

    async def hold(_: Flow) -> None:
        held.set()
        await release.wait()

    async def gone() -> list[StepRecord]:
        raise FlowNotFound("no flow has this key")

    async def away() -> list[StepRecord]:
        raise Unavailable("the database does not answer")

    async def work() -> None:
        async with a_world(f"sqlite:///{tmp_path}/flows.db") as world:
            world.host.tasks["hold"] = hold
            world.host.graphs["hold"] = graph = Graph("hold")
            graph.add_transition("hold", END)
            key = await world.engine.create("hold", {})
            await tell_unless_begun(lambda: world.engine.history(key))
            await held.wait()
            release.set()
            await world.engine.wait(key)
            await tell_unless_begun(lambda: world.engine.history(key))
        await tell_unless_begun(gone)
        await tell_unless_begun(away)

    asyncio.run(work())
    assert capsys.readouterr().err == ""
