"""Nodes whose code does what a runtime would rather not see: it forks, floods, and says what does not fit a frame."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from mbactor import ActorSystem, MbactorError, Supervisor, child, observe
from mbactor.errors import NotAcknowledged
from mbactor.supervisor.node import output as node_output
from mbactor.supervisor.node import process as node_process
from mbactor.supervisor.node.frames import Happened, Operate, encoded, from_node, from_parent, split
from mbactor.supervisor.state import StartFailed
from tests.process import alive, children, pause
from tests.supervisor.node_parts import Flooded, OddlyRefuses, Pair, Worker
from tests.supervisor.taker import Taker
from tests.supervisor.test_node_process import PATIENCE, Told, answered, environment, noted, until

pytestmark = pytest.mark.anyio


class Top(Supervisor):
    """One supervisor over whatever a test wants."""


# --- what does not fit a frame ----------------------------------------------------------------------------------------


def test_a_frame_has_as_text_what_msgpack_cannot_have() -> None:
    event = Happened("log", {"n": [2**70, -(2**63), 2**64 - 1], "s": {"\udc80": "\udc81"}, "f": 1.5, "b": True})
    (frame,) = split(bytearray(encoded(event)))
    told = from_node.decode(frame)
    assert isinstance(told, Happened)
    assert told.fields == {
        "n": [hex(2**70), -(2**63), 2**64 - 1],
        "s": {"\\udc80": "\\udc81"},
        "f": 1.5,
        "b": True,
    }
    (frame,) = split(bytearray(encoded(Operate(7, "stop", "a/\udc80"))))
    assert from_parent.decode(frame) == Operate(7, "stop", "a/\\udc80")


async def test_a_start_fails_here_whatever_its_error_carries() -> None:
    async with ActorSystem() as system, asyncio.timeout(PATIENCE):
        with pytest.raises(StartFailed, match="not today"):
            await system.spawn(child(OddlyRefuses, process=True))


async def test_the_log_of_a_node_goes_on_whatever_is_logged() -> None:
    told = Told()
    with observe.observing(told):
        async with ActorSystem() as system, asyncio.timeout(PATIENCE):
            await system.spawn(child(Worker, process=True))
            await system.ask(Worker.log_it, "first", 2**70)
            await system.ask(Worker.log_it, "second")
    assert [(one["message"], one["size"]) for one in told.named("log")] == [("first", hex(2**70)), ("second", 3)]


# --- processes that a parent or a node starts -------------------------------------------------------------------------

FORKS = """
import asyncio, os, sys, time
from mbactor import ActorSystem, child
from tests.supervisor.node_parts import *

async def main():
    async with ActorSystem() as system:
        await system.spawn(child(Worker, process=True))
        pid = await system.ask(Worker.pid)
        forked = os.fork()
        if forked == 0:
            time.sleep(3600)
            os._exit(0)
        print(pid, forked, flush=True)
        await asyncio.sleep(3600)

