"""How the values that branches wrote to one field become one (pure).

Where branches meet, the changes of each are folded onto the state in their order. The reducer of a field
is the one set for it, else the one its name's prefix asks for, else `replace`: the last write wins.

A null that comes in is the identity of every reducer but `replace`, where it deletes the field. Integers
stay exact; a boolean is no number. What does not fit is a `ReducerError` that names the field, the
reducer and both types; it is never skipped. Folding in one pass equals folding one delta at a time.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from mbactor.errors import DeclarationError, MbactorError, ReducerError
from mbactor.foreman.model.state import Fields, apply, comparable, decode_value, encode_value, is_null


class Reducer(StrEnum):
    """The reducers that are always there; `Graph.set_reducer(field, Reducer.ADD)`."""

    REPLACE = "replace"
    APPEND = "append"
    ADD = "add"
    UNION = "union"
    MERGE = "merge"
    MIN = "min"
    MAX = "max"
    AND = "and"
    OR = "or"
    CONCAT = "concat"


UNKNOWN = "it has to import the module with its @reducer"
"""What a process lacks that does not know a reducer."""


class Chosen(NamedTuple):
    """The reducer of a field, and why it is that one."""

    name: str
    why: str


class ReducerRules(Protocol):
    """What `fold` reads of a graph."""

    @property
    def reducers(self) -> Mapping[str, str]: ...
    @property
    def prefix_reducers(self) -> bool: ...


Fold = Callable[[Any, Any], Any]
F = TypeVar("F", bound=Fold)


class _Unfit(Exception):
    """The two values cannot be combined."""

    def __init__(self, reason: str, incoming: Any) -> None:
        super().__init__(reason)
        self.incoming = incoming


def reducer(name: str) -> Callable[[F], F]:
    """Register a reducer of one's own, `(base, incoming) -> value`; base is None where the field is absent.

        @reducer("longest")
        def longest(base: str | None, incoming: str) -> str:
            return max(base or "", incoming, key=len)

        graph.set_reducer("title", "longest")

    It must be registered, by importing its module, wherever a Foreman runs.
    """

    def register(function: F) -> F:
        known = _registered.get(name)
        if name in _BUILT_IN:
            raise DeclarationError(f"reducer {name!r} is built in; register {function.__qualname__} by another name")
        if known is not None and _origin(known) != _origin(function):
            raise DeclarationError(f"reducer {name!r} is registered already, as {_origin(known)}")
        _registered[name] = function
        return function

    return register


def is_known(name: str) -> bool:
    """Whether a reducer of this name can be applied in this process."""
    return not name or name in _BUILT_IN or name in _registered


def name_of(function: Fold) -> str | None:
    """The name that a function is registered by."""
    return next((name for name, known in _registered.items() if known is function), None)


def modules() -> set[str]:
    """Those that have to be imported for every reducer to be known."""
    return {function.__module__ for function in _registered.values()}


def known_names() -> list[str]:
    """Every name that `set_reducer` may be given."""
    return [*Reducer, *sorted(_registered)]


def choose(field: str, reducers: Mapping[str, str], prefix_reducers: bool, value: Any) -> Chosen:
    """The reducer for this field when this value comes in.

    `sumScore`, `listItems`, `setUsers` always reduce; `sum_score`, `list_items`, `set_users` only a value
    that fits: a number; an array; an array or object.
    """
    if field in reducers:
        return Chosen(reducers[field] or Reducer.REPLACE, "set_reducer")
    prefix = prefix_of(field) if prefix_reducers else None
    if prefix is None:
        return Chosen(Reducer.REPLACE, "default")
    rule = _PREFIXES[prefix]
    name = Reducer.MERGE if prefix == "set" and isinstance(value, dict) else rule.reducer
    if field[len(prefix)] != "_":
        return Chosen(name, f"prefix {prefix}")
    if rule.fits(value):
        return Chosen(name, f"prefix {prefix}_")
    return Chosen(Reducer.REPLACE, f"prefix {prefix}_ does not fit {json_type(value)}")


def prefix_of(field: str) -> str | None:
    """The prefix that the field's name has, in either spelling."""
    for prefix in _PREFIXES:
        rest = field.removeprefix(prefix)
        if rest != field and (rest[:1].isupper() or (rest[:1] == "_" and len(rest) > 1)):
            return prefix
    return None


