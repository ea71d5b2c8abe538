"""The connection to a running system: finds the process that runs a file, and asks it.

with connect(Path("shop.yaml"), pid=None, places=folders(environment())) as link:
    line = link.ask({"get": "tree"}, within=3)
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from mbactor.errors import MbactorError
from mbactor.supervisor.operate.sockets import Running, answers, running

DYING = 1.0
"""Seconds in which a process that was killed may still listen, when what was connected is closed already."""
_CHUNK = 1 << 20


class NotRunning(MbactorError):
    """There is nothing to look at: no process runs the file, or not the one that was asked for."""

    status = 404


class Link:
    """Asks one request after another. NotRunning as soon as the process is gone."""

    def __init__(self, found: Running, what: str) -> None:
        self.pid = found.pid
        self._path = found.path
        self._what = what
        self._received = bytearray()
        self._pending = False
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(found.path))
        except OSError:
            self._socket.close()
            raise self._gone() from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, request: Any, within: float) -> bytes | None:
        """The answer as a line; None when it has not come in time, and then the next call goes on waiting for it."""
        if not self._pending:
            self._pending = True
            with suppress(OSError):  # one that has hung up may have said why, which is read below
                self._socket.sendall(json.dumps(request).encode() + b"\n")
        deadline = time.monotonic() + within
        while b"\n" not in self._received[-_CHUNK:]:
            if not self._readable(deadline - time.monotonic()):
                return None
            self._receive()
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received[:] = rest
        self._pending = False
        return line

    def more(self, within: float) -> bytes | None:
        """Another line of the same answer, where it has several; None as for `ask`."""
        self._pending = True
        return self.ask(None, within)

    def rest(self, seconds: float) -> None:
        """Wait between two requests; NotRunning at once when the process goes."""
        if self._readable(seconds):
            self._receive()

    def _readable(self, seconds: float) -> bool:
        return bool(select.select([self._socket], [], [], max(0.0, seconds))[0])

    def _receive(self) -> None:
        try:
            part = self._socket.recv(_CHUNK)
        except OSError:
            part = b""
        if not part:
            raise self._gone()
        self._received += part

    def _gone(self) -> NotRunning:
        until = time.monotonic() + DYING
        while answers(self._path):
            if time.monotonic() >= until:
                return NotRunning(
                    f"{self._what} (pid {self.pid}) runs on and has hung up: its answers were not read in time"
                )
            time.sleep(DYING / 10)
        return NotRunning(f"{self._what} has stopped (pid {self.pid})")


def connect(file: Path | None, pid: int | None, places: Sequence[Path], *, other: bool = False) -> Link:
    """Reach the process that runs a file, or the one there is. NotRunning, where there is none, or several and no
    choice. `other` lets a pid stand for itself, whatever it runs.
    """
    if pid is not None and (other or file is None):
        found = next((one for one in running(None, places) if one.pid == pid), None)
        if found is None:
            raise NotRunning(f"there is no process {pid} that runs a tree and answers this user")
    else:
        found = chosen(file, running(file, places), pid)
    return Link(found, found.system if file is None else str(file))


def chosen(file: Path | None, found: Sequence[Running], pid: int | None) -> Running:
    """The one that is meant."""
    pids = ", ".join(str(one.pid) for one in found)
    if not found and file is None:
        raise NotRunning("nothing is running; `mbactor run FILE` starts a tree")
    if not found:
        hint = "" if file is not None and file.exists() else ", and there is no such file"
        raise NotRunning(f"{file} is not running{hint}; `mbactor run {file}` starts it")
    if pid is not None:
        for one in found:
            if one.pid == pid:
                return one
        raise NotRunning(f"{file} does not run with pid {pid}; it runs with pid {pids}")
    if len(found) > 1 and file is None:
        listed = ", ".join(f"{one.system} (pid {one.pid})" for one in found)
        raise NotRunning(f"several trees are running: {listed}; choose one of them by -f FILE or by --pid")
    if len(found) > 1:
        raise NotRunning(f"{file} runs {len(found)} times; choose one of them by --pid: {pids}")
    return found[0]
