"""Reducers: which one a field gets, and how values combine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbactor.errors import DeclarationError, ReducerError
from mbactor.foreman.model.reducers import Reducer, choose, fold, fold_explained, is_known, reducer
from mbactor.foreman.model.state import Fields, apply, comparable, decode_all, encode_value


@dataclass(frozen=True)
class Rules:
    reducers: Mapping[str, str] = field(default_factory=dict)
    prefix_reducers: bool = True


def fields(**values: Any) -> Fields:
    return {name: encode_value(value) for name, value in values.items()}


def folded(base: Mapping[str, Any], *deltas: Mapping[str, Any], rules: Rules | None = None) -> dict[str, Any]:
    return decode_all(fold(apply({}, fields(**base)), [fields(**delta) for delta in deltas], rules or Rules()))


def explicit(name: str, base: Any, *incoming: Any) -> Any:
    """The field's value after `incoming` were reduced onto `base` with the reducer set for it."""
    return folded({"f": base}, *({"f": value} for value in incoming), rules=Rules({"f": name})).get("f")


numbers = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False, width=32))
short_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
scalars = st.one_of(st.booleans(), st.integers(), short_texts)
arrays = st.lists(st.one_of(scalars, st.lists(scalars, max_size=2)), max_size=4)
objects = st.dictionaries(short_texts, scalars, max_size=3)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "append": arrays,
    "union": arrays,
    "add": numbers,
    "min": numbers,
    "max": numbers,
    "and": st.booleans(),
    "or": st.booleans(),
    "concat": short_texts,
    "merge": objects,
    "replace": st.one_of(scalars, arrays, objects),
}
COMBINING = sorted(set(VALUES) - {"replace"})


@st.composite
def named_values(draw: st.DrawFn) -> tuple[str, Any, list[Any]]:
    """A reducer, a base that fits it or is absent, and what comes in, deletions among it."""
    name = draw(st.sampled_from(sorted(VALUES)))
    maybe = st.one_of(st.none(), VALUES[name])
    return name, draw(maybe), draw(st.lists(maybe, max_size=5))


prefixed = st.fixed_dictionaries(
    {},
    optional={
        "sumScore": st.one_of(st.none(), st.integers()),
        "sum_score": st.one_of(st.none(), st.integers()),
        "listItems": st.one_of(st.none(), scalars, arrays),
        "list_items": st.one_of(st.none(), arrays),
        "setUsers": st.one_of(st.none(), arrays),
        "set_users": st.one_of(st.none(), arrays),
        "plain": st.one_of(st.none(), scalars, arrays, objects),
    },
)
bases = st.fixed_dictionaries(
    {}, optional={"sumScore": st.integers(), "listItems": arrays, "set_users": arrays, "plain": scalars, "z": scalars}
)


@given(named_values())
@settings(deadline=None, max_examples=300)
def test_folding_in_one_pass_equals_folding_one_by_one(case: tuple[str, Any, list[Any]]) -> None:
    name, base, incoming = case
    rules = Rules({"f": name})
    start = apply({}, fields(f=base))
    deltas = [fields(f=value) for value in incoming]
    step_by_step = start
    for delta in deltas:
        step_by_step = fold(step_by_step, [delta], rules)
    assert fold(start, deltas, rules) == step_by_step


@given(bases, st.lists(prefixed, max_size=5))
@settings(deadline=None, max_examples=300)
def test_folding_by_prefix_in_one_pass_equals_one_by_one_and_leaves_the_inputs(
    base: dict[str, Any], written: list[dict[str, Any]]
) -> None:
    start, deltas = fields(**base), [fields(**delta) for delta in written]
    before = dict(start), [dict(delta) for delta in deltas]
    step_by_step = start
    for delta in deltas:
        step_by_step = fold(step_by_step, [delta], Rules())
    assert fold(start, deltas, Rules()) == step_by_step
    assert (start, deltas) == before


@given(bases, st.lists(prefixed, max_size=4))
@settings(deadline=None)
def test_a_folded_state_holds_no_nulls(base: dict[str, Any], written: list[dict[str, Any]]) -> None:
    assert None not in folded(base, *written).values()


@pytest.mark.parametrize("name", COMBINING)
@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_null_is_the_identity_of_every_combining_reducer(name: str, data: st.DataObject) -> None:
    base = data.draw(VALUES[name])
    incoming = data.draw(VALUES[name])
    assert explicit(name, base, None) == base
    assert comparable(explicit(name, base, None, incoming, None)) == comparable(explicit(name, base, incoming))


