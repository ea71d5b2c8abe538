"""Contract suites: what every implementation must do, fakes and real parts alike.

    async def test_bus() -> None:
        await check_bus(LocalBus)

A suite raises AssertionError with the rule that was broken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mbactor.errors import Unavailable
from mbactor.transport.bus import Bus, Delivery

_PATIENCE = 10.0


class _Collector:
    """A subscriber that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[Delivery] = []
        self._more = asyncio.Event()

    def __call__(self, delivery: Delivery) -> None:
        self.got.append(delivery)
        self._more.set()

    async def until(self, count: int) -> list[Delivery]:
        async with asyncio.timeout(_PATIENCE):
            while len(self.got) < count:
                self._more.clear()
                await self._more.wait()
        return self.got


async def check_bus(make: Callable[[], Bus]) -> None:
    """Every rule of the `Bus` contract, each on a bus of its own."""
    for rule in (
        _delivers_bytes_in_order,
        _wildcards_match_tokens,
        _a_queue_gets_each_message_once,
        _everyone_without_a_queue_gets_each_message,
        _nobody_there_is_known_at_once,
        _an_unsubscribed_receiver_gets_nothing,
        _malformed_subjects_are_refused,
        _publish_never_calls_the_subscriber_itself,
        _large_messages_pass,
        _a_closed_bus_says_so,
    ):
        bus = make()
        await bus.connect()
        try:
            await _named(rule, bus)
        finally:
            await bus.close()


async def _named(rule: Callable[[Bus], Awaitable[None]], bus: Bus) -> None:
    try:
        await rule(bus)
    except (AssertionError, TimeoutError) as error:
        raise AssertionError(
            f"{type(bus).__name__} breaks {rule.__name__.strip('_').replace('_', ' ')!r}: {error}"
        ) from error


async def _delivers_bytes_in_order(bus: Bus) -> None:
    seen = _Collector()
    bus.subscribe("a.b", seen)
    await bus.flush()
    sent = [bytes([n % 256]) * (n % 7) for n in range(500)]
    for data in sent:
        bus.publish("a.b", data, reply="r.1")
    got = await seen.until(500)
    assert [d.data for d in got] == sent, "order or content changed"
    assert {(d.subject, d.reply) for d in got} == {("a.b", "r.1")}, "subject or reply changed"


async def _wildcards_match_tokens(bus: Bus) -> None:
    one, rest, exact = _Collector(), _Collector(), _Collector()
    bus.subscribe("a.*.c", one)
    bus.subscribe("a.>", rest)
    bus.subscribe("a.b.c", exact)
    await bus.flush()
    for subject in ("a.b.c", "a.c", "a.b.c.d", "a", "b.b.c"):
        bus.publish(subject, b"")
    bus.publish("a.x.c", b"")
    assert [d.subject for d in await one.until(2)] == ["a.b.c", "a.x.c"]
    assert [d.subject for d in await rest.until(4)] == ["a.b.c", "a.c", "a.b.c.d", "a.x.c"]
    assert [d.subject for d in exact.got] == ["a.b.c"]


async def _a_queue_gets_each_message_once(bus: Bus) -> None:
    first, second, other = _Collector(), _Collector(), _Collector()
    bus.subscribe("q", first, queue="workers")
    bus.subscribe("q", second, queue="workers")
    bus.subscribe("q", other, queue="audit")
    await bus.flush()
    for n in range(100):
        bus.publish("q", str(n).encode())
    await other.until(100)
    got = sorted(int(d.data) for d in first.got + second.got)
    assert got == list(range(100)), "a message of a queue was lost or doubled"
    assert first.got, "one member got everything"
    assert second.got, "one member got everything"


async def _everyone_without_a_queue_gets_each_message(bus: Bus) -> None:
    first, second = _Collector(), _Collector()
    bus.subscribe("all", first)
    bus.subscribe("all", second)
    await bus.flush()
    bus.publish("all", b"x")
    assert await first.until(1)
    assert await second.until(1)


async def _nobody_there_is_known_at_once(bus: Bus) -> None:
    inbox = _Collector()
    bus.subscribe("inbox.*", inbox)
    await bus.flush()
    bus.publish("nobody.home", b"?", reply="inbox.1")
    bus.publish("nobody.home", b"no reply wanted")
    [told] = await inbox.until(1)
    assert told.no_responders
    assert told.subject == "inbox.1"


async def _an_unsubscribed_receiver_gets_nothing(bus: Bus) -> None:
    gone, stays = _Collector(), _Collector()
    subscription = bus.subscribe("s", gone)
    bus.subscribe("s", stays)
    await bus.flush()
    subscription.unsubscribe()
    subscription.unsubscribe()
    await bus.flush()
    bus.publish("s", b"x")
    await stays.until(1)
    assert not gone.got


async def _malformed_subjects_are_refused(bus: Bus) -> None:
    for subject in ("", "a..b", ".a", "a.", "a.>.b"):
        try:
            bus.subscribe(subject, _Collector())
        except ValueError:
            continue
        raise AssertionError(f"subject {subject!r} was accepted")


async def _publish_never_calls_the_subscriber_itself(bus: Bus) -> None:
    seen = _Collector()
    bus.subscribe("later", seen)
    await bus.flush()
    bus.publish("later", b"x")
    assert not seen.got, "delivered from within publish"
    await seen.until(1)


async def _large_messages_pass(bus: Bus) -> None:
    seen = _Collector()
    bus.subscribe("large", seen)
    await bus.flush()
    data = bytes(range(256)) * (min(bus.max_payload, 1 << 20) // 256)
    bus.publish("large", data)
    assert (await seen.until(1))[0].data == data


async def _a_closed_bus_says_so(bus: Bus) -> None:
    seen = _Collector()
    bus.subscribe("last", seen)
    await bus.flush()
    bus.publish("last", b"x")
    await bus.close()
    await bus.close()
    assert seen.got, "a message accepted before close was not delivered"
    try:
        bus.publish("last", b"y")
    except Unavailable:
        return
    raise AssertionError("publish on a closed bus was accepted")
