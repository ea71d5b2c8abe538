"""A nats-server of this process's own: on loopback, for whoever has its token, until this process ends.

    server = EmbeddedServer()
    await server.start()
    bus = NatsBus(server.url)
    ...
    await server.stop()

What is promised:

- It listens on a free port of the loopback and keeps that port. Only who knows the token of `url` may connect; the
  token is neither printed nor on a command line, in the environment or in a file.
- When it dies, however often, it is started again, after a pause that grows to `LONGEST_PAUSE` (`broker.ended`).
- It ends with this process, also when that is killed by `kill -9`, whichever of its threads started it.
- What it logs are events, `broker.said`, with the level that it gave them.

Costs about 25 ms to start and 15 MB of memory, beside what its connections need, and a thread here.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from weakref import WeakSet

from mbactor import observe, offload
from mbactor.errors import ProcessDied, Unavailable

START = 15.0
"""Seconds a server has to take connections."""
STOP = 2.0
"""Seconds it has to end before it is killed."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before the second start in a row, and the most before any further one; the first is at once."""
STEADY = 10.0
"""Seconds after which a server that ran counts as one that works."""
LAST_WORDS = 5
"""Lines of its log that are told when it does not start."""

State = Literal["stopped", "starting", "running", "restarting"]
Level = Literal["debug", "info", "warning", "error"]
_LEVELS: dict[str, Level] = {"TRC": "debug", "DBG": "debug", "WRN": "warning", "ERR": "error", "FTL": "error"}
_LINE = re.compile(r"\[\d+\] (?:\S+ \S+ )?\[(?P<level>[A-Z]{3})\] (?P<text>.*)")
_LISTENS = re.compile(r"Listening for client connections on \S+:(\d+)$")
_READY = "Server is ready"
_LAUNCHER = 'exec 3<&0; (read _ <&3 || kill -9 $$) >/dev/null 2>&1 & exec "$@" </dev/null 3<&-'
"""Becomes the server, and leaves a process behind that kills it when the pipe at its standard input breaks: that end
is noticed on each system, and only the end of the whole parent breaks it, not that of a thread.
"""


@dataclass(frozen=True, slots=True)
class ServerView:
    """What there is to be seen of the server at one moment."""

    state: State
    port: int
    pid: int | None
    restarts: int
    uptime: float | None
    last_end: str | None


class EmbeddedServer:
    """The server, from its first process to its last. `program` is the one that is looked for, unless it is given."""

    def __init__(self, program: str | None = None) -> None:
        self._program = program
        self._token = secrets.token_hex(32)
        self._port = 0
        self._process: _Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._state: State = "stopped"
        self._restarts = 0
        self._last_end: str | None = None

    @property
    def url(self) -> str:
        """Where it is connected to; with the token, so for nobody else's eyes."""
        return f"nats://{self._token}@127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Returns once it takes connections. Unavailable where it does not, with its own last lines."""
        self._state = "starting"
        try:
            process = await self._launched(0)
        except BaseException:
            await self.stop()
            raise
        self._keeping = asyncio.get_running_loop().create_task(self._keep(process), name="mbactor-broker")

    async def stop(self) -> None:
        """End it. Idempotent."""
        self._state = "stopped"
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
            self._keeping = None
        process, self._process = self._process, None
        if process is not None:
            with offload.busy():
                await process.stop()

    def view(self) -> ServerView:
        process = self._process
        return ServerView(
            self._state,
            self._port,
            None if process is None else process.pid,
            self._restarts,
            None if process is None else process.uptime(),
            self._last_end,
        )

    async def _launched(self, restarts: int) -> _Process:
        """A process that takes connections. Unavailable where none does."""
        with offload.busy():
            self._process = process = _Process(self._program or _found(), _settings(self._port, self._token))
            self._port = await process.ready()
        self._state, self._restarts = "running", restarts
        observe.emit("broker.started", port=self._port, pid=process.pid, restarts=self._restarts)
        return process

    async def _keep(self, process: _Process) -> None:
        """Start it again whenever it ends."""
        failures = 0
        while True:
            reason = await asyncio.shield(process.over)
            failures = 0 if process.uptime() >= STEADY else failures
            while True:
                self._process, self._state, self._last_end = None, "restarting", reason
                delay = pause(failures)
                failures += 1
                observe.emit("broker.ended", port=self._port, pid=process.pid, delay=delay, reason=reason)
                await asyncio.sleep(delay)
                try:
                    process = await self._launched(self._restarts + 1)
                    break
                except Unavailable as error:
                    reason = error.message


