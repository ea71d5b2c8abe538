"""`reducer_laws`: what every reducer must do, a user's own included, tried on many values.

    @reducer("longest")
    def longest(base: str | None, incoming: str) -> str:
        return max(base or "", incoming, key=len)

    def test_longest() -> None:
        reducer_laws(longest, associative=True)

An AssertionError names the law that does not hold and the smallest values found for which it does not. Needs
`hypothesis`, which mbactor does not install.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbactor.errors import ReducerError
from mbactor.foreman.model.reducers import Reducer, fold, is_known, known_names, name_of
from mbactor.foreman.model.state import NULL, Fields, comparable, decode_value, encode_value
from mbactor.testing.strategies import WORDS, json_values

_FIELD = "field"


@dataclass(frozen=True, slots=True)
class _Claims:
    values: st.SearchStrategy[Any]
    associative: bool = True
    any_order: bool = False


_ARRAYS = st.lists(st.one_of(st.booleans(), st.integers(), WORDS), max_size=4)
_OBJECTS = st.dictionaries(WORDS, st.integers(), max_size=3)
_BUILT_IN: Mapping[str, _Claims] = {
    Reducer.REPLACE: _Claims(json_values()),
    Reducer.APPEND: _Claims(_ARRAYS),
    Reducer.UNION: _Claims(_ARRAYS.map(lambda array: list(dict.fromkeys(map(str, array))))),
    # Sums of floats depend on their order in the last digit; those of integers are exact.
    Reducer.ADD: _Claims(st.integers(), any_order=True),
    Reducer.MIN: _Claims(st.integers(), any_order=True),
    Reducer.MAX: _Claims(st.integers(), any_order=True),
    Reducer.AND: _Claims(st.booleans(), any_order=True),
    Reducer.OR: _Claims(st.booleans(), any_order=True),
    Reducer.CONCAT: _Claims(WORDS),
    Reducer.MERGE: _Claims(_OBJECTS),
}


def reducer_laws(
    reducer: str | Reducer | Callable[[Any, Any], Any],
    values: st.SearchStrategy[Any] | None = None,
    *,
    associative: bool | None = None,
    any_order: bool | None = None,
    max_examples: int = 100,
) -> None:
    """Try the laws of reducers on a reducer, by its name or the function that `@reducer` registered.

        reducer_laws("longest", st.text(), associative=True)

    Always: it takes its values, also where the field is absent; a deletion among them changes nothing (of `replace`: it
    deletes); the same values give the same result; and folding all branches at once equals folding one after the other,
    with the result stored and read in between. Where claimed: how branches are grouped does not matter
    (`associative`), nor does their order (`any_order`). `values` are those that come in; without, they follow the
    annotation of the reducer's second parameter.
    """
    name = _name_of(reducer)
    known = _BUILT_IN.get(name)
    claims = _Claims(
        values if values is not None else known.values if known else _values_for(name, reducer),
        associative if associative is not None else bool(known and known.associative),
        any_order if any_order is not None else bool(known and known.any_order),
    )
    _Laws(name, claims, max_examples).check()


class _Broken(AssertionError):
    """A law that does not hold."""


@dataclass(frozen=True, slots=True)
class _Rules:
    reducers: Mapping[str, str]
    prefix_reducers: bool = False


class _Laws:
    def __init__(self, name: str, claims: _Claims, max_examples: int) -> None:
        self.name = name
        self.claims = claims
        self.rules = _Rules({_FIELD: name})
        self.max_examples = max_examples

    def check(self) -> None:
        lists = st.lists(self.claims.values, min_size=1, max_size=5)
        laws = [self.takes_its_values, self.deterministic, self.deletions_change_nothing, self.one_by_one]
        if self.claims.associative:
            laws.append(self.associative)
        if self.claims.any_order:
            laws.append(self.any_order)
        quick = settings(
            max_examples=self.max_examples,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.nested_given],
            report_multiple_bugs=False,
        )

        @quick
        @given(lists)
        def all_laws(values: list[Any]) -> None:
            for law in laws:
                law(values)

        all_laws()

    # --- the laws --------------------------------------------------------------------------------------

    def takes_its_values(self, values: list[Any]) -> None:
        for count in range(1, len(values) + 1):
            try:
                self.folded(values[:count])
            except ReducerError as error:
                self.broken("it takes its values", values[:count], str(error))

    def deletions_change_nothing(self, values: list[Any]) -> None:
        if self.name == Reducer.REPLACE:
            self.compare("a deletion deletes", values, self.folded([*values, None]), None)
            return
        whole = self.folded(values)
        for place in range(len(values) + 1):
            self.compare(
                "a deletion changes nothing", values, self.folded([*values[:place], None, *values[place:]]), whole
            )

    def deterministic(self, values: list[Any]) -> None:
        self.compare("the same values give the same result", values, self.folded(values), self.folded(values))

    def one_by_one(self, values: list[Any]) -> None:
        stored: Fields = {}
        for value in values:
            try:
                stored = fold(stored, [_delta(value)], self.rules)
            except ReducerError as error:
                self.broken("one by one equals one pass", values, f"one by one: {error}")
        self.compare("one by one equals one pass", values, self.read(stored), self.folded(values))

    def associative(self, values: list[Any]) -> None:
        for place in range(1, len(values)):
            head = values[:place]
            try:
                tail = self.folded(values[place:])
                grouped = self.folded([*head, tail])
            except ReducerError as error:
                self.broken("how branches are grouped does not matter (associative)", values, str(error))
            self.compare("how branches are grouped does not matter (associative)", values, grouped, self.folded(values))

    def any_order(self, values: list[Any]) -> None:
        # Each exchange of neighbours: together they lead to every order.
        for place in range(len(values) - 1):
            other = [*values[:place], values[place + 1], values[place], *values[place + 2 :]]
            self.compare(
                "the order of branches does not matter (any_order)", values, self.folded(other), self.folded(values)
            )

    # --- what they are made of ---------------------------------------------------------------------------

    def folded(self, values: Sequence[Any]) -> Any:
        return self.read(fold({}, [_delta(value) for value in values], self.rules))

    def read(self, fields: Fields) -> Any:
        return decode_value(fields[_FIELD]) if _FIELD in fields else None

    def compare(self, law: str, values: list[Any], found: Any, expected: Any) -> None:
        if comparable(found) != comparable(expected):
            self.broken(law, values, f"{found!r} is not {expected!r}")

    def broken(self, law: str, values: list[Any], what: str) -> typing.NoReturn:
        raise _Broken(f"reducer {self.name!r}, values {values!r}: {law}, and here {what}")


def _delta(value: Any) -> Fields:
    return {_FIELD: NULL if value is None else encode_value(value, _FIELD)}


def _name_of(reducer: Any) -> str:
    name = reducer if isinstance(reducer, str) else name_of(reducer)
    if name is None or not is_known(name):
        raise TypeError(
            f"{reducer!r} is no registered reducer; decorate the function with @reducer(name), "
            f"or give one of {', '.join(known_names())}"
        )
    return str(name)


# --- values for an annotation --------------------------------------------------------------------------------


def _values_for(name: str, reducer: Any) -> st.SearchStrategy[Any]:
    hint = _incoming_hint(reducer) if not isinstance(reducer, str) else None
    found = None if hint is None else _strategy_of(hint)
    if found is None:
        raise TypeError(
            f"what comes into reducer {name!r} is not known; annotate its second parameter with a JSON type "
            "(int, list[str], ...) and give the function, or give values="
        )
    return found


def _incoming_hint(function: Callable[..., Any]) -> Any:
    parameters = list(inspect.signature(function).parameters)
    return typing.get_type_hints(function).get(parameters[1]) if len(parameters) > 1 else None


_PLAIN: Mapping[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False, width=32),
    str: WORDS,
    list: st.lists(json_values(3), max_size=4),
    dict: st.dictionaries(WORDS, json_values(3), max_size=4),
    Any: json_values(),
}


def _strategy_of(hint: Any) -> st.SearchStrategy[Any] | None:
    """Values of a JSON type; None where it is another."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (list, dict) and inner:
        items = _strategy_of(inner[-1])
        if items is None:
            return None
        return st.lists(items, max_size=4) if origin is list else st.dictionaries(WORDS, items, max_size=4)
    if origin in (typing.Union, types.UnionType):
        several = [_strategy_of(each) for each in inner if each is not type(None)]
        return None if None in several else st.one_of(*[each for each in several if each is not None])
    return _PLAIN.get(hint)
