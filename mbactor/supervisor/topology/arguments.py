"""The arguments and the configuration of a child, against what its class takes.

    args = arguments(Orders, section)

Arguments are converted to what the constructor's annotations say, so a wrong type is an error at the line of the
argument and not a crash at the first message. A secret stays a text, and is in no error.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import inspect
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from enum import Enum
from functools import lru_cache
from types import UnionType
from typing import Annotated, Any, Literal, Union

import msgspec

from mbactor.durations import seconds_of_text
from mbactor.errors import MbactorError, did_you_mean
from mbactor.kernel.properties import ABSENT, Property, properties_of
from mbactor.secret import Secret
from mbactor.supervisor.topology.fields import Section, described
from mbactor.supervisor.topology.yaml_positions import Items, Node, Scalar, Table

_PLACE = re.compile(r"(?P<told>.+?)(?: - at (?P<key>`key` in )?`\$\.?(?P<path>.*)`)?", re.DOTALL)
_EXPECTED = re.compile(r"Expected `(?P<wanted>.+?)`(?P<bounds> .+?)?(?:, got .+)?")
_MISSING = re.compile(r"Object missing required field `(?P<field>.+)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>.+)`")
_NONE_OF = re.compile(r"Invalid (?:enum )?value (?P<value>.+)")
_WORDS = {"array": "list", "object": "mapping"}
_WANTED = {
    "Invalid UUID": "a UUID",
    "Invalid RFC3339 encoded datetime": "a date and time such as 2026-01-31T12:00:00Z",
    "Invalid RFC3339 encoded date": "a date such as 2026-01-31",
    "Invalid RFC3339 encoded time": "a time of day such as 12:00:00",
    "Invalid ISO8601 duration": "a duration such as PT5S (5 s)",
    "Invalid base64 encoded string": "a text in base64",
    "Invalid decimal string": "a decimal number",
}


@lru_cache(maxsize=1024)
def parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    """The constructor's parameters that can be given by name."""
    found = inspect.signature(cls).parameters.items()
    return {name: p for name, p in found if p.kind not in {p.VAR_POSITIONAL, p.POSITIONAL_ONLY}}


def arguments(cls: type, section: Section, others: Iterable[str] = ()) -> dict[str, Any]:
    """The constructor's arguments from a section of the file; `others` are keys that may have been meant."""
    known = parameters(cls)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    named = {name: p for name, p in known.items() if p.kind is not p.VAR_KEYWORD}
    hints = _hints_of(cls)
    converted: dict[str, Any] = {}
    for name, entry in section.table.entries.items():
        if name in named or open_ended:
            converted[name] = _argument(section, entry.value, hints.get(name, Any) if name in named else Any)
        else:
            hint = did_you_mean(name, [*named, *others]) or f"; it takes: {', '.join(named) or 'nothing'}"
            section.wrong(entry.key, f"{cls.__qualname__} takes no such argument{hint}")
    for name, parameter in named.items():
        if parameter.default is parameter.empty and not section.has(name):
            section.wrong_at(name, f"missing: {cls.__qualname__} needs this argument")
    return converted


class Copied(Mapping[str, Any]):
    """Arguments of which each reader has copies of its own.

    A file is data: what an actor does to a list that it was constructed with is not to show in the next replica, or in
    the incarnation after a crash, which is to begin anew.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Any:
        return deepcopy(self._values[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)


def configuration(cls: type, section: Section) -> dict[str, Any]:
    """The configuration of a child: what its class declares, each value as it is declared."""
    properties = properties_of(cls)
    values: dict[str, Any] = {}
    for name, entry in section.table.entries.items():
        if name in properties:
            values[name] = _property(section, entry.value, properties[name])
        else:
            section.wrong(entry.key, properties.unknown(name))
    for name, one in properties.items():
        if one.default is ABSENT and not section.has(name):
            section.wrong_at(name, properties.missing)
    return values


def _property(section: Section, node: Node, declared: Property) -> Any:
    """One property. A scalar is read from its text, so that a duration has its unit and `012` is no number."""
    if declared.rule is None:
        return _argument(section, node, declared.type)
    value: Any = None
    if isinstance(node, Scalar) and not node.absent:
        filled = section.filled(node)
        if filled is None:
            return None
        value = filled.text
    elif not isinstance(node, Scalar):
        section.wrong(node, f"{described(node)} given, {declared.expected} expected")
        return None
    try:
        return declared.read(value)
    except ValueError as error:
        section.wrong(node, str(error))
        return None


@lru_cache(maxsize=1024)
def _hints_of(cls: type) -> Mapping[str, Any]:
    """The constructor's annotations, those that can be resolved: a name may be imported for type checkers only."""
    init = inspect.getattr_static(cls, "__init__")
    try:
        return typing.get_type_hints(init, include_extras=True)
    except (AttributeError, TypeError):
        return {}
    except NameError:
        found: dict[str, Any] = {}
        for name, annotation in init.__annotations__.items():
            one = type("one", (), {"__annotations__": {name: annotation}})
            with suppress(NameError, AttributeError, TypeError):
                found |= typing.get_type_hints(one, init.__globals__, include_extras=True)
        return found


