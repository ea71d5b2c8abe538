"""SQLite: the only module that imports the driver.

A file has one connection that writes (WAL, synchronous=FULL: what is committed survives a power cut) and one that
reads; several processes may share the file. `sqlite://`, in memory, has a single connection for both. Each batch and
each query is one function, run in the driver's own thread in one hop.

Of a small batch that thread has the COMMIT only, which waits for the disk. The statements before it are microseconds
each, with Python between them: a second thread would ask for the interpreter's lock at each, while the event loop has
it. They run in the loop, unless somebody else is writing to the file just now.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import aiosqlite

from mbactor import clock, offload
from mbactor.errors import InvalidSpec
from mbactor.foreman.store import schema
from mbactor.foreman.store.batch import apply_batch, writes_what_it_brings
from mbactor.foreman.store.dialect import Db
from mbactor.foreman.store.hand_on import NEW, HandedOn, handed_on
from mbactor.foreman.store.operations import Committed, Create, Extend, Operation, Settle
from mbactor.foreman.store.settle import COMPLETE
from mbactor.foreman.store.sql import Query, SqlStore
from mbactor.foreman.store.sqlite_db import BEFORE_ONE, Large, Missed, SmallBatchDb, SqliteDb, update_one
from mbactor.foreman.store.store import Doubted, StoreTrouble, Unstorable, go_on_asking
from mbactor.foreman.store.transaction import BANDS, best_of

P = ParamSpec("P")
T = TypeVar("T")

BUSY_TIMEOUT_MS = 5_000
FEWEST_AT_ONCE, MOST_AT_ONCE = 8, 256
LARGEST_AT_ONCE = 256 * 1024
"""Operations, and bytes, of a batch that the event loop writes itself: the largest takes it three milliseconds. With
fewer operations the loop has little to do, and leaves the lock to the driver's thread.
"""
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


# What was known by a number that is given out a second time would be taken for something else.
_KEEP_HIGHEST = """CREATE TRIGGER mbactor_<row>_deleted AFTER DELETE ON mbactor_<row>
    WHEN old.id > (SELECT value FROM mbactor_meta WHERE name = '<row>_id')
    BEGIN UPDATE mbactor_meta SET value = old.id WHERE name = '<row>_id'; END"""


class SqliteStore(SqlStore):
    """A shard in an SQLite database. Made by `open_sqlite`."""

    def __init__(self, writer: aiosqlite.Connection, reader: aiosqlite.Connection, shard: int, identity: int) -> None:
        super().__init__(shard, identity)
        self._writer = writer
        self._reader = reader
        self._closed = False

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with offload.busy():
            if self._reader is not self._writer:
                await self._reader.close()
            await self._writer.close()

    async def commit(
        self,
        batch: Sequence[Operation],
        doubted: Doubted = go_on_asking,  # noqa: ARG002 - the answer of a file is not lost
    ) -> Committed:
        if self._is_for_the_loop(batch):
            committed = _write_at_once(self._writer._conn, batch)  # noqa: SLF001
            if committed is not None:
                await self._run(self._writer, _commit)
                return committed
        return await self._run(self._writer, _write, batch)

    def _is_for_the_loop(self, batch: Sequence[Operation]) -> bool:
        """Whether the batch is small, and no thread is at work with which the loop would have to take turns."""
        if not FEWEST_AT_ONCE <= len(batch) <= MOST_AT_ONCE or self._closed or self._reader is self._writer:
            return False
        return not offload.outstanding() and _is_small(batch)

    async def _read(self, query: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(self._reader, _read, lambda db: query(db, *args, **kwargs))

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


def _is_small(batch: Sequence[Operation]) -> bool:
    """Whether the event loop had better write it: nothing in it needs more than the rows that it brings."""
    return all(map(writes_what_it_brings, batch)) and sum(map(_size, batch)) <= LARGEST_AT_ONCE


def _size(one: Operation) -> int:
    if isinstance(one, Create):
        return len(one.entry.state or b"")
    assert isinstance(one, Settle)
    final = one.end.final_state if one.end is not None else None
    return len(one.changes or b"") + len(one.state or b"") + len(final or b"")


def _write_at_once(raw: sqlite3.Connection, batch: Sequence[Operation]) -> Committed | None:
    """Write a small batch here and now, all but the COMMIT. None where that cannot be: then nothing is begun, and the
    driver's thread is to try, and to tell of what is wrong.
    """
    if not _begin_at_once(raw):
        return None
    with suppress(Missed, Large, sqlite3.Error, *_UNSTORABLE), _all_or_nothing(raw):
        return _without_waiting(apply_batch(SmallBatchDb(raw), batch))
    return None


def _begin_at_once(raw: sqlite3.Connection) -> bool:
    """False where one would have to wait for another process, or for what the driver's thread is at."""
    if raw.in_transaction:
        return False
    raw.execute("PRAGMA busy_timeout = 0")
    try:
        raw.execute("BEGIN IMMEDIATE")
    except sqlite3.Error:
        return False
    finally:
        raw.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    return True


@contextmanager
def _all_or_nothing(raw: sqlite3.Connection) -> Iterator[None]:
    """Any error leaves nothing of the transaction."""
    try:
        yield
    except BaseException:
        if raw.in_transaction:  # some errors (a full disk) have ended it already
            raw.execute("ROLLBACK")
        raise


def _commit(raw: sqlite3.Connection) -> None:
    with _all_or_nothing(raw):
        raw.execute("COMMIT")


