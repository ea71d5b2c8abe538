"""`check_bus`: what every bus must do.

    async def test_bus() -> None:
        await check_bus(LocalBus)

It raises AssertionError with the rule that was broken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mbactor.errors import MessageTooLarge, Unavailable
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


async def check_bus(make: Callable[[], Bus], beside: Callable[[], Bus] | None = None, *, apart: bool = False) -> None:
    """Every rule of the `Bus` contract, each on a bus of its own.

    With `beside`, which makes another connection to the same bus, one publishes and the other receives. `apart` says
    that this is at another server of the bus: what one server has sent to the other is not kept when a receiver ends.
    """
    for rule in (
        _delivers_bytes_in_order,
        _wildcards_match_tokens,
        _a_queue_gets_each_message_once,
        _everyone_without_a_queue_gets_each_message,
        _one_publishers_order_is_kept_over_all_subjects,
        _an_answer_finds_its_asker,
        _nobody_there_is_known_at_once,
        _how_many_receive_is_known_rightly_or_not_at_all,
        _an_unsubscribed_receiver_gets_nothing,
        _a_receiver_may_use_the_bus,
        *(() if apart else (_what_is_on_its_way_when_a_receiver_ends_is_not_lost,)),
        _malformed_subjects_are_refused,
        _publish_never_calls_the_subscriber_itself,
        _a_flush_waits_for_what_was_published,
        _large_messages_pass_and_larger_ones_are_refused,
        _what_is_permitted_is_not_refused_and_nothing_is_cut,
        _a_closed_bus_says_so,
    ):
        here = make()
        await here.connect()
        there = here if beside is None else beside()
        try:
            if there is not here:
                await there.connect()
            await _named(rule, here, there)
        finally:
            await here.close()
            await there.close()


async def _named(rule: Callable[[Bus, Bus], Awaitable[None]], here: Bus, there: Bus) -> None:
    try:
        await rule(here, there)
    except (AssertionError, TimeoutError) as error:
        raise AssertionError(
            f"{type(here).__name__} breaks {rule.__name__.strip('_').replace('_', ' ')!r}: {error}"
        ) from error


async def _settled(here: Bus, there: Bus) -> None:
    """Until what was subscribed `there` is known where `here` publishes: brokers tell each other in order."""
    await there.flush()
    seen = _Collector()
    subscription = there.subscribe("settled", seen)
    async with asyncio.timeout(_PATIENCE):
        while not seen.got:
            await there.flush()
            here.publish("settled", b"")
            await here.flush()
            await asyncio.sleep(0)
    subscription.unsubscribe()


async def _delivers_bytes_in_order(here: Bus, there: Bus) -> None:
    seen = _Collector()
    there.subscribe("a.b", seen)
    await _settled(here, there)
    sent = [bytes([n % 256]) * (n % 7) for n in range(500)]
    for data in sent:
        here.publish("a.b", data, reply="r.1")
    got = await seen.until(500)
    assert [d.data for d in got] == sent, "order or content changed"
    assert {(d.subject, d.reply) for d in got} == {("a.b", "r.1")}, "subject or reply changed"


async def _wildcards_match_tokens(here: Bus, there: Bus) -> None:
    one, rest, exact = _Collector(), _Collector(), _Collector()
    there.subscribe("a.*.c", one)
    there.subscribe("a.>", rest)
    there.subscribe("a.b.c", exact)
    await _settled(here, there)
    for subject in ("a.b.c", "a.c", "a.b.c.d", "a", "b.b.c"):
        here.publish(subject, b"")
    here.publish("a.x.c", b"")
    assert [d.subject for d in await one.until(2)] == ["a.b.c", "a.x.c"]
    assert [d.subject for d in await rest.until(4)] == ["a.b.c", "a.c", "a.b.c.d", "a.x.c"]
    assert [d.subject for d in exact.got] == ["a.b.c"]


async def _a_queue_gets_each_message_once(here: Bus, there: Bus) -> None:
    first, second, other = _Collector(), _Collector(), _Collector()
    there.subscribe("q", first, queue="workers")
    there.subscribe("q", second, queue="workers")
    there.subscribe("q", other, queue="audit")
    await _settled(here, there)
    for n in range(100):
        here.publish("q", str(n).encode())
    await other.until(100)
    got = sorted(int(d.data) for d in first.got + second.got)
    assert got == list(range(100)), "a message of a queue was lost or doubled"
    assert first.got, "one member got everything"
    assert second.got, "one member got everything"


async def _everyone_without_a_queue_gets_each_message(here: Bus, there: Bus) -> None:
    first, second = _Collector(), _Collector()
    here.subscribe("all", first)
    there.subscribe("all", second)
    await _settled(here, there)
    here.publish("all", b"x")
    assert await first.until(1)
    assert await second.until(1)


async def _one_publishers_order_is_kept_over_all_subjects(here: Bus, there: Bus) -> None:
    seen = _Collector()
    for subject in ("o.1", "o.2", "o.*.x"):
        there.subscribe(subject, seen, queue="q" if subject == "o.2" else None)
    await _settled(here, there)
    for n in range(300):
        here.publish(("o.1", "o.2", "o.3.x")[n % 3], b"%d" % n)
    assert [int(d.data) for d in await seen.until(300)] == list(range(300)), "they came in another order"


async def _an_answer_finds_its_asker(here: Bus, there: Bus) -> None:
    answers = _Collector()
    here.subscribe("inbox.*", answers)
    there.subscribe("echo", lambda asked: there.publish(asked.reply or "", asked.data), queue="q")
    await _settled(here, there)
    await _settled(there, here)
    for n in range(100):
        here.publish("echo", b"%d" % n, reply=f"inbox.{n}")
    got = await answers.until(100)
    assert [(d.subject, d.data, d.failure) for d in got] == [(f"inbox.{n}", b"%d" % n, None) for n in range(100)]


async def _how_many_receive_is_known_rightly_or_not_at_all(here: Bus, there: Bus) -> None:
    got = [_Collector() for _ in range(5)]
    for collector, (subject, queue) in zip(
        got, (("n.a", None), ("n.*", None), ("n.a", "q"), ("n.a", "q"), ("n.>", "r")), strict=True
    ):
        (here if queue is None else there).subscribe(subject, collector, queue=queue)
    await _settled(there, here)
    told = here.receivers("n.a"), here.receivers("n.b"), here.receivers("m")
    assert told in {(4, 2, 0), (None, None, None)}, f"{told} receive"


async def _nobody_there_is_known_at_once(here: Bus, there: Bus) -> None:
    inbox, gone = _Collector(), _Collector()
    here.subscribe("inbox.*", inbox)
    gone_from = there.subscribe("nobody.left", gone)
    await here.flush()
    here.publish("nobody.home", b"?", reply="inbox.1")
    here.publish("nobody.home", b"no reply wanted")
    [told] = await inbox.until(1)
    assert told.failure == "no_responders"
    assert told.subject == "inbox.1"
    gone_from.unsubscribe()
    await _settled(here, there)
    here.publish("nobody.left", b"?", reply="inbox.2")
    assert (await inbox.until(2))[1].failure == "no_responders"
    assert not gone.got


async def _an_unsubscribed_receiver_gets_nothing(here: Bus, there: Bus) -> None:
    gone, stays = _Collector(), _Collector()
    subscription = there.subscribe("s", gone)
    there.subscribe("s", stays)
    await there.flush()
    subscription.unsubscribe()
    subscription.unsubscribe()
    await _settled(here, there)
    here.publish("s", b"x")
    await stays.until(1)
    assert not gone.got


async def _a_receiver_may_use_the_bus(here: Bus, there: Bus) -> None:
    seen, late = _Collector(), _Collector()

    def receive(delivery: Delivery) -> None:
        seen(delivery)
        subscription.unsubscribe()
        there.subscribe("second", late)
        there.publish("second", b"from within")

    subscription = there.subscribe("first", receive)
    await _settled(here, there)
    here.publish("first", b"1")
    assert (await late.until(1))[0].data == b"from within"
    await _settled(here, there)
    here.publish("first", b"2")
    await _settled(here, there)
    assert len(seen.got) == 1, "it got a message after it had ended"


async def _what_is_on_its_way_when_a_receiver_ends_is_not_lost(here: Bus, there: Bus) -> None:
    answers, seen = _Collector(), _Collector()
    here.subscribe("inbox.*", answers)

    def receive(delivery: Delivery) -> None:
        seen(delivery)
        subscription.unsubscribe()
        there.publish(delivery.reply or "", b"")

    subscription = there.subscribe("leaving", receive, queue="q")
    await _settled(here, there)
    await _settled(there, here)
    for n in range(100):
        here.publish("leaving", b"", reply=f"inbox.{n}")
    got = await answers.until(100)
    assert len(got) == len({one.subject for one in got}) == 100, "an asker was told twice"
    assert seen.got


async def _malformed_subjects_are_refused(_: Bus, there: Bus) -> None:
    for subject in ("", "a..b", ".a", "a.", "a.>.b", "a b", "a\r\nb", "a\tb"):
        try:
            there.subscribe(subject, _Collector())
        except ValueError:
            continue
        raise AssertionError(f"subject {subject!r} was accepted")


async def _publish_never_calls_the_subscriber_itself(here: Bus, there: Bus) -> None:
    seen = _Collector()
    there.subscribe("later", seen)
    await _settled(here, there)
    here.publish("later", b"x")
    assert not seen.got, "delivered from within publish"
    await seen.until(1)


async def _a_flush_waits_for_what_was_published(here: Bus, _: Bus) -> None:
    seen = _Collector()
    here.subscribe("f", seen)
    await _settled(here, here)
    for n in range(100):
        here.publish("f", b"")
        if n % 10 == 9:
            await here.flush()
            assert len(seen.got) == n + 1, "a flush returned before what was published had been with the bus"


async def _large_messages_pass_and_larger_ones_are_refused(here: Bus, there: Bus) -> None:
    seen = _Collector()
    there.subscribe("large", seen)
    await _settled(here, there)
    data = bytes(range(256)) * (min(here.max_payload, 1 << 20) // 256)
    here.publish("large", data)
    assert (await seen.until(1))[0].data == data
    if here.max_payload > 1 << 24:
        return
    try:
        here.publish("large", bytes(here.max_payload + 1))
    except MessageTooLarge:
        return
    raise AssertionError("a message above the limit was accepted")


async def _what_is_permitted_is_not_refused_and_nothing_is_cut(here: Bus, there: Bus) -> None:
    cut: list[bool] = []
    here.when_cut(lambda: cut.append(True))
    subscription = there.subscribe("permitted", _Collector())
    await _settled(here, there)
    assert subscription.refused is None
    assert not cut, "it was cut off while nothing happened"


async def _a_closed_bus_says_so(here: Bus, there: Bus) -> None:
    seen = _Collector()
    there.subscribe("last", seen)
    await _settled(here, there)
    here.publish("last", b"x")
    await here.close()
    await here.close()
    await seen.until(1)
    try:
        here.publish("last", b"y")
    except Unavailable:
        return
    raise AssertionError("publish on a closed bus was accepted")
