"""`mbactor plan`, `apply`, `stop`, `start` and `restart` as a person meets them: real processes, real sockets."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from mbactor.cli import link as link_module
from mbactor.cli.link import Link, NotRunning
from mbactor.cli.main import main
from mbactor.cli.steps import drawn, one_step
from mbactor.supervisor.operate.applying import Plan
from mbactor.supervisor.operate.plan import Act, Step
from mbactor.supervisor.operate.plan_values import Change
from mbactor.supervisor.operate.sockets import Running, listen
from tests.process import PATIENCE, ROOT, Served, command, serving

ACTORS = """
from pathlib import Path
from mbactor import Actor
from mbactor.errors import Ignore


class Clerk(Actor):
    def __init__(self, size: int = 0, token: str = "") -> None:
        if size == 13:
            raise RuntimeError("unlucky")


class Shy(Actor):
    async def on_start(self) -> None:
        if Path("shy").exists():
            raise Ignore("nobody needs it today")


class Slow(Actor):
    async def on_stop(self, exit) -> None:
        while Path("hold").exists():
            await self.sleep("10ms")
"""
TREE = """
version: 1
name: office
supervisor:
  children:
    - actor: clerks:Clerk
      args: {size: 1, token: hunter2}
      replicas: 2
    - actor: clerks:Slow
    - supervisor: back
      children:
        - actor: clerks:Clerk
          id: copy
