"""Every command whose output has no place: a full disk, and a reader that has had enough."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import TextIO

import click
import pytest
from click.testing import CliRunner

from mbactor.cli.main import main
from mbactor.foreman import END, Graph, Schedule
from mbactor.foreman.schedules import Schedules
from mbactor.foreman.shards import Member, Shards
from tests.cli.test_flows import URL, fill
from tests.cli.test_flows_shards import made
from tests.foreman.world import a_world
from tests.process import ROOT, serving

CODE = """
from mbactor import Actor, endpoint
from mbactor.foreman import END, Graph, task, workflow

class Printer(Actor):
    host = "printer.example"

    @endpoint
    async def pages(self) -> int:
        return 1

    @task
    async def page(self) -> None: ...

    @workflow
    def book(self) -> Graph:
        graph = Graph("Book")
        graph.add_transition(Printer.page, END)
        return graph
"""
TREE = """
version: 1
name: prints
supervisor:
  children:
    - actor: printer_of_all:Printer
"""
DECLARED = {
    "check": "prints.yaml",
    "render": "prints.yaml",
    "tree": "prints.yaml",
    "schema": "",
    "new": "shop",
}
RUNNING = {
    "tree": "prints.yaml --live --once",
    "plan": "prints.yaml",
    "apply": "prints.yaml",
    "call": "printer.example/pages",
    "stop": "printer",
    "start": "printer",
    "restart": "printer",
}
FLOWS = {
    "list": "",
    "show": "{failed}",
    "history": "{failed}",
    "watch": "--once",
    "fingerprint": "{failed}",
    "schedules": "",
    "shards": "",
    "check-graph": "printer_of_all:Printer.book",
    "start": "{created}",
    "resume": "{asks}",
    "cancel": "{asks}",
    "recover": "{failed}",
    "retry": "{failed}",
    "restart": "{completed}",
    "restart-from": "{step}",
    "fork": "{step}",
    "continue": "{completed}",
    "break": "{created} pay",
    "resume-break": "{paused}",
    "delete": "{failed} {completed}",
    "purge": "--status failed --older-than 0s --yes",
    "schedule": "monthly printer_of_all:Printer.book '0 0 1 * *'",
    "pause-schedule": "yearly",
    "resume-schedule": "yearly",
    "unschedule": "yearly",
}
SHARDS = {
    "cordon": "1",
    "uncordon": "2",
    "drain": "2",
    "add-shard": "",
    "remove-shard": "2 --yes",
}
FULL = "error: cannot print: No space left on device\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A topology, its code, a database with a flow of each kind and a schedule, and one of two shards."""
    folder = tmp_path_factory.mktemp("prints")
    (folder / "printer_of_all.py").write_text(CODE)
    (folder / "prints.yaml").write_text(TREE)
    keys = asyncio.run(filled(f"sqlite:///{folder}/flows.db"))
    (folder / "keys.json").write_text(json.dumps(keys))
    shards = f"sqlite:///{folder}/flows-%d.db"
    asyncio.run(made(shards, 2))
    assert CliRunner().invoke(main, ["flows", "cordon", "2", "--database", shards]).exit_code == 0
    return folder


async def filled(url: str) -> dict[str, str]:
    keys = await fill(url)
    async with a_world(url) as world:
        graph = Graph("Pausing")
        graph.add_transition("page", END)
        world.host.graphs[URL] = graph
        paused = await world.engine.create(URL, start=False)
        await world.engine.recovery.break_before(paused, "page")
        await world.engine.start(paused)
        await world.engine.wait(paused)
        schedules = Schedules(Shards([Member(1, engine=world.engine)]))
        await schedules.put(Schedule(name="yearly", workflow=URL, cron="0 0 1 1 *"))
        step = (await world.engine.history(keys["failed"]))[-1].step_key
    return {**keys, "paused": paused, "step": step}


@pytest.fixture
def here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A copy of it to work in; the keys of its flows."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield json.loads((tmp_path / "keys.json").read_text())
    sys.modules.pop("printer_of_all", None)


def a_full_disk() -> TextIO:
    return open("/dev/full", "w")  # noqa: PTH123


def a_closed_pipe() -> TextIO:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def run(monkeypatch: pytest.MonkeyPatch, stdout: TextIO, *arguments: str) -> tuple[int, str]:
    """The exit code of a command that prints there, and what it says on stderr."""
    with stdout, StringIO() as stderr, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stdout)
        patched.setattr(sys, "stderr", stderr)
        with pytest.raises(SystemExit) as end:
            main(arguments)
        return int(end.value.code or 0), stderr.getvalue()


