"""`open_store(url)`: the database behind a URL.

    store = await open_store("sqlite:///flows.db")      # relative; sqlite:////var/lib/flows.db is absolute
    store = await open_store("sqlite://")               # in memory
    store = await open_store("postgresql://user:password@host:5432/flows")

The driver is imported in the branch that needs it.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from mbactor import offload
from mbactor.errors import InvalidSpec
from mbactor.foreman.store.store import Store

_NUMBER = re.compile("%d(?![0-9a-fA-F])")
"""Not what stands for one byte: `%d0`."""
EXPECTED = (
    "sqlite:///relative/path.db, sqlite:////absolute/path.db, sqlite:// (in memory), or"
    " postgresql://user:password@host:5432/database"
)


async def open_store(url: str, shard: int = 1) -> Store:
    """Open the database and see to it that its tables are there. InvalidSpec (500) says what is wrong with the URL or
    what the database refuses, StoreTrouble (503) that it does not answer. Neither shows a password.
    """
    if shard < 1:
        raise InvalidSpec(f"shard={shard}: expected 1 or more")
    check_url(url)
    if url.startswith("sqlite:"):
        await _import("mbactor.foreman.store.sqlite")
        from mbactor.foreman.store.sqlite import open_sqlite

        return await open_sqlite(url.removeprefix("sqlite://")[1:] or None, shard)
    await _import("mbactor.foreman.store.postgres")
    from mbactor.foreman.store.postgres import open_postgres

    return await open_postgres(url, shard)


async def _import(driver: str) -> None:
    """Import it where the loop does not stand still for that: it takes a tenth of a second."""
    if driver not in sys.modules:
        await offload.run(importlib.import_module, driver)


def check_url(url: str) -> None:
    """InvalidSpec for what is no URL of a database that there is a driver for."""
    scheme, separator, rest = url.partition("://")
    file = not rest or (rest.startswith("/") and rest != "/")
    if separator and (scheme in {"postgresql", "postgres"} or (scheme == "sqlite" and file)):
        return
    # What a URL of another kind holds may be a password.
    given = repr(url) if scheme == "sqlite" or "@" not in url else f"{scheme}://..."
    raise InvalidSpec(f"database {given}: expected {EXPECTED}")


async def is_there(url: str) -> bool:
    """Whether a Foreman has used the database before. To ask makes nothing. Errors as of `open_store`."""
    scheme, _, rest = url.partition("://")
    if scheme in {"postgresql", "postgres"}:
        from mbactor.foreman.store.postgres import has_tables

        return await has_tables(url)
    if scheme == "sqlite" and rest[1:]:
        from mbactor.foreman.store.sqlite import has_tables as file_has_tables

        return await offload.run(file_has_tables, rest[1:])
    return scheme != "sqlite"


def shown_database(url: str) -> str:
    """The URL as it may be shown: without what is secret in it."""
    if passes_on(url):
        from mbactor.foreman.store.postgres_text import shown_url

        return f"database {shown_url(url)}"
    return f"database {url}" if url.startswith("sqlite:") else "the database"


def is_same(one: str, other: str) -> bool:
    """Whether two URLs are, by all that they say, of the same database. One in memory is no other's."""
    return one != "sqlite://" and _place(one) == _place(other)


def _place(url: str) -> tuple[object, ...]:
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        return (Path(rest[1:]).absolute(),)
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        port = str(parts.port or query.get("port", "5432"))
    except ValueError:
        return (url,)
    database = parts.path[1:] or query.get("dbname") or query.get("database") or parts.username
    return (parts.hostname or query.get("host", ""), port, database, query.get("search_path"))


def passes_on(url: str) -> bool:
    """Whether those who use the database behind a URL hear of each other by way of it (`Store.listening`)."""
    return url.startswith(("postgresql:", "postgres:"))


def is_numbered(url: str) -> bool:
    """Whether a URL has a place for the number of a shard."""
    return _NUMBER.search(url) is not None


def url_of_shard(url: str, shard: int) -> str:
    """The URL of one shard's database: the number stands wherever `%d` does.

    `url_of_shard("sqlite:///flows-%d.db", 2) == "sqlite:///flows-2.db"`
    """
    return _NUMBER.sub(str(shard), url)
