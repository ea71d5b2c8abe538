"""What an operator asks over the control socket: plan, apply, stop, start, restart."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import anyio
import pytest

from mbactor import Actor, ActorSystem, DynamicSupervisor, child, observe
from mbactor.supervisor.operate.control import Control
from mbactor.supervisor.topology import load
from mbactor.testing.recorder import Recorder

pytestmark = pytest.mark.anyio

MODULE = f"{__name__}"
TREE = f"""
version: 1
name: shop
supervisor:
  children:
    - actor: {MODULE}:Clerk
      id: a
      args: {{size: 1}}
    - supervisor: inner
      children:
        - actor: {MODULE}:Clerk
          id: x
        - supervisor: mbactor:DynamicSupervisor
          id: pool
"""


class Clerk(Actor):
    stuck: ClassVar[asyncio.Event | None] = None
    broken: ClassVar[bool] = False

    def __init__(self, size: int = 0, fails: bool = False) -> None:
        self.size = size
        self.fails = fails

    async def on_start(self) -> None:
        if self.fails or Clerk.broken:
            raise RuntimeError("no database")

    async def on_stop(self, exit: object) -> None:
        if Clerk.stuck is not None:
            await Clerk.stuck.wait()


class Shop:
    """A system that runs a file, and the means to ask it."""

    def __init__(self, system: ActorSystem, control: Control, file: Path) -> None:
        self.system = system
        self.control = control
        self.file = file
        self._writers: list[asyncio.StreamWriter] = []

    def write(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(str(self.control.path), limit=1 << 24)
        self._writers.append(writer)
        return reader, writer

    async def ask(self, verb: str, what: Any) -> list[Any]:
        """All answers to a request."""
        reader, writer = await self.connect()
        writer.write(json.dumps({verb: what}).encode() + b"\n")
        writer.write_eof()
        with anyio.fail_after(60):
            return [json.loads(line) for line in (await reader.read()).splitlines()]

    async def one(self, verb: str, what: Any) -> Any:
        (answer,) = await self.ask(verb, what)
        return answer

    def states(self, of: str = "shop") -> dict[str, str]:
        return {row.id: row.state for row in self.system.supervisor(of).which_children()}

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def shop(text: str = TREE) -> AsyncIterator[Shop]:
    Clerk.stuck = None
    with tempfile.TemporaryDirectory(prefix="mb") as folder:
        file = Path(folder) / "shop.yaml"
        file.write_text(text)
        system = ActorSystem("shop", tree=load(file, {}).supervisor)
        async with system, Control(system, file, [Path(folder) / "sockets"]) as control:
            opened = Shop(system, control, file)
            try:
                yield opened
            finally:
                opened.hang_up()
                await asyncio.sleep(0)


async def until(condition: Any) -> None:
    with anyio.fail_after(60):
        while not condition():
            await asyncio.sleep(0.005)


# --- plan and apply ---------------------------------------------------------------------------------------------


async def test_the_process_reads_its_file_again_and_tells_what_is_to_be_done() -> None:
    async with shop() as opened:
        assert (await opened.one("plan", {}))["plan"]["steps"] == []
        opened.write("size: 1", "size: 2")
        (step,) = (await opened.one("plan", {}))["plan"]["steps"]
        assert (step["act"], step["path"]) == ("restart", "shop/a")
        assert step["changes"] == [{"field": "args.size", "old": "1", "new": "2"}]
        assert step["wanted"] is None


async def test_an_apply_tells_its_plan_and_each_step() -> None:
    async with shop() as opened:
        opened.write("size: 1", "size: 2")
        opened.write("id: x", "id: y")
        first, *course = await opened.ask("apply", {})
        assert [step["path"] for step in first["plan"]["steps"]] == ["shop/a", "shop/inner/x", "shop/inner/y"]
        assert [(one["state"], one["step"]) for one in course] == [
            *[(state, step) for step in range(3) for state in ("begun", "done")],
            ("applied", 3),
        ]
        assert opened.states("inner") == {"y": "running", "pool": "running"}
        assert (await opened.one("plan", {}))["plan"]["steps"] == []


async def test_observers_are_told_of_each_change() -> None:
    recorder = Recorder(asyncio.get_running_loop())
    async with shop() as opened:
        opened.write("size: 1", "size: 2")
        with observe.observing(recorder):
            await opened.ask("apply", {})
            await opened.ask("stop", "x")
    told = [(event.fields["act"], event.fields["path"]) for event in recorder.events if event.name == "tree.changed"]
    assert told == [("restart", "shop/a"), ("stop", "shop/inner/x")]


async def test_a_faulty_file_changes_nothing_and_all_its_mistakes_are_told() -> None:
    async with shop() as opened:
        opened.write("size: 1", "sise: 2")
        opened.write("id: x", "id: x\n          restart: allways")
        opened.write(f"{MODULE}:Clerk\n      id: a", f"{MODULE}:Other\n      id: a")
        answer = await opened.one("apply", {})
        assert len(answer["problems"]) == 2
        assert any("allways" in problem for problem in answer["problems"])
        assert opened.states() == {"a": "running", "inner": "running"}
        missing = await opened.one("plan", {"file": str(opened.file.parent / "nowhere.yaml")})
        assert len(missing["problems"]) == 1


async def test_a_step_that_fails_ends_the_apply_and_says_which() -> None:
    async with shop() as opened:
        opened.write("size: 1", "size: 2, fails: true")
        _, *course = await opened.ask("apply", {})
        assert [one["state"] for one in course] == ["begun", "failed"]
        assert course[-1]["why"] == "restart shop/a: child 'a' failed to start: RuntimeError: no database"


async def test_another_file_and_its_overlays_can_be_meant() -> None:
    async with shop() as opened:
        other = opened.file.with_name("next.yaml")
        other.write_text(TREE.replace("size: 1", "size: 3"))
        plan = (await opened.one("plan", {"file": str(other)}))["plan"]
        assert [step["path"] for step in plan["steps"]] == ["shop/a"]


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("x", 'an object with "file" and "overlays"'),
        ({"files": "x"}, 'an object with "file" and "overlays"'),
        ({"file": "shop.yaml"}, "'shop.yaml' given, an absolute path expected"),
        ({"overlays": "/x"}, "overlays: '/x' given, a list of paths expected"),
        ({"overlays": [1]}, "1 given, an absolute path expected"),
    ],
)
async def test_a_request_that_names_no_file_is_refused(what: Any, told: str) -> None:
    async with shop() as opened:
        assert told in (await opened.one("plan", what))["error"]


async def test_whoever_hangs_up_ends_the_apply_after_the_step_that_was_begun() -> None:
    async with shop() as opened:
        opened.write("size: 1", "size: 2")
        opened.write("id: x", "id: y")
        Clerk.stuck = asyncio.Event()
        reader, writer = await opened.connect()
        writer.write(b'{"apply": {}}\n')
        await reader.readline()
        await reader.readline()
        writer.transport.abort()
        await until(lambda: opened.states()["a"] == "stopping")
        Clerk.stuck.set()
        await until(lambda: opened.states()["a"] == "running")
        await until(lambda: not opened.control._clients)
        steps = (await opened.one("plan", {}))["plan"]["steps"]
        assert "shop/a" not in [step["path"] for step in steps]


class OneByOne(asyncio.Event):
    """Lets as many through as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.room = asyncio.Semaphore(0)

    async def wait(self) -> Literal[True]:
        await self.room.acquire()
        return True


