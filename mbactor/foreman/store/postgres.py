"""PostgreSQL: the only module that imports its driver.

    store = await open_postgres("postgresql://user:password@host:5432/flows")

Several processes may share a database; their batches are written side by side. A batch locks the roots of the trees
of flows that it names, then nobody else changes these. What it does to many rows is one statement over arrays, so a
batch costs about as many round trips as it has kinds of work, however large it is.

What happens most needs a single round trip, which commits, too (`one_statement`; `hand_on` for a lone flow).

A connection that breaks is replaced. Where it breaks before the COMMIT nothing was written; where it breaks in it,
the server is asked, as soon as it answers again, whether that transaction is among those that it has committed, or
what the single statement was to write is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, ParamSpec, TypeVar

import asyncpg

from mbactor import observe, offload
from mbactor.errors import InvalidSpec, NotAcknowledged
from mbactor.foreman.store import listing, reads, roll, schema
from mbactor.foreman.store.batch import apply_batch
from mbactor.foreman.store.hand_on import FUNCTION, HandedOn, handed_on
from mbactor.foreman.store.one_statement import Written, found_of, plan_of
from mbactor.foreman.store.operations import Committed, Created, Operation
from mbactor.foreman.store.postgres_db import PostgresDb
from mbactor.foreman.store.postgres_pool import Connections, Use
from mbactor.foreman.store.postgres_text import EXPECTED, TYPES, shown_url
from mbactor.foreman.store.sql import Query, SqlStore
from mbactor.foreman.store.store import Doubted, StoreTrouble, Unstorable, go_on_asking
from mbactor.seams import checkpoint

P = ParamSpec("P")
T = TypeVar("T")

CONNECTIONS = 4
CONNECT_TIMEOUT, COMMAND_TIMEOUT = 10, 30.0
TRIES_AT_A_DEADLOCK = 5
TRIES_AT_A_READ = CONNECTIONS + 1
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
_COLLIDED = ("40001", "40P01")
_ONE_STATEMENT: frozenset[object] = frozenset(
    {reads.materials, reads.cohort,
     reads.graph, reads.flow, reads.statuses, reads.called, reads.callers, reads.step, reads.steps,
     reads.latest_of_thread, reads.interrupted, reads.keyed, roll.roll, roll.standing, listing.progress,
     listing.tokens, listing.fingerprint}
)  # fmt: skip
"""Queries that see one moment without a transaction around them."""
_UNANSWERED = (asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError, OSError,
               TimeoutError)  # fmt: skip
_BROKEN = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)


_SETTINGS = {
    "application_name": "mbactor",
    # Every statement finds its few rows by an index, in tables that grow from nothing to any size: a plan that suits
    # the empty table, or one made anew each time, is what costs.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    # A process that stands still in the middle of a batch (SIGSTOP, a paused machine) has others wait for what it has
    # locked. Statements of a batch follow one another within milliseconds.
    "idle_in_transaction_session_timeout": "10s",
}
_CHANNEL = "mbactor"
_SCHEMA_LOCK = 0x6D626163746F72
_DURABLE = """SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') = 'off'"""


_BACKEND = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
_END = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2"


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    backend: tuple[int, Any]
    """The server's process for this connection: its number, and since when."""


async def open_postgres(url: str, shard: int = 1) -> PostgresStore:
    """Connect and see to it that the tables are there. InvalidSpec says what is wrong with the URL, the credentials or
    the database, without what is secret in them; StoreTrouble that nobody answers.
    """

    async def connect() -> Any:
        connection = await asyncpg.connect(
            url, timeout=CONNECT_TIMEOUT, command_timeout=COMMAND_TIMEOUT, server_settings=_SETTINGS,
            connection_class=_Connection,
        )  # fmt: skip
        try:
            await connection.execute(_DURABLE)
            connection.backend = tuple(await connection.fetchrow(_BACKEND))
        except BaseException:
            connection.terminate()
            raise
        return connection

    shown = shown_url(url)
    connections = Connections(connect, CONNECTIONS, asyncpg.PostgresError, asyncpg.ReadOnlySQLTransactionError)
    with offload.busy():
        try:
            async with connections.one() as connection, connection.transaction():
                identity = await _prepare(connection, shard)
        except BaseException as error:
            with suppress(*_BROKEN):
                await connections.close(0)
            if isinstance(error, (*_BROKEN, ValueError)) and not isinstance(error, InvalidSpec):
                raise _refused(shown, error) from None
            raise
    return PostgresStore(connections, url, shard, identity)


async def has_tables(url: str) -> bool:
    """Whether a Foreman has made its tables there. Makes none. Errors as of `open_postgres`."""
    shown = shown_url(url)
    with offload.busy():
        try:
            connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT, command_timeout=COMMAND_TIMEOUT)
            try:
                return await connection.fetchval("SELECT to_regclass('mbactor_meta')") is not None
            finally:
                await connection.close()
        except (*_BROKEN, ValueError) as error:
            raise _refused(shown, error) from None


