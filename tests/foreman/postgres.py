"""What tests of PostgreSQL alone have in common."""

from __future__ import annotations

from mbactor.foreman.store.open import open_store
from mbactor.foreman.store.postgres import PostgresStore


async def opened(url: str) -> PostgresStore:
    store = await open_store(url)
    assert isinstance(store, PostgresStore)
    return store
