"""A real `mbactor run` in a process of its own, driven from a test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue

PATIENCE = 120.0
ROOT = Path(__file__).parent.parent


def alive(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second where it ends between opening and reading
        return False


def of_threads(pid: int | str, name: str) -> list[str]:
    """What this file says of each thread of a process. FileNotFoundError where there is no such process."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        with suppress(FileNotFoundError, ProcessLookupError):  # one has ended since then: all are read anew
            return [(thread / name).read_text() for thread in threads]
    raise AssertionError(f"/proc/{pid}/task/*/{name} cannot be read")


def children() -> set[int]:
    """The processes that this one has started, those too that have ended and that nobody has waited for."""
    found: set[int] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # another one's, which has just ended
            _, parent, *_ = (process / "stat").read_text().rpartition(")")[2].split()
            if int(parent) == os.getpid():
                found.add(int(process.name))
    return found


def pause(pid: int) -> None:
    """SIGSTOP, and wait until each thread of the process has stopped: until then it may still answer."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + PATIENCE
    while any(stat.rpartition(")")[2].split()[0] != "T" for stat in of_threads(pid, "stat")):
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Served:
    """A running tree: its lines, its address, and the means to stop it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._queue: Queue[str | None] = Queue()
        self._readers = [
            threading.Thread(target=self._read, args=(process.stdout, self.lines, self._queue), daemon=True),
            threading.Thread(target=self._read, args=(process.stderr, self.errors, None), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: object, into: list[str], queue: Queue[str | None] | None) -> None:
        for line in stream:  # type: ignore[attr-defined]
            into.append(line.rstrip("\n"))
            if queue is not None:
                queue.put(line.rstrip("\n"))
        if queue is not None:
            queue.put(None)

    def until(self, pattern: str) -> re.Match[str]:
        """Wait for a line on stdout."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                line = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                raise AssertionError(f"no line {pattern!r}\n{self.told()}") from None
            if line is None:
                self.process.wait(PATIENCE)
                raise AssertionError(f"ended with {self.process.returncode} before {pattern!r}\n{self.told()}")
            found = re.search(pattern, line)
            if found:
                return found

    def until_error(self, pattern: str) -> re.Match[str]:
        """Wait for a line on stderr."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for line in self.errors:
                if found := re.search(pattern, line):
                    return found
            time.sleep(0.01)
        raise AssertionError(f"no line {pattern!r}\n{self.told()}")

    @property
    def url(self) -> str:
        return self.until(r"serving (http://\S+)")[1]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for the process to end; its exit code."""
        code = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    def told(self) -> str:
        return "\n".join([*self.lines, "--- stderr", *self.errors])


@contextmanager
def serving(topology: Path, cwd: Path, *more: str, **variables: str) -> Iterator[Served]:
    """`mbactor run` of a topology; killed at the end where it still runs."""
    environment = {**os.environ, "PORT": "0", "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "mbactor", "run", str(topology), *more]
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    served = Served(process)
    try:
        yield served
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                for reader in served._readers:
                    reader.join(PATIENCE)
                stream.close()


def command(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`mbactor ...`, to its end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, "-m", "mbactor", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
