"""Children in OS processes of their own, by force: killed, stopped, blocked, orphaned, on each kind of loop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mbactor import Actor, ActorCrashed, ActorSystem, Backoff, Supervisor, Unavailable, child, observe
from mbactor.errors import ChildRunning, InvalidSpec, MbactorError, NoSuchActor, NoSuchChild, ProcessDied
from mbactor.kernel.exit import Exit
from mbactor.supervisor.children import ChildRow
from mbactor.supervisor.node import output as node_output
from mbactor.supervisor.node import process as node_process
from mbactor.supervisor.node.process import NodeProcess
from mbactor.supervisor.operate.by_name import Operated, operate
from mbactor.supervisor.state import GaveUp, StartFailed
from mbactor.supervisor.tree import render
from tests.loops import LOOPS, Factory, run
from tests.process import alive, pause
from tests.supervisor.node_parts import (
    Book,
    Broken,
    Ignored,
    Keeper,
    Outer,
    Pair,
    Shelves,
    Slow,
    Stubborn,
    Warm,
    Worker,
)

PATIENCE = 60.0
ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.anyio


# --- the tests' own means -------------------------------------------------------------------------------------------


class Told:
    """What observers were told."""

    wants_spans = False

    def __init__(self) -> None:
        self.events: list[tuple[str, Mapping[str, Any]]] = []

    def on_event(self, name: str, fields: Mapping[str, Any]) -> None:
        self.events.append((name, fields))

    def named(self, name: str) -> list[Mapping[str, Any]]:
        return [fields for one, fields in self.events if one == name]

    def on_start(self, span: observe.Span) -> None: ...
    def on_end(self, span: observe.Span) -> None: ...


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


async def noted(notes: Path, text: str) -> None:
    """Until a `Worker` has noted this."""
    await until(lambda: notes.exists() and text in notes.read_text().splitlines())


async def answered(ask: Callable[[], Awaitable[Any]]) -> Any:
    """The answer, as soon as there is one again."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await ask()
            except (Unavailable, ActorCrashed):  # it is away, or was just killed
                await asyncio.sleep(0.01)


class Top(Supervisor):
    """One supervisor over whatever a test wants."""


def top(*children: Any, **options: Any) -> Supervisor:
    return Top(children=children, **options)


def row(supervisor: Supervisor, id: str) -> ChildRow:
    return next(one for one in supervisor.which_children() if one.id == id)


async def spawned(system: ActorSystem, *children: Any, **options: Any) -> Supervisor:
    found = await system.spawn(child(Top, args={"children": children, **options}))
    assert isinstance(found, Supervisor)
    return found


# --- it runs elsewhere ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", [LOOPS["asyncio"], LOOPS["uvloop"]], ids=["asyncio", "uvloop"])
def test_a_subtree_runs_in_its_own_process_and_is_ready_when_all_of_it_is(loop: Factory) -> None:
    async def main() -> int:
        async with ActorSystem() as system:
            node = await system.spawn(child(Pair, process=True))
            assert isinstance(node, NodeProcess)
            assert await system.ask(Warm.is_ready)
            assert await system.ask(Worker.pid) == node.pid != os.getpid()
            assert node.pid is not None
            return node.pid

    assert not alive(run(main(), loop))


@pytest.mark.parametrize(
    ("given", "there"),
    [
        ({}, ["mbactor", "", False, True, 0.1, 1.0, 1 << 30]),
        ({"serialize_local": True, "watchdog": None}, ["mbactor", "", True, True, None, 1.0, 1 << 30]),
        (
            {
                "plane": "other",
                "locality": "eu-west",
                "coalesce": False,
                "watchdog": "3s",
                "ack_window": 5,
                "max_body": 6000,
            },
            ["other", "eu-west", False, False, 3.0, 5.0, 6000],
        ),
    ],
    ids=["nothing", "some", "all"],
)
async def test_a_process_has_the_settings_of_its_system(given: dict[str, Any], there: list[Any]) -> None:
    async with ActorSystem(**given) as system:
        top = await spawned(system, child(Worker, process=True))
        ref = row(top, "worker").ref
        assert ref is not None
        assert await ref.ask(Worker.settings) == there