def _write(raw: sqlite3.Connection, batch: Sequence[Operation]) -> Committed:
    if (written := handed_on(batch)) is not None and (committed := _hand_on(raw, written)) is not None:
        return committed
    # Of the leases that are extended some nearly always belong to steps that have just ended.
    if not any(isinstance(one, Extend) for one in batch):
        with suppress(Missed):
            return _in_transaction(raw, "BEGIN IMMEDIATE", lambda db: apply_batch(db, batch))
    return _in_transaction(raw, "BEGIN IMMEDIATE", lambda db: apply_batch(db, batch), one_by_one=True)


_OUTCOME = update_one(COMPLETE)[0]


def _hand_on(raw: sqlite3.Connection, written: HandedOn) -> Committed | None:
    """None where something is not as assumed: then nothing was written."""
    execute = raw.execute
    execute("BEGIN IMMEDIATE")
    with _all_or_nothing(raw):
        step_id, any_breakpoint, best, due = execute(BEFORE_ONE).fetchone()
        now, made = clock.unix(), step_id + 1
        if any_breakpoint or not execute(_OUTCOME, written.outcome(now, made)).rowcount:
            execute("ROLLBACK")
            return None
        execute(NEW, written.begun(now, made))
        if best is not None and due > now:
            best = best_of(execute(BANDS).fetchall(), now)
        execute("COMMIT")
    return written.committed((now, made, best))


def _read(raw: sqlite3.Connection, query: Callable[[Db], Awaitable[T]]) -> T:
    return _in_transaction(raw, "BEGIN", query)


def _in_transaction(
    raw: sqlite3.Connection, begin: str, work: Callable[[Db], Awaitable[T]], *, one_by_one: bool = False
) -> T:
    """Run a coroutine over the database to its end, here and now; any error leaves nothing of it."""
    raw.execute(begin)
    with _all_or_nothing(raw):
        result = _without_waiting(work(SqliteDb(raw, one_by_one=one_by_one)))
    _commit(raw)
    return result


def _without_waiting(work: Awaitable[T]) -> T:
    steps = work.__await__()
    try:
        next(steps)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("a statement of the store waits for something beside its database")


_TYPES = {
    "int": "INTEGER",
    "small": "INTEGER",
    "float": "REAL",
    "text": "TEXT",
    "json": "BLOB",
    "text()": "CAST({} AS TEXT)",
    "time()": "datetime({}, 'unixepoch')",
}


def has_tables(path: str) -> bool:
    """Whether a Foreman has made its tables in the file. Makes none, nor the file. Errors as of `open_sqlite`."""
    if not Path(path).is_file():
        return False
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1000)) as connection:
            found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'mbactor_meta'").fetchone()
    except sqlite3.Error as error:
        raise InvalidSpec(f"database {path!r} cannot be used: {error}") from error
    return found is not None


async def open_sqlite(path: str | None, shard: int = 1) -> SqliteStore:
    """Open a file, or a database in memory where `path` is None, and see to it that the tables are there.

    InvalidSpec says what is wrong with the path, or that a newer version wrote the file.
    """
    writer = await _connect(path or ":memory:")
    try:
        identity = await run_in_driver(writer, _prepare, shard)
        reader = writer if path is None else await _connect(path)
        if reader is not writer:
            await run_in_driver(reader, _prepare_reader)
    except BaseException as error:
        with offload.busy():
            await writer.close()
        if isinstance(error, sqlite3.Error):
            raise InvalidSpec(f"database {path!r} cannot be used: {error}") from error
        raise
    return SqliteStore(writer, reader, shard, identity)


async def _connect(path: str) -> aiosqlite.Connection:
    connection = aiosqlite.connect(path, isolation_level=None, cached_statements=256, check_same_thread=False)
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


def _prepare(db: sqlite3.Connection, shard: int) -> int:
    """Make the tables, or check those that are there. The database's identity."""
    _add_functions(db)
    db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    _use_wal(db)
    db.execute("PRAGMA synchronous = FULL")
    db.execute("BEGIN IMMEDIATE")
    try:
        identity = _migrate(db, shard)
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
    return identity


def _prepare_reader(db: sqlite3.Connection) -> None:
    _add_functions(db)
    db.execute("PRAGMA query_only = ON").close()


def _add_functions(db: sqlite3.Connection) -> None:
    db.create_function("mbactor_now", 0, clock.unix)
    # SQLite's own knows the letters of ASCII only.
    db.create_function("mbactor_lower", 1, str.lower, deterministic=True)


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


def _migrate(db: sqlite3.Connection, shard: int) -> int:
    found = db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'mbactor_meta'").fetchone()
    if found is None:
        for statement in schema.statements(_TYPES):
            db.execute(statement)
        for row in ("step", "flow"):
            db.execute(_KEEP_HIGHEST.replace("<row>", row))
        values = [("schema_version", schema.VERSION), ("shard", shard), ("step_id", 0), ("flow_id", 0)]
        db.executemany("INSERT INTO mbactor_meta (name, value) VALUES (?, ?)", values)
    known: dict[str, int] = dict(db.execute("SELECT name, value FROM mbactor_meta").fetchall())
    schema.check(known, shard)
    if "identity" not in known:
        known["identity"] = schema.new_identity()
        db.execute("INSERT INTO mbactor_meta (name, value) VALUES ('identity', ?)", (known["identity"],))
    return known["identity"]
