"""The bus over a nats-server of this process's own: `EmbeddedBus`.

    bus = EmbeddedBus()
    await bus.connect()         # the server runs
    await bus.close()           # and is gone

What is promised: what `nats.py` and `nats_server.py` promise. The server is up before anything is served, and is the
last to go.
"""

from __future__ import annotations

from mbactor.transport.nats import NatsBus
from mbactor.transport.nats_server import EmbeddedServer


class EmbeddedBus(NatsBus):
    """A `Bus` with its own broker: other processes of the same tree connect to `url`."""

    def __init__(self) -> None:
        self.server = EmbeddedServer()
        super().__init__("nats://127.0.0.1")

    async def connect(self) -> None:
        """Unavailable where the server does not start, with what it said."""
        await self.server.start()
        self.url = self.server.url
        try:
            await super().connect()
        except BaseException:
            await self.server.stop()
            raise

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            await self.server.stop()
