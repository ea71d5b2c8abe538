"""Where a message goes: method, host, port and path, with the replica when one is meant.

`Address.parse("https://id-x1.orders.example:444/place")` reads a URL; `str(address)` writes it.
Host, id and method do not tell upper from lower case; the path does. Where no port is named it is 443, or 80 where the
URL begins with http://.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from mbactor.errors import BadRequest, DeclarationError

DEFAULT_PORT = 443
PLAIN_PORT = 80
"""That of a URL which begins with http:// and names none."""
EVENT_PORT = 417
TASK_PORT = 428
INTERNAL_PORT = 444
CONTROL_PORT = 888
TRUSTED_PORT = 666
ANY_METHOD = "ANY"

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
_PORTS = {"https": DEFAULT_PORT, "http": PLAIN_PORT, "": DEFAULT_PORT}
_EXPECTED = "https://host[:port]/path"
_LEFT_OUT = frozenset("\t\r\n")
"""What `urlsplit` passes over, so that the rest would be another address."""
_HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*")


@dataclass(frozen=True, slots=True)
class Address:
    """A method of an actor. `replica` names one instance (`id-...`), or a place (`loc-...`) at which any of the host's
    instances is meant; None means any of them anywhere.
    """

    host: str
    path: str
    method: str = "POST"
    port: int = DEFAULT_PORT
    replica: str | None = None

    @staticmethod
    def parse(url: str, method: str = "POST") -> Address:
        """The address of a URL; BadRequest says what is wrong with it. The query is not part of it."""
        return _parsed(url, method)

    def at(self, place: str) -> Address:
        """The same at a place: see `locality.py`."""
        return Address(self.host, self.path, self.method, self.port, f"loc-{place}")

    @property
    def one_only(self) -> bool:
        """Whether one instance is meant, and no other will do."""
        return self.replica is not None and not self.replica.startswith("loc-")

    def __str__(self) -> str:
        host = f"{self.replica}.{self.host}" if self.replica else self.host
        port = "" if self.port == DEFAULT_PORT else f":{self.port}"
        return f"https://{host}{port}{self.path}"


@lru_cache(maxsize=4096)
def _parsed(url: str, method: str) -> Address:
    # The same few URLs come again with every step of a flow.
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
    except ValueError as error:
        raise _wrong(f"{url!r} has no valid host: {error}") from None
    try:
        port = parts.port
    except ValueError as error:
        raise _wrong(f"{url!r} has no valid port: {error}") from None
    rest, replica = split_host((parts.hostname or "").lower())
    if not _HOST.fullmatch(rest):
        raise _wrong(f"{url!r} has no valid host; expected {_EXPECTED}")
    if parts.scheme not in _PORTS:
        raise _wrong(f"{url!r} has no valid scheme: {parts.scheme!r}; expected {_EXPECTED}")
    if port == 0:
        raise _wrong(f"{url!r} has no valid port: 0 stands for any in a route, and a message goes to one")
    if _LEFT_OUT.intersection(url):
        raise _wrong(f"{url!r} has no valid path: a tab or an end of line in it; expected as %09, %0A or %0D")
    if method.upper() in {"", ANY_METHOD}:
        raise _wrong(f"{method!r} is no valid method; expected one, such as POST")
    return Address(rest, parts.path or "/", method.upper(), port or _PORTS[parts.scheme], replica)


def _wrong(text: str) -> BadRequest:
    """Nothing was sent."""
    error = BadRequest(text)
    error.taken = "no"
    return error


@lru_cache(maxsize=4096)
def parse_host(text: str) -> tuple[str, str | None]:
    """The host in `id-0f3a.counter.two`, and the id or place before it. BadRequest where it is none."""
    given: object = text
    host, replica = split_host(given.lower()) if isinstance(given, str) else ("", None)
    if not _HOST.fullmatch(host):
        raise _wrong(f"{text!r} is no host; expected one such as counter.example, or id-0f3a.counter.example")
    return host, replica


def split_host(host: str) -> tuple[str, str | None]:
    """The host, and what stands before it: the id of a replica, or a place."""
    first, _, rest = host.partition(".")
    return (rest, first) if first.startswith(("id-", "loc-")) and rest else (host, None)


def check_host(host: str, owner: str) -> str:
    """The host an actor class declares, or DeclarationError that says what a host looks like."""
    first = host.partition(".")[0]
    if (
        not _HOST.fullmatch(host)
        or len(host) > 252
        or first.startswith(("id-", "loc-"))
        or host == "all"
        or host.endswith(".all")
    ):
        raise DeclarationError(
            f"{owner}.host = {host!r}: expected lower-case letters, digits and hyphens in segments between dots, at"
            " most 252 characters, not beginning with 'id-' or 'loc-', not 'all'"
        )
    return host


def kebab(name: str) -> str:
    """`verify_credit` and `VerifyCredit` as `verify-credit`; `HTTPServer` as `http-server`."""
    spaced = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1-\2", name)
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1-\2", spaced)
    return spaced.replace("_", "-").strip("-").lower()