async def _prepare(connection: Any, shard: int) -> int:
    """Make the tables, where several processes may be about to; check those that are there. The database's identity."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _SCHEMA_LOCK)
    if await connection.fetchval("SELECT to_regclass('mbactor_meta')") is None:
        for statement in (*schema.statements(TYPES), *schema.row_types(TYPES)):
            await connection.execute(statement)
        # Steps and flows are written twice. The second version, larger by what the step has changed, has room next to
        # the first, so only the difference is logged.
        for table in ("step", "flow"):
            await connection.execute(f"ALTER TABLE mbactor_{table} SET (fillfactor = 40)")
        # A full page is rid of its entries of first versions before it is split: a third of the work where the entries
        # of a flow have not been put together. It costs 30 bytes a step.
        await connection.execute("ALTER INDEX mbactor_step_flow SET (deduplicate_items = off)")
        await connection.execute("CREATE SEQUENCE mbactor_step_id")
        await connection.execute("CREATE SEQUENCE mbactor_flow_id")
        await connection.execute(FUNCTION)
        query = "INSERT INTO mbactor_meta (name, value) VALUES ('schema_version', $1), ('shard', $2)"
        await connection.execute(query, schema.VERSION, shard)
    known = dict(await connection.fetch("SELECT name, value FROM mbactor_meta"))
    schema.check(known, shard)
    if "identity" not in known:
        known["identity"] = schema.new_identity()
        query = "INSERT INTO mbactor_meta (name, value) VALUES ('identity', $1)"
        await connection.execute(query, known["identity"])
    identity: int = known["identity"]
    return identity


def _refused(shown: str, error: BaseException) -> InvalidSpec | StoreTrouble:
    state = _state(error)
    text = str(error).partition("\n")[0]
    # 28: who one is, 3D: which database, 3F: which schema, 42: what one may do.
    if state[:2] in {"28", "3D", "3F", "42"}:
        return InvalidSpec(f"database {shown} cannot be used: {text}")
    if isinstance(error, (asyncpg.ClientConfigurationError, ValueError)):
        # The driver's own words may quote the URL.
        return InvalidSpec(f"database {shown} cannot be used: the driver refuses the URL; expected {EXPECTED}")
    return StoreTrouble(f"database {shown} does not answer: {text or type(error).__name__}")


class PostgresStore(SqlStore):
    """A shard in a PostgreSQL database. Made by `open_postgres`."""

    def __init__(self, connections: Connections, url: str, shard: int, identity: int) -> None:
        super().__init__(shard, identity)
        self._url = url
        self._connections = connections
        self._newest_flow = 0
        self._closed = False

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with offload.busy(), suppress(*_BROKEN):
            await self._connections.close(LONGEST_PAUSE)

    @asynccontextmanager
    async def listening(self, heard: Callable[[str], None]) -> AsyncIterator[PostgresLine]:
        with offload.busy():
            try:
                connection = await asyncpg.connect(
                    self._url, timeout=CONNECT_TIMEOUT, command_timeout=COMMAND_TIMEOUT, server_settings=_SETTINGS
                )
            except (*_BROKEN, ValueError) as error:
                raise _refused(shown_url(self._url), error) from None
        line = PostgresLine(connection)
        try:
            connection.add_termination_listener(lambda _: line.lost.set())
            with _trouble_told():
                await connection.add_listener(_CHANNEL, lambda *told: heard(told[3]))
            yield line
        finally:
            connection.terminate()

    async def commit(self, batch: Sequence[Operation], doubted: Doubted = go_on_asking) -> Committed:
        written = handed_on(batch) or await plan_of(batch)
        for attempt in range(TRIES_AT_A_DEADLOCK):
            try:
                if written is not None:
                    committed = await self._commit_in_one(batch, written, doubted)
                    if committed is not None:
                        return committed
                    written = None
                return await self._commit_once(batch, doubted)
            except asyncpg.PostgresError as error:
                if _state(error) not in _COLLIDED or attempt == TRIES_AT_A_DEADLOCK - 1:
                    raise _told(error) from error
            except (OverflowError, UnicodeError, *_BROKEN) as error:
                raise _told(error) from error
        raise AssertionError("unreachable")

    async def _commit_in_one(
        self, batch: Sequence[Operation], written: Written | HandedOn, doubted: Doubted
    ) -> Committed | None:
        """None where something was not as assumed: then nothing was written."""
        try:
            async with self._connection() as connection:
                rows, unknown = await _answered(0, connection.fetch(written.text, *written.values))
                if unknown is not None:
                    connection.terminate()
        except asyncpg.DivisionByZeroError:
            return None
        if unknown is None:
            committed = written.committed(rows[0])
            return self._noted(committed) if committed is not None else None
        found = await self._found(batch, connection.backend, unknown, doubted)
        if found is None:
            raise unknown
        return found

    def _noted(self, committed: Committed) -> Committed:
        made = [one.flow_id for one in committed.results if isinstance(one, Created)]
        self._newest_flow = max([self._newest_flow, *made])
        return committed

    async def _found(
        self, batch: Sequence[Operation], backend: tuple[int, Any], error: BaseException, doubted: Doubted
    ) -> Committed | None:
        """What a batch came to whose statement was not answered; None where it was not written. Whoever was at it is
        ended first: nothing may be written after the look.
        """

        async def look(connection: Any) -> tuple[Committed | None] | None:
            if await connection.fetchval(_END, *backend):
                return None
            return (await found_of(PostgresDb(connection), batch, self._newest_flow),)

        return await self._learnt(look, error, doubted)

    async def _commit_once(self, batch: Sequence[Operation], doubted: Doubted) -> Committed:
        async with self._connection() as connection:
            await connection.execute("BEGIN")
            db = PostgresDb(connection)
            try:
                committed = await apply_batch(db, batch)
            except BaseException:
                if not connection.is_closed():
                    await connection.execute("ROLLBACK")
                raise
            _, unknown = await _answered(db.number, connection.execute("COMMIT"))
        if unknown is not None and not await self._has_landed(db.number, unknown, doubted):
            raise unknown
        return committed

    async def _has_landed(self, number: int, error: BaseException, doubted: Doubted) -> bool:
        """Whether a transaction whose COMMIT was not answered was committed."""

        async def look(connection: Any) -> tuple[bool] | None:
            try:
                status = await connection.fetchval("SELECT pg_xact_status($1::text::xid8)", str(number))
            except asyncpg.InvalidParameterValueError:
                return (False,)  # the number is of the future: another server took over, without it
            return None if status == "in progress" else (bool(status == "committed"),)

        return await self._learnt(look, error, doubted)

    async def _learnt(
        self, look: Callable[[Any], Awaitable[tuple[T] | None]], error: BaseException, doubted: Doubted
    ) -> T:
        """What a look says of a commit whose answer was lost, or nothing where that is not decided yet. Looks until
        somebody knows; NotAcknowledged where the server does not answer and `doubted` will not ask on.
        """
        pause = FIRST_PAUSE
        while True:
            observe.emit("foreman.trouble", error=f"a commit was not answered: {error}")
            try:
                async with self._connection() as connection:
                    found = await look(connection)
            except _BROKEN as later:
                error = later
                if not doubted(f"a commit was not answered: {error}"):
                    raise NotAcknowledged(f"whether this was written is not known: {error}") from error
            else:
                if found is not None:
                    return found[0]
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _read(self, query: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        for attempt in range(TRIES_AT_A_READ):
            try:
                return await self._read_once(query, *args, **kwargs)
            except (OverflowError, UnicodeError, *_BROKEN) as error:
                # A connection that broke while it rested is found broken by whoever uses it next.
                told = _told(error)
                if isinstance(told, Unstorable) or attempt == TRIES_AT_A_READ - 1:
                    raise told from error
                await asyncio.sleep(attempt * FIRST_PAUSE)
        raise AssertionError("unreachable")

    async def _read_once(self, query: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._connection() as connection:
            if query in _ONE_STATEMENT:
                return await query(PostgresDb(connection), *args, **kwargs)
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            found = await query(PostgresDb(connection), *args, **kwargs)
            await connection.execute("COMMIT")
            return found

    def _connection(self) -> Use:
        return self._connections.one()


class PostgresLine:
    """A connection that hears, by LISTEN, and tells, by NOTIFY."""

    def __init__(self, connection: Any) -> None:
        self.lost = asyncio.Event()
        self._connection = connection

    async def notify(self, text: str) -> None:
        with _trouble_told():
            await self._connection.execute("SELECT pg_notify($1, $2)", _CHANNEL, text)


@contextmanager
def _trouble_told() -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise _told(error) from error


async def _answered(number: int, commit: Coroutine[Any, Any, T]) -> tuple[T | Any, BaseException | None]:
    """What the server answers to what commits, or the error after which nobody knows whether it has."""
    try:
        await checkpoint("foreman.commit.before", number=number)
    except BaseException:
        commit.close()
        raise
    try:
        answer = await commit
        await checkpoint("foreman.commit.after", number=number)
    except _UNANSWERED as error:
        return None, error
    return answer, None


def _state(error: BaseException) -> str:
    """The five letters by which SQL tells errors apart, where the server sent them."""
    return getattr(error, "sqlstate", None) or ""


def _told(error: BaseException) -> StoreTrouble | Unstorable:
    """The error as the contract of a store has it. Values, which the server's text may quote, stay out of it."""
    name = type(error).__name__
    state = _state(error)
    # 22: a value, 23: a constraint, 54: a limit. What the driver refuses to encode comes as one of its DataErrors.
    if isinstance(error, (OverflowError, ValueError)) or state[:2] in {"22", "23", "54"}:
        return Unstorable(f"the database refuses a value: {name}")
    if isinstance(error, FileNotFoundError):
        return StoreTrouble("the database does not answer: its socket is not there, so no server runs")
    return StoreTrouble(f"the database is in trouble: {name}: {str(error).splitlines()[0] if str(error) else ''}")