def test_null_deletes_a_field_that_is_replaced() -> None:
    assert folded({"x": 1, "y": 2}, {"x": None}) == {"y": 2}
    assert folded({"x": 1}, {"x": None}, {"x": 3}) == {"x": 3}


@given(st.lists(st.integers(), min_size=1))
def test_integers_of_any_size_add_exactly(values: list[int]) -> None:
    assert explicit("add", 2**53 + 1, *values) == 2**53 + 1 + sum(values)
    assert explicit("max", None, *values) == max(values)
    assert explicit("min", None, *values) == min(values)


@given(st.lists(scalars), st.lists(st.lists(scalars)))
@settings(deadline=None)
def test_a_union_has_each_new_element_once_and_keeps_the_duplicates_of_its_base(
    base: list[Any], incoming: list[list[Any]]
) -> None:
    result = explicit("union", base, *incoming)
    assert result[: len(base)] == base
    added = [comparable(item) for item in result[len(base) :]]
    assert len(set(added)) == len(added)
    assert not set(added) & {comparable(item) for item in base}
    assert {comparable(i) for i in result} == {comparable(i) for part in (base, *incoming) for i in part}


@pytest.mark.parametrize(
    ("name", "base", "incoming", "expected"),
    [
        ("replace", 1, [2, 3], 3),
        ("", 1, [2], 2),
        ("append", None, [[1, 2]], [1, 2]),
        ("append", None, ["x"], ["x"]),
        ("append", [1], [[1], {"a": 1}, 2], [1, 1, {"a": 1}, 2]),
        ("union", None, [[1, 1.0, True, 1]], [1, True]),
        ("union", [{"a": 1, "b": 2}], [[{"b": 2, "a": 1}]], [{"a": 1, "b": 2}]),
        ("union", ["x"], ["y", "x"], ["x", "y"]),
        ("merge", {"a": 1, "b": {"x": 1}}, [{"b": {"y": 2}}], {"a": 1, "b": {"y": 2}}),
        ("merge", None, [{"a": 1}], {"a": 1}),
        ("add", 1, [2.5], 3.5),
        ("add", None, [7], 7),
        ("min", 3, [2.5, 4], 2.5),
        ("max", 2**60, [2**60 + 1], 2**60 + 1),
        ("and", True, [True, False], False),
        ("or", False, [False, True], True),
        ("concat", "ab", ["c", "d"], "abcd"),
    ],
)
def test_each_reducer_by_example(name: str, base: Any, incoming: Sequence[Any], expected: Any) -> None:
    result = explicit(name, base, *incoming)
    assert result == expected
    assert comparable(result) == comparable(expected)


@pytest.mark.parametrize(
    ("name", "base", "incoming", "types"),
    [
        ("add", "x", 1, ("string", "number")),
        ("add", 1, True, ("number", "boolean")),
        ("add", None, "1", ("nothing", "string")),
        ("min", [1], 1, ("array", "number")),
        ("append", {"a": 1}, [1], ("object", "array")),
        ("append", "x", "y", ("string", "string")),
        ("union", [1], {"a": 1}, ("array", "object")),
        ("union", {"a": 1}, [1], ("object", "array")),
        ("merge", {"a": 1}, [1], ("object", "array")),
        ("merge", [1], {"a": 1}, ("array", "object")),
        ("and", 1, True, ("number", "boolean")),
        ("or", True, "x", ("boolean", "string")),
        ("concat", "a", 1, ("string", "number")),
        ("add", 1e308, 1e308, ("number", "number")),
        ("add", 10**400, 1.5, ("number", "number")),
    ],
)
def test_what_does_not_fit_is_an_error_with_field_reducer_and_both_types(
    name: str, base: Any, incoming: Any, types: tuple[str, str]
) -> None:
    with pytest.raises(ReducerError) as caught:
        explicit(name, base, incoming)
    error = caught.value
    assert (error.field, error.reducer) == ("f", name)
    assert (error.base_type, error.incoming_type) == types
    assert all(part in str(error) for part in ("'f'", repr(name), *types))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("sumScore", 5, "add"),
        ("sumScore", "text", "add"),
        ("sum_score", 5, "add"),
        ("sum_score", 1.5, "add"),
        ("sum_score", True, "replace"),
        ("sum_score", "text", "replace"),
        ("listMessages", "one", "append"),
        ("list_messages", ["one"], "append"),
        ("list_price", 9.5, "replace"),
        ("setUsers", [1], "union"),
        ("setUsers", "u", "union"),
        ("setUsers", {"a": 1}, "merge"),
        ("set_users", [1], "union"),
        ("set_users", {"a": 1}, "merge"),
        ("set_point", 20, "replace"),
        ("summary", 1, "replace"),
        ("listening", [1], "replace"),
        ("setup", [1], "replace"),
        ("sum", 1, "replace"),
        ("sum_", 1, "replace"),
        ("Sum", 1, "replace"),
        ("sum1", 1, "replace"),
        ("x", 1, "replace"),
    ],
)
def test_a_prefix_chooses_the_reducer(name: str, value: Any, expected: str) -> None:
    assert choose(name, {}, True, value).name == expected
    assert choose(name, {}, False, value).name == "replace"
    assert choose(name, {name: "concat"}, True, value) == ("concat", "set_reducer")