def fold(base: Fields, deltas: Iterable[Fields], rules: ReducerRules) -> Fields:
    """The state after all deltas, in their order, have been reduced onto `base`; tombstones are enacted."""
    return fold_explained(base, deltas, rules)[0]


def fold_explained(base: Fields, deltas: Iterable[Fields], rules: ReducerRules) -> tuple[Fields, dict[str, Chosen]]:
    """As `fold`, and the reducer that was chosen last for each field that came in."""
    running: dict[str, _Running] = {}
    for delta in deltas:
        for field, raw in delta.items():
            if field not in running:
                running[field] = _Running(field, base.get(field), rules)
            running[field].take(raw)
    folded = {field: value.result() for field, value in running.items()}
    return apply(base, folded), {field: value.chosen for field, value in running.items() if value.chosen}


class _Running:
    """One field on its way through the deltas: decoded once, encoded once, combined a run at a time."""

    __slots__ = ("chosen", "field", "pending", "raw", "rules", "value")

    def __init__(self, field: str, raw: Any, rules: ReducerRules) -> None:
        self.field = field
        self.rules = rules
        self.raw = raw
        self.value: Any = _NOT_READ
        self.chosen: Chosen | None = None
        self.pending: list[Any] = []

    def take(self, raw: Any) -> None:
        cleared = is_null(raw)
        incoming = None if cleared else decode_value(raw)
        # A deletion has no type: whether the field is reduced is then told by what it holds.
        told = self.current() if cleared else incoming
        chosen = choose(self.field, self.rules.reducers, self.rules.prefix_reducers, told)
        if self.chosen is not None and chosen.name != self.chosen.name:
            self.combine_pending()
        self.chosen = chosen
        if chosen.name == Reducer.REPLACE:
            self.raw, self.value = raw, _NOT_READ
        elif not cleared:
            self.pending.append(incoming)

    def combine_pending(self) -> None:
        if self.pending and self.chosen is not None:
            if self.value is _NOT_READ:
                self.value = None if self.raw is None else decode_value(self.raw)
            self.value = combine(self.field, self.chosen.name, self.value, self.pending)
            self.raw = None
            self.pending = []

    def current(self) -> Any:
        self.combine_pending()
        if self.value is _NOT_READ:
            self.value = None if self.raw is None else decode_value(self.raw)
        return self.value

    def result(self) -> Any:
        self.combine_pending()
        if self.raw is not None:
            return self.raw
        try:
            return encode_value(self.value, self.field)
        except MbactorError as error:
            name = self.chosen.name if self.chosen else Reducer.REPLACE
            raise ReducerError(f"field {self.field!r}: reducer {name!r} gave no JSON value: {error}") from None


def combine(field: str, name: str, base: Any, incoming: Sequence[Any]) -> Any:
    """`base` with the decoded values reduced onto it, in order; `ReducerError` when one does not fit.

    The built-in reducers change neither.
    """
    if name in _GATHERED:
        return _checked(field, name, base, list(incoming), _GATHERED[name])
    function = _FOLDS.get(name) or _registered.get(name)
    if function is None:
        raise ReducerError(
            f"field {field!r}: this process does not know the reducer {name!r}, {UNKNOWN}; known:"
            f" {', '.join(known_names())}",
            field=field,
            reducer=name,
        )
    for value in incoming:
        base = _checked(field, name, base, value, function)
    return base