async def test_nothing_more_is_begun_for_whoever_hung_up() -> None:
    async with shop(TREE.replace("id: a", "id: a\n      replicas: 4")) as opened:
        opened.write("size: 1", "size: 2")
        Clerk.stuck = stuck = OneByOne()
        reader, writer = await opened.connect()
        writer.write(b'{"apply": {}}\n')
        await reader.readline()
        await reader.readline()
        writer.transport.abort()
        stuck.room.release()  # the first; that nobody hears of it is noticed when that is told, and the second begun
        await until(lambda: opened.states()["a-2"] == "stopping")
        for _ in range(8):
            stuck.room.release()
        await until(lambda: not opened.control._clients)
        steps = (await opened.one("plan", {}))["plan"]["steps"]
        assert [step["path"] for step in steps] == ["shop/a-3", "shop/a-4"]
        Clerk.stuck = None


async def test_others_are_answered_while_a_child_takes_its_time_to_stop() -> None:
    async with shop() as opened:
        Clerk.stuck = asyncio.Event()
        stopping = asyncio.ensure_future(opened.one("stop", "a"))
        await until(lambda: opened.states()["a"] == "stopping")
        assert "tree" in await opened.one("get", "tree")
        assert not stopping.done()
        Clerk.stuck.set()
        assert await stopping == {"path": "shop/a", "state": "stopped"}


# --- stop, start, restart: the table of run-time calls -----------------------------------------------------------


