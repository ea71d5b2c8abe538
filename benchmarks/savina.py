"""Savina's benchmarks of actors, each beside bare tasks that do the same, and each checked for its result.

The sizes are the suite's own (Imam and Sarkar, "Savina - An Actor Benchmark Suite", 2014), but for `big`: its actors
send 2,000 pings each, and 20,000 with --full.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from time import perf_counter
from typing import Any, TypeVar

from benchmarks import savina_floor as floors
from benchmarks.harness import SEED, Bench, Case, Figure, InvalidRun, Measured, Pass, Result, percentiles
from benchmarks.messages import BURST, LATENCY, Counter, check_delivered
from mbactor import Actor, ActorRef, ActorSystem, endpoint

T = TypeVar("T")
PATIENCE = 600.0
"""Seconds until a benchmark counts as lost: a message that went astray would never let it end."""
ROUNDS = 40_000
RING = 100
HOPS = 100_000
COUNTED = 1_000_000
FORKED = 40_000
BIG = 120
PINGS = 2_000
PINGS_IN_FULL = 20_000


async def outcome(system: ActorSystem, done: asyncio.Future[T], begin: Callable[[], object]) -> tuple[T, float]:
    """Begin, and wait for what the last actor says; that, and the seconds it took."""
    began = perf_counter()
    begin()
    try:
        async with asyncio.timeout(PATIENCE):
            said = await done
    except TimeoutError:
        raise InvalidRun(f"no end after {PATIENCE:.0f} s: a message was lost, or a method crashed") from None
    took = perf_counter() - began
    check_delivered(system)
    return said, took


def check(what: str, found: object, expected: object) -> None:
    """InvalidRun where a benchmark did not come to the result that its definition gives it."""
    if found != expected:
        raise InvalidRun(f"{what}: {found} instead of {expected}")


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


async def _beside(
    bench: Bench, name: str, unit: str, size: str, case: Pass, floor: Pass, floor_is: str, *, timed: bool = False,
    warm: bool = True,
) -> list[Result]:  # fmt: skip
    figure = Figure(name, unit, beside=(*LATENCY, "took_s") if timed else ("took_s",))
    return await bench.compare([figure], case, floor, floor_is=floor_is, warm=warm, more={"size": size})


# --- ping-pong: the latency of one hop ---------------------------------------------------------------------


class Pong(Actor):
    """Answers: a tell with a tell, an ask with its result. `partners` holds who pings, once it is spawned."""

    def __init__(self, partners: list[ActorRef[Ping]]) -> None:
        self.partners = partners

    @endpoint
    async def ping(self, number: int) -> None:
        self.partners[0].tell(Ping.pong, number)

    @endpoint
    async def answer(self, number: int) -> int:
        return number


class Ping(Actor):
    """Sends the next ping when the answer to the last has come; says how long each round took."""

    def __init__(self, partner: ActorRef[Pong], rounds: int, done: asyncio.Future[list[float]]) -> None:
        self.partner = partner
        self.rounds = rounds
        self.done = done
        self.times: list[float] = []
        self.last = 0.0

    @endpoint
    async def begin(self) -> None:
        self.last = perf_counter()
        self.partner.tell(Pong.ping, 0)

    @endpoint
    async def pong(self, number: int) -> None:
        now = perf_counter()
        self.times.append(now - self.last)
        self.last = now
        if number + 1 < self.rounds:
            self.partner.tell(Pong.ping, number + 1)
        else:
            self.done.set_result(self.times)

    @endpoint
    async def begin_to_ask(self) -> None:
        self.last = perf_counter()
        for number in range(self.rounds):
            check("the answer", await self.partner.ask(Pong.answer, number), number)
            now = perf_counter()
            self.times.append(now - self.last)
            self.last = now
        self.done.set_result(self.times)


def ping_pong(*, by_ask: bool) -> Callable[[Bench], Any]:
    """By tells there and back, or by asks: two messages a round either way."""

    async def measure(bench: Bench) -> list[Result]:
        rounds = bench.size(ROUNDS, 300)

        async def case() -> Measured:
            async with ActorSystem() as system:
                partners: list[ActorRef[Ping]] = []
                done: asyncio.Future[list[float]] = _future()
                ping = await system.spawn(Ping, await system.spawn(Pong, partners), rounds, done)
                partners.append(ping)
                first = Ping.begin_to_ask if by_ask else Ping.begin
                times, took = await outcome(system, done, lambda: ping.tell(first))
            check("rounds", len(times), rounds)
            return {"rate": 2 * rounds / took, "took_s": took, **percentiles(times, "us")}

        floor = floors.ping_pong_by_ask(rounds) if by_ask else floors.ping_pong(rounds)
        floor_is = "two bare tasks, a future for each answer" if by_ask else "two bare tasks, a deque each"
        name = f"ping-pong, {'ask' if by_ask else 'tell'}"
        size = f"{rounds:,} rounds"
        return await _beside(bench, name, "messages/s", size, case, floor, floor_is, timed=True)

    return measure


# --- thread ring: one message wakes one actor after the other ----------------------------------------------


class Hopper(Actor):
    """Hands the message on to the next of the ring; the one that gets it last says its number."""

    def __init__(self, number: int, ring: list[ActorRef[Hopper]], done: asyncio.Future[int]) -> None:
        self.number = number
        self.ring = ring
        self.done = done
        self.hops = 0

    @endpoint
    async def hop(self, left: int) -> None:
        self.hops += 1
        if left:
            self.ring[(self.number + 1) % len(self.ring)].tell(Hopper.hop, left - 1)
        else:
            self.done.set_result(self.number)

    @endpoint
    async def count(self) -> int:
        return self.hops


async def thread_ring(bench: Bench) -> list[Result]:
    hops = bench.size(HOPS, 1_000)

    async def case() -> Measured:
        async with ActorSystem() as system:
            ring: list[ActorRef[Hopper]] = []
            done: asyncio.Future[int] = _future()
            for number in range(RING):
                ring.append(await system.spawn(Hopper, number, ring, done))
            last, took = await outcome(system, done, lambda: ring[0].tell(Hopper.hop, hops))
            counts = [await each.ask(Hopper.count) for each in ring]
        check("the last of the ring", last, hops % RING)
        check("hops", sum(counts), hops + 1)
        return {"rate": (hops + 1) / took, "took_s": took}

    size = f"{RING} actors, {hops:,} hops"
    floor_is = "as many bare tasks, a deque each"
    return await _beside(bench, "thread ring", "messages/s", size, case, floors.thread_ring(RING, hops), floor_is)


# --- counting: into the mailbox and out again --------------------------------------------------------------


class Producer(Actor):
    """Tells the counter to add one, many times, and waits for it after each burst: mailboxes have a bound."""

    def __init__(self, counter: ActorRef[Counter], count: int, done: asyncio.Future[int]) -> None:
        self.counter = counter
        self.count = count
        self.done = done

    @endpoint
    async def produce(self) -> None:
        total = 0
        for begun in range(0, self.count, BURST):
            for _ in range(min(BURST, self.count - begun)):
                self.counter.tell(Counter.add, 1)
            total = await self.counter.ask(Counter.read)
        self.done.set_result(total)


async def counting(bench: Bench) -> list[Result]:
    count = bench.size(COUNTED, 5_000)

    async def case() -> Measured:
        async with ActorSystem() as system:
            done: asyncio.Future[int] = _future()
            producer = await system.spawn(Producer, await system.spawn(Counter), count, done)
            total, took = await outcome(system, done, lambda: producer.tell(Producer.produce))
        check("the count", total, count)
        return {"rate": count / took, "took_s": took}

    size = f"{count:,} messages in bursts of {BURST:,}"
    floor_is = "two bare tasks, a deque each, and a future a burst"
    return await _beside(
        bench, "counting", "messages/s", size, case, floors.counting(count, BURST), floor_is, warm=False
    )


# --- fork-join, create: many actors, a message each --------------------------------------------------------


class Forked(Actor):
    """Works once."""

    def __init__(self, join: floors.Join) -> None:
        self.join = join

    @endpoint
    async def work(self, number: int) -> None:
        self.join.arrived(number)


async def fork_join_create(bench: Bench) -> list[Result]:
    count = bench.size(FORKED, 100)

    async def case() -> Measured:
        async with ActorSystem() as system:
            join = floors.Join(count)
            began = perf_counter()
            for number in range(count):
                forked = await system.spawn(Forked, join)
                forked.tell(Forked.work, number)
            (sum_of_all, _), took = await outcome(system, join.done, lambda: None), perf_counter() - began
            bench.progress(f"fork-join create: {count:,} actors are being stopped")
        check("the sum", sum_of_all, sum(range(count)))
        return {"rate": count / took, "took_s": took}

    size = f"{count:,} actors, a message each"
    floor_is = "as many bare tasks, a deque each"
    return await _beside(
        bench, "fork-join create", "actors/s", size, case, floors.fork_join_create(count), floor_is, warm=False
    )


# --- big: everybody pings anybody --------------------------------------------------------------------------


class Pinger(Actor):
    """Pings one of all, at random, when the last ping was answered; answers the pings of the others."""

    def __init__(self, number: int, everybody: list[ActorRef[Pinger]], pings: int, join: floors.Join) -> None:
        self.number = number
        self.everybody = everybody
        self.left = pings
        self.join = join
        self.pinged = 0
        self.random = random.Random(SEED + number).random

    @endpoint
    async def begin(self) -> None:
        self._ping_one()

    @endpoint
    async def ping(self, by: int) -> None:
        self.pinged += 1
        self.everybody[by].tell(Pinger.pong)

    @endpoint
    async def pong(self) -> None:
        self.left -= 1
        if self.left:
            self._ping_one()
        else:
            self.join.arrived(self.number)

    @endpoint
    async def counts(self) -> tuple[int, int]:
        return self.pinged, self.left

    def _ping_one(self) -> None:
        target = int(self.random() * len(self.everybody))
        self.everybody[target].tell(Pinger.ping, self.number)


async def big(bench: Bench) -> list[Result]:
    actors, pings = BIG, bench.size(PINGS_IN_FULL if bench.full else PINGS, 10)

    def begin(everybody: list[ActorRef[Pinger]]) -> None:
        for each in everybody:
            each.tell(Pinger.begin)

    async def case() -> Measured:
        async with ActorSystem() as system:
            everybody: list[ActorRef[Pinger]] = []
            join = floors.Join(actors)
            for number in range(actors):
                everybody.append(await system.spawn(Pinger, number, everybody, pings, join))
            _, took = await outcome(system, join.done, lambda: begin(everybody))
            counts = [await each.ask(Pinger.counts) for each in everybody]
        check("pings that came", sum(pinged for pinged, _ in counts), actors * pings)
        check("pings that were not answered", sum(left for _, left in counts), 0)
        return {"rate": 2 * actors * pings / took, "took_s": took}

    size = f"{actors} actors, {pings:,} pings each"
    floor_is = "as many bare tasks, a deque each"
    return await _beside(bench, "big", "messages/s", size, case, floors.big(actors, pings), floor_is, warm=False)


CASES = (
    Case("Savina", "ping-pong, tell", ping_pong(by_ask=False)),
    Case("Savina", "ping-pong, ask", ping_pong(by_ask=True)),
    Case("Savina", "thread ring", thread_ring),
    Case("Savina", "counting", counting),
    Case("Savina", "fork-join create", fork_join_create),
    Case("Savina", "big", big),
)
