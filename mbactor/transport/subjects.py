"""Bus subjects: `plane.trust.port.source.destination.id.method.path...`. Pure.

A subject names its sender, so a broker's permissions can pin it and the receiver can trust it. Hosts are
one token (`.` becomes `_`), so a permission can match source and destination alone. What is not a letter,
a digit or a hyphen is `%` and two hex digits a byte; `_` alone is an empty part.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from mbactor.errors import AddressTooLong, BadRequest
from mbactor.transport.address import ANY_METHOD, TRUSTED_PORT, Address

LIMIT = 1024
"""Characters a subject may have."""

_KEPT = 4096
"""Tokens that are made once: hosts, methods and paths come again with every message."""
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")
_ESCAPE = re.compile(r"%([0-9a-f]{2})")
_ARGUMENT = re.compile(r"\{\w*\}")
_GREEDY = re.compile(r"\{\w*\.\.\.\}")


@dataclass(frozen=True, slots=True)
class RequestSubject:
    """A request subject taken apart: where from, where to, on which plane."""

    plane: str
    source: str
    address: Address


@lru_cache(maxsize=_KEPT)
def escape(text: str) -> str:
    """One token: letters, digits and hyphens as they are, every other byte as %xx, nothing as `_`."""
    if not text:
        return "_"
    return "".join(chr(b) if b in _PLAIN else f"%{b:02x}" for b in text.encode())


def unescape(token: str) -> str:
    if token == "_":  # noqa: S105 - a part of an address, no secret
        return ""
    raw = _ESCAPE.sub(lambda m: chr(int(m[1], 16)), token)
    return raw.encode("latin-1").decode()


@lru_cache(maxsize=_KEPT)
def host_token(host: str) -> str:
    return "_".join(escape(part) for part in host.split("."))


def host_of(token: str) -> str:
    return "" if token == "_" else ".".join(unescape(part) for part in token.split("_"))  # noqa: S105 - no secret


def request_subject(plane: str, source: str, address: Address) -> str:
    """The subject a request is published to. AddressTooLong (414) beyond 1,024 characters."""
    path = ".".join(escape(segment) for segment in address.path.removeprefix("/").split("/"))
    return _request(plane, host_token(source), str(address.port), address, path)


def endpoint_pattern(plane: str, address: Address) -> str:
    """What the server of `address` subscribes to: any source; port 0 is any port, method ANY any method. A segment
    `{name}` of the path is any one segment, `{name...}` at its end is one or more. AddressTooLong as for requests.
    """
    *above, last = address.path.removeprefix("/").split("/")
    path = [*("*" if _ARGUMENT.fullmatch(segment) else escape(segment) for segment in above), _last(last)]
    return _request(plane, "*", str(address.port) if address.port else "*", address, ".".join(path))


def path_arguments(pattern: str, path: str) -> dict[str, str] | None:
    """What a path says for the arguments in that of an endpoint; None where it is not one of the endpoint's paths.

        path_arguments("/files/{owner}/{name...}", "/files/ada/a/b") == {"owner": "ada", "name": "a/b"}

    One without a name is `path1`, `path2` and so on, by its place. A segment that is the pattern's own says nothing:
    who asks by the method has the value in the body.
    """
    wanted, given = pattern.removeprefix("/").split("/"), path.removeprefix("/").split("/")
    if _GREEDY.fullmatch(wanted[-1]) and len(given) > len(wanted):
        given[len(wanted) - 1 :] = ["/".join(given[len(wanted) - 1 :])]
    if len(wanted) != len(given):
        return None
    found, number = {}, 0
    for one, other in zip(wanted, given, strict=True):
        if _ARGUMENT.fullmatch(one) or _GREEDY.fullmatch(one):
            number += 1
            if one != other:
                found[one.strip("{.}") or f"path{number}"] = unquote(other)
        elif one != other:
            return None
    return found


def path_names(path: str) -> list[str]:
    """The names of the arguments in the path of an endpoint, nothing for those without one. ValueError where one is no
    argument, or where nobody could ask: behind a `?` or `#` a URL has something else.
    """
    *above, last = path.removeprefix("/").split("/")
    wrong = next((character for character in path if character in "?#" or not character.isprintable()), None)
    if wrong is not None:
        raise ValueError(f"there is {wrong!r} in it, which no path of a URL has")
    greedy = next((segment for segment in above if _GREEDY.fullmatch(segment)), None)
    if greedy is not None:
        raise ValueError(f"{greedy!r} is all that follows; expected at the end")
    arguments = [segment for segment in (*above, last) if "{" in segment or "}" in segment]
    for segment in arguments:
        if not _ARGUMENT.fullmatch(segment) and not _GREEDY.fullmatch(segment):
            raise ValueError(
                f"{segment!r} is no argument; a whole segment {{name}} expected, or {{name...}} at the end"
            )
    names = [segment.strip("{.}") for segment in arguments]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is there twice")
    return names


def instance_pattern(plane: str, host: str, replica: str) -> str:
    """What one replica of a host subscribes to, to be addressed directly: any source, port, method and path."""
    return f"{plane}.*.*.*.{host_token(host)}.{escape(replica)}.>"


def _last(segment: str) -> str:
    return ">" if _GREEDY.fullmatch(segment) else "*" if _ARGUMENT.fullmatch(segment) else escape(segment)


def _request(plane: str, source: str, port: str, address: Address, path: str) -> str:
    trust = "danger" if address.port == TRUSTED_PORT else "safe"
    replica = escape(address.replica or "")
    method = "*" if address.method == ANY_METHOD else escape(address.method.lower())
    subject = f"{plane}.{trust}.{port}.{source}.{host_token(address.host)}.{replica}.{method}.{path}"
    if len(subject) > LIMIT:
        raise AddressTooLong(
            f"{str(address)[:80]}... makes a subject of {len(subject)} characters; the limit is {LIMIT}"
        )
    return subject


@lru_cache(maxsize=_KEPT)
def parse_request(subject: str) -> RequestSubject:
    """The parts of a request subject; the inverse of `request_subject`. BadRequest where it is none, or is another
    spelling of one: a broker's permissions know a port, a method and a path by the one that `request_subject` gives
    them, and what they keep from `danger` is not to be had as `safe`.
    """
    try:
        plane, _, port, source, destination, replica, method, *path = subject.split(".")
        address = Address(
            host=host_of(destination),
            path="/" + "/".join(unescape(token) for token in path),
            method=unescape(method).upper(),
            port=int(port),
            replica=unescape(replica) or None,
        )
        found = RequestSubject(plane, host_of(source), address)
    except ValueError as error:  # too few tokens, a port that is no number, bytes that are no text
        raise BadRequest(f"subject {subject[:200]!r} is no request's: {error}") from None
    expected = request_subject(plane, found.source, address)
    if subject != expected:
        raise BadRequest(f"subject {subject[:200]!r} is no request's: expected {expected[:200]!r}")
    return found


def reply_subject(plane: str, responder: str, requester: str, node: str, token: str) -> str:
    """Where the answer to one request goes: the requester's own inbox."""
    return f"{plane}.reply._.{host_token(responder)}.{host_token(requester)}.{escape(node)}.{token}"


