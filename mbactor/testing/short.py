"""The fixtures under short names.

pytest_plugins = ["mbactor.testing.short"]       # in the outermost conftest.py

async def test_counting(system: ActorSystem, probe: Probes, recorder: Recorder) -> None: ...
async def test_flows(system: ActorSystem, postgres: str) -> None: ...
async def test_they_meet(nats: str) -> None: ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mbactor.supervisor import ActorSystem
    from mbactor.testing.probe import Probes
    from mbactor.testing.recorder import Recorder


@pytest.fixture
def system(mbactor: ActorSystem) -> ActorSystem:
    """The fixture `mbactor`."""
    return mbactor


@pytest.fixture
def probe(mbactor_probe: Probes) -> Probes:
    """The fixture `mbactor_probe`."""
    return mbactor_probe


@pytest.fixture
def recorder(mbactor_recorder: Recorder) -> Recorder:
    """The fixture `mbactor_recorder`."""
    return mbactor_recorder


@pytest.fixture
def postgres(mbactor_postgres: str) -> str:
    """The fixture `mbactor_postgres`."""
    return mbactor_postgres


@pytest.fixture
def nats(mbactor_nats: str) -> str:
    """The fixture `mbactor_nats`."""
    return mbactor_nats
