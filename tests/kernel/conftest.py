"""Systems that know each other, within one process and over a broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from itertools import count
from typing import Any

import pytest

from mbactor import ActorSystem
from mbactor.transport import LocalBus
from tests.nats import NatsServer, nats_server

planes = count(1)
Start = Callable[..., Awaitable[ActorSystem]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture(params=["local", "nats"])
async def start(request: pytest.FixtureRequest) -> AsyncIterator[Start]:
    """Start systems that know each other, in one process or by a broker."""
    bus: Any = LocalBus()
    if request.param == "nats":
        bus = request.getfixturevalue("server").url
    plane = f"plane{next(planes)}"
    async with AsyncExitStack() as stack:

        async def started(*children: Any, **settings: Any) -> ActorSystem:
            system = ActorSystem(f"system{next(planes)}", bus, plane, watchdog=None, **settings)
            await stack.enter_async_context(system)
            for one in children:
                await system.spawn(one)
            await system.node.remote.flush()
            return system

        yield started