def _argument(section: Section, node: Node, annotation: Any) -> Any:
    """One argument as its annotation wants it."""
    before = len(section.problems.found)
    natural = section.plain(node, natural=True)
    if len(section.problems.found) > before or annotation is Any:
        return natural
    text = section.plain(node, natural=False)
    secrets = _secrets_in(natural)
    try:
        if _is_duration(annotation) and not secrets:
            return None if text is None else _duration(text, annotation)
        converted = _convert(natural, text, annotation)
        if secrets <= _secrets_in(converted):
            for key, hint in _unread(node, converted):
                section.wrong(key, f"unknown key{hint}")
            return converted
    except (ValueError, TypeError) as error:
        if not secrets:
            given = "nothing" if natural is None else repr(natural)
            section.wrong(node, f"{given} given{_reason(error, annotation)}")
            return None
    # Why it does not fit might say what it is.
    wanted = inspect.formatannotation(annotation)
    section.wrong(node, f"{natural!r} given, {wanted} expected; a secret can only be a text (`str`)")
    return None


def _unread(node: Node, value: Any) -> Iterator[tuple[Scalar, str]]:
    """The keys in a value of the file that no field took, however deep, each with what may have been meant.

    Messages may have fields that their receiver does not know yet; a file is written for the code beside it.
    """
    inner: Iterable[tuple[Node, Any]] = ()
    if isinstance(node, Items) and isinstance(value, list | tuple):
        inner = zip(node.items, value, strict=False)  # a named tuple has its defaults behind them
    elif isinstance(node, Table):
        fields = _fields_of(value)
        if fields is None and isinstance(value, Mapping):
            inner = [(one.value, value[name]) for name, one in node.entries.items() if name in value]
        elif fields is not None:
            inner = [
                (one.value, getattr(value, fields[name], None)) for name, one in node.entries.items() if name in fields
            ]
            for name, one in node.entries.items():
                if name not in fields:
                    yield one.key, did_you_mean(name, fields) or f"; known: {', '.join(fields)}"
    for part, converted in inner:
        yield from _unread(part, converted)


def _fields_of(value: Any) -> Mapping[str, str] | None:
    """What a record has in a file, with its attributes' names; None for what is no record, such as a mapping."""
    if isinstance(value, msgspec.Struct):
        fields = {one.encode_name: one.name for one in msgspec.structs.fields(value)}
        tag = value.__struct_config__.tag_field
        return fields if tag is None else {**fields, tag: "__class__"}
    if dataclasses.is_dataclass(value):
        return {one.name: one.name for one in dataclasses.fields(value)}
    return None


def _reason(error: Exception, annotation: Any) -> str:
    """Msgspec's words as ours: what was expected, and where in the value."""
    found = _PLACE.fullmatch(str(error))
    assert found is not None, error
    told, path = found["told"], found["path"]
    where = f" at {path}" if path else ""
    if found["key"]:
        where = f" as a key{where}"
    if expected := _EXPECTED.fullmatch(told):
        wanted = " | ".join(_WORDS.get(one, one) for one in expected["wanted"].split(" | "))
        return f", {wanted}{expected['bounds'] or ''} expected{where}"
    if told in _WANTED:
        return f", {_WANTED[told]} expected{where}"
    if missing := _MISSING.fullmatch(told):
        return f", the field `{missing['field']}` expected{where}"
    if unknown := _UNKNOWN.fullmatch(told):
        return f": there is no field `{unknown['field']}`{where}"
    if (other := _NONE_OF.fullmatch(told)) and not path and (known := _values_of(annotation)):
        return f", one of {', '.join(known)} expected{did_you_mean(other['value'].strip(chr(39)), known)}"
    if other:
        return f": {other['value']} is none of the values that there are{where}"
    return f": {told}{where}"


def _values_of(annotation: Any) -> list[str]:
    """The values of an Enum or Literal, and of those that it is a union of."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [str(one.value) for one in annotation]
    if typing.get_origin(annotation) is Literal:
        return [str(one) for one in typing.get_args(annotation)]
    members = _members(annotation)
    return (
        [] if members == {annotation} else [value for one in typing.get_args(annotation) for value in _values_of(one)]
    )


def _convert(natural: Any, text: Any, annotation: Any) -> Any:
    try:
        return msgspec.convert(natural, annotation)
    except MbactorError as error:  # a type says itself what it does not take
        raise ValueError(error.message) from None
    except msgspec.ValidationError as error:
        try:
            # A text field keeps `01234` as it was written; a number filled in from the environment is a text here.
            return msgspec.convert(text, annotation, strict=False)
        except msgspec.ValidationError:
            raise error from None


def _secrets_in(value: Any) -> set[str]:
    """The secrets that still are `Secret`, and so hidden, in a value."""
    if isinstance(value, Secret):
        return {value}
    if isinstance(value, Mapping):
        inner: Iterable[Any] = value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        inner = value
    elif isinstance(value, msgspec.Struct):
        inner = msgspec.structs.asdict(value).values()
    elif dataclasses.is_dataclass(value):
        inner = [getattr(value, field.name) for field in dataclasses.fields(value)]
    else:
        return set()
    return set().union(*map(_secrets_in, inner))


def _is_duration(annotation: Any) -> bool:
    members = _members(annotation)
    return dt.timedelta in members and members <= {int, float, str, dt.timedelta, type(None)}


def _members(annotation: Any) -> set[Any]:
    if typing.get_origin(annotation) is Annotated:
        annotation = annotation.__origin__
    return set(typing.get_args(annotation)) if typing.get_origin(annotation) in {Union, UnionType} else {annotation}


def _duration(text: Any, annotation: Any) -> str | dt.timedelta:
    if not isinstance(text, str):
        raise TypeError("a duration with its unit, such as 500ms or 5s, expected")
    found = seconds_of_text(text)
    return text if str in _members(annotation) else dt.timedelta(seconds=found)
