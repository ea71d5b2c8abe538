"""Real nats-servers for tests: one, or some that are a cluster."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mbactor.testing.nats import NatsServer, free_port

__all__ = ["PATIENCE", "NatsServer", "knows", "nats_cluster", "nats_server"]

PATIENCE = 60.0


def knows(server: NatsServer) -> list[str]:
    """The servers of its cluster, as it tells its clients."""
    with socket.create_connection(("127.0.0.1", server.port), 1) as asking, asking.makefile("rb") as lines:
        return sorted(json.loads(lines.readline().removeprefix(b"INFO ")).get("connect_urls", ()))


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
        while any(len(knows(server)) < size for server in servers):
            assert time.monotonic() < deadline, [knows(server) for server in servers]
            time.sleep(0.02)
        yield servers
    finally:
        for server in servers:
            server.kill()