def pause(failures: int) -> float:
    """Seconds before the next start, after so many in a row that led to nothing."""
    return 0.0 if failures == 0 else min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 10))


def find_program() -> str | None:
    """The nats-server beside this Python, else on the PATH."""
    return shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")


def _found() -> str:
    found = find_program()
    if found is None:
        raise Unavailable(
            "transport: embedded needs the program nats-server, beside this Python or on the PATH:"
            " pip install 'mbactor[embedded]' brings it"
        )
    return found


def _settings(port: int, token: str) -> str:
    return f'listen: "127.0.0.1:{port or -1}"\nlogtime: false\nauthorization {{ token: "{token}" }}\n'


class _Process:
    """One process of the server, from its start to its end."""

    def __init__(self, program: str, settings: str) -> None:
        loop = asyncio.get_running_loop()
        self.over: asyncio.Future[str] = loop.create_future()
        """How it ended."""
        self._listens: asyncio.Future[int] = loop.create_future()
        self._port = 0
        self._said: deque[str] = deque(maxlen=LAST_WORDS)
        self._loop = loop
        self._since = loop.time()
        self._popen = _launch(program, settings)
        self.pid = self._popen.pid
        _living.add(self)
        threading.Thread(target=self._read, name=f"mbactor-broker-{self.pid}", daemon=True).start()

    def uptime(self) -> float:
        return self._loop.time() - self._since

    async def ready(self) -> int:
        """The port, once it takes connections. Unavailable where it ends before, or takes too long."""
        either: list[asyncio.Future[Any]] = [self._listens, self.over]
        await asyncio.wait(either, timeout=START, return_when=asyncio.FIRST_COMPLETED)
        if self._listens.done():
            return self._listens.result()
        if not self.over.done():
            await self.stop()
            raise self._not_started(f"it took no connections within {START:g} s")
        raise self._not_started(self.over.result())

    async def stop(self) -> None:
        """Until it has ended."""
        for end in (self._popen.terminate, self._popen.kill):
            if self.over.done():
                return
            end()
            await asyncio.wait([self.over], timeout=STOP)

    def let_go(self) -> None:
        """In a fork of this process: it would keep the server from ending with its parent."""
        assert self._popen.stdin is not None
        with suppress(OSError):
            self._popen.stdin.close()

    def _not_started(self, why: str) -> Unavailable:
        words = "".join(f"\n  {line}" for line in self._said)
        return Unavailable(f"the broker does not start: {why}" + (f"; it said last:{words}" if words else ""))

    # --- in a thread of its own -------------------------------------------------------------------------------

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with suppress(RuntimeError):  # the loop is gone, and nobody wants to know
            for line in self._popen.stdout:
                self._loop.call_soon_threadsafe(self._take, line.decode(errors="backslashreplace").rstrip())
        code = self._popen.wait()
        with self._popen, suppress(OSError):  # nobody kills what has this number next
            assert self._popen.stdin is not None
            self._popen.stdin.write(b"\n")
            self._popen.stdin.flush()
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ended, code)

    # --- on the loop ------------------------------------------------------------------------------------------

    def _take(self, line: str) -> None:
        found = _LINE.fullmatch(line)
        text = line if found is None else found["text"].strip()
        level: Level = "info" if found is None else _LEVELS.get(found["level"], "info")
        self._said.append(text)
        if listens := _LISTENS.search(text):
            self._port = int(listens[1])
        if text == _READY and not self._listens.done():
            self._listens.set_result(self._port)
        observe.emit("broker.said", level=level, message=text)

    def _ended(self, code: int) -> None:
        _living.discard(self)
        if not self.over.done():
            self.over.set_result(ProcessDied("nats-server", self.pid, code, kind="process").message)


def _launch(program: str, settings: str) -> subprocess.Popen[bytes]:
    """The server, with its settings from a pipe: they hold the token."""
    ours, theirs = os.pipe()
    try:
        with open(theirs, "wb") as pipe:  # noqa: PTH123 - no path
            pipe.write(settings.encode())
        try:
            return subprocess.Popen(  # noqa: S603 - the program that was looked for
                ["/bin/sh", "-c", _LAUNCHER, "sh", program, "-c", f"/dev/fd/{ours}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[ours],
                start_new_session=True,  # Ctrl-C is for this process, which needs the server to stop in order
            )
        except OSError as error:
            raise Unavailable(f"the broker does not start: {program}: {error}") from error
    finally:
        os.close(ours)


_living: WeakSet[_Process] = WeakSet()


def _let_go() -> None:
    for process in list(_living):
        process.let_go()
    _living.clear()


os.register_at_fork(after_in_child=_let_go)
