"""Every bus keeps the same contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mbactor.testing.contracts import check_bus
from mbactor.transport import Bus, LocalBus

pytestmark = pytest.mark.anyio

BUSES: dict[str, Callable[[], Bus]] = {"local": LocalBus}


@pytest.mark.parametrize("make", BUSES.values(), ids=BUSES)
async def test_a_bus_keeps_its_contract(make: Callable[[], Bus]) -> None:
    await check_bus(make)