def _checked(field: str, name: str, base: Any, incoming: Any, function: Fold) -> Any:
    try:
        return function(base, incoming)
    except _FAILURES as error:
        culprit = error.incoming if isinstance(error, _Unfit) else incoming
        types = json_type(base), json_type(culprit)
        name = str(name)  # of the enumeration, too
        raise ReducerError(
            f"field {field!r}: reducer {name!r} cannot combine {types[0]} with {types[1]}: {error}",
            field=field,
            reducer=name,
            base_type=types[0],
            incoming_type=types[1],
        ) from error


def json_type(value: Any) -> str:
    """What a decoded value is called in JSON; `nothing` where it is absent."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list() | tuple():
            return "array"
        case dict():
            return "object"
        case _:
            return type(value).__name__


_NOT_READ: Any = object()
_FAILURES = (
    _Unfit,
    MbactorError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    msgspec.MsgspecError,
)
"""What a reducer, a user's own included, may raise."""


def _need(kind: str, base: Any, incoming: Any) -> None:
    if base is not None and json_type(base) != kind:
        raise _Unfit(f"the base must be of type {kind}", incoming)
    if json_type(incoming) != kind:
        raise _Unfit(f"the incoming value must be of type {kind}", incoming)


def _append(base: Any, incoming: list[Any]) -> list[Any]:
    result = _array(base, incoming)
    for value in incoming:
        result.extend(value if isinstance(value, list) else (value,))
    return result


def _union(base: Any, incoming: list[Any]) -> list[Any]:
    result = _array(base, incoming)
    seen = {comparable(item) for item in result}
    for value in incoming:
        if isinstance(value, dict):
            raise _Unfit("union takes arrays and single values; for objects use merge", value)
        for item in value if isinstance(value, list) else (value,):
            key = comparable(item)
            if key not in seen:
                seen.add(key)
                result.append(item)
    return result


def _array(base: Any, incoming: list[Any]) -> list[Any]:
    if base is not None and not isinstance(base, list):
        raise _Unfit("the base must be of type array", incoming[0])
    return list(base or ())


def _merge(base: Any, incoming: list[Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for value in incoming:
        _need("object", base, value)
        merged.update(value)
    return {**(base or {}), **merged}


def _number(function: Callable[[Any, Any], Any]) -> Fold:
    def apply_to(base: Any, incoming: Any) -> Any:
        _need("number", base, incoming)
        result = incoming if base is None else function(base, incoming)
        if isinstance(result, float) and not math.isfinite(result):
            raise _Unfit("the result is beyond what a number can hold", incoming)
        return result

    return apply_to


def _typed(kind: str, function: Callable[[Any, Any], Any]) -> Fold:
    def apply_to(base: Any, incoming: Any) -> Any:
        _need(kind, base, incoming)
        return incoming if base is None else function(base, incoming)

    return apply_to


_GATHERED: Mapping[str, Fold] = {Reducer.APPEND: _append, Reducer.UNION: _union, Reducer.MERGE: _merge}
"""Reducers that take all incoming values at once: one by one, wide fan-outs would cost their square."""

_FOLDS: Mapping[str, Fold] = {
    Reducer.ADD: _number(operator.add),
    Reducer.MIN: _number(min),
    Reducer.MAX: _number(max),
    Reducer.AND: _typed("boolean", operator.and_),
    Reducer.OR: _typed("boolean", operator.or_),
    Reducer.CONCAT: _typed("string", operator.add),
}
_BUILT_IN = frozenset(str(name) for name in Reducer)
_registered: dict[str, Fold] = {}


def _origin(function: Fold) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', repr(function))}"


@dataclass(frozen=True, slots=True)
class _Prefix:
    reducer: Reducer
    types: frozenset[str]

    def fits(self, value: Any) -> bool:
        return json_type(value) in self.types


_PREFIXES: Mapping[str, _Prefix] = {
    "sum": _Prefix(Reducer.ADD, frozenset({"number"})),
    "list": _Prefix(Reducer.APPEND, frozenset({"array"})),
    "set": _Prefix(Reducer.UNION, frozenset({"array", "object"})),
}
