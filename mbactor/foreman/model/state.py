"""The state of a flow: fields kept as JSON text, decoded only when somebody reads them.

A number, however long, is carried byte for byte through a flow whose tasks never touch it. A *state* has
no nulls: null and absent are the same. A *delta* keeps nulls as tombstones, which delete. `apply` makes a
state of a state and a delta; `accumulate` makes one delta of two. Both are pure and leave their
arguments as they are.

Values are refused at the door, with the path of the culprit: NaN and infinity (JSON has neither), NUL in
a string (PostgreSQL stores none), half a surrogate pair, and what msgspec cannot encode.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_origin

import msgspec

from mbactor.errors import InvalidState

Fields = dict[str, msgspec.Raw]
"""Field name -> JSON text of its value."""

NULL = msgspec.Raw(b"null")
"""The tombstone: in a delta it deletes its field."""

MAX_NESTING = 200
"""Lists and objects within each other that a value may have."""

_UNSTORABLE = re.compile(r"[\0\ud800-\udfff]")
_BRACKET = re.compile(rb"[\[\]{}]")
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"')
_encoder = msgspec.json.Encoder()
_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_any_decoder = msgspec.json.Decoder()


def is_null(raw: msgspec.Raw) -> bool:
    """Whether the value is JSON null: a tombstone in a delta, absent in a state."""
    return raw == NULL


def decode_fields(data: bytes | msgspec.Raw) -> Fields:
    """The fields of a JSON object; `InvalidState` for anything else.

    The values' own text is not read: that happens when one is decoded. Text from outside goes through
    `initial_state`, which reads all of it.
    """
    try:
        fields = _fields_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidState(f"expected a JSON object, got {_excerpt(data)}: {error}") from None
    # A decoded Raw is a view that keeps the whole text alive: a state outlives the row it came from.
    return {name: raw.copy() for name, raw in fields.items()}


def encode_fields(fields: Mapping[str, msgspec.Raw]) -> bytes:
    """The fields as one JSON object."""
    return _encoder.encode(fields)


def encode_value(value: Any, where: str = "the value") -> msgspec.Raw:
    """The value as JSON text: anything msgspec encodes, Structs and dataclasses too.

    `where` names the value in the error. Costs little more than the encoding unless the text holds a null
    or a NUL escape, which is then looked at closely.
    """
    try:
        text = _encoder.encode(value)
        if type(value) is msgspec.Raw:
            _any_decoder.decode(text)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidState(f"{where} cannot be stored: {error}") from None
    _check_nesting(text, where)
    # msgspec writes NaN and infinity as null, so only a text with null in it can hide one.
    if b"null" in text or b"\\u0000" in text:
        _refuse_unstorable(value, where)
    return msgspec.Raw(text)


def _check_nesting(text: bytes, where: str) -> None:
    """A bound of its own: what the interpreter's stack allows here it may not allow where the value is read."""
    if text.count(b"[") + text.count(b"{") <= MAX_NESTING:
        return
    depth = deepest = 0
    for bracket in _BRACKET.finditer(_TEXT.sub(b"", text)):
        depth += 1 if bracket[0] in b"[{" else -1
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING:
        raise InvalidState(f"{where} is nested {deepest} deep; the limit is {MAX_NESTING}")


def decode_value(raw: msgspec.Raw, type: Any = Any) -> Any:
    """The value, as plain Python or as the given type; `InvalidState` says what does not fit and where."""
    try:
        if type is Any:
            return _any_decoder.decode(raw)
        return msgspec.json.decode(raw, type=type)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidState(f"{_excerpt(raw)} is not {_type_name(type)}: {error}") from None


