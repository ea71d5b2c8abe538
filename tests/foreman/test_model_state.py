"""The state of a flow: what may be stored, and the laws of states and deltas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbactor.errors import InvalidState
from mbactor.foreman.model.state import (
    Fields,
    accumulate,
    apply,
    comparable,
    decode_all,
    decode_fields,
    decode_value,
    encode_fields,
    encode_value,
    initial_state,
)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)
names = st.sampled_from(["a", "b", "c", "d"])
deltas = st.dictionaries(names, json_values.map(encode_value), max_size=4)
states = deltas.map(lambda fields: apply({}, fields))


@given(states, deltas, deltas)
@settings(deadline=None)
def test_applying_two_deltas_equals_applying_them_accumulated(state: Fields, first: Fields, second: Fields) -> None:
    assert apply(apply(state, first), second) == apply(state, accumulate(first, second))


@given(states, deltas)
def test_a_state_holds_no_nulls_and_its_sources_are_left_alone(state: Fields, delta: Fields) -> None:
    before = dict(state), dict(delta)
    after = apply(state, delta)
    assert all(raw != msgspec.Raw(b"null") for raw in after.values())
    assert (state, delta) == before
    assert after is not state


@given(deltas, deltas)
def test_accumulating_keeps_tombstones(first: Fields, second: Fields) -> None:
    both = accumulate(first, second)
    assert set(both) == set(first) | set(second)
    assert all(both[name] == raw for name, raw in second.items())


@given(json_values)
@settings(deadline=None)
def test_a_value_survives_encoding_whatever_its_size(value: Any) -> None:
    assert decode_value(encode_value(value)) == value


@given(states)
def test_fields_survive_their_json_form(state: Fields) -> None:
    assert decode_fields(encode_fields(state)) == state


def test_a_number_nobody_reads_is_carried_byte_for_byte() -> None:
    text = b'{"id":12345678901234567890123,"x":1.50}'
    assert encode_fields(apply(decode_fields(text), {})) == text


def test_decoded_fields_do_not_depend_on_the_buffer_they_came_from() -> None:
    buffer = bytearray(b'{"a":[1,2,3]}')
    fields = decode_fields(bytes(buffer))
    buffer[:] = b"x" * len(buffer)
    assert decode_all(fields) == {"a": [1, 2, 3]}


class Point(msgspec.Struct):
    x: float
    label: str | None = None


@dataclass
class Plain:
    y: int


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (float("nan"), "v is nan"),
        ({"a": [1, {"b": float("inf")}]}, "v.a[1].b is inf"),
        (Point(float("-inf")), "v.x is -inf"),
        ({"a": (1.0, float("nan"))}, "v.a[1]"),
        ("a\0b", "NUL"),
        ({"deep": [{"text": "\0"}]}, "v.deep[0].text holds a NUL"),
        ({"k\0": 1}, "NUL"),
        ("\ud800", "surrogates"),
        (object(), "object"),
        ({(1, 2): 3}, "v cannot be stored"),
        (msgspec.Raw(b"NaN"), "v cannot be stored"),
        (msgspec.Raw(b"1e999"), "v cannot be stored"),
        ({"a": None, "r": msgspec.Raw(b'"\\u0000"')}, "v.r holds a NUL"),
        ([10**5000], "digits"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_path(value: Any, path: str) -> None:
    with pytest.raises(InvalidState) as caught:
        encode_value(value, "v")
    assert path in str(caught.value)
    assert caught.value.status == 400


@pytest.mark.parametrize("value", ["null", "\\u0000", [None, 1.5], Point(1.0), {"a": None}])
def test_what_only_looks_like_it_is_stored(value: Any) -> None:
    assert encode_value(value) == msgspec.Raw(msgspec.json.encode(value))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, {}),
        (b"", {}),
        (b"null", {}),
        ({}, {}),
        ({"a": 1, "gone": None}, {"a": 1}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (b'{"a": {"b": [1]}, "c": null}', {"a": {"b": [1]}}),
        (Point(1.5), {"x": 1.5}),
        (Plain(3), {"y": 3}),
        (msgspec.Raw(b'{"a":1}'), {"a": 1}),
    ],
)
def test_an_initial_state_is_anything_with_named_fields(value: Any, expected: Mapping[str, Any]) -> None:
    assert decode_all(initial_state(value)) == expected


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        5,
        True,
        "text",
        b"[1]",
        b"{",
        b"5",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": "\\u0000"}',
        b'"\xff"',
        {"a": float("nan")},
        {1: 2},
        {"a\0": 1},
        {"\ud800": 1},
    ],
)
def test_any_other_initial_state_is_a_bad_request(value: Any) -> None:
    with pytest.raises(InvalidState) as caught:
        initial_state(value)
    assert caught.value.status == 400


def test_a_typed_read_says_what_does_not_fit() -> None:
    with pytest.raises(InvalidState, match="is not Point"):
        decode_value(encode_value({"x": "no"}), Point)
    with pytest.raises(InvalidState, match=r"is not list\[tests\.foreman\.test_model_state\.Point\]: .* at `\$\[0\]"):
        decode_value(encode_value([{"x": "no"}]), list[Point])


def test_fields_are_read_from_an_object_only() -> None:
    with pytest.raises(InvalidState, match="JSON object"):
        decode_fields(b"[1]")


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ([1, 2], [2, 1], False),
        ([], {}, False),
        ("1", 1, False),
        (None, False, False),
        ([True], ["bool", True], False),
    ],
)
def test_values_are_the_same_as_json_values_are(left: Any, right: Any, same: bool) -> None:
    assert (comparable(left) == comparable(right)) is same