async def test_replicas_are_as_many_processes_and_share_the_asks() -> None:
    async with ActorSystem() as system:
        top = await spawned(system, child(Worker, replicas=3, process=True))
        pids = {one.process.pid for one in top.which_children() if one.process is not None}
        assert len(pids - {os.getpid()}) == 3
        assert {await system.ask(Worker.pid) for _ in range(9)} == pids
        ref = row(top, "worker-2").ref
        assert {await ref.ask(Worker.pid) for _ in range(3)} == {row(top, "worker-2").process.pid}  # type: ignore[union-attr]


async def test_a_node_may_have_nodes_of_its_own() -> None:
    told = Told()
    with observe.observing(told):
        async with ActorSystem() as system:
            node = await system.spawn(child(Outer, process=True))
            pid = await system.ask(Worker.pid)
            assert pid not in {node.pid, os.getpid()}
            os.kill(pid, signal.SIGKILL)
            await until(lambda: told.named("supervisor.restarting"))
            assert await answered(lambda: system.ask(Worker.pid)) not in {pid, node.pid}
    assert {fields.get("node") for name, fields in told.events if name == "actor.started"} == {"spawned/outer/pair"}
    started = [(fields["node"], fields["incarnation"]) for fields in told.named("node.started")]
    assert started == [("spawned/outer/pair", 1), ("spawned/outer", 1), ("spawned/outer/pair", 2)]
    assert not alive(pid)


# --- its start --------------------------------------------------------------------------------------------------------


async def test_a_start_that_fails_there_fails_here_with_its_cause_and_leaves_no_process() -> None:
    async with ActorSystem() as system:
        with pytest.raises(
            StartFailed, match="child 'broken' failed to start: child 'refuses' .*: not today"
        ) as caught:
            await system.spawn(child(Broken, process=True))
        assert isinstance(caught.value.__cause__, StartFailed)
        assert not children_of(os.getpid())


async def test_a_child_may_ask_not_to_be_started() -> None:
    async with ActorSystem() as system:
        top = await spawned(system, child(Ignored, process=True))
        assert (row(top, "ignored").state, row(top, "ignored").process.pid) == ("stopped", None)  # type: ignore[union-attr]


async def test_a_start_that_is_broken_off_leaves_no_process() -> None:
    async with ActorSystem() as system:
        for turns in (0, 1, 2, 3, 4, 6, 8, 12, 50, 300):
            starting = asyncio.ensure_future(system.spawn(child(Slow, process=True, shutdown="2s")))
            for _ in range(turns):
                await asyncio.sleep(0.001 if turns > 10 else 0)
            starting.cancel()
            await asyncio.wait([starting])
            await until(lambda: not children_of(os.getpid()))
            assert not system.tree().children


async def test_what_cannot_go_to_another_process_is_refused_with_the_reason() -> None:
    class Local(Actor):
        pass

    async with ActorSystem() as system:
        with pytest.raises(StartFailed, match="process: True needs a class that another process can import") as caught:
            await system.spawn(child(Local, process=True))
        assert isinstance(caught.value.__cause__, InvalidSpec)
        with pytest.raises(StartFailed, match="arguments that can be pickled"):
            await system.spawn(child(Worker, process=True, args={"mark": lambda: 0}))
        assert not children_of(os.getpid())


@pytest.mark.parametrize("guarded", [True, False])
def test_a_class_of_the_main_module_is_found_and_who_runs_that_again_is_told_what_to_do(
    tmp_path: Path, guarded: bool
) -> None:
    script = tmp_path / "shop.py"
    script.write_text(
        textwrap.dedent(
            """
            import asyncio, os
            from mbactor import Actor, ActorSystem, child, endpoint

            class Shop(Actor):
                host = "shop.example"

                @endpoint
                async def pid(self) -> int:
                    return os.getpid()

            async def main():
                async with ActorSystem() as system:
                    await system.spawn(child(Shop, process=True))
                    print(await system.ask(Shop.pid) != os.getpid())

            if GUARD:
                asyncio.run(main())
            """
        ).replace("GUARD", '__name__ == "__main__"' if guarded else "True")
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment()
    )
    if guarded:
        assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
    else:
        assert done.returncode == 1
        assert 'put `if __name__ == "__main__":` before what the program does' in done.stderr