if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_fork_of_the_parent_does_not_keep_its_nodes_alive(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    parent = subprocess.Popen([sys.executable, "-c", FORKS, loop], stdout=subprocess.PIPE, text=True, env=environment())
    pids: list[int] = []
    try:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
        parent.wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while alive(pids[0]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        parent.kill()
        parent.wait()
        for pid in pids:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        assert parent.stdout is not None
        parent.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
async def test_a_program_that_a_node_starts_does_not_get_its_sockets() -> None:
    async with ActorSystem() as system:
        await system.spawn(child(Worker, process=True))
        assert await system.ask(Worker.inherited_sockets) == 0


# --- floods -----------------------------------------------------------------------------------------------------------


def test_output_without_ends_of_lines_is_printed_in_pieces(capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with ActorSystem() as system:
            await system.spawn(child(Worker, id="till", process=True))
            await system.ask(Worker.write_out, 5 * node_output.LINE)

    asyncio.run(main())
    lines = capfd.readouterr().out.splitlines()
    assert all(line.startswith("till | x") for line in lines)
    assert sum(line.count("x") for line in lines) == 5 * node_output.LINE
    assert max(map(len, lines)) < 2 * node_output.LINE + len("till | ")


def test_output_that_this_process_cannot_print_as_it_is_loses_no_line() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    node_output._print("till", ["naïve".encode(), b"\xff", b"plain"], out)
    out.seek(0)
    assert out.read() == "till | na\\xefve\ntill | \\xff\ntill | plain\n"


async def test_how_it_ended_is_told_however_slowly_it_is_heard() -> None:
    class Slow(Told):
        def on_event(self, name: str, fields: Mapping[str, Any]) -> None:
            super().on_event(name, fields)
            if name == "log":
                time.sleep(0.002)

    told = Slow()
    with observe.observing(told):
        async with ActorSystem(watchdog=None) as system, asyncio.timeout(2 * PATIENCE):
            node = child(Flooded, process=True, restart="transient")
            top = await system.spawn(child(Top, args={"children": [node]}))
            system.tell(Worker.flood, 2000, 3000)
            while (found := top.which_children()[0]).last_exit is None:
                await asyncio.sleep(0.01)
            assert found.last_exit.kind == "gave_up"
            with pytest.raises(MbactorError):
                await system.ask(Worker.crash)
    assert len(told.named("log")) == 2000


# --- stopped for a while ----------------------------------------------------------------------------------------------


async def test_an_ask_whose_time_was_spent_on_the_way_never_runs(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    async with ActorSystem(watchdog=None) as system:
        await system.spawn(child(Worker, process=True, args={"notes": str(notes)}))
        pid = await system.ask(Worker.pid)
        pause(pid)
        with pytest.raises(TimeoutError), anyio.fail_after(0.3):  # BudgetSpent, unless the loop was busy at that moment
            await system.ask(Worker.write_note, "late")
        os.kill(pid, signal.SIGCONT)
        await system.ask(Worker.write_note, "soon")
    assert notes.read_text().splitlines() == [f"start {pid}", "soon", "stop shutdown"]


async def test_what_is_sent_at_once_to_a_node_that_does_not_read_is_bounded_too() -> None:
    async with ActorSystem(watchdog=None) as system, asyncio.timeout(PATIENCE):
        await system.spawn(child(Worker, process=True))
        pid = await system.ask(Worker.pid)
        pause(pid)
        megabyte = "x" * 1_000_000
        for _ in range(100):
            system.tell(Worker.take, megabyte)
        while not system.dead_letters.total:
            await asyncio.sleep(0.01)
        assert 20 < system.dead_letters.total < 50
        os.kill(pid, signal.SIGCONT)
        assert await answered(lambda: system.ask(Worker.taken)) == 100 - system.dead_letters.total


async def test_a_node_that_was_stopped_together_with_its_parent_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    monkeypatch.setattr(node_process, "SILENT", 0.5)
    monkeypatch.setattr(node_process, "PING", 0.1)
    async with ActorSystem(watchdog=None) as system:
        node = child(Pair, process=True, args={"notes": str(notes)})
        top = await system.spawn(child(Top, args={"children": [node]}))
        pid = await system.ask(Worker.pid)
        system.tell(Worker.block, 1.5)
        await noted(notes, "block")
        stopping = asyncio.ensure_future(top.terminate_child("pair"))
        await until(lambda: top.which_children()[0].state == "stopping")
        pause(pid)
        time.sleep(1)  # noqa: ASYNC251 - this process is stopped as well
        os.kill(pid, signal.SIGCONT)
        await stopping
        assert str(top.which_children()[0].last_exit) == "shutdown"


# --- nothing to be had ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["mbactor-node", "mbactor-output"])
async def test_where_no_thread_is_to_be_had_no_process_is_left(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def none_to_be_had(self: threading.Thread) -> None:
        if self.name.startswith(which):
            raise RuntimeError("can't start new thread")
        start(self)

    async with ActorSystem() as system:
        before = children()  # worker processes of other tests stay for a while
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", none_to_be_had)
            with pytest.raises(StartFailed, match="can't start new thread"):
                await system.spawn(child(Worker, process=True))
        assert children() <= before
        await system.spawn(child(Worker, process=True))
        assert await system.ask(Worker.pid) != os.getpid()


async def test_one_of_those_that_are_all_asked_is_told_of_where_it_stands_still() -> None:
    """Also where nobody has heard of it before: the bus knows to how many it has given what is sent to all."""
    async with ActorSystem(watchdog=None, ack_window=0.3) as system, asyncio.timeout(PATIENCE):
        await system.spawn(child(Taker, id="here", args={"name": "here"}))
        node = await system.spawn(child(Taker, id="there", args={"name": "there"}, process=True))
        pid = await node.ask(Taker.pid)
        pause(pid)
        silent = [reply async for reply in system.ask_all(Taker.each)]
        assert [(reply.value, type(reply.error)) for reply in silent] == [("here", type(None)), (None, NotAcknowledged)]
        os.kill(pid, signal.SIGCONT)
        await answered(lambda: node.ask(Taker.pid))
        assert sorted([reply.result() async for reply in system.ask_all(Taker.each)]) == ["here", "there"]
