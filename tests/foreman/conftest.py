"""The databases that the Foreman runs on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


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


@pytest.fixture(params=["file", "postgres"])
def shared_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database that several processes may use."""
    return url_of(request.param, tmp_path, request)
