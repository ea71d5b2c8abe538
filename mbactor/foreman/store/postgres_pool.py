"""The connections of a store to PostgreSQL: a few, opened as they are needed, the one used last taken first.

    connections = Connections(connect, 4, asyncpg.PostgresError, asyncpg.ReadOnlySQLTransactionError)
    async with connections.one() as connection:
        await connection.fetch(...)
    await connections.close(within=2.0)

Taking one and giving it back is no task and no turn of the event loop. The driver's own pool has a task for each giving
back, which costs more than a short statement.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from mbactor import offload
from mbactor.foreman.store.store import StoreTrouble

LONGEST_REST = 300.0
"""Seconds after which a connection that nobody used is not used any more: what is between may have dropped it."""


class Connections:
    """At most `most` of what `connect` opens. Who comes when all are taken waits for his turn. A `refusal` is an error
    that the server answered with, and leaves a connection as it was. One that is `demoted` says that this server takes
    no longer what is written: after a failover another does, to which a new connection may lead, and what is read here
    grows old. So all connections are made anew.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Any]],
        most: int,
        refusal: type[Exception],
        demoted: type[Exception],
    ) -> None:
        self._connect = connect
        self._most = most
        self._refusal = refusal
        self._demoted = demoted
        self._places = asyncio.Semaphore(most)
        self._open: set[Any] = set()
        self._old: set[Any] = set()
        """Those of them that are to be ended when they are given back."""
        self._resting: deque[tuple[Any, float]] = deque()
        """Those that nobody uses, and since when; the one used last is the last."""
        self._closed = False

    def one(self) -> Use:
        """A connection outside of any transaction, for the length of a block. One that may be at something else
        afterwards is ended: its user was cancelled, or was not answered.
        """
        return Use(self)

    async def take(self) -> Any:
        """A connection that is to be given back."""
        if self._closed:
            raise StoreTrouble("the database is closed")
        await self._places.acquire()
        try:
            return await self._taken()
        except BaseException:
            self._places.release()
            raise

    def give_back(self, connection: Any, error: BaseException | None) -> None:
        """End the use of a connection. `error`: what its user broke off with."""
        if isinstance(error, self._demoted):
            for other, _ in self._resting:
                self._end(other)
            self._resting.clear()
            self._old |= self._open
        sound = connection not in self._old and (error is None or isinstance(error, self._refusal))
        if sound and not self._closed and not connection.is_closed() and not connection.is_in_transaction():
            self._resting.append((connection, asyncio.get_running_loop().time()))
        else:
            self._end(connection)
        self._places.release()

    async def _taken(self) -> Any:
        oldest = asyncio.get_running_loop().time() - LONGEST_REST
        while self._resting and self._resting[0][1] < oldest:
            self._end(self._resting.popleft()[0])
        while self._resting:
            connection, _ = self._resting.pop()
            if not connection.is_closed():
                return connection
            self._end(connection)
        if self._closed:
            raise StoreTrouble("the database is closed")
        connection = await self._connect()
        self._open.add(connection)
        return connection

    def _end(self, connection: Any) -> None:
        self._open.discard(connection)
        self._old.discard(connection)
        connection.terminate()

    async def close(self, within: float) -> None:
        """End all of them: those in use when they are given back, and all at once when the time is over, which is a
        TimeoutError.
        """
        self._closed = True
        places = 0
        try:
            async with asyncio.timeout(within):
                while places < self._most:
                    await self._places.acquire()
                    places += 1
                for connection, _ in self._resting:
                    await connection.close()
        finally:
            for connection in [*self._open]:
                self._end(connection)
            for _ in range(places):
                self._places.release()  # who waits for one is told that all are closed


class Use:
    """The length of a block that uses a connection: work that is out of the event loop. No generator, which would cost
    as much again as all else of it.
    """

    __slots__ = ("_busy", "_connection", "_connections")

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._busy = offload.busy()

    async def __aenter__(self) -> Any:
        with offload.busy():
            self._connection = await self._connections.take()
        self._busy.__enter__()
        return self._connection

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._busy.__exit__()
        self._connections.give_back(self._connection, error)
