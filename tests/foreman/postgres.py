"""What tests of PostgreSQL alone have in common."""

from __future__ import annotations

from mbactor.foreman.store.open import open_store, url_of_shard
from mbactor.foreman.store.postgres import PostgresStore
from mbactor.testing.postgres import PostgresServer


async def opened(url: str) -> PostgresStore:
    store = await open_store(url)
    assert isinstance(store, PostgresStore)
    return store


def numbered_databases(server: PostgresServer, name: str, count: int) -> str:
    """The URL of so many new databases, for as many shards. `name` tells them from those of other tests."""
    name = f"shards_{abs(hash(name)) % 10**9}"
    for number in range(1, count + 1):
        server._sql(f"CREATE DATABASE {name}_{number}")
    return server.url.replace("/postgres?", f"/{name}_%d?")


class Outage:
    """Shuts the database of a shard."""

    def __init__(self, server: PostgresServer, template: str) -> None:
        self._server = server
        self._template = template

    def begin(self, shard: int) -> None:
        """When it returns, nobody is connected: a commit that comes later is not on its way when the server ends it."""
        name = self._name(shard)
        self._server._sql(
            f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
            f"SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = '{name}'",
        )

    def end(self, shard: int) -> None:
        self._server._sql(f"ALTER DATABASE {self._name(shard)} ALLOW_CONNECTIONS true")

    def _name(self, shard: int) -> str:
        return url_of_shard(self._template, shard).partition("?")[0].rpartition("/")[2]
