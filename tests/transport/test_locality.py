"""An asker comes to the nearest replica, and begins again when that is gone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbactor.errors import InvalidSpec
from mbactor.transport import Address
from mbactor.transport.locality import Nearest, check_locality, common, places_of

PARTS = st.lists(st.sampled_from("ab"), min_size=1, max_size=4)
PLACES = PARTS.map("-".join)
HERE = Address("shop.example", "/place")


@given(PLACES, PLACES)
def test_what_two_places_share_lies_around_both_and_nothing_narrower_does(one: str, other: str) -> None:
    shared = common(one, other)
    assert shared == common(other, one)
    assert common(one, one) == one
    both = set(places_of(one)) & set(places_of(other))
    assert shared == max(both, key=len, default="")


def test_a_place_lies_in_the_ones_its_name_begins_with() -> None:
    assert places_of("eu-west-b-1") == ["eu", "eu-west", "eu-west-b", "eu-west-b-1"]
    assert common("eu-west-b-1", "eu-west-b-10") == "eu-west-b"


@given(PLACES, st.lists(PLACES, min_size=1, max_size=6), st.data())
def test_an_asker_converges_to_the_nearest_wherever_its_requests_went(
    own: str, replicas: list[str], data: st.DataObject
) -> None:
    nearest = Nearest(own)
    best = max((common(own, one) for one in replicas), key=len)
    for _ in range(len(places_of(own)) + len(replicas) * 2):
        sent = nearest(HERE, 0)
        place = (sent.replica or "").removeprefix("loc-")
        there = [one for one in replicas if not place or place in places_of(one)]
        assert there, "it only asks at a place that somebody serves"
        # Any of them gets it; each is drawn in the end.
        farther = [one for one in there if len(common(own, one)) > len(place)]
        nearest.answered(HERE, data.draw(st.sampled_from(farther or there)), 0)
    assert nearest(HERE, 0).replica == (f"loc-{best}" if best else None)


def test_an_answer_from_farther_away_that_comes_later_changes_nothing() -> None:
    """Of what was asked before the nearest was known."""
    nearest = Nearest("eu-west-b-1")
    for by in ("eu-west-b-2", "eu-west-a-1", "eu-east", "us", ""):
        nearest.answered(HERE, by, 0)
        assert nearest(HERE, 0).replica == "loc-eu-west-b"


@given(own=PLACES, by=PLACES, asked_twice=st.booleans())
def test_where_nobody_is_any_more_it_asks_anybody(own: str, by: str, *, asked_twice: bool) -> None:
    nearest = Nearest(own)
    nearest.answered(HERE, by, 0)
    if asked_twice:
        nearest.answered(HERE, own, 0)
    nearest.nobody(HERE)
    assert nearest(HERE, 0) is HERE


def test_a_replica_or_a_place_that_is_named_is_meant_and_a_nearer_one_is_forgotten_after_a_day() -> None:
    nearest = Nearest("eu-west")
    nearest.answered(HERE, "eu-west", 0)
    named = Address("shop.example", "/place", replica="id-1")
    assert nearest(named, 0) is named
    assert nearest(HERE, 24 * 3600 - 1).replica == "loc-eu-west"
    assert nearest(HERE, 24 * 3600 + 1).replica is None
    for other in range(5000):
        nearest.answered(Address("shop.example", f"/{other}"), "eu-west", 0)
    assert nearest(HERE, 0).replica is None


def test_what_gets_no_answer_asks_where_it_was_taken_once_a_second_until_that_is_as_near_as_can_be() -> None:
    nearest = Nearest("eu-west")
    assert [nearest.to_ask(HERE, now) for now in (0, 0.5, 1, 1.9, 2)] == [True, False, True, False, True]
    nearest.answered(HERE, "eu-east", 3)
    assert [nearest.to_ask(HERE, now) for now in (3, 3.5, 4)] == [True, False, True]
    nearest.answered(HERE, "eu-west-b", 4)
    assert not any(nearest.to_ask(HERE, now) for now in (5, 6, 7))
    nearest.nobody(HERE)
    assert nearest.to_ask(HERE, 8)


@pytest.mark.parametrize("wrong", ["", "EU", "eu west", "-eu", "eu--west", "eu.west", "x" * 65, 5])
def test_what_is_no_locality_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidSpec, match="such as eu-west-b-1"):
        check_locality(wrong)
    assert check_locality("eu-west-b-1") == "eu-west-b-1"
