"""What was learnt is kept in number and age within its bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mbactor.transport.remembered import Remembered

CAPACITY, SECONDS = 3, 10.0
ACTS = st.lists(st.tuples(st.sampled_from(["get", "put", "drop"]), st.integers(0, 4), st.integers(0, 6)), max_size=60)


@given(ACTS)
def test_it_keeps_what_was_used_last_for_as_long_as_it_says(acts: list[tuple[str, int, int]]) -> None:
    kept = Remembered[int, int](CAPACITY, SECONDS)
    put: dict[int, tuple[float, int]] = {}
    used: list[int] = []  # the least recently used first
    now = 0.0
    for value, (act, key, pause) in enumerate(acts):
        now += pause
        if act == "put":
            kept.put(key, value, now)
            put[key] = (now, value)
            used = [*(one for one in used if one != key), key]
            if len(used) > CAPACITY:
                del put[used.pop(0)]
        elif act == "drop":
            kept.drop(key)
            put.pop(key, None)
            used = [one for one in used if one != key]
        else:
            at, found = put.get(key, (-SECONDS, None))
            if now < at + SECONDS:
                assert kept.get(key, now) == found
                used = [*(one for one in used if one != key), key]
            else:
                assert kept.get(key, now) is None
                put.pop(key, None)
                used = [one for one in used if one != key]
        assert len(kept) <= CAPACITY


def test_what_is_meant_is_dropped_together() -> None:
    kept = Remembered[str, int](10, 10)
    for n, key in enumerate(("a1", "b1", "a2")):
        kept.put(key, n, 0)
    kept.drop_where(lambda key: key.startswith("a"))
    assert (kept.get("a1", 0), kept.get("b1", 0), kept.get("a2", 0)) == (None, 1, None)
