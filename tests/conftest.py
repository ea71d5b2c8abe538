"""What every test has."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says more of the machine than of the code.
settings.register_profile("mbactor", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("mbactor")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell lets what it starts in the background ignore Ctrl-C, and all that the tests start would do so too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(session: pytest.Session) -> None:
    session.add_marker(pytest.mark.mbactor(patience="4m"))  # the same is true of how long a test takes


@pytest.fixture
def anyio_backend() -> str:
    """The runtime lives on asyncio."""
    return "asyncio"