# --- its end is judged ------------------------------------------------------------------------------------------------


async def test_a_node_that_is_killed_is_restarted_and_its_askers_are_told_at_once() -> None:
    async with ActorSystem() as system:
        top = await spawned(system, child(Pair, process=True))
        pid = await system.ask(Worker.pid)
        naps = [asyncio.ensure_future(system.ask(Worker.nap, 3600)) for _ in range(3)]
        await system.ask(Warm.is_ready)
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        for nap in naps:
            with pytest.raises(ActorCrashed, match="the process that had the message has died") as caught:
                await nap
            assert caught.value.taken == "unknown"
        assert time.monotonic() - began < 10, "half of the time budget"
        with pytest.raises(Unavailable) as refused:
            await system.ask(Worker.pid)
        assert refused.value.taken == "no"
        assert await answered(lambda: system.ask(Worker.pid)) not in {pid, os.getpid()}
        # Its actors answer as soon as they are up, and it is counted when all of its tree is.
        await until(lambda: row(top, "pair").restarts == 1)
        found = row(top, "pair")
        assert found.incarnation == 2
        assert isinstance(found.last_exit, Exit)
        assert isinstance(found.last_exit.error, ProcessDied)
        assert "was killed by SIGKILL" in str(found.last_exit)


async def test_a_crashed_actor_keeps_its_process_and_its_mailbox() -> None:
    async with ActorSystem() as system:
        top = await spawned(system, child(Worker, process=True, args={"mark": "x"}))
        pid = await system.ask(Worker.pid)
        crash = asyncio.ensure_future(system.ask(Worker.crash))
        after = [asyncio.ensure_future(system.ask(Worker.marked)) for _ in range(3)]
        with pytest.raises(ActorCrashed, match="boom"):
            await crash
        assert [await one for one in after] == ["x"] * 3
        assert await system.ask(Worker.pid) == pid
        assert row(top, "worker").incarnation == 2
        await until(lambda: row(top, "worker").restarts == 1)  # told by another socket than its answers


async def test_a_subtree_that_gives_up_does_so_here_and_gets_another_process() -> None:
    async with ActorSystem() as system:
        top = await spawned(system, child(Pair, process=True))
        pid = await system.ask(Worker.pid)
        for _ in range(2):
            with suppress(MbactorError):
                system.tell(Worker.crash)
        await until(lambda: row(top, "pair").last_exit is not None)
        ended = row(top, "pair").last_exit
        assert ended is not None
        assert ended.kind == "gave_up"
        assert isinstance(ended.error, GaveUp)
        assert await answered(lambda: system.ask(Worker.pid)) not in {pid, os.getpid()}


@pytest.mark.parametrize(
    ("method", "argument", "kind", "text"),
    [
        ("leave", 3, "failed", "ended with exit code 3"),
        ("leave", 0, "normal", ""),
        ("exit", 4, "failed", "ended with exit code 4"),
        ("exit", 0, "normal", ""),
        ("kill", None, "failed", "was killed by SIGKILL"),
    ],
)
async def test_how_a_process_ends_is_how_its_child_ended(
    method: str, argument: int | None, kind: str, text: str
) -> None:
    async with ActorSystem() as system:
        top = await spawned(system, child(Worker, process=True, restart="transient"), max_restarts=0)
        top_ended = asyncio.get_running_loop().create_future()
        top.on_exit = top_ended.set_result
        system.tell(getattr(Worker, method), *(() if argument is None else (argument,)))
        if kind == "normal":
            await until(lambda: row(top, "worker").last_exit is not None)
            assert (str(row(top, "worker").last_exit), row(top, "worker").state) == ("normal", "stopped")
        else:
            exit = await asyncio.wait_for(top_ended, PATIENCE)
            assert exit.kind == "gave_up"
            assert text in str(exit.error)


async def test_an_actor_ends_for_good_at_its_own_wish() -> None:
    async with ActorSystem() as system:
        top = await spawned(system, child(Worker, process=True))
        pid = await system.ask(Worker.pid)
        await system.ask(Worker.end)
        assert await system.ask(Worker.pid) == pid  # a clean end of a permanent child: it is restarted
        await system.ask(Worker.retire)
        await until(lambda: row(top, "worker").held and not alive(pid))
        with pytest.raises(MbactorError) as caught:
            await system.ask(Worker.pid)
        assert caught.value.status == 404


