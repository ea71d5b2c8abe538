"""Typed values to bytes and back, by content type.

One shape for a value everywhere: what msgspec makes of its annotation. Integers beyond 64 bits do not fit
msgpack, so such a body is JSON; the content type says which.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from mbactor.errors import BadRequest
from mbactor.transport.message import JSON, MSGPACK

T = TypeVar("T")

_msgpack = msgspec.msgpack.Encoder()
_json = msgspec.json.Encoder()


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
            return msgspec.msgpack.decode(body, type=type_)
        return msgspec.json.decode(body, type=type_)
    except msgspec.ValidationError as error:
        raise BadRequest(str(error)) from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is no {content_type}: {error}") from None


def travel(value: Any, type_: Any) -> Any:
    """The value as the other side would get it. BadRequest where it does not fit `type_`."""
    return decode(*encode(value), type_)
