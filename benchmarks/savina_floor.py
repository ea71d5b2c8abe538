"""What Savina's benchmarks cost without actors: the same work by bare tasks, deques and futures."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from time import perf_counter

from benchmarks.bare import Bare, Pair
from benchmarks.harness import SEED, Measured, Pass, percentiles


class Join:
    """Waits for so many; `done` has the sum of their numbers."""

    def __init__(self, count: int) -> None:
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._left = count
        self._sum = 0

    def arrived(self, number: int) -> None:
        self._sum += number
        self._left -= 1
        if not self._left:
            self.done.set_result(self._sum)


async def _close(all_of_them: Iterable[Bare]) -> None:
    for each in all_of_them:
        await each.close()


def ping_pong(rounds: int) -> Pass:
    async def floor() -> Measured:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        times: list[float] = []
        last = perf_counter()

        async def answer(number: int) -> None:
            pinger.tell(number)

        async def answered(number: int) -> None:
            nonlocal last
            now = perf_counter()
            times.append(now - last)
            last = now
            if number + 1 < rounds:
                ponger.tell(number + 1)
            else:
                done.set_result(None)

        pinger, ponger = Bare(answered), Bare(answer)
        began = last = perf_counter()
        ponger.tell(0)
        await done
        took = perf_counter() - began
        await _close((pinger, ponger))
        return {"rate": 2 * rounds / took, "took_s": took, **percentiles(times, "us")}

    return floor


def ping_pong_by_ask(rounds: int) -> Pass:
    async def answer(number: int) -> int:
        return number

    async def floor() -> Measured:
        times: list[float] = []
        ponger = Pair(answer)
        began = last = perf_counter()
        for number in range(rounds):
            await ponger.ask(number)
            now = perf_counter()
            times.append(now - last)
            last = now
        took = perf_counter() - began
        await ponger.close()
        return {"rate": 2 * rounds / took, "took_s": took, **percentiles(times, "us")}

    return floor


def thread_ring(count: int, hops: int) -> Pass:
    async def floor() -> Measured:
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        ring: list[Bare] = []

        def hopper(number: int) -> Callable[[int], Awaitable[None]]:
            hopped = 0

            async def hop(left: int) -> None:
                nonlocal hopped
                hopped += 1
                if left:
                    ring[(number + 1) % len(ring)].tell(left - 1)
                else:
                    done.set_result(number)

            return hop

        ring.extend(Bare(hopper(number)) for number in range(count))
        began = perf_counter()
        ring[0].tell(hops)
        await done
        took = perf_counter() - began
        await _close(ring)
        return {"rate": (hops + 1) / took, "took_s": took}

    return floor


def counting(count: int, burst: int) -> Pass:
    async def floor() -> Measured:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[int] = loop.create_future()
        total = 0

        async def add(by: int, read: asyncio.Future[int] | None = None) -> None:
            nonlocal total
            total += by
            if read is not None:
                read.set_result(total)

        async def produce() -> None:
            for begun in range(0, count, burst):
                for _ in range(min(burst, count - begun)):
                    counter.tell(1)
                read: asyncio.Future[int] = loop.create_future()
                counter.tell(0, read)
                await read
            done.set_result(total)

        counter, producer = Bare(add), Bare(produce)
        began = perf_counter()
        producer.tell()
        await done
        took = perf_counter() - began
        await _close((counter, producer))
        return {"rate": count / took, "took_s": took}

    return floor


def fork_join_create(count: int) -> Pass:
    async def floor() -> Measured:
        join = Join(count)

        async def work(number: int) -> None:
            join.arrived(number)

        held: list[Bare] = []
        began = perf_counter()
        for number in range(count):
            held.append(Bare(work))
            held[-1].tell(number)
        await join.done
        took = perf_counter() - began
        await _close(held)
        return {"rate": count / took, "took_s": took}

    return floor


class BarePinger:
    """One of `big`."""

    def __init__(self, number: int, everybody: list[BarePinger], pings: int, join: Join) -> None:
        self._number = number
        self._everybody = everybody
        self._left = pings
        self._join = join
        self._pinged = 0
        self._random = random.Random(SEED + number).random
        self.task = Bare(self._receive)

    async def _receive(self, by: int | None) -> None:
        if by is None:
            await self._answered()
        else:
            self._pinged += 1
            self._everybody[by].task.tell(None)

    async def _answered(self) -> None:
        self._left -= 1
        if self._left:
            self.ping_one()
        else:
            self._join.arrived(self._number)

    def ping_one(self) -> None:
        target = int(self._random() * len(self._everybody))
        self._everybody[target].task.tell(self._number)


def big(count: int, pings: int) -> Pass:
    async def floor() -> Measured:
        join = Join(count)
        everybody: list[BarePinger] = []
        everybody.extend(BarePinger(number, everybody, pings, join) for number in range(count))
        began = perf_counter()
        for each in everybody:
            each.ping_one()
        await join.done
        took = perf_counter() - began
        await _close(each.task for each in everybody)
        return {"rate": 2 * count * pings / took, "took_s": took}

    return floor