def test_every_command_is_tried_here_but_run_which_goes_on_without() -> None:
    flows = main.commands["flows"]
    assert isinstance(flows, click.Group)
    assert {*DECLARED, *RUNNING} == {*main.commands} - {"flows", "run"}
    assert {*FLOWS, *SHARDS} == {*flows.commands}


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "--version",
        "flows --help",
        *(f"{name} {arguments}" for name, arguments in DECLARED.items()),
        *(f"flows {name} {arguments} --database sqlite:///flows.db" for name, arguments in FLOWS.items()),
        *(f"flows {name} {arguments} --database sqlite:///flows-%d.db" for name, arguments in SHARDS.items()),
    ],
)
def test_a_command_whose_output_has_no_place_says_so(
    here: dict[str, str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    told = FULL.replace("\n", "; 2 flows deleted\n") if command.startswith("flows delete") else FULL
    assert run(monkeypatch, a_full_disk(), *shlex.split(command.format(**here))) == (1, told)


@pytest.mark.parametrize(("place", "expected"), [(a_full_disk, 1), (a_closed_pipe, 141)])
def test_what_is_asked_for_of_several_flows_is_done_where_nothing_can_be_printed(
    here: dict[str, str], monkeypatch: pytest.MonkeyPatch, place: Callable[[], TextIO], expected: int
) -> None:
    database = ["--database", "sqlite:///flows.db"]
    code, _ = run(monkeypatch, place(), "flows", "delete", here["failed"], here["completed"], *database)
    assert code == expected
    for name in ("failed", "completed"):
        assert CliRunner().invoke(main, ["flows", "show", here[name], *database]).exit_code == 4
    assert CliRunner().invoke(main, ["flows", "resume", here["asks"], *database]).exit_code == 0  # it runs
    code, told = run(monkeypatch, place(), "flows", "delete", here["created"], here["asks"], here["paused"], *database)
    assert (code, "1 of 3 flows deleted" in told) == (expected, True)
    assert CliRunner().invoke(main, ["flows", "show", here["paused"], *database]).exit_code == 0


@pytest.mark.parametrize("command", ["--help", "schema", "check prints.yaml", "flows list --database sqlite:///flows.db",
                                     "flows watch --json --database sqlite:///flows.db"])  # fmt: skip
@pytest.mark.usefixtures("here")
def test_a_command_whose_reader_has_gone_ends_without_a_word(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    assert run(monkeypatch, a_closed_pipe(), *command.split()) == (141, "")


@pytest.mark.usefixtures("here")
def test_commands_on_a_running_tree_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="mb") as runtime:
        for name in ("XDG_RUNTIME_DIR", "TMPDIR"):  # else what others run would be meant as well
            monkeypatch.setenv(name, runtime)
        with serving(Path("prints.yaml"), Path.cwd(), XDG_RUNTIME_DIR=runtime, TMPDIR=runtime) as served:
            served.until("Ctrl-C stops it")
            for name, arguments in RUNNING.items():
                assert run(monkeypatch, a_full_disk(), name, *arguments.split()) == (1, FULL), name
            assert run(monkeypatch, a_closed_pipe(), "tree", "prints.yaml", "--live") == (141, "")


@pytest.mark.parametrize(("place", "expected"), [(a_full_disk, (1, FULL)), (a_closed_pipe, (141, ""))])
def test_the_interpreter_has_nothing_to_add(place: Callable[[], TextIO], expected: tuple[int, str]) -> None:
    with place() as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "mbactor", "schema"], cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == expected


def test_errors_that_have_no_place_leave_the_exit_code_of_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    for where in (a_full_disk, a_closed_pipe):
        with where() as stderr, monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", stderr)
            with pytest.raises(SystemExit) as end:
                main(["check", "nothing.yaml"])
            assert end.value.code in {1, 141}


def test_colours_are_left_out_where_they_are_not_wanted(tmp_path: Path) -> None:
    def told(**env: str) -> str:
        arguments = ["flows", "list", "--database", f"sqlite:///{tmp_path}/none.db"]
        return CliRunner().invoke(main, arguments, color=True, env=env).stderr

    assert "\x1b[" in told(NO_COLOR="")
    assert "\x1b[" not in told(NO_COLOR="1")
