"""`LateStore`: a database that does not answer yet, as a store that is in trouble.

    store = await open_or_late("postgresql://host/flows_2", shard=2)

Each use of it tries to open the database, and says with `StoreTrouble` why that fails. So a shard that is down when its
Foreman starts is like one that goes down later: writes are repeated until they land, reads are refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from mbactor.errors import MbactorError
from mbactor.foreman.store.open import open_store
from mbactor.foreman.store.operations import Committed, Operation
from mbactor.foreman.store.store import Doubted, Line, Store, StoreTrouble, go_on_asking


class LateStore:
    """A store that opens its database when it is used."""

    def __init__(self, url: str, shard: int, why: StoreTrouble) -> None:
        self.shard = shard
        self.why = why
        """What kept it from being opened at first."""
        self._url = url
        self._store: Store | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    @property
    def identity(self) -> int | None:
        """That of the database; None while it does not answer."""
        return None if self._store is None else self._store.identity

    async def commit(self, batch: Sequence[Operation], doubted: Doubted = go_on_asking) -> Committed:
        return await (await self._opened()).commit(batch, doubted)

    async def close(self) -> None:
        self._closed = True
        if self._store is not None:
            await self._store.close()

    def listening(self, heard: Callable[[str], None]) -> AbstractAsyncContextManager[Line]:
        if self._store is None:
            raise StoreTrouble("the database does not answer yet")
        return self._store.listening(heard)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """Any of a store's questions."""

        async def ask(*args: Any, **kwargs: Any) -> Any:
            return await getattr(await self._opened(), name)(*args, **kwargs)

        return ask

    async def _opened(self) -> Store:
        if self._store is not None:
            return self._store
        async with self._opening:
            if self._closed:
                raise StoreTrouble("the database is closed")
            if self._store is None:
                try:
                    self._store = await open_store(self._url, self.shard)
                except MbactorError as error:
                    raise StoreTrouble(str(error)) from error
                if self._closed:
                    await self._store.close()
            return self._store


async def open_or_late(url: str, shard: int) -> Store | LateStore:
    """The store behind a URL; where its database does not answer, one that will be there when it does."""
    try:
        return await open_store(url, shard)
    except StoreTrouble as error:
        return LateStore(url, shard, error)