def test_the_choice_says_why() -> None:
    assert choose("sumScore", {}, True, 1).why == "prefix sum"
    assert choose("list_price", {}, True, 1).why == "prefix list_ does not fit number"
    assert choose("x", {}, True, 1).why == "default"
    _, chosen = fold_explained({}, [fields(sum_a=1, b=2)], Rules())
    assert chosen == {"sum_a": ("add", "prefix sum_"), "b": ("replace", "default")}


def test_a_deletion_of_an_absent_field_leaves_it_absent() -> None:
    assert folded({}, {"sumScore": None, "list_items": None, "x": None}) == {}
    assert explicit("append", None, None) is None


def test_a_deletion_of_a_python_spelled_field_follows_what_the_field_holds() -> None:
    assert folded({"list_items": [1]}, {"list_items": None}, {"list_items": [2]}) == {"list_items": [1, 2]}
    assert folded({"list_price": 9.5}, {"list_price": None}) == {}


def test_the_inferred_set_is_polymorphic_and_strict_about_mixing() -> None:
    assert folded({"setUsers": {"a": 1}}, {"setUsers": {"b": 2}}) == {"setUsers": {"a": 1, "b": 2}}
    with pytest.raises(ReducerError, match="'merge'"):
        folded({"setUsers": [1]}, {"setUsers": {"b": 2}})


def test_branches_that_add_without_a_base_begin_with_the_first() -> None:
    assert folded({}, {"sumScore": 1}, {"sumScore": 2}, {"other": 3}) == {"sumScore": 3, "other": 3}


def test_a_wide_fan_out_folds_in_linear_time() -> None:
    branches = [{"setSeen": [n, n % 7], "listAll": [n]} for n in range(20_000)]
    result = folded({}, *branches)
    assert len(result["setSeen"]) == len(result["listAll"]) == 20_000


@reducer("longest_of_test")
def longest(base: str | None, incoming: str) -> str:
    return max(base or "", incoming, key=len)


@reducer("mutating_of_test")
def mutating(base: list[int] | None, incoming: list[int]) -> list[int]:
    base = base if base is not None else []
    base.extend(incoming)
    return base


@reducer("nan_of_test")
def not_a_number(_: Any, __: Any) -> float:
    return float("nan")


def test_a_users_own_reducer_is_applied_by_its_name() -> None:
    assert is_known("longest_of_test")
    assert explicit("longest_of_test", None, "ab", "abc", "x") == "abc"


def test_a_users_reducer_that_changes_its_base_changes_no_state() -> None:
    base = fields(f=[1])
    result = fold(base, [fields(f=[2])], Rules({"f": "mutating_of_test"}))
    assert (decode_all(base), decode_all(result)) == ({"f": [1]}, {"f": [1, 2]})


def test_an_error_in_a_users_reducer_names_the_field() -> None:
    with pytest.raises(ReducerError, match=r"'f'.*longest_of_test.*object"):
        explicit("longest_of_test", {"a": 1}, 5)


def test_a_reducers_result_must_be_storable() -> None:
    with pytest.raises(ReducerError, match=r"'f'.*nan"):
        explicit("nan_of_test", 1, 2)


def test_an_unknown_reducer_is_an_error_that_lists_the_known() -> None:
    assert not is_known("nobody")
    with pytest.raises(ReducerError, match=r"nobody.*append"):
        explicit("nobody", 1, 2)


def test_built_in_names_and_taken_names_are_refused() -> None:
    with pytest.raises(DeclarationError, match="built in"):
        reducer("add")(lambda base, incoming: incoming)
    with pytest.raises(DeclarationError, match="registered already"):
        reducer("longest_of_test")(lambda base, incoming: incoming)


def test_reducers_are_their_names() -> None:
    assert [str(name) for name in Reducer] == [
        "replace", "append", "add", "union", "merge", "min", "max", "and", "or", "concat",
    ]  # fmt: skip