"""


class Office:
    """A topology file, and the folder for the sockets of what runs it."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.folder = folder
        self.file = folder / "office.yaml"
        self.variables = {"XDG_RUNTIME_DIR": str(runtime), "TMPDIR": str(runtime / "tmp")}
        self.sockets = runtime / "mbactor"
        (runtime / "tmp").mkdir()
        (folder / "clerks.py").write_text(ACTORS)
        self.file.write_text(TREE)

    @contextmanager
    def running(self) -> Iterator[Served]:
        with serving(self.file, self.folder, **self.variables) as served:
            served.until("Ctrl-C stops it")
            yield served

    def write(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))

    def do(self, *arguments: str) -> Done:
        """A command, in this process: it is quick, and what it asks is another."""
        result = CliRunner().invoke(main, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Done(result.exit_code, result.stdout, result.stderr)


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    with tempfile.TemporaryDirectory(prefix="mb") as runtime:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        monkeypatch.setenv("TMPDIR", f"{runtime}/tmp")
        yield Office(tmp_path, Path(runtime))


# --- plan and apply -------------------------------------------------------------------------------------------


def test_a_changed_file_is_planned_and_applied_and_then_there_is_nothing_to_do(office: Office) -> None:
    with office.running() as served:
        head = f"office (pid {served.process.pid})"
        same = command("plan", "office.yaml", "--exit-code", cwd=office.folder, **office.variables)
        assert (same.returncode, same.stdout) == (0, f"{head} runs as office.yaml says; nothing to do\n")
        office.write("size: 1, token: hunter2", "size: 2, token: hunter3")
        office.write("replicas: 2", "replicas: 3")
        office.write("id: copy", "id: print")
        planned = office.do("plan", "office.yaml")
        assert planned.returncode == 0, planned.stderr
        assert planned.stdout.splitlines() == [
            f"{head}: 5 steps to what office.yaml says",
            "  ~ restart  clerk-1     args.size 1 -> 2",
            "                         args.token *** -> ***",
            "  ~ restart  clerk-2     args.size 1 -> 2",
            "                         args.token *** -> ***",
            "  + start    clerk-3",
            "  - stop     back/copy",
            "  + start    back/print",
        ]
        assert office.do("plan", "office.yaml", "--exit-code").returncode == 3
        applied = office.do("apply", "office.yaml")
        assert applied.returncode == 0, applied.stderr
        lines = applied.stdout.splitlines()
        assert lines[:8] == planned.stdout.splitlines()
        assert lines[8].startswith("done 1/5 ~ restart office/clerk-1")
        assert lines[-1].startswith("applied 5 steps")
        assert "hunter" not in planned.stdout + applied.stdout
        plan = json.loads(office.do("plan", "office.yaml", "--format", "json").stdout)
        assert plan == {"system": "office", "steps": [], "later": []}


def test_a_faulty_file_is_told_whole_and_changes_nothing(office: Office) -> None:
    with office.running():
        office.write("actor: clerks:Slow", "actor: clerks:Sluw\n      restart: allways")
        for verb in ("plan", "apply"):
            done = office.do(verb, "office.yaml")
            assert done.returncode == 2
            assert "error: office.yaml:" in done.stderr
            assert "Sluw" in done.stderr
            assert "allways" in done.stderr
            assert "office.yaml: 2 mistakes; the running tree is as it was" in done.stderr
        assert "3 of 3 running" not in office.do("tree", "office.yaml", "--live", "--once").stdout
        assert "4 of 4 running" in office.do("tree", "office.yaml", "--live", "--once").stdout


def test_a_step_that_fails_says_what_was_done_and_what_was_not_and_a_second_apply_goes_on(office: Office) -> None:
    with office.running():
        office.write("supervisor:\n  children", "supervisor:\n  max_restarts: 9\n  children")
        office.write("size: 1", "size: 13")
        done = office.do("apply", "office.yaml")
        assert done.returncode == 1
        told = done.stderr.splitlines()
        assert told[0] == ("error: restart office/clerk-1: child 'clerk-1' failed to start: RuntimeError: unlucky")
        assert told[1:] == [
            "1 of 3 steps done; not done:",
            "  ~ restart office/clerk-1",
            "  ~ restart office/clerk-2",
            "nothing was taken back; `mbactor apply office.yaml` goes on from here",
        ]
        office.write("size: 13", "size: 14")
        again = office.do("apply", "office.yaml")
        assert again.returncode == 0, again.stderr
        assert again.stdout.splitlines()[-1].startswith("applied 2 steps")


def test_what_takes_long_is_said_and_can_be_left(office: Office) -> None:
    (office.folder / "hold").touch()
    with office.running():
        office.write("    - actor: clerks:Slow\n", "")
        environment = {**os.environ, **office.variables, "PYTHONPATH": str(ROOT)}
        arguments = [sys.executable, "-m", "mbactor", "apply", "office.yaml"]
        with subprocess.Popen(
            arguments, cwd=office.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == "... 1/1 - stop office/slow: 2s\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
            assert "what was begun is finished, nothing more is begun" in process.stderr.read()
        (office.folder / "hold").unlink()
        deadline = time.monotonic() + PATIENCE
        while "slow" in office.do("tree", "office.yaml", "--live", "--once").stdout:
            assert time.monotonic() < deadline


def test_a_pid_stands_for_itself_whatever_file_it_runs(office: Office) -> None:
    with office.running() as served:
        other = office.folder / "next.yaml"
        other.write_text(TREE.replace("replicas: 2", "replicas: 1"))
        assert "next.yaml is not running" in office.do("plan", "next.yaml").stderr
        planned = office.do("plan", "next.yaml", "--pid", str(served.process.pid))
        assert planned.returncode == 0, planned.stderr
        assert "3 steps to what next.yaml says" in planned.stdout
        assert "there is no process 1 that runs a tree" in office.do("plan", "next.yaml", "--pid", "1").stderr


# --- stop, start, restart ---------------------------------------------------------------------------------------


def test_a_child_is_stopped_started_and_restarted_by_its_name_alone(office: Office) -> None:
    with office.running():
        stopped = office.do("stop", "clerk-1")
        assert stopped.returncode == 0, stopped.stderr
        assert stopped.stdout == (
            "office/clerk-1: stopped; it stays so until `mbactor start office/clerk-1`,"
            " or until its supervisor starts again\n"
        )
        assert "held" in office.do("tree", "office.yaml", "--live", "--once").stdout
        assert office.do("start", "clerk-1", "-f", "office.yaml").stdout == "office/clerk-1: running\n"
        assert office.do("restart", "back").stdout == "office/back: running\n"
        again = office.do("start", "back")
        assert (again.returncode, again.stderr) == (4, "error: office/back runs already\n")
        unknown = office.do("stop", "clerk")
        assert unknown.returncode == 4
        assert "did you mean office/clerk-1 or office/clerk-2?" in unknown.stderr


def test_a_child_that_asks_not_to_be_started_is_said_to_have(office: Office) -> None:
    office.write("    - actor: clerks:Slow\n", "    - actor: clerks:Shy\n")
    (office.folder / "shy").touch()
    with office.running():
        for verb in ("start", "restart"):
            done = office.do(verb, "shy")
            assert (done.returncode, done.stdout) == (0, "office/shy: stopped; it asked not to be started\n")
        (office.folder / "shy").unlink()
        assert office.do("start", "shy").stdout == "office/shy: running\n"


def test_a_stop_that_takes_longer_than_one_waits_goes_on(office: Office) -> None:
    (office.folder / "hold").touch()
    with office.running():
        late = office.do("stop", "slow", "--timeout", "100ms")
        assert (late.returncode, late.stderr) == (5, "error: stopping slow: not done after 100ms; it goes on\n")
        (office.folder / "hold").unlink()
        assert office.do("stop", "slow").returncode == 0
        wrong = office.do("stop", "slow", "--timeout", "5")
        assert wrong.returncode == 2
        assert "--timeout: '5' is not a duration" in wrong.stderr


def test_several_trees_are_listed_and_nothing_is_said_to_run_where_nothing_does(office: Office) -> None:
    none = office.do("stop", "clerk-1")
    assert (none.returncode, none.stderr) == (1, "error: nothing is running; `mbactor run FILE` starts a tree\n")
    assert office.do("apply", "office.yaml").returncode == 1
    with office.running() as first, office.running() as second:
        pids = [first.process.pid, second.process.pid]
        unsaid = office.do("stop", "clerk-1")
        assert unsaid.returncode == 1
        listed = f"several trees are running: office (pid {pids[0]}), office (pid {pids[1]})"
        assert f"{listed}; choose one of them by -f FILE or by --pid\n" in unsaid.stderr
        assert office.do("stop", "clerk-1", "--pid", str(pids[1])).returncode == 0
        assert office.do("stop", "clerk-1", "-f", "office.yaml", "--pid", str(pids[0])).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_nobody_else_can_reach_the_socket(office: Office) -> None:
    with office.running():
        (path,) = office.sockets.iterdir()
        office.sockets.parent.chmod(0o755)
        script = f"import os, socket; os.setuid(65534); socket.socket(socket.AF_UNIX).connect({str(path)!r})"
        for mode in (0o700, 0o755):  # the folder keeps others out, and so does the socket itself
            office.sockets.chmod(mode)
            done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
            assert "PermissionError" in done.stderr


# --- what is drawn ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "told"),
    [("start", "+"), ("stop", "-"), ("restart", "~"), ("restart branch", "~"), ("change", "="), ("move", "=")],
)
def test_each_act_has_its_sign_and_its_colour(act: Act, told: str) -> None:
    line = one_step(Step(act, "shop/a"))
    assert told in line
    assert "\x1b[3" in line


def test_moves_and_what_another_start_changes_are_told() -> None:
    steps = (
        Step("move", "shop/a", after="b"),
        Step("move", "shop/c"),
        Step("change", "shop", changes=(Change("x", "1\x1b", "2"),)),
    )
    text = "\n".join(drawn(Plan("shop", steps, (Change("name", "'a'", "'b'"),)), 1, Path("shop.yaml")))
    assert "behind b" in text
    assert "to the front" in text
    assert "1\\x1b" in text
    assert "name 'a' -> 'b': only another start of the process changes this" in text


def test_a_process_that_hangs_up_is_told_from_one_that_has_stopped() -> None:
    with tempfile.TemporaryDirectory(prefix="mb") as folder:
        server, path = listen("shop", Path("shop.yaml"), [Path(folder) / "mbactor"])
        with server, Link(Running(os.getpid(), path), "shop.yaml") as link:
            server.accept()[0].close()
            with pytest.raises(NotRunning, match=r"shop\.yaml \(pid \d+\) runs on and has hung up"):
                link.ask({"get": "tree"}, within=60)
            server.close()
            with pytest.raises(NotRunning, match=r"shop\.yaml has stopped \(pid \d+\)"):
                link.ask({"get": "tree"}, within=60)


def test_a_process_that_is_killed_and_listens_for_a_moment_yet_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "DYING", 60.0)

    def die(server: socket.socket) -> None:
        server.accept()[0].close()
        server.accept()[0].close()  # it is looked whether it listens
        server.close()

    with tempfile.TemporaryDirectory(prefix="mb") as folder, ThreadPoolExecutor() as pool:
        server, path = listen("shop", Path("shop.yaml"), [Path(folder) / "mbactor"])
        server.settimeout(60)
        with server, Link(Running(os.getpid(), path), "shop.yaml") as link:
            dying = pool.submit(die, server)
            with pytest.raises(NotRunning, match=r"shop\.yaml has stopped \(pid \d+\)"):
                link.ask({"get": "tree"}, within=60)
            dying.result()


@pytest.mark.parametrize("arguments", [["plan"], ["apply"], ["stop", "clerk-1", "-f"], ["tree", "--live", "--once"]])
def test_a_process_of_another_version_whose_answer_is_not_understood_is_told_so(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="mb") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        monkeypatch.setenv("TMPDIR", folder)
        file = Path(folder) / "shop.yaml"
        server, _ = listen("shop", file, [Path(folder) / "mbactor"])

        def answer() -> None:
            while True:
                client, _ = server.accept()
                with client:
                    if client.recv(1 << 16):  # who only looks whether it listens says nothing
                        client.sendall(b'{"plan": 5}\n')
                        return

        answering = threading.Thread(target=answer)
        answering.start()
        with server:
            done = CliRunner().invoke(main, [*arguments, str(file)])
            answering.join(PATIENCE)
        assert done.exit_code == 1
        assert re.search(
            r"error: the running \w+ answers in another way than this version expects: .*plan", done.stderr
        )
