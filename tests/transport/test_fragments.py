"""Fragments: whatever comes, in whatever order, makes the body that was sent or none; and the bounds hold."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mbactor.errors import BadRequest, BudgetSpent, MbactorError, MessageTooLarge, Unavailable
from mbactor.transport.fragments import CHUNK, Cut
from mbactor.transport.message import Envelope, Message
from mbactor.transport.reassembly import LEAST, LENT, QUIET, Bounds, Event, Pull, Reassembly, Refused, Whole

NEVER = float("inf")
SMALL = Bounds(body=64_000, all=128_000, sender=64_000, messages=8, coming=8_000, ahead=4_000, silent=3)


def body_of(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def cut(size: int, limit: int = 2_000, seed: int = 0) -> Cut:
    return Cut(Message(Envelope("ask", "1"), body_of(size, seed)), limit)


def add(
    reassembly: Reassembly[str], message: Message, key: str = "a", sender: str = "s", deadline: float = NEVER
) -> list[Event[str]]:
    return reassembly.add(key, sender, message.envelope.fragment, message.body, key, deadline)


def refusal(events: list[Event[str]]) -> MbactorError:
    [error] = [event.error for event in events if isinstance(event, Refused)]
    return error


def bodies(events: list[Event[str]]) -> list[bytes]:
    return [event.body for event in events if isinstance(event, Whole)]


# --- cutting --------------------------------------------------------------------------------------------------------


@given(
    st.integers(2_000, 20_000),
    st.integers(1_400, 1_900),
    st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=9),
)
def test_no_fragment_is_above_the_limit_and_together_they_are_the_body(
    size: int, limit: int, baggage: dict[str, str]
) -> None:
    body = body_of(size)
    made = Cut(Message(Envelope("ask", "17", 2.5, baggage=baggage, query="x=1"), body), limit)
    parts = [made[number] for number in range(1, made.of + 1)]
    assert all(len(part.to_bytes()) <= limit for part in parts)
    assert b"".join(part.body for part in parts) == body
    assert made.of >= 2
    assert parts[0].envelope.query == "x=1"
    assert [part.envelope.fragment for part in parts] == [(n, made.of) for n in range(1, made.of + 1)]


def test_a_fragment_is_no_longer_than_pays_and_is_no_copy() -> None:
    body = bytes(10 * CHUNK)
    made = Cut(Message(Envelope("ask", "1"), body), 1024 * 1024)
    assert made.of == 10
    part: Any = made[3].body
    assert isinstance(part, memoryview)
    assert part.obj is body


def test_of_a_hundred_thousand_fragments_none_is_above_the_limit_either() -> None:
    made = Cut(Message(Envelope("ask", "1"), bytes(100_000 * LEAST)), 1_100)
    assert made.of > 2**16
    assert max(len(made[number].to_bytes()) for number in (1, 2**16, 2**16 + 1, made.of - 1, made.of)) <= 1_100


def test_an_envelope_that_leaves_no_room_is_refused() -> None:
    message = Message(Envelope("ask", "1", baggage={"k": "x" * 1_000}), bytes(5_000))
    with pytest.raises(
        MessageTooLarge, match=r"at most 2000 \(its setting max_payload\), which is too little"
    ) as caught:
        Cut(message, 2_000)
    assert caught.value.size > 6_000


# --- putting together -----------------------------------------------------------------------------------------------


class Way:
    """Fragments of several messages on their way, where anything happens to them."""

    def __init__(self, sizes: list[int], data: st.DataObject) -> None:
        self.cuts = [cut(size, seed=seed) for seed, size in enumerate(sizes)]
        self.sizes = sizes
        self.data = data

    def schedule(self) -> list[tuple[int, int]]:
        """(which message, which fragment), in any order, with some missing and some twice."""
        every = [(which, number) for which, made in enumerate(self.cuts) for number in range(1, made.of + 1)]
        order = self.data.draw(st.permutations(every))
        if self.data.draw(st.booleans()):  # as a bus does it: the first comes first
            order = sorted(order, key=lambda each: each[1] != 1)
        dropped = self.data.draw(st.sets(st.sampled_from(every), max_size=2))
        twice = self.data.draw(st.lists(st.sampled_from(every), max_size=2))
        return [each for each in order if each not in dropped] + twice


@given(st.lists(st.integers(2_000, 12_000), min_size=1, max_size=4), st.data())
def test_any_order_doubling_and_loss_gives_the_body_once_or_a_refusal_or_nothing(
    sizes: list[int], data: st.DataObject
) -> None:
    way, reassembly = Way(sizes, data), Reassembly[str](SMALL)
    got: dict[str, list[bytes]] = {}
    refused: list[str] = []
    for which, number in way.schedule():
        for event in add(reassembly, way.cuts[which][number], str(which)):
            if isinstance(event, Whole):
                got.setdefault(event.first, []).append(event.body)
            elif isinstance(event, Refused):
                refused.append(event.first)
        assert reassembly.held <= SMALL.all
    assert len(refused) == len(set(refused))
    for key, found in got.items():
        assert found == [body_of(sizes[int(key)], int(key))]
        assert key not in refused
    for _ in range(SMALL.silent + 1):
        reassembly.sweep(0.0)
    left = {str(n) for n in range(len(sizes))} - {*got, *refused}
    assert len(reassembly) <= len(left)  # what it has not asked for, it waits for


@settings(max_examples=50)
@given(st.lists(st.integers(2_000, 40_000), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_who_sends_as_far_as_asked_is_served_in_turn_and_little_is_on_its_way(
    sizes: list[int], chance: random.Random
) -> None:
    """Also where the fragments of one message pass each other."""
    roomy = Bounds(body=64_000, all=10**6, sender=10**6, coming=8_000, ahead=4_000)
    reassembly = Reassembly[str](roomy)
    cuts = [cut(size, seed=seed) for seed, size in enumerate(sizes)]
    sent = [1] * len(cuts)
    on_way = [(which, 1) for which in range(len(cuts))]
    done = {}
    while on_way:
        which, number = on_way.pop(chance.randrange(len(on_way)))
        for event in add(reassembly, cuts[which][number], str(which)):
            asked = int(event.first)
            if isinstance(event, Pull):
                on_way += [(asked, n) for n in range(sent[asked] + 1, event.number + 1)]
                sent[asked] = event.number
            else:
                assert isinstance(event, Whole)
                done[asked] = event.body
        assert sum(len(cuts[w][n].body) for w, n in on_way if n > 1) <= roomy.coming + 2_000  # and one more
    assert done == {which: body_of(size, which) for which, size in enumerate(sizes)}
    assert (reassembly.held, len(reassembly)) == (0, 0)


@pytest.mark.parametrize(
    ("fragment", "size", "why"),
    [
        ((2, 4), LEAST, "fragment 2 says that there are 4; the first said 5"),
        ((6, 5), LEAST, "fragment 6: expected 1 to 5"),
        ((-1, 5), LEAST, "fragment -1: expected 1 to 5"),
        ((1, 5), LEAST + 1, "fragment 1 of 5 has 1025 bytes; the first had 1024"),
        ((2, 5), LEAST + 1, "fragment 2 of 5 has 1025 bytes; the first had 1024"),
        ((2, 5), 0, "fragment 2 of 5 has 0 bytes"),
        ((5, 5), LEAST + 1, "fragment 5 of 5, the last, has 1025 bytes; expected 1 to 1024"),
        ((5, 5), 0, "fragment 5 of 5, the last, has 0 bytes"),
    ],
)
def test_a_lie_ends_the_message_and_gives_its_room_back(fragment: tuple[int, int], size: int, why: str) -> None:
    reassembly = Reassembly[str](SMALL)
    reassembly.add("a", "s", (1, 5), bytes(LEAST), "first", NEVER)
    events = reassembly.add("a", "s", fragment, bytes(size), "second", NEVER)
    error = refusal(events)
    assert isinstance(error, BadRequest)
    assert str(error).startswith(why)
    assert error.taken == "no"
    assert [event.first for event in events] == ["first"]
    assert (reassembly.held, len(reassembly)) == (0, 0)
    for number in range(1, 6):
        assert reassembly.add("a", "s", (number, 5), bytes(LEAST), "late", NEVER) == []


def test_only_the_first_fragment_begins_a_message() -> None:
    reassembly = Reassembly[str](SMALL)
    made = cut(5_000)
    assert isinstance(refusal(add(reassembly, made[2])), Unavailable)
    assert add(reassembly, made[3]) == []  # said once
    assert add(reassembly, made[1]) == []


@pytest.mark.parametrize(("of", "size"), [(1, LEAST), (0, LEAST), (-3, LEAST), (2, LEAST - 1), (2, 0)])
def test_a_first_fragment_that_makes_no_sense_is_refused(of: int, size: int) -> None:
    reassembly = Reassembly[str](SMALL)
    assert isinstance(refusal(reassembly.add("a", "s", (1, of), bytes(size), "x", NEVER)), BadRequest)
    assert reassembly.held == 0


def test_what_is_too_large_is_refused_at_its_first_fragment_with_the_limit() -> None:
    reassembly = Reassembly[str](SMALL)
    error = refusal(reassembly.add("a", "s", (1, 10**9), bytes(LEAST), "x", NEVER))
    assert isinstance(error, MessageTooLarge)
    assert error.limit == SMALL.body
    assert reassembly.held == 0


def test_the_last_fragment_cannot_make_a_body_larger_than_the_limit() -> None:
    reassembly = Reassembly[str](Bounds.of(2 * LEAST - 10))
    reassembly.add("a", "s", (1, 2), bytes(LEAST), "x", NEVER)
    assert isinstance(refusal(reassembly.add("a", "s", (2, 2), bytes(LEAST), "x", NEVER)), MessageTooLarge)


@pytest.mark.parametrize("chunk", [LEAST, 5_000, 32_001, 63_999])
def test_a_body_of_just_the_limit_has_room_however_it_is_cut_and_one_byte_more_has_not(chunk: int) -> None:
    for more in (0, 1):
        body, reassembly = body_of(SMALL.body + more), Reassembly[str](SMALL)
        parts = [body[at : at + chunk] for at in range(0, len(body), chunk)]
        events = [
            event
            for number, part in enumerate(parts, 1)
            for event in reassembly.add("a", "s", (number, len(parts)), part, "a", NEVER)
        ]
        assert bodies(events) == [body][more:]
        assert len([event for event in events if isinstance(event, Refused)]) == more


def test_room_is_bounded_for_each_sender_and_for_all_and_comes_back() -> None:
    reassembly = Reassembly[str](SMALL)
    made = cut(40_000)
    assert isinstance(add(reassembly, made[1], "a", "s")[0], Pull)
    error = refusal(add(reassembly, made[1], "b", "s"))
    assert (error.status, error.taken) == (503, "no")
    assert "of them from s" in str(error)
    assert isinstance(add(reassembly, made[1], "c", "other")[0], Pull)
    assert isinstance(add(reassembly, made[1], "d", "third")[0], Pull)
    assert refusal(add(reassembly, made[1], "e", "fourth")).status == 503
    assert reassembly.held <= SMALL.all
    reassembly.refuse("a", MbactorError("not wanted"))
    assert isinstance(add(reassembly, made[1], "f", "s")[0], Pull)


def test_the_room_of_one_sender_and_of_all_is_in_proportion_to_the_largest_body() -> None:
    least = 256 * 1024 * 1024
    for body, room in ((1, least), (least, least), (3 * least, 3 * least)):
        bounds = Bounds.of(body)
        assert (bounds.body, bounds.sender, bounds.all) == (body, room, 2 * room)


def test_the_number_of_messages_is_bounded() -> None:
    reassembly = Reassembly[str](Bounds(messages=2))
    made = cut(3_000)
    for key in "ab":
        add(reassembly, made[1], key)
    assert "2 messages in fragments are being received" in str(refusal(add(reassembly, made[1], "c")))


def test_what_is_not_continued_is_given_up_and_told_and_what_waits_for_its_turn_is_not() -> None:
    reassembly = Reassembly[str](Bounds(coming=3_000, ahead=3_000, silent=3))
    made = cut(30_000)
    for n, key in enumerate("abc"):
        add(reassembly, made[1], key, f"s{n}")  # a and b have all that may be on its way; c waits
    for _ in range(3):
        assert not [event for event in reassembly.sweep(0.0) if isinstance(event, Refused)]
    events = reassembly.sweep(0.0)
    assert {event.first for event in events if isinstance(event, Refused)} == {"a", "b"}
    assert [event.number > 1 for event in events if isinstance(event, Pull) and event.first == "c"][-1:] == [True]
    assert len(reassembly) == 1


def test_whoever_waits_is_told_again_how_far_it_may_send() -> None:
    reassembly = Reassembly[str](SMALL)
    made = cut(30_000)
    [pull] = add(reassembly, made[1])
    assert reassembly.sweep(0.0) == []
    assert reassembly.sweep(0.0) == [pull]
    reassembly = Reassembly[str](Bounds(coming=1_500))
    for key in "ab":
        add(reassembly, made[1], key, key)
    for _ in range(2 * SMALL.silent):
        add(reassembly, made[1], "a", "a")
        waits = [event for event in reassembly.sweep(0.0) if isinstance(event, Pull) and event.first == "b"]
        assert waits == [Pull("b", 1, made.of)], "also as long as others come"


def test_the_deadline_ends_a_message() -> None:
    reassembly = Reassembly[str](SMALL)
    add(reassembly, cut(5_000)[1], deadline=10.0)
    assert reassembly.sweep(9.0) == []
    error = refusal(reassembly.sweep(10.0))
    assert isinstance(error, BudgetSpent)
    assert error.taken == "no"
    assert reassembly.held == 0


def test_without_a_deadline_a_message_ends_all_the_same_however_it_is_kept_alive() -> None:
    """A sender that sends one fragment over and over would have its room for ever."""
    reassembly = Reassembly[str](Bounds(lasts=20, silent=3))
    made = cut(9_000)
    add(reassembly, made[1])
    for _ in range(20):
        add(reassembly, made[2])
        assert not [event for event in reassembly.sweep(0.0) if isinstance(event, Refused)]
    error = refusal(reassembly.sweep(0.0))
    assert (error.status, error.taken, str(error)) == (503, "no", f"2 of {made.of} fragments had come after 21 s")
    assert (reassembly.held, len(reassembly)) == (0, 0)


def test_who_sends_all_of_it_again_is_heard_although_nothing_new_comes() -> None:
    reassembly = Reassembly[str](Bounds(silent=2))
    made = cut(9_000)
    for number in (1, 2, 3):
        add(reassembly, made[number])
    for number in (1, 2, 3):
        for _ in range(2):
            assert not [event for event in reassembly.sweep(0.0) if isinstance(event, Refused)]
        add(reassembly, made[number])
    events = [event for number in range(4, made.of + 1) for event in add(reassembly, made[number])]
    assert bodies(events) == [body_of(9_000)]


def test_a_sender_may_end_it_and_need_not_wait_to_be_asked() -> None:
    reassembly = Reassembly[str](SMALL)
    made = cut(40_000)
    add(reassembly, made[1])
    assert reassembly.add("a", "s", (0, made.of), b"", "a", NEVER) == []
    assert reassembly.add("unknown", "s", (0, made.of), b"", "a", NEVER) == []
    assert reassembly.held == 0
    events = [event for number in range(1, made.of + 1) for event in add(reassembly, made[number], "b")]
    assert bodies(events) == [body_of(40_000)]


def test_after_a_cut_nothing_is_left_and_nothing_goes_on() -> None:
    reassembly = Reassembly[str](SMALL)
    made = cut(5_000)
    add(reassembly, made[1])
    reassembly.clear()
    assert (reassembly.held, len(reassembly)) == (0, 0)
    assert add(reassembly, made[2]) == []


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.integers(-2, 9), st.integers(-2, 9), st.sampled_from([0, 1, LEAST, LEAST + 1]), st.sampled_from("abc")
        ),
        max_size=60,
    )
)
def test_no_stream_of_lies_breaks_the_books(stream: list[tuple[int, int, int, str]]) -> None:
    reassembly = Reassembly[str](SMALL)
    for number, of, size, key in stream:
        reassembly.add(key, key, (number, of), bytes(size), key, 5.0)
        assert 0 <= reassembly.held <= SMALL.all
    reassembly.sweep(5.0)
    assert (reassembly.held, len(reassembly), reassembly._coming, reassembly._of_sender) == (0, 0, 0, {})


def test_who_falls_silent_leaves_the_turns_to_others_and_has_them_again_when_heard() -> None:
    reassembly = Reassembly[str](Bounds(coming=4_000, ahead=4_000, silent=3))
    made = cut(12_000)
    assert add(reassembly, made[1], "a1", "a") == [Pull("a1", 3, 7)]
    assert add(reassembly, made[1], "a2", "a") == [Pull("a2", 2, 7)]
    assert add(reassembly, made[1], "b1", "b") == [Pull("b1", 1, 7)]
    assert add(reassembly, made[1], "a3", "a") == [Pull("a3", 1, 7)]
    for _ in range(QUIET - 1):
        assert Pull("b1", 3, 7) not in reassembly.sweep(0.0)
    pulls = reassembly.sweep(0.0)
    assert Pull("b1", 3, 7) in pulls
    assert Pull("a3", 3, 7) not in pulls
    events = [event for number in range(2, made.of + 1) for event in add(reassembly, made[number], "b1", "b")]
    assert bodies(events) == [body_of(12_000)]
    heard = add(reassembly, made[2], "a1", "a")
    assert Pull("a3", 2, 7) in heard
    events = [event for number in range(2, made.of + 1) for event in add(reassembly, made[number], "a2", "a")]
    assert bodies(events) == [body_of(12_000)]
    swept = [event for _ in range(3 * SMALL.silent) for event in reassembly.sweep(0.0)]
    assert sorted(event.first for event in swept if isinstance(event, Refused)) == ["a1", "a3"]
    assert (len(reassembly), reassembly._coming, reassembly._lent, reassembly._quiet) == (0, 0, 0, {})


def test_what_is_asked_of_those_that_are_silent_is_bounded_too() -> None:
    reassembly = Reassembly[str](Bounds(coming=4_000, ahead=4_000, silent=100))
    dead = [f"dead{number}" for number in range(LENT + 3)]
    pulled = dict.fromkeys(dead, 1)
    events = [event for key in dead for event in reassembly.add(key, key, (1, 9), bytes(2_000), key, NEVER)]
    for _ in range((QUIET + 1) * len(dead)):
        events += reassembly.sweep(0.0)
    for event in events:
        if isinstance(event, Pull):
            pulled[event.first] = max(pulled[event.first], event.number)
    assert sum(number > 1 for number in pulled.values()) == 1 + LENT


def test_of_those_that_have_ended_some_thousands_are_remembered() -> None:
    reassembly = Reassembly[str](SMALL)
    for number in range(5_000):
        assert isinstance(refusal(reassembly.add(str(number), "s", (1, 9), b"lie", "x", NEVER)), BadRequest)
    assert reassembly.add("4999", "s", (2, 9), b"lie", "x", NEVER) == []
    assert isinstance(refusal(reassembly.add("0", "s", (2, 9), b"lie", "x", NEVER)), Unavailable)


class Hears(RuleBasedStateMachine):
    """Whatever comes of whom and when, what is on its way is counted once: of who is quiet, and of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.reassembly = Reassembly[str](
            Bounds(body=64_000, all=10**6, sender=10**6, coming=4_000, ahead=2_500, silent=4)
        )
        self.cuts = [cut(size, seed=size) for size in (4_000, 9_000, 15_000)]

    @rule(which=st.integers(0, 2), number=st.integers(0, 12), process=st.sampled_from("abcd"), key=st.integers(0, 3))
    def comes(self, which: int, number: int, process: str, key: int) -> None:
        made = self.cuts[which]
        if number <= made.of:
            message = made[number] if number else made.last_word()
            fragment = message.envelope.fragment
            self.reassembly.add(f"{process}{key}{which}", "s", fragment, message.body, "x", NEVER, process)

    @rule()
    def sweep(self) -> None:
        self.reassembly.sweep(0.0)

    @invariant()
    def is_counted(self) -> None:
        books = self.reassembly
        coming = dict.fromkeys((False, True), 0)
        for entry in books._entries.values():
            coming[books._is_quiet(entry.process)] += entry.coming
        assert (books._coming, books._lent) == (coming[False], coming[True])
        assert books._lent <= LENT * books.bounds.coming

    def teardown(self) -> None:
        for _ in range(60):
            self.reassembly.sweep(0.0)
            self.is_counted()
        asked = [entry for entry in self.reassembly._entries.values() if entry.coming or entry.waits]
        assert asked == []


