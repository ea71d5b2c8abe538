"""What HTTP says and what mbactor says, translated. Pure: no socket, no actor.

`target_of` is the wall between outside and inside: it lets through a host and a path on port 443, in one
spelling, and nothing else. It decodes only what may be decoded without changing the meaning (letters, digits and
`-._~`), so no later reader can find a separator, a port or a parent folder in a segment that had none here.
"""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from mbactor import observe
from mbactor.durations import seconds_of_text
from mbactor.errors import (
    AddressTooLong,
    BadRequest,
    DeclarationError,
    MbactorError,
    NoSuchActor,
    Unavailable,
)
from mbactor.kernel import Response
from mbactor.kernel.budget import BUDGET_CAP
from mbactor.transport.address import DEFAULT_PORT, METHODS, Address, check_host

PATH_LIMIT = 1024
QUERY_LIMIT = 16 * 1024

_PATH = re.compile(r"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_HOST = re.compile(r"([a-z0-9.-]+)(?::(?:443|80))?")
_FILE = re.compile(
    r"""(?P<quote>['"])(?:/|[A-Za-z]:\\)[^'"]*(?P=quote)"""  # 'a path in quotes', spaces and all
    r"""|(?<![\w.:/~<-])(?:/[\w.@+~-]+){2,}/?"""  # /a/bare/path, but not the path of a URL
    r"""|(?<!\w)[A-Za-z]:\\\S+"""
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes."""

    address: Address
    query: str


def target_of(method: str, raw_path: bytes, query: bytes) -> Target:
    """The actor address that a request's method and raw path mean.

    NoSuchActor (404) for all that cannot be the public address of an actor, AddressTooLong (414), 501 for a method
    that is none.
    """
    if method not in METHODS:
        raise MbactorError(f"{method[:20]!r} is no method; known are {', '.join(sorted(METHODS))}", status=501)
    if len(raw_path) > PATH_LIMIT or len(query) > QUERY_LIMIT:
        raise AddressTooLong(
            f"the address is too long: a path may have {PATH_LIMIT} characters and a query {QUERY_LIMIT}, these have"
            f" {len(raw_path)} and {len(query)}"
        )
    shown = raw_path.decode("latin-1")
    if not _PATH.fullmatch(shown):
        raise NoSuchActor(shown)
    first, *rest = _normal(shown).removeprefix("/").split("/")
    host = _HOST.fullmatch(first.lower())
    if host is None or not {".", ".."}.isdisjoint(rest) or "" in rest[:-1]:
        raise NoSuchActor(shown)
    return Target(_public(host[1], "/" + "/".join(rest), method, shown), query.decode("latin-1"))


def _public(host: str, path: str, method: str, shown: str) -> Address:
    try:
        check_host(host, shown)  # clients choose a host, not one of its instances
        address = Address.parse(f"https://{host}{path}", method)
    except (BadRequest, DeclarationError):
        raise NoSuchActor(shown) from None
    if address != Address(host, path, method, DEFAULT_PORT):
        raise NoSuchActor(shown)
    return address


def _normal(path: str) -> str:
    def plain(escape: re.Match[str]) -> str:
        character = chr(int(escape[1], 16))
        return character if character in _UNRESERVED else escape[0].upper()

    return _ESCAPE.sub(plain, path)


def budget_of(header: str | None) -> float | None:
    """Seconds of a `Request-Timeout` header, at most 15 minutes. BadRequest where it is no duration."""
    if header is None:
        return None
    text = header.strip()
    try:
        wanted = seconds_of_text(f"{text}s" if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else text)
    except ValueError as error:
        raise BadRequest(f"Request-Timeout: {error}") from None
    if wanted <= 0:
        raise BadRequest(f"Request-Timeout: {header!r} leaves no time; expected more than 0s")
    return min(wanted, BUDGET_CAP)


def trace_of(given: str | None) -> str | None:
    """The request's traceparent, where it has a valid one."""
    return given if given is not None and observe.parse_traceparent(given) else None


def passed_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The headers that actors get to see. Names are in lower case."""
    passed: dict[str, str] = {}
    for name, value in headers:
        if name.startswith("x-forwarded-") or name == "accept-language":
            passed[name] = f"{passed[name]}, {value}" if name in passed else value
    return passed


# --- errors ------------------------------------------------------------------------------------------------


def error_response(error: MbactorError, raw_path: bytes, *, show_trace: bool) -> Response:
    """An error as the client gets it. `raw_path` is what the client asked for."""
    status = error.status if 400 <= error.status <= 599 else 500
    if isinstance(error, NoSuchActor) and error.taken != "no":
        status = 502  # the address answered, and what it asked in turn is not there
    document = {**_fields(error, status), **_what(error, status, raw_path)}
    if show_trace:
        document["trace"] = error.remote_trace or "".join(traceback.format_exception(error))
    headers: dict[str, str] = {}
    if status == 405:
        allowed = [str(method) for method in error.fields.get("allowed", ())]
        headers["allow"] = ", ".join([*allowed, "HEAD"] if "GET" in allowed and "HEAD" not in allowed else allowed)
    if status == 503:
        headers["retry-after"] = str(_retry_after(error))
    return Response(status, _json(document), headers)


def _what(error: MbactorError, status: int, raw_path: bytes) -> dict[str, Any]:
    message = error.message
    if isinstance(error, NoSuchActor):
        # One answer for all that is not there, so that it does not tell what is inside.
        asked = raw_path[:PATH_LIMIT].decode("latin-1")
        message = f"nobody serves {asked}" if status == 404 else f"{asked} needs an actor that nobody serves"
    elif status >= 500:
        message = without_files(message)
    message = message.encode("utf-8", "replace").decode()
    return {"error": message, "statusCode": status, "type": type(error).__name__}


def _fields(error: MbactorError, status: int) -> dict[str, Any]:
    if isinstance(error, NoSuchActor):
        return {}
    if status < 500:
        return error.fields
    return {name: without_files(value) if isinstance(value, str) else value for name, value in error.fields.items()}


def _json(document: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(document, enc_hook=str)
    except (TypeError, ValueError, RecursionError):  # a field that no JSON can hold
        return msgspec.json.encode({name: document[name] for name in ("error", "statusCode", "type")})


def _retry_after(error: MbactorError) -> int:
    seconds = error.fields.get("seconds") if isinstance(error, Unavailable) else None
    return max(1, math.ceil(seconds)) if isinstance(seconds, int | float) and math.isfinite(seconds) else 1


def without_files(text: str) -> str:
    """The text with the paths of files replaced by `<file>`."""
    return _FILE.sub("<file>", text)
