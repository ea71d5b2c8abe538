"""The child actors that do a Foreman's work: `Worker` runs steps, `Sweeper` recovers those whose lease expired,
`Listener` and `Ears` hear of other Foremen, `Keeper` follows the roll of the shards, `Scheduler` the schedules.
"""

from __future__ import annotations

from collections.abc import Sequence

from mbactor.foreman.api import ForemanApi
from mbactor.foreman.dispatcher import Dispatcher
from mbactor.foreman.engine import Engine
from mbactor.foreman.model.schedule import Schedule
from mbactor.foreman.news import News, exchange
from mbactor.foreman.roll import Roll
from mbactor.foreman.schedules import Schedules
from mbactor.foreman.shards import Shards
from mbactor.foreman.sweep import sweep_regularly
from mbactor.kernel import sink
from mbactor.kernel.actor import Actor
from mbactor.kernel.exit import Exit


class Worker(Actor):
    """Claims due steps in batches and runs them, `slots` at once; extends their leases while they run.

    When it is restarted, what its predecessor held is released at once. When it is stopped it finishes what runs,
    within its shutdown time, and gives back the rest.
    """

    def __init__(self, engine: Engine, name: str, slots: int) -> None:
        self._dispatcher = Dispatcher(engine, name, slots=slots)

    async def on_start(self) -> None:
        # It first releases what the predecessor held; that may have to wait until the database is there.
        self.spawn_task(self._dispatcher.run(), name="claim and run steps")

    async def on_stop(self, exit: Exit) -> None:  # noqa: ARG002
        await self._dispatcher.drain()


class Sweeper(Actor):
    """Looks for steps whose lease has expired and puts them back in the queue."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def on_start(self) -> None:
        self.spawn_task(sweep_regularly(self._engine), name="sweep")


class Listener(Actor):
    """Tells and hears news of other Foremen by way of the database, where that passes them on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def on_start(self) -> None:
        engine = self._engine
        self.spawn_task(exchange(engine.store, engine.news, engine.heard, engine.missed), name="listen")


class Ears(Actor):
    """Hears news of other Foremen by the bus."""

    host = "ears.foreman.core"

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    @sink(ForemanApi.on_news, queue="every")
    async def heard(self, news: News) -> None:
        self._shards.heard(news)


class Scheduler(Actor):
    """Makes the flows of schedules at their ticks. `declared` are made, or changed to what they are to be, first."""

    def __init__(self, schedules: Schedules, declared: Sequence[Schedule]) -> None:
        self._schedules = schedules
        self._declared = declared

    async def on_start(self) -> None:
        self.spawn_task(self._schedules.follow(self._declared), name="follow the schedules")


class Keeper(Actor):
    """Follows the roll of the shards: starts what works for a new one, stops what works for one that was removed."""

    def __init__(self, roll: Roll) -> None:
        self._roll = roll

    async def on_start(self) -> None:
        self.spawn_task(self._roll.keep(), name="follow the roll of the shards")
