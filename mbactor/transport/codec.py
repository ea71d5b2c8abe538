"""Typed values to bytes and back, by content type.

One shape for a value everywhere: what msgspec makes of its annotation. Integers beyond 64 bits do not fit
msgpack, so such a body is JSON; the content type says which. A layer above may add types of its own (`extend`).
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from mbactor.errors import BadRequest, error_told
from mbactor.secret import Secret
from mbactor.transport.message import JSON, MSGPACK

T = TypeVar("T")


def extend(type_: type[T], *, to_plain: Callable[[T], Any], from_plain: Callable[[Any], T]) -> None:
    """Let values of a type, and of its subclasses, travel as a plain value. ValueError refuses one that comes in."""
    _extended[type_] = (to_plain, from_plain)


def is_extended(type_: Any) -> bool:
    """Whether a type, or what a generic one is made of, was added by `extend`."""
    return (typing.get_origin(type_) or type_) in _extended


def encode(value: Any, content_type: str = MSGPACK) -> tuple[bytes, str]:
    """The value as bytes and the content type they are in. TypeError where it has no such form."""
    if content_type == MSGPACK:
        try:
            return _msgpack.encode(value), MSGPACK
        except OverflowError:
            pass
    return _json.encode(value), JSON


def decode(body: bytes | memoryview, content_type: str, type_: Any = Any) -> Any:
    """The value in the body. BadRequest (400) names the wrong field by its path."""
    try:
        if content_type == MSGPACK:
            return msgspec.msgpack.decode(body, type=type_, dec_hook=_from_plain)
        return msgspec.json.decode(body, type=type_, dec_hook=_from_plain)
    except msgspec.ValidationError as error:
        raise BadRequest(str(error)) from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is no {content_type}: {error}") from None
    except Exception as error:
        # A type of the application's may raise anything where a value of it is made.
        raise BadRequest(f"no value can be made of the body: {error_told(error)}") from error


def unpacker(type_: Any) -> Callable[[bytes], Any]:
    """`decode` from msgpack for one type, or whatever error that meets: for what is read with every message."""
    return msgspec.msgpack.Decoder(type_, dec_hook=_from_plain).decode


def travel(value: Any, type_: Any) -> Any:
    """The value as the other side would get it. BadRequest where it does not fit `type_`."""
    return decode(*encode(value), type_)


_extended: dict[Any, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {}


def _to_plain(value: Any) -> Any:
    for type_ in type(value).__mro__:
        if type_ in _extended:
            return _extended[type_][0](value)
    raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")


def _from_plain(type_: Any, value: Any) -> Any:
    kind = typing.get_origin(type_) or type_
    found = _extended.get(kind)
    if found is None:
        if isinstance(value, kind):  # `object` is anything
            return value
        raise TypeError(f"a value of type {type_} cannot travel")
    return found[1](value)


_msgpack = msgspec.msgpack.Encoder(enc_hook=_to_plain)
_json = msgspec.json.Encoder(enc_hook=_to_plain)
packed = _msgpack.encode
"""`encode` to msgpack, or whatever error that meets: for what is sent with every message."""

extend(Secret, to_plain=str, from_plain=Secret)  # whoever it is sent to is to have it
