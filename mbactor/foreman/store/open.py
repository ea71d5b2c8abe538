"""`open_store(url)`: the database behind a URL.

    store = await open_store("sqlite:///flows.db")      # relative; sqlite:////var/lib/flows.db is absolute
    store = await open_store("sqlite://")               # in memory

The driver is imported in the branch that needs it.
"""

from __future__ import annotations

from mbactor.errors import InvalidSpec
from mbactor.foreman.store.store import Store

EXPECTED = "sqlite:///relative/path.db, sqlite:////absolute/path.db, or sqlite:// (in memory)"


async def open_store(url: str, shard: int = 1) -> Store:
    """Open the database and see to it that its tables are there. InvalidSpec (500) says what is wrong with the URL."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme != "sqlite" or (rest and not rest.startswith("/")) or rest == "/":
        if scheme in {"postgresql", "postgres", "mysql"}:
            # What else the URL holds may be a password.
            raise InvalidSpec(f"database {scheme}://...: this version has SQLite only; expected {EXPECTED}")
        raise InvalidSpec(f"database={url!r}: expected {EXPECTED}")
    if shard < 1:
        raise InvalidSpec(f"shard={shard}: expected 1 or more")
    from mbactor.foreman.store.sqlite import open_sqlite

    return await open_sqlite(rest[1:] or None, shard)
