"""Durations: read as people write them, written as people read them."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbactor.durations import Duration, seconds, seconds_of_text, text_of


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("5s", 5),
        ("1m30s", 90),
        ("250ms", 0.25),
        ("2h", 7200),
        ("1d", 86400),
        ("10us", 1e-5),
        ("1 h 5 m", 3900),
        (3, 3.0),
    ],
)
def test_a_duration_is_read(given_: str | int, expected: float) -> None:
    assert seconds(given_) == pytest.approx(expected)


def test_a_timedelta_is_a_duration() -> None:
    assert seconds(dt.timedelta(minutes=2)) == 120


@pytest.mark.parametrize("text", ["", "5", "s", "5 parsecs", "-5s", "1h-5m", "5s5"])
def test_a_text_without_units_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected numbers with units"):
        seconds_of_text(text)


@pytest.mark.parametrize(
    "value",
    [
        -1,
        float("nan"),
        float("inf"),
        True,
        pytest.param(10**400, id="too large"),
        pytest.param("9" * 400 + "d", id="too long"),
        dt.timedelta(microseconds=-1),
    ],
)
def test_what_is_less_than_nothing_or_no_number_is_refused(value: Duration) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        seconds(value)


@given(st.integers(0, 10**7) | st.integers(1, 999).map(lambda ms: ms / 1000))
def test_what_is_written_is_read_as_the_same(value: float) -> None:
    assert seconds_of_text(text_of(value)) == pytest.approx(value)
