"""The databases that the Foreman runs on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from mbactor.foreman.engine import Engine
from mbactor.foreman.store.sql import SqlStore
from mbactor.foreman.store.store import StoreTrouble
from mbactor.testing.postgres import PostgresServer
from tests.foreman.world import broken_invariants


def url_of(kind: str, folder: Path, request: pytest.FixtureRequest) -> str:
    if kind == "postgres":
        url: str = request.getfixturevalue("mbactor_postgres_server").fresh()
        return url
    return f"sqlite:///{folder}/flows.db" if kind == "file" else "sqlite://"


@pytest.fixture(params=["memory", "file", "postgres"])
def databases(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """The URL of another empty database at each call."""
    return lambda: url_of(request.param, tmp_path_factory.mktemp("db"), request)


@pytest.fixture(params=["memory", "file", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind."""
    return url_of(request.param, tmp_path, request)


@pytest.fixture
def url(mbactor_postgres_server: PostgresServer) -> str:
    """The URL of an empty database of PostgreSQL."""
    return mbactor_postgres_server.fresh()


@pytest.fixture(params=["file", "postgres"])
def shared_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database that several processes may use."""
    return url_of(request.param, tmp_path, request)


@pytest.fixture(autouse=True)
def swept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The invariants hold in whatever database an engine of the test has written to, when it is closed."""
    broken: list[str] = []
    close = Engine.close

    async def close_and_look(engine: Engine) -> None:
        await close(engine)
        if isinstance(engine.store, SqlStore):
            with contextlib.suppress(StoreTrouble, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                broken.extend(await broken_invariants(engine.store))

    monkeypatch.setattr(Engine, "close", close_and_look)
    yield
    assert broken == []