TestHears = Hears.TestCase


def test_one_that_was_cut_off_is_sent_again_from_the_first_and_what_is_here_already_is_dropped() -> None:
    reassembly = Reassembly[str](SMALL)
    made = cut(20_000)
    [began] = add(reassembly, made[1])
    assert isinstance(began, Pull)
    add(reassembly, made[2])
    [again] = add(reassembly, made[1])
    assert isinstance(again, Pull)
    assert again.number >= began.number, "whoever sends it again is told how far it may go"
    assert add(reassembly, made[2]) == []  # also where it was on its way since before
    events = [event for number in range(2, made.of + 1) for event in add(reassembly, made[number])]
    assert bodies(events) == [body_of(20_000)]
    assert (reassembly.held, len(reassembly), reassembly._coming) == (0, 0, 0)
    assert add(reassembly, made[1]) == []  # it was complete


def test_what_found_no_room_or_stood_still_may_be_sent_again_and_what_was_complete_may_not() -> None:
    reassembly = Reassembly[str](SMALL)
    made = cut(40_000)
    add(reassembly, made[1], "a", "s")
    assert refusal(add(reassembly, made[1], "b", "s")).status == 503
    reassembly.refuse("a", MbactorError("not wanted"))
    for _ in range(2):
        assert isinstance(add(reassembly, made[1], "b", "s")[0], Pull)
        swept = [event for _ in range(SMALL.silent + 1) for event in reassembly.sweep(0.0)]
        assert refusal(swept).status == 503
    assert add(reassembly, made[2], "b", "s") == []  # of those that are late
    events = [event for number in range(1, made.of + 1) for event in add(reassembly, made[number], "b", "s")]
    assert bodies(events) == [body_of(40_000)]
    assert add(reassembly, made[1], "b", "s") == []