async def test_a_child_is_stopped_started_and_restarted_by_name() -> None:
    async with shop() as opened:
        assert await opened.one("stop", "x") == {"path": "shop/inner/x", "state": "stopped"}
        assert opened.system.supervisor("inner").which_children()[0].held
        assert await opened.one("stop", "x") == {"path": "shop/inner/x", "state": "stopped"}
        assert await opened.one("start", "inner/x") == {"path": "shop/inner/x", "state": "running"}
        assert await opened.one("restart", "shop/inner/x") == {"path": "shop/inner/x", "state": "running"}
        assert opened.system.supervisor("inner").which_children()[0].incarnation == 3
        await opened.one("stop", "x")
        assert await opened.one("restart", "x") == {"path": "shop/inner/x", "state": "running"}


async def test_a_whole_supervisor_is_stopped_started_and_restarted() -> None:
    async with shop() as opened:
        for verb, state in (("stop", "stopped"), ("start", "running"), ("restart", "running")):
            assert await opened.one(verb, "inner") == {"path": "shop/inner", "state": state}
        assert opened.states("inner") == {"x": "running", "pool": "running"}


@pytest.mark.parametrize(
    ("verb", "name", "status", "told"),
    [
        ("start", "a", 409, "shop/a runs already"),
        ("stop", "aa", 404, "there is no 'aa'; did you mean shop/a?"),
        ("restart", "shop", 400, "shop is the root of its tree, which ends with its process"),
        ("stop", "", 400, "stop: '' given, the id or the path of a child expected"),
        ("stop", 7, 400, "stop: 7 given, the id or the path of a child expected"),
    ],
)
async def test_what_cannot_be_done_is_answered_with_the_reason(verb: str, name: Any, status: int, told: str) -> None:
    async with shop() as opened:
        answer = await opened.one(verb, name)
        assert (answer["status"], answer["error"]) == (status, told)


@pytest.mark.parametrize("process", ["", "\n      process: true"])
async def test_a_child_below_one_that_is_stopped_is_told_from_one_that_there_is_not(process: str) -> None:
    tree = TREE.replace("supervisor: inner", f"supervisor: inner{process}").replace(
        "        - supervisor: mbactor:Dyn",
        f"        - supervisor: deep\n          children: [{{actor: '{MODULE}:Clerk', id: z}}]\n"
        "        - supervisor: mbactor:Dyn",
    )
    async with shop(tree) as opened:
        assert (await opened.one("stop", "deep"))["state"] == "stopped"
        for name in ("z", "deep/z", "shop/inner/deep/z"):
            answer = await opened.one("stop", name)
            told = "shop/inner/deep/z does not run, as shop/inner/deep is stopped; `mbactor start shop/inner/deep`"
            assert (answer["status"], answer["error"]) == (404, f"{told} starts it")
        assert (await opened.one("stop", "inner"))["state"] == "stopped"
        for verb, name, path in (("stop", "x", "x"), ("start", "inner/x", "x"), ("restart", "z", "deep/z")):
            answer = await opened.one(verb, name)
            told = f"shop/inner/{path} does not run, as shop/inner is stopped; `mbactor start shop/inner` starts it"
            assert (answer["status"], answer["error"]) == (404, told)
        assert (await opened.one("stop", "nobody"))["error"].startswith("there is no 'nobody'")
        assert (await opened.one("start", "inner"))["state"] == "running"
        assert (await opened.one("restart", "x"))["state"] == "running"


async def test_a_child_that_does_not_start_says_why() -> None:
    async with shop() as opened:
        await opened.system.supervisor("inner").start_child(child(Clerk, id="late", args={"size": 1}))
        await opened.one("stop", "late")
        Clerk.broken = True
        try:
            answer = await opened.one("start", "late")
        finally:
            Clerk.broken = False
        assert answer["error"] == "child 'late' failed to start: RuntimeError: no database"
        assert answer["status"] == 500


async def test_children_of_a_dynamic_supervisor_can_be_stopped_and_are_forgotten() -> None:
    async with shop() as opened:
        pool = opened.system.supervisor("pool")
        assert isinstance(pool, DynamicSupervisor)
        await pool.start_child(child(Clerk, id="s1"))
        refused = await opened.one("restart", "s1")
        assert (refused["status"], "under a dynamic supervisor" in refused["error"]) == (409, True)
        assert await opened.one("stop", "s1") == {"path": "shop/inner/pool/s1", "state": "forgotten"}
