"""`mbactor tree --live` as a person meets it: real processes, real sockets, a real terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process import PATIENCE, ROOT, Served, command, serving

ACTORS = """
from mbactor import Actor, endpoint


class Clerk(Actor):
    host = "clerk.example"

    @endpoint
    async def begin(self) -> None:
        for _ in range(3):
            self.tell(Clerk.work)

    @endpoint
    async def work(self) -> None:
        await self.sleep(3600)

    @endpoint
    async def leave(self) -> None:
        raise SystemExit(3)
"""
TREE = """
version: 1
name: office
supervisor:
  children:
    - actor: clerks:Clerk
      shutdown: 100ms
    - gateway: {port: "${PORT}"}
"""
QUIET = """
version: 1
name: crowd
supervisor:
  children:
    - actor: clerks:Clerk
      replicas: 200
"""


class Office:
    """A topology file, and the folder for the sockets of what runs it."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.folder = folder
        self.file = folder / "office.yaml"
        self.variables = {"XDG_RUNTIME_DIR": str(runtime), "TMPDIR": str(runtime / "tmp"), "PORT": "0"}
        self.sockets = runtime / "mbactor"
        (runtime / "tmp").mkdir()
        (folder / "clerks.py").write_text(ACTORS)
        self.file.write_text(TREE)

    @contextmanager
    def running(self, file: Path | None = None) -> Iterator[Served]:
        with serving(file or self.file, self.folder, **self.variables) as served:
            served.until("Ctrl-C stops it")
            yield served

    def tree(self, *options: str, file: Path | None = None) -> subprocess.CompletedProcess[str]:
        arguments = ("tree", str(file or self.file), "--live", *options)
        return command(*arguments, cwd=self.folder, **self.variables)

    @contextmanager
    def following(self, *options: str, **how: Any) -> Iterator[subprocess.Popen[str]]:
        arguments = [sys.executable, "-m", "mbactor", "tree", str(self.file), "--live", *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how}
        environment = {**os.environ, **self.variables, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(arguments, cwd=self.folder, env=environment, **pipes) as process:
            try:
                yield process
            finally:
                process.kill()

    def names(self) -> list[str]:
        return sorted(one.name for one in self.sockets.iterdir())


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with tempfile.TemporaryDirectory(prefix="mb") as runtime:
        yield Office(tmp_path, Path(runtime))


def nodes(snapshot: Any) -> dict[str, Any]:
    return {node["id"]: node for node in snapshot["tree"]["children"]}


def test_a_running_tree_is_shown_once(office: Office) -> None:
    with serving(office.file, office.folder, **office.variables) as served:
        httpx.post(f"{served.url}/clerk.example/begin", timeout=PATIENCE).raise_for_status()
        done = office.tree("--once")
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[0].startswith(f"office (pid {served.process.pid})  up ")
        assert lines[0].endswith("2 of 2 running")
        clerk = next(line for line in lines if "clerk" in line).split()
        assert clerk[:4] == ["├─", "clerk", "running", "1"]
        assert clerk[5] == "2/1000"
        assert clerk[-3:] == ["work", "←", "clerk.example/begin"]
        assert "\x1b" not in done.stdout


def test_the_socket_is_the_users_alone_and_goes_with_the_process(office: Office) -> None:
    with office.running() as served:
        (name,) = office.names()
        assert name.startswith("office-")
        assert name.endswith(f"-{served.process.pid}.sock")
        assert office.sockets.stat().st_mode & 0o777 == 0o700
        assert (office.sockets / name).stat().st_mode & 0o777 == 0o600
        served.signal(signal.SIGTERM)
        assert served.end() == 0, served.told()
        assert office.names() == []


def test_the_socket_goes_also_when_a_method_exits(office: Office) -> None:
    with serving(office.file, office.folder, **office.variables) as served:
        httpx.post(f"{served.url}/clerk.example/leave", timeout=PATIENCE)
        assert served.end() == 3, served.told()
        assert office.names() == []


def test_json_is_one_object_a_line_until_the_tree_stops(office: Office) -> None:
    with office.running() as served, office.following("--format", "json", "--every", "50ms") as client:
        assert client.stdout is not None
        assert client.stderr is not None
        snapshots = [json.loads(client.stdout.readline()) for _ in range(3)]
        assert [nodes(one)["clerk"]["state"] for one in snapshots] == ["running"] * 3
        assert snapshots[0]["uptime"] < snapshots[2]["uptime"]
        served.signal(signal.SIGTERM)
        assert served.end() == 0, served.told()
        assert client.wait(PATIENCE) == 1
        assert f"office.yaml has stopped (pid {served.process.pid})" in client.stderr.read()


def test_a_reader_that_has_had_enough_ends_it_without_a_word(office: Office) -> None:
    with office.running(), office.following("--format", "json", "--every", "50ms") as client:
        assert client.stdout is not None
        assert client.stderr is not None
        client.stdout.readline()
        client.stdout.close()
        assert client.wait(PATIENCE) == 128 + signal.SIGPIPE
        assert client.stderr.read() == ""


def test_a_tree_that_does_not_run_is_said_not_to(office: Office) -> None:
    done = office.tree()
    assert done.returncode == 1
    assert "office.yaml is not running" in done.stderr
    missing = office.tree(file=office.folder / "nowhere.yaml")
    assert missing.returncode == 1
    assert "there is no such file" in missing.stderr


def test_a_killed_process_leaves_a_socket_that_clients_and_later_runs_remove(office: Office) -> None:
    def killed() -> str:
        with office.running() as served:
            served.signal(signal.SIGKILL)
            served.end()
            (name,) = office.names()
            return name

    killed()
    assert office.tree("--once").returncode == 1
    assert office.names() == []
    stale = killed()
    with office.running() as served:
        assert stale not in office.names()
        assert office.tree("--once").stdout.startswith(f"office (pid {served.process.pid})")


def test_a_run_says_the_pid_by_which_it_is_chosen(office: Office) -> None:
    with serving(office.file, office.folder, **office.variables) as running:
        assert running.until(r"^Ctrl-C stops it \(pid (\d+)\)$")[1] == str(running.process.pid)


def test_of_two_runs_of_one_file_one_is_chosen_by_pid(office: Office) -> None:
    with office.running() as first, office.running() as second:
        pids = [first.process.pid, second.process.pid]
        unsaid = office.tree("--once")
        assert unsaid.returncode == 1
        assert f"office.yaml runs 2 times; choose one of them by --pid: {pids[0]}, {pids[1]}" in unsaid.stderr
        for pid in pids:
            assert json.loads(office.tree("--once", "--format", "json", "--pid", str(pid)).stdout)["pid"] == pid
        wrong = office.tree("--once", "--pid", "1")
        assert wrong.returncode == 1
        assert f"does not run with pid 1; it runs with pid {pids[0]}, {pids[1]}" in wrong.stderr
        second.signal(signal.SIGTERM)
        second.end()
        assert json.loads(office.tree("--once", "--format", "json").stdout)["pid"] == pids[0]


def test_a_folder_that_others_can_enter_is_not_used_and_the_tree_runs_all_the_same(office: Office) -> None:
    office.sockets.mkdir()
    office.sockets.chmod(0o755)
    other = Path(office.variables["TMPDIR"]) / f"mbactor-{os.geteuid()}"
    other.mkdir()
    other.chmod(0o777)
    with office.running() as served:
        served.signal(signal.SIGTERM)
        assert served.end() == 0, served.told()
        warning = next(line for line in served.errors if "no control socket" in line)
        assert "open to others (mode 0755)" in warning
        assert "open to others (mode 0777)" in warning
    done = office.tree("--once")
    assert done.returncode == 1
    assert "open to others" in done.stderr
    assert list(other.iterdir()) == []


def test_a_process_that_does_not_answer_is_told_from_one_that_is_gone(office: Office) -> None:
    with office.running() as served:
        served.signal(signal.SIGSTOP)
        done = office.tree("--once")
        served.signal(signal.SIGCONT)
        assert done.returncode == 1
        assert f"no answer for 3s: process {served.process.pid} is stopped, or something blocks" in done.stderr


@contextmanager
def terminal(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    try:
        yield ours, theirs
    finally:
        os.close(ours)


def read_until(descriptor: int, seen: bytearray, condition: Callable[[bytes], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition(bytes(seen)):
        assert time.monotonic() < deadline, seen[-2000:].decode(errors="replace")
        try:
            seen += os.read(descriptor, 1 << 16)
        except OSError:  # the other end is closed
            assert condition(bytes(seen)), seen[-2000:].decode(errors="replace")


def test_on_a_terminal_one_table_is_redrawn_until_ctrl_c_and_the_last_one_stays(office: Office) -> None:
    crowd = office.file
    crowd.write_text(QUIET)
    with office.running(), terminal(24, 80) as (ours, theirs):
        with office.following("--every", "50ms", stdin=theirs, stdout=theirs, stderr=theirs, text=False) as client:
            os.close(theirs)
            seen = bytearray()
            cut = b"182 of 201 rows cut, all quiet; --all shows them.  every 50ms, Ctrl-C ends"
            read_until(ours, seen, lambda text: text.count(cut) >= 3)
            assert b"\x1b[?1049h" in seen  # a screen of its own
            client.send_signal(signal.SIGINT)
            read_until(ours, seen, lambda text: cut.split(b"  ")[0] in text.partition(b"\x1b[?1049l")[2])
            assert client.wait(PATIENCE) == 0
        after = seen.decode().partition("\x1b[?1049l")[2]
        assert "200 of 200 running" in after
        assert "Traceback" not in after


@pytest.mark.parametrize("options", [("--once",), ("--once", "--format", "json"), ("--format", "json")])
def test_what_is_for_a_program_or_for_once_is_printed_on_a_terminal_too(
    office: Office, options: tuple[str, ...]
) -> None:
    with office.running(), terminal(24, 80) as (ours, theirs):
        with office.following(*options, stdin=theirs, stdout=theirs, stderr=theirs, text=False) as client:
            os.close(theirs)
            seen = bytearray()
            read_until(ours, seen, lambda text: b"\n" in text and (b'"system"' in text or b"running" in text))
            if "--once" in options:
                assert client.wait(PATIENCE) == 0
        assert b"\x1b[?1049h" not in seen
        if "json" in options:
            assert json.loads(seen.splitlines()[0])["system"] == "office"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--once",), "--once goes with --live"),
        (("--every", "2s"), "--every goes with --live"),
        (("--all",), "--all goes with --live"),
        (("--pid", "1"), "--pid goes with --live"),
        (("--live", "--every", "3"), "'3' is not a duration"),
        (("--live", "--every", "1ms"), "--every: 1ms given, at least 50ms expected"),
        (("--live", "--format", "dot"), "with --live, text or json"),
    ],
)
def test_options_that_do_not_go_together_are_refused(office: Office, options: tuple[str, ...], told: str) -> None:
    done = command("tree", str(office.file), *options, cwd=office.folder, **office.variables)
    assert done.returncode == 2
    assert told in done.stderr
