"""SQLite: the only module that imports the driver.

A file has one connection that writes (WAL, synchronous=FULL: what is committed survives a power cut) and one that
reads; several processes may share the file. `sqlite://`, in memory, has a single connection for both. Each batch and
each query is one function, run in the driver's own thread in one hop.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Concatenate, ParamSpec, TypeVar

import aiosqlite

from mbactor import clock, offload
from mbactor.errors import InvalidSpec
from mbactor.foreman.store import reads, schema
from mbactor.foreman.store.batch import apply_batch
from mbactor.foreman.store.store import (
    Committed,
    FlowFilter,
    FlowRow,
    Json,
    Material,
    Operation,
    StepRow,
    StoreTrouble,
    Unstorable,
)

P = ParamSpec("P")
T = TypeVar("T")

BUSY_TIMEOUT_MS = 5_000
_UNSTORABLE = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeEncodeError,
)


async def run_in_driver(
    connection: aiosqlite.Connection,
    function: Callable[Concatenate[sqlite3.Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Run a function over the raw connection in the driver's thread: one hop for any number of statements.

    The driver's public calls hop once a statement; its `_execute` is what they are made of.
    """
    with offload.busy():
        work: Callable[..., Awaitable[T]] = connection._execute  # noqa: SLF001
        return await work(function, connection._conn, *args, **kwargs)  # noqa: SLF001


class SqliteStore:
    """A shard in an SQLite database. Made by `open_sqlite`; belongs to the event loop that made it."""

    def __init__(self, writer: aiosqlite.Connection, reader: aiosqlite.Connection, shard: int) -> None:
        self.shard = shard
        self._writer = writer
        self._reader = reader
        self._closed = False

    async def commit(self, batch: Sequence[Operation]) -> Committed:
        return await self._run(self._writer, apply_batch, batch)

    async def graph(self, graph_hash: str) -> Json | None:
        return await self._read(reads.graph, graph_hash)

    async def flow(self, flow_id: int) -> FlowRow | None:
        return await self._read(reads.flow, flow_id)

    async def flows(self, wanted: FlowFilter) -> list[FlowRow]:
        return await self._read(reads.flows, wanted)

    async def statuses(self, flow_ids: Sequence[int]) -> dict[int, str]:
        return await self._read(reads.statuses, flow_ids)

    async def called(self, flow_id: int) -> list[FlowRow]:
        return await self._read(reads.called, flow_id)

    async def nodes_at(self, flow_ids: Sequence[int]) -> dict[int, str]:
        return await self._read(reads.nodes_at, flow_ids)

    async def step(self, step_id: int) -> StepRow | None:
        return await self._read(reads.step, step_id)

    async def steps(self, flow_id: int) -> list[StepRow]:
        return await self._read(reads.steps, flow_id)

    async def interrupted(self, flow_id: int) -> list[StepRow]:
        return await self._read(reads.interrupted, flow_id)

    async def materials(self, step_ids: Sequence[int]) -> dict[int, Material]:
        return await self._read(reads.materials, step_ids)

    async def cohort(self, spawn_id: int) -> Material | None:
        return await self._read(reads.cohort, spawn_id)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with offload.busy():
            if self._reader is not self._writer:
                await self._reader.close()
            await self._writer.close()

    async def _read(
        self, query: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        def in_snapshot(db: sqlite3.Connection) -> T:
            # All statements of one query see the same moment.
            db.execute("BEGIN")
            try:
                return query(db, *args, **kwargs)
            finally:
                db.execute("COMMIT")

        return await self._run(self._reader, in_snapshot)

    async def _run(
        self,
        connection: aiosqlite.Connection,
        function: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        if self._closed:
            raise StoreTrouble("the database is closed")
        try:
            return await run_in_driver(connection, function, *args, **kwargs)
        except _UNSTORABLE as error:
            raise Unstorable(f"the database refuses a value: {type(error).__name__}") from error
        except sqlite3.Error as error:
            raise StoreTrouble(f"the database is in trouble: {error}") from error


async def open_sqlite(path: str | None, shard: int = 1) -> SqliteStore:
    """Open a file, or a database in memory where `path` is None, and see to it that the tables are there.

    InvalidSpec says what is wrong with the path, or that a newer version wrote the file.
    """
    writer = await _connect(path or ":memory:")
    try:
        await run_in_driver(writer, _prepare)
        reader = writer if path is None else await _connect(path)
        if reader is not writer:
            await run_in_driver(reader, lambda db: db.execute("PRAGMA query_only = ON").close())
    except BaseException as error:
        with offload.busy():
            await writer.close()
        if isinstance(error, sqlite3.Error):
            raise InvalidSpec(f"database {path!r} cannot be used: {error}") from error
        raise
    return SqliteStore(writer, reader, shard)


async def _connect(path: str) -> aiosqlite.Connection:
    connection = aiosqlite.connect(path, isolation_level=None, cached_statements=256)
    # A process that ends without closing the store must not wait for a thread that nobody will tell to end.
    connection._thread.daemon = True  # noqa: SLF001
    try:
        with offload.busy():
            await connection
    except sqlite3.Error as error:
        # Its thread has been told to end, and would otherwise tell so to a loop that may be closed by then.
        await asyncio.sleep(0)
        connection._thread.join()  # noqa: SLF001
        raise InvalidSpec(
            f"database {path!r} cannot be opened: {error}; expected a file that can be written, in a folder that exists"
        ) from error
    return connection


def _prepare(db: sqlite3.Connection) -> None:
    db.create_function("mbactor_now", 0, clock.unix)
    db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    _use_wal(db)
    db.execute("PRAGMA synchronous = FULL")
    db.execute("BEGIN IMMEDIATE")
    try:
        _migrate(db)
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _use_wal(db: sqlite3.Connection) -> None:
    # The switch needs the file alone, and SQLite does not wait for that as it waits for other locks.
    give_up = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL").fetchall()
        except sqlite3.OperationalError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return


def _migrate(db: sqlite3.Connection) -> None:
    known = db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'mbactor_meta'").fetchone()
    if known is None:
        for statement in schema.SQLITE.split(";\n"):
            db.execute(statement)
        return
    (version,) = db.execute("SELECT value FROM mbactor_meta WHERE name = 'schema_version'").fetchone()
    if version > schema.VERSION:
        raise InvalidSpec(f"the database has schema version {version}; this mbactor knows {schema.VERSION} and below")
