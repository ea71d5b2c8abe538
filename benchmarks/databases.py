"""The databases that flows are measured on: an empty one for each pass, strictly durable, and looked at afterwards."""

from __future__ import annotations

import os
import sqlite3
import statistics
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import asyncpg

from benchmarks.harness import InvalidRun
from mbactor.foreman import Foreman
from mbactor.foreman.store.sqlite import SqliteStore
from mbactor.testing.postgres import PostgresServer

PRAGMAS = ("journal_mode", "synchronous", "wal_autocheckpoint", "page_size", "busy_timeout")
SYNCHRONOUS = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}
SETTINGS = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_level", "shared_buffers",
            "max_wal_size")  # fmt: skip

_STEPS = """SELECT count(*) FILTER (WHERE lease_number <> 1 OR attempt > 0 OR refused_at IS NOT NULL),
    count(*) FILTER (WHERE status <> 'completed' OR error IS NOT NULL) FROM mbactor_step"""
_FLOWS = "SELECT count(*) FROM mbactor_flow WHERE status <> 'completed'"
_UNEVEN = "SELECT count(*) FROM (SELECT 1 FROM mbactor_step GROUP BY flow_id HAVING count(*) <> {}) AS uneven"


class Place(ABC):
    """An empty database."""

    url: str

    async def wal_bytes(self) -> float:
        """How much has been logged so far; 0 where that is not told."""
        return 0.0

    @abstractmethod
    async def settings(self, foreman: Foreman) -> dict[str, Any]:
        """Those that matter. InvalidRun where what is committed may be lost."""

    @abstractmethod
    async def check(self, case: str, steps: int) -> None:
        """InvalidRun where it shows that anything went another way than straight through."""


class SqlitePlace(Place):
    """A file in a folder that goes with the pass."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "flows.db"
        self.url = f"sqlite:///{self.file}"

    async def settings(self, foreman: Foreman) -> dict[str, Any]:
        store = foreman.shards.all[0].store
        assert isinstance(store, SqliteStore)
        # Those of the very connection that writes: most of them are a connection's own.
        found: dict[str, Any] = {"sqlite": sqlite3.sqlite_version}
        for name in PRAGMAS:
            cursor = await store._writer.execute(f"PRAGMA {name}")
            row = await cursor.fetchone()
            await cursor.close()
            found[name] = row[0] if row is not None else None
        found["synchronous"] = SYNCHRONOUS.get(found["synchronous"], found["synchronous"])
        if (found["journal_mode"], found["synchronous"]) != ("wal", "FULL"):
            raise InvalidRun(f"the database is not strictly durable: {found}")
        return {**found, "fsync_us": fsync_us(self.file.parent)}

    async def check(self, case: str, steps: int) -> None:
        check(self.file, case, steps)


class PostgresPlace(Place):
    """A schema of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._folder = folder

    async def wal_bytes(self) -> float:
        ((found,),) = await self._sql("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        return float(found)

    async def settings(self, foreman: Foreman) -> dict[str, Any]:  # noqa: ARG002 - they are the server's
        found = dict(await self._sql("SELECT name, setting FROM pg_settings WHERE name = ANY($1)", SETTINGS))
        if (found["fsync"], found["synchronous_commit"]) != ("on", "on"):
            raise InvalidRun(f"the database is not strictly durable: {found}")
        return {"postgresql": found.pop("server_version"), **found, "fsync_us": fsync_us(self._folder)}

    async def check(self, case: str, steps: int) -> None:
        ((again, failed),) = await self._sql(_STEPS)
        ((astray,),) = await self._sql(_FLOWS)
        ((uneven,),) = await self._sql(_UNEVEN.format(steps))
        judge(case, steps, again, failed, astray, uneven)

    async def _sql(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(self.url)
        try:
            return list(map(tuple, await connection.fetch(query, *values)))
        finally:
            await connection.close()


class Sqlite:
    """Files."""

    name = "SQLite"

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Place]:
        with tempfile.TemporaryDirectory(prefix="mbactor-benchmark-") as folder:
            yield SqlitePlace(Path(folder))

    def close(self) -> None:
        """Nothing is open."""


class Postgres:
    """A server of its own, that waits for the disk; started by the first who asks for a place."""

    name = "PostgreSQL"

    def __init__(self) -> None:
        self._server: PostgresServer | None = None

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Place]:
        if self._server is None:
            self._server = PostgresServer(durable=True)
        yield PostgresPlace(self._server.fresh(), self._server.folder)

    def close(self) -> None:
        """Stop the server."""
        if self._server is not None:
            self._server.close()


def check(file: Path, case: str, steps: int) -> None:
    """InvalidRun where an SQLite file shows that anything went another way than straight through."""
    with sqlite3.connect(file) as db:
        again, failed = db.execute(_STEPS).fetchone()
        (astray,) = db.execute(_FLOWS).fetchone()
        (uneven,) = db.execute(_UNEVEN.format(steps)).fetchone()
    db.close()
    judge(case, steps, again, failed, astray, uneven)


def judge(case: str, steps: int, again: int, failed: int, astray: int, uneven: int) -> None:
    wrong = {
        "steps that were recovered, refused or run again": again,
        "steps that did not complete": failed,
        "flows that did not complete": astray,
        f"flows with another number of steps than {steps}": uneven,
    }
    if any(wrong.values()):
        told = ", ".join(f"{count} {what}" for what, count in wrong.items() if count)
        raise InvalidRun(f"{case}: {told}")


def fsync_us(folder: Path) -> float:
    """What it costs to make 4 KiB durable where the database is: no commit can be quicker."""
    times: list[float] = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(10):
            began = perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            times.append(perf_counter() - began)
    return round(1e6 * statistics.median(times), 1)