@pytest.mark.parametrize(("restart", "again"), [("permanent", True), ("transient", False)])
async def test_a_sigterm_is_a_clean_end(restart: Any, again: bool, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    async with ActorSystem() as system:
        top = await spawned(system, child(Pair, process=True, restart=restart, args={"notes": str(notes)}))
        os.kill(await system.ask(Worker.pid), signal.SIGTERM)
        await until(lambda: row(top, "pair").last_exit is not None)
        assert str(row(top, "pair").last_exit) == "shutdown"
        if again:
            await answered(lambda: system.ask(Worker.pid))
        else:
            assert row(top, "pair").state == "stopped"
    assert [line.split()[0] for line in notes.read_text().splitlines()] == ["start", "stop"] * (1 + again)


async def test_a_group_restart_takes_the_processes_along() -> None:
    async with ActorSystem() as system:
        top = await spawned(
            system,
            child(Worker, process=True, id="one"),
            child(Warm, process=True, id="two"),
            strategy="one_for_all",
        )
        before = {one.id: one.process.pid for one in top.which_children() if one.process is not None}
        pid = before["one"]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: all((one.state, one.incarnation) == ("running", 2) for one in top.which_children()))
        assert await system.ask(Warm.is_ready)
        after = {one.id: one.process.pid for one in top.which_children() if one.process is not None}
        assert not set(before.values()) & set(after.values())


# --- its stop ---------------------------------------------------------------------------------------------------------