def answered_by(host: str, reply: str) -> str:
    """The reply subject of a request, as that of another host than was asked: who answers for an event of somebody else
    does so in its own name, for the broker may let it publish in no other.
    """
    plane, kind, port, _, inbox = reply.split(".", 4)
    return f"{plane}.{kind}.{port}.{host_token(host)}.{inbox}"


def own_inbox(subject: str, reply: str) -> str:
    """The reply subject of a request without its last token, which differs by request; empty where an answer would not
    go to the inbox of who published the request, as the broker has verified that in the subject. A responder answers to
    no other: whose a reply subject is, nobody else checks.
    """
    inbox, _, token = reply.rpartition(".")
    return inbox if token.isprintable() and _is_own(subject, inbox) else ""


@lru_cache(maxsize=_KEPT)
def _is_own(subject: str, inbox: str) -> bool:
    parts = inbox.split(".")
    is_inbox = len(parts) == 6 and parts[1] == "reply" and inbox.isprintable()
    plane, _, _, source, _ = subject.split(".", 4)
    return is_inbox and (parts[0], parts[4]) == (plane, source)


def watch_subject(plane: str, host: str, node: str) -> str:
    """Of a node's own inbox, for itself: what is sent there and comes back shows that answers reach the node."""
    return reply_subject(plane, host, host, node, "watch")


def inbox_pattern(plane: str, node: str) -> str:
    """All answers for one node: its one inbox subscription."""
    return f"{plane}.reply._.*.*.{escape(node)}.*"
