"""`reducer_laws`: the built-in reducers keep them, and each broken law is found and named."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import strategies as st

from mbactor.foreman import Reducer, reducer
from mbactor.testing import reducer_laws

COUNTER = itertools.count()


@reducer("laws_longest")
def longest(base: str | None, incoming: str) -> str:
    return max(base or "", incoming, key=len)


@reducer("laws_random")
def differs(base: int | None, incoming: int) -> int:
    return next(COUNTER)


@reducer("laws_set")
def as_a_set(base: set[int] | None, incoming: list[int]) -> set[int]:
    return (base or set()) | set(incoming)


@reducer("laws_mean")
def mean(base: float | None, incoming: float) -> float:
    return incoming if base is None else (base + incoming) / 2


@reducer("laws_present")
def needs_a_base(base: list[int], incoming: list[int]) -> list[int]:
    return base + incoming


@reducer("laws_difference")
def difference(base: int | None, incoming: int) -> int:
    return (base or 0) - incoming


@reducer("laws_untold")
def untold(base, incoming):  # type: ignore[no-untyped-def]
    return incoming


@pytest.mark.parametrize("name", list(Reducer))
def test_every_built_in_reducer_keeps_all_laws_it_claims(name: Reducer) -> None:
    reducer_laws(name, max_examples=40)


def test_a_users_reducer_is_given_by_its_function_or_its_name() -> None:
    reducer_laws(longest, associative=True, max_examples=40)
    reducer_laws("laws_longest", st.text("ab", min_size=1), max_examples=40)


@pytest.mark.parametrize(
    ("function", "claims", "law"),
    [
        (differs, {}, "the same values give the same result"),
        (as_a_set, {}, "one by one equals one pass"),
        (needs_a_base, {}, "it takes its values"),
        (mean, {"associative": True}, "grouped"),
        (difference, {"associative": True}, "grouped"),
        (longest, {"any_order": True}, "order of branches"),
    ],
)
def test_a_broken_law_is_named_with_the_values_that_break_it(function: Any, claims: dict[str, Any], law: str) -> None:
    with pytest.raises(AssertionError, match=rf"reducer 'laws_\w+', values \[.*({law})"):
        reducer_laws(function, **claims)


def test_what_is_not_claimed_is_not_asked() -> None:
    reducer_laws(mean, max_examples=40)


def test_a_claim_can_be_made_of_a_built_in_reducer_that_does_not_keep_it() -> None:
    with pytest.raises(AssertionError, match="order of branches"):
        reducer_laws(Reducer.CONCAT, any_order=True)


def test_what_is_no_reducer_and_what_has_no_values_is_said() -> None:
    with pytest.raises(TypeError, match=r"no registered reducer; decorate the function with @reducer"):
        reducer_laws(lambda base, incoming: incoming)
    with pytest.raises(TypeError, match=r"'nobody' is no registered reducer.*append"):
        reducer_laws("nobody")
    with pytest.raises(TypeError, match=r"give values="):
        reducer_laws(untold)