async def test_a_stop_is_clean_and_within_its_time(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    async with ActorSystem() as system:
        top = await spawned(system, child(Pair, process=True, args={"notes": str(notes)}))
        pid = await system.ask(Worker.pid)
        await top.terminate_child("pair")
        assert str(row(top, "pair").last_exit) == "shutdown"
        assert not alive(pid)
        assert notes.read_text() == f"start {pid}\nstop shutdown\n"
        with pytest.raises(MbactorError) as caught:
            await system.ask(Worker.pid)
        assert caught.value.status == 404
        await top.restart_child("pair")
        assert await system.ask(Worker.pid) not in {pid, os.getpid()}


@pytest.mark.parametrize("how", ["blocked", "clings", "stopped by a signal", "brutal"])
async def test_a_process_that_does_not_stop_in_its_time_is_killed(how: str, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    async with ActorSystem() as system:
        shutdown = "brutal" if how == "brutal" else "300ms"
        stubborn = child(Stubborn, process=True, shutdown=shutdown, args={"notes": str(notes)})
        top = await spawned(system, stubborn)
        pid = await system.ask(Stubborn.pid)
        match how:
            case "blocked" | "brutal":
                system.tell(Stubborn.block, 3600)
                await noted(notes, "block")
            case "clings":
                system.tell(Stubborn.cling)
                await noted(notes, "cling")
            case _:
                pause(pid)
        began = time.monotonic()
        await top.terminate_child("stubborn")
        assert time.monotonic() - began < 30
        assert not alive(pid)
        exit = row(top, "stubborn").last_exit
        assert exit is not None
        assert exit.kind == "killed"


async def test_one_with_all_the_time_it_takes_is_killed_when_it_answers_no_ping(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    monkeypatch.setattr(node_process, "SILENT", 0.5)
    monkeypatch.setattr(node_process, "PING", 0.1)
    async with ActorSystem() as system:
        top = await spawned(system, child(Pair, process=True, args={"notes": str(notes)}))
        system.tell(Worker.block, 1.5)
        await noted(notes, "block")
        await top.terminate_child("pair")  # it answers pings while its loop is blocked, and is waited for
        assert str(row(top, "pair").last_exit) == "shutdown"
        await top.restart_child("pair")
        pid = await system.ask(Worker.pid)
        pause(pid)
        await top.terminate_child("pair")
        exit = row(top, "pair").last_exit
        assert exit is not None
        assert exit.kind == "killed"
        assert not alive(pid)


async def test_what_had_to_be_left_behind_is_not_run_beside_the_next_incarnation(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    async with ActorSystem() as system:
        await spawned(system, child(Stubborn, process=True, shutdown="200ms", args={"notes": str(notes)}))
        pid = await system.ask(Stubborn.pid)
        system.tell(Stubborn.cling)
        await noted(notes, "cling")
        os.kill(pid, signal.SIGTERM)
        again = await answered(lambda: system.ask(Stubborn.pid))
        assert again != pid
        assert not alive(pid)


# --- no orphans -------------------------------------------------------------------------------------------------------

PARENT = """
import asyncio, os, sys
from mbactor import ActorSystem, child
from tests.supervisor.node_parts import *

async def main():
    async with ActorSystem() as system:
        await system.spawn(child(Pair, process=True, args={"notes": sys.argv[1]}))
        pid = await system.ask(Worker.pid)
        if sys.argv[2] == "blocked":
            system.tell(Worker.block, 3600)
            while "block" not in open(sys.argv[1]).read():
                await asyncio.sleep(0.001)
        print(pid, flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


def children_of(pid: int) -> list[int]:
    """The living children of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                command = (entry / "cmdline").read_text()
                if parent == str(pid) and state != "Z" and "supervisor.node.main" in command:
                    found.append(int(entry.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="a stopped process is woken on Linux only")
@pytest.mark.parametrize("node", ["idle", "blocked", "stopped"])
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_no_node_outlives_its_parent(node: str, by: signal.Signals, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(notes), node], stdout=subprocess.PIPE, text=True, env=environment()
    )
    pid = 0
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if node == "stopped":
            pause(pid)
        parent.send_signal(by)
        parent.wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while alive(pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        parent.kill()
        parent.wait()
        if pid and alive(pid):
            os.kill(pid, signal.SIGKILL)
        assert parent.stdout is not None
        parent.stdout.close()
    if node != "blocked":
        assert notes.read_text() == f"start {pid}\nstop shutdown\n"


# --- what is seen of it -----------------------------------------------------------------------------------------------


async def test_its_events_are_told_here_with_its_name() -> None:
    told = Told()
    with observe.observing(told):
        async with ActorSystem() as system:
            await spawned(system, child(Pair, process=True))
            await system.ask(Worker.log_it, "hello")
            with pytest.raises(ActorCrashed):
                await system.ask(Worker.crash)
            await until(lambda: told.named("supervisor.restarting"))
    assert [(one["node"], one["message"], one["size"]) for one in told.named("log")] == [
        ("spawned/top/pair", "hello", 3)
    ]
    (crash,) = told.named("actor.crashed")
    assert crash["node"] == "spawned/top/pair"
    assert "boom" in str(crash["error"])
    assert "node_parts.py" in crash["error"].remote_trace


async def test_its_part_of_the_tree_is_shown_as_it_told_last() -> None:
    async with ActorSystem() as system:
        await spawned(system, child(Outer, process=True), child(Worker, process=True, id="solo"))
        nap = asyncio.ensure_future(system.ask(Worker.nap, 3600))
        async with asyncio.timeout(PATIENCE):
            while "nap" not in render(tree := await system.whole_tree("20s"), "text"):
                await asyncio.sleep(0.01)
        (top,) = tree.children
        outer, solo = top.children
        (pair,) = outer.children
        warm, worker = pair.children
        assert [node.id for node in (outer, pair, warm, worker, solo)] == ["outer", "pair", "warm", "worker", "solo"]
        assert {node.state for node in (outer, pair, warm, worker, solo)} == {"running"}
        assert len({outer.pid, pair.pid, solo.pid, os.getpid()}) == 4
        assert (worker.process, worker.pid, worker.host) == (False, None, Worker.host)
        assert [message.method for node in (worker, solo) for message in node.running] == ["nap"]
        assert f"pair  supervisor (one_for_one)  permanent  process {pair.pid}  running" in render(tree, "text")
        assert outer.pid is not None
        pause(outer.pid)
        tree = await system.whole_tree("50ms")
        stopped = tree.children[0].children[0]
        assert stopped.silent is not None
        assert stopped.silent >= 0.05
        assert stopped.children  # as it was
        os.kill(outer.pid, signal.SIGCONT)
        assert (await system.whole_tree("20s")).children[0].children[0].silent is None
        nap.cancel()


async def test_an_operator_reaches_what_runs_in_it_by_name() -> None:
    async with ActorSystem() as system:
        await spawned(system, child(Outer, process=True), child(Worker, process=True, id="solo"))
        roots, path = system.roots(), "spawned/top/outer/pair/worker"
        assert await operate("stop", "worker", roots) == Operated(path, "stopped")
        with pytest.raises(ChildRunning, match="spawned/top/outer/pair/warm runs already"):
            await operate("start", "pair/warm", roots)
        assert await operate("start", "worker", roots) == Operated(path, "running")
        assert await operate("restart", "worker", roots) == Operated(path, "running")
        solo = row(system.supervisor("top"), "solo").process
        assert solo is not None
        before = solo.pid
        assert await operate("restart", "solo", roots) == Operated("spawned/top/solo", "running")
        assert solo.pid not in {before, None}
        with pytest.raises(NoSuchChild, match="there is no 'workr'; did you mean spawned/top/outer/pair/worker?"):
            await operate("stop", "workr", roots)
        slow = asyncio.ensure_future(operate("stop", "worker", roots))
        outer = row(system.supervisor("top"), "outer").process
        assert outer is not None
        assert outer.pid is not None
        os.kill(outer.pid, signal.SIGKILL)
        with suppress(ProcessDied, NoSuchChild):  # as it was asked before, or has told nothing since
            await asyncio.wait_for(slow, PATIENCE)


async def test_children_are_added_to_a_dynamic_supervisor_in_it_by_an_actor_there() -> None:
    async with ActorSystem() as system:
        await spawned(system, child(Shelves, process=True))
        assert await system.ask(Keeper.keep, 3) == ["book-0", "book-1", "book-2"]
        assert len({await system.ask(Book.pid), await system.ask(Keeper.pid)} - {os.getpid()}) == 1


def test_what_it_prints_is_printed_here_with_its_name_before_each_line_and_before_its_end_is_told(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prints = node_output._print

    def late(*told: Any) -> None:
        time.sleep(0.2)
        prints(*told)

    monkeypatch.setattr(node_output, "_print", late)

    async def main() -> None:
        async with ActorSystem() as system:
            await system.spawn(child(Worker, id="till", process=True))
            await system.ask(Worker.say, "one\ntwo")

    asyncio.run(main())
    out, err = capfd.readouterr()
    assert out == "till | one\ntill | two\n"
    assert err == "till | ONE\ntill | TWO\n"
    for thread in threading.enumerate():
        if thread.name.startswith(("mbactor-output-", "mbactor-node-")):
            thread.join(60)
            assert not thread.is_alive(), thread.name


async def test_an_ask_that_waits_in_a_mailbox_there_is_answered_when_the_node_is_stopped() -> None:
    async with ActorSystem() as system:
        top = await spawned(system, child(Worker, process=True, shutdown="100ms"))
        first, second = (asyncio.ensure_future(system.ask(Worker.nap, 3600)) for _ in range(2))
        async with asyncio.timeout(PATIENCE):
            while "waiting 1  runs nap" not in render(await system.whole_tree("20s"), "text"):
                await asyncio.sleep(0.01)
        await top.terminate_child("worker")
        with pytest.raises(ActorCrashed) as crashed:
            await asyncio.wait_for(first, PATIENCE)
        with pytest.raises(NoSuchActor) as refused:  # it was not taken, and nobody is there to take it now
            await asyncio.wait_for(second, PATIENCE)
        assert (crashed.value.taken, refused.value.taken) == ("yes", "no")


async def test_restarts_are_paced_and_counted_as_those_of_any_child() -> None:
    async with ActorSystem() as system:
        slow = Backoff("50ms", "1s", jitter=0)
        top = await spawned(system, child(Worker, process=True, backoff=slow), max_restarts=2, within=60)
        ended = asyncio.get_running_loop().create_future()
        top.on_exit = ended.set_result
        for _ in range(3):
            pid = await answered(lambda: system.ask(Worker.pid))
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: not alive(pid))  # type: ignore[misc]
        exit = await asyncio.wait_for(ended, PATIENCE)
        assert exit.kind == "gave_up"
        assert "SIGKILL" in str(exit.error)
    assert not children_of(os.getpid())