def decode_all(fields: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
    """Every field as plain Python, without those that are null."""
    return {name: decode_value(raw) for name, raw in fields.items() if not is_null(raw)}


def apply(state: Mapping[str, msgspec.Raw], delta: Mapping[str, msgspec.Raw]) -> Fields:
    """The state after the delta: its values written, its tombstones enacted and gone. A state has none itself, so what
    is not in the delta is not looked at.
    """
    after = {**state, **delta}
    for name, raw in delta.items():
        if raw == NULL:
            del after[name]
    return after


def accumulate(delta: Mapping[str, msgspec.Raw], newer: Mapping[str, msgspec.Raw]) -> Fields:
    """Two deltas as one. Tombstones stay, so that it still deletes when it is applied."""
    return {**delta, **newer}


def initial_state(value: Any) -> Fields:
    """The state that a mapping, Struct, dataclass, JSON text of an object, or None stands for.

    Anything else is `InvalidState`, status 400. Every value is read through, however deep.
    """
    if value is None:
        return {}
    if isinstance(value, (bytes, bytearray, memoryview, msgspec.Raw)):
        value = _from_text(bytes(value))
    elif isinstance(value, str):
        raise InvalidState(f"a state is an object with named fields, got the text {value[:40]!r}")
    elif isinstance(value, Mapping):
        return _of_items(value.items())
    if value is None:
        return {}
    text = encode_value(value, "state")
    if not bytes(text).startswith(b"{"):
        raise InvalidState(f"a state is an object with named fields, got {type(value).__name__}")
    return apply({}, decode_fields(text))


def overrides_of(value: Any) -> Fields:
    """What a mapping, Struct, dataclass or None changes of a state: as `initial_state`, but null deletes a field."""
    if isinstance(value, Mapping):
        return {check_name(name): encode_value(item, f"state.{name}") for name, item in value.items()}
    text = bytes(encode_value(value, "state"))
    if value is None:
        return {}
    if not text.startswith(b"{"):
        raise InvalidState(f"a state is an object with named fields, got {type(value).__name__}")
    return decode_fields(text)


def check_name(name: Any) -> str:
    """The field's name, refused where it could not be stored."""
    if not isinstance(name, str):
        raise InvalidState(f"a field of a state is named by a string, got {name!r}")
    if not is_storable(name):
        raise InvalidState(
            f"the field name {name!r} holds a NUL or half a surrogate pair, which databases do not store"
        )
    return name


def is_storable(text: str) -> bool:
    """Whether every database stores the text: it has neither a NUL nor half a surrogate pair."""
    return (text.isascii() and "\0" not in text) or _UNSTORABLE.search(text) is None


def storable(text: str) -> str:
    """The text with U+FFFD where it holds what databases do not store."""
    return _UNSTORABLE.sub("\ufffd", text)


def comparable(value: Any) -> Any:
    """A hashable stand-in: two values have equal ones exactly if they are the same JSON value.

    1 and 1.0 are the same number; true is no number; the order of an object's keys does not matter.
    """
    match value:
        case bool():
            return ("bool", value)
        case list() | tuple():
            return ("array", tuple(comparable(item) for item in value))
        case dict():
            return ("object", frozenset((name, comparable(item)) for name, item in value.items()))
        case _:
            return value


def _of_items(items: Iterable[tuple[Any, Any]]) -> Fields:
    encoded = {check_name(name): encode_value(value, f"state.{name}") for name, value in items}
    return {name: raw for name, raw in encoded.items() if raw != NULL}


def _from_text(text: bytes) -> Any:
    if not text.strip():
        return None
    try:
        return _any_decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidState(f"a state is a JSON object, got {_excerpt(text)}: {error}") from None


def _refuse_unstorable(value: Any, where: str) -> None:
    plain = msgspec.to_builtins(value, str_keys=True, enc_hook=_any_decoder.decode)  # the hook meets Raw only
    _walk(plain, where)


def _walk(value: Any, where: str) -> None:
    match value:
        case float() if not math.isfinite(value):
            raise InvalidState(f"{where} is {value}, which JSON cannot express; use null or a string")
        case str() if "\0" in value:
            raise InvalidState(f"{where} holds a NUL character, which databases do not store")
        case dict():
            for name, item in value.items():
                check_name(name)
                _walk(item, f"{where}.{name}")
        case list() | tuple():
            for index, item in enumerate(value):
                _walk(item, f"{where}[{index}]")


def _excerpt(data: Any) -> str:
    text = bytes(data)
    return repr(text[:60].decode("utf-8", "replace")) + ("..." if len(text) > 60 else "")


def _type_name(type: Any) -> str:
    if type is Any:
        return "JSON"
    return str(type) if get_origin(type) else getattr(type, "__name__", str(type))
