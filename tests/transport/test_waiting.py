"""Who waits is looked at by one timer, in order of their deadlines, and what is over is not kept for those behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from mbactor.testing.loop import VirtualTimeLoop
from mbactor.transport import Address, Waiter
from mbactor.transport.waiting import Waiting

ADDRESS = Address("far.example", "/x")
TICK = 0.125


class One(Waiter, eq=False):
    over: bool = False
    ticks: int = 0

    def done(self) -> bool:
        return self.over

    def ticked(self) -> None:
        self.ticks += 1


def virtually(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(work)


def test_each_is_told_when_its_deadline_comes_and_there_is_one_timer() -> None:
    async def work() -> None:
        loop: Any = asyncio.get_running_loop()
        told: list[tuple[float, str]] = []
        waiting = Waiting(lambda one: told.append((loop.time(), one.id)), lambda: None, TICK)
        began = loop.time()
        seconds = [5.0, 0.01, 3.0, 0.3, 4.0, 0.02, 900.0]
        for n, each in enumerate(seconds):
            waiting.add(One(str(n), ADDRESS, began + each), loop.time())
            assert sum(not one.cancelled() for one in loop._scheduled) == 1
        await asyncio.sleep(1000)
        assert [id for _, id in told] == ["1", "5", "3", "2", "4", "0", "6"]
        assert max(at - began - seconds[int(id)] for at, id in told) < 0.002
        assert [one for one in loop._scheduled if not one.cancelled()] == []

    virtually(work())


def test_what_is_over_is_not_kept_as_long_as_another_waits() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        waiting = Waiting(lambda _: None, lambda: None, TICK)
        first, *others = [One(str(n), ADDRESS, loop.time() + 1000 - n) for n in range(100)]
        for one in (first, *others):
            waiting.add(one, loop.time())
        await asyncio.sleep(3 * TICK)
        assert first.ticks > 0
        for one in others:
            one.over = True  # as one that was cancelled
        await asyncio.sleep(2 * TICK)
        assert waiting.everyone() == [first]
        assert [one for _, _, one in waiting._due] == [first]
        waiting.close()

    virtually(work())
