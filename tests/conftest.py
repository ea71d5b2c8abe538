"""What every test has."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """The runtime lives on asyncio."""
    return "asyncio"
