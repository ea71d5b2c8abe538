"""What is sent again: only what was certainly not taken, a few times, and within the time budget."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbactor.errors import (
    ActorCrashed,
    ActorRestarting,
    ActorStopped,
    BudgetSpent,
    Forbidden,
    MailboxFull,
    MbactorError,
    NodeLeaving,
    NoSuchActor,
    NotAcknowledged,
    Unavailable,
)
from mbactor.transport.repeats import LIMITS, Chances, Refusal, Repeat, refusal_by_actor, refusal_by_bus, repeat
from mbactor.transport.replicas import EACH, HOSTS, Replicas

refusals = st.sampled_from(get_args(Refusal))
chances = st.builds(
    Chances,
    left=st.floats(-1, 30),
    others=st.booleans(),
    by_ref=st.booleans(),
    seconds=st.floats(0, 20),
    drawn=st.floats(0, 1),
)


@given(st.lists(refusals), chances)
def test_whatever_happens_it_ends_within_the_limits_and_the_budget(coming: list[Refusal], each: Chances) -> None:
    earlier: list[Refusal] = []
    for refusal in coming:
        found = repeat(refusal, tuple(earlier), each)
        if found is None:
            break
        assert 0 <= found.after < each.left
        assert not found.elsewhere or (each.others and not each.by_ref)
        earlier.append(refusal)
    assert all(earlier.count(refusal) <= LIMITS[refusal] for refusal in get_args(Refusal))


@pytest.mark.parametrize(
    ("refusal", "earlier", "given", "found"),
    [
        ("nobody", (), Chances(1.0), Repeat(0.02)),
        ("nobody", ("nobody",), Chances(1.0), None),
        ("nobody", (), Chances(0.01), None),
        ("full", (), Chances(1.0, others=True), Repeat(0.0, elsewhere=True)),
        ("full", ("full",), Chances(1.0, others=True), None),
        ("full", (), Chances(1.0), None),
        ("full", (), Chances(1.0, others=True, by_ref=True), None),
        ("leaving", (), Chances(1.0, drawn=0.5), Repeat(0.01)),
        ("leaving", (), Chances(1.0, others=True, drawn=0.5), Repeat(0.01)),
        ("leaving", ("leaving",) * 3, Chances(1.0, drawn=0.5), Repeat(0.08)),
        ("leaving", ("leaving",) * 29, Chances(1.0, drawn=1.0), Repeat(0.32)),
        ("leaving", ("leaving",) * 30, Chances(1.0), None),
        ("leaving", (), Chances(1.0, by_ref=True), None),
        ("restarting", (), Chances(9.0, seconds=3.0, drawn=1.0), Repeat(3.1)),
        ("restarting", (), Chances(2.0, seconds=3.0), None),
        ("restarting", ("restarting",) * 2, Chances(9.0), Repeat(0.4)),
        ("restarting", ("restarting",) * 3, Chances(9.0), None),
        ("restarting", (), Chances(9.0, seconds=3.0, others=True), Repeat(0.0, elsewhere=True)),
        ("away", (), Chances(9.0, others=True, drawn=1.0), Repeat(0.4)),
        ("away", ("away",) * 2, Chances(9.0), Repeat(1.2)),
        ("away", ("away",) * 2, Chances(1.2), None),
        ("away", ("away",) * 3, Chances(9.0), None),
    ],
)
def test_each_refusal_by_itself(
    refusal: Refusal, earlier: tuple[Refusal, ...], given: Chances, found: Repeat | None
) -> None:
    assert repeat(refusal, earlier, given) == found


def test_only_what_was_not_taken_is_a_refusal() -> None:
    full, leaving, restarting = MailboxFull("a", 1), NodeLeaving("a"), ActorRestarting("a", 2.0)
    assert [refusal_by_actor(one) for one in (full, leaving, restarting)] == ["full", "leaving", "restarting"]
    assert [refusal_by_bus(one) for one in (NoSuchActor("a"), Unavailable("a"))] == ["nobody", "restarting"]
    others: list[MbactorError] = [
        ActorCrashed("a"), ActorStopped("a"), BudgetSpent("a"), NotAcknowledged("a"), Forbidden("a", "b"),
    ]  # fmt: skip
    assert {refusal_by_bus(one) for one in others} == {None}
    for one in (*others, NoSuchActor("a"), Unavailable("a")):
        assert refusal_by_actor(one) is None, one
    for one in (full, leaving, restarting):
        one.taken = "yes"  # its method has asked somebody else, who refused
        assert refusal_by_actor(one) is None


def test_replicas_are_remembered_within_bounds() -> None:
    known = Replicas()
    for n in range(HOSTS + 10):
        for replica in range(EACH + 3):
            known.saw(f"h{n}", f"id-{replica}")
    assert known.others("h0", "") == []
    assert known.others("h100", "id-5") == [f"id-{n}" for n in range(3, EACH + 3) if n != 5]
    known.gone("h100", "id-4")
    assert "id-4" not in known.others("h100", "")
    known.gone("never", "seen")
