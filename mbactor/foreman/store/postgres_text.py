"""The store's statements as PostgreSQL takes them. Pure."""

# ruff: noqa: S608 - every statement is put together from constants of the store

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from operator import itemgetter
from urllib.parse import urlsplit

from mbactor.errors import InvalidSpec
from mbactor.foreman.store import schema
from mbactor.foreman.store.dialect import Insert, Row, Update

EXPECTED = "postgresql://user:password@host:5432/database, special characters in the password as %XX"

TYPES = {
    "int": "bigint",
    "small": "integer",
    "float": "double precision",
    "text": "text",
    "json": "bytea",
    "text()": "convert_from({}, 'UTF8')",
    "time()": "to_timestamp({})",
}

_WORDS = {
    "<ids>": "SELECT unnest(?::bigint[])",
    "<texts>": "SELECT unnest(?::text[])",
    "<greatest>": "greatest",
    "<least>": "least",
    "<position>": "strpos",
    "<lower>": "lower",
    "<now>": "extract(epoch FROM statement_timestamp())::float8",
    "<error text>": "convert_from(flow.error, 'UTF8')::json ->> 'error'",
    "<skip locked>": "FOR UPDATE SKIP LOCKED",
}


TREE = """SELECT id, breakpoints FROM mbactor_flow
    WHERE id IN (SELECT coalesce(root_id, id) FROM mbactor_flow WHERE id = ANY($1::bigint[])) ORDER BY id FOR UPDATE"""
"""Locks the roots of the trees that some flows belong to, by id; what stands in them is read after the wait."""

ROOTS = "SELECT id, root_id, breakpoints FROM mbactor_flow WHERE id = ANY($1::bigint[]) ORDER BY id FOR UPDATE"
"""The same of trees whose roots are known."""

ROOT = "SELECT id, root_id, breakpoints FROM mbactor_flow WHERE id = $1::bigint FOR UPDATE"
"""The same of one tree."""


@functools.cache
def text_of(query: str) -> str:
    """A statement with PostgreSQL's words and numbered places."""
    for word, own in _WORDS.items():
        query = query.replace(word, own)
    parts = query.split("?")
    return "".join(f"{part}${number}" for number, part in enumerate(parts[:-1], 1)) + parts[-1]


@functools.cache
def _places(table: str, names: tuple[str, ...]) -> Callable[[Row], Row]:
    taken = [names.index(name) if name in names else len(names) for name in schema.TABLES[table]]
    return itemgetter(*taken)


def given_rows(table: str, names: tuple[str, ...], rows: Sequence[Row]) -> list[Row]:
    """The rows as they are, where they have a type of their own; else as rows of the table, NULL where they have no
    value.

    One array of these costs the driver half of what an array for each column does: it looks at each element of an
    array to see whether it is an array itself.
    """
    if (table, names) in schema.ROWS:
        return list(rows)
    whole = _places(table, names)
    return [whole((*row, None)) for row in rows]


@functools.cache
def update_of(statement: Update) -> str:
    """The statement over an array of rows; it returns the number of each row that found its own, from 1."""
    changed = f"SET {statement.set} FROM {given_of(statement.table, statement.values)} WHERE {statement.where}"
    text = text_of(re.sub(r"(?<!:):(\w+)", r"given._\1", changed))
    returning = ", ".join(["given.number", *filter(None, [statement.returning])])
    return f"UPDATE {statement.table} {text} RETURNING {returning}"


@functools.cache
def insert_of(statement: Insert) -> str:
    """The statement over an array of rows."""
    columns = ", ".join(statement.columns)
    values = ", ".join(f"_{name}" for name in statement.columns)
    text = (
        f"INSERT INTO {statement.table} ({columns}) SELECT {values} FROM {given_of(statement.table, statement.columns)}"
    )
    text += " ORDER BY number"
    text += " ON CONFLICT DO NOTHING" if statement.once else ""
    return f"{text} RETURNING {statement.returning}" if statement.returning else text


def given_of(table: str, names: tuple[str, ...], place: int = 1) -> str:
    """The rows that a statement brings, as a table `given` with a column `_name` for each value."""
    kind = schema.ROWS.get((table, names), table)
    columns = ", ".join(f"{name} AS _{name}" for name in names)
    return f"(SELECT {columns}, ordinality AS number FROM unnest(${place}::{kind}[]) WITH ORDINALITY) AS given"


def given_of_one(table: str, names: tuple[str, ...], place: int) -> str:
    """As `given_of`, of one row, each value of which has a place of its own, from this one on."""
    kinds = schema.TABLES[table]
    values = (f"${place + more}::{TYPES[kinds[name].partition(' ')[0]]} AS _{name}" for more, name in enumerate(names))
    return f"(SELECT {', '.join(values)}, 1 AS number) AS given"


def shown_url(url: str) -> str:
    """The URL without its password and settings, for errors; InvalidSpec where it is none, which shows nothing of it.

    A password with a bare / or # or ? in it would move into the other parts, so what looks like that is refused.
    """
    try:
        parts = urlsplit(url)
        # Of several, the first that answers is used, or the first primary (`target_session_attrs`).
        hosts = ",".join(map(_shown_host, parts.netloc.rpartition("@")[2].split(",")))
    except ValueError:
        raise InvalidSpec(f"database postgresql://...: no valid URL; expected {EXPECTED}") from None
    if "@" in parts.path + parts.query or parts.fragment or parts.path.count("/") > 1:
        raise InvalidSpec(f"database postgresql://...: no valid URL; expected {EXPECTED}")
    user = f"{parts.username}@" if parts.username else ""
    return f"postgresql://{user}{hosts}{parts.path}"


def _shown_host(given: str) -> str:
    """ValueError where it is no host with or without a port."""
    parts = urlsplit(f"//{given}")
    name = f"[{parts.hostname}]" if given.startswith("[") else parts.hostname or ""
    return f"{name}:{parts.port}" if parts.port else name
